"""The loop: what it yields and writes, when it stops, and what it does with steps that are not finite."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import scorefield
from scorefield.errors import DivergedError
from scorefield.training import journal, loop
from scorefield.training.batches import Batch, Batches
from scorefield.training.checkpoints import read_checkpoint
from scorefield.training.interrupts import Interrupt
from scorefield.training.loop import Ended, Previewed, Progressed, Saved
from tests.training import runs


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_events_tell_every_step_save_and_preview_in_order(tmp_path):
    """Whoever shows progress or draws previews relies on it; a save that is told before it is made is a lie."""
    kept = []
    for event in loop.train(runs.tiny(previews=2), runs.points(), str(tmp_path / "run")):
        kept.append(event)
        if isinstance(event, Saved):
            assert (tmp_path / f"run/checkpoints/step-{event.step}/manifest.json").is_file()
    assert [event.step for event in kept if isinstance(event, Progressed)] == list(range(1, 13))
    assert [event.step for event in kept if isinstance(event, Saved)] == [4, 8, 12]
    assert [event.step for event in kept if isinstance(event, Previewed)] == [6, 12]
    assert kept[-1] == Ended(12, None)
    assert [event.progress for event in kept if isinstance(event, Progressed)] == [step / 12 for step in range(12)]
    assert all(math.isfinite(event.loss) for event in kept if isinstance(event, Progressed))


def test_the_folder_is_a_model_that_needs_nothing_else(tmp_path):
    """The averaged weights of the last step, and the classes and scale of the data, are what `load` gives."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    model = scorefield.load(tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run/checkpoints/step-12").tensors
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, saved[f"average.{name}"])
    assert model.config.class_names == ("0", "1", "2")
    assert sum(model.config.class_weights) == pytest.approx(1.0)
    assert model.sample(5, seed=1, classes=2).shape == (5, 2)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["machine"]["processes"] == 1
    assert run["machine"]["threads"] == 1
    assert json.loads((tmp_path / "run/data.json").read_text())["count"] == 50


def test_the_log_has_a_line_every_so_many_steps(tmp_path):
    """The learning rate falls to nothing at the end; examples are counted over the run."""
    runs.finished(
        runs.tiny(steps=100, save_every=100, log_every=10, optimiser__warmup=10), runs.points(), tmp_path / "run"
    )
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(10, 101, 10))
    assert [line["examples"] for line in lines] == [16 * line["step"] for line in lines]
    rates = [line["learning_rate"] for line in lines]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-3 * rates[0]
    timing = [json.loads(line) for line in (tmp_path / "run/timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == [line["step"] for line in lines]


def test_training_lowers_the_loss_by_noise_level(tmp_path):
    """Three clusters: knowing the class and the noise beats the first guess clearly."""
    settings = {"steps": 100, "save_every": 100, "log_every": 20, "batch": 64, "network__width": 32}
    runs.finished(runs.tiny(**settings, optimiser__learning_rate=0.01), runs.points(), tmp_path / "run")
    lines = log_of(tmp_path / "run")
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


@contextmanager
def asked_to_stop() -> Iterator[Interrupt]:
    """A signal that came before the first step."""
    yield Interrupt(15)


def test_a_signal_before_the_first_step_saves_step_zero(tmp_path, monkeypatch):
    """A run that was stopped early must be one that the same command resumes, and a model folder that says so."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "whole")
    monkeypatch.setattr(loop, "watched", asked_to_stop)
    events = runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    assert events == [Saved(0), Ended(0, 15)]
    monkeypatch.undo()
    runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    assert runs.differing(tmp_path / "run", runs.state_of(tmp_path / "whole")) == []


# Steps that are not finite


def poison(monkeypatch: pytest.MonkeyPatch, steps: Iterable[int]) -> None:
    """Make one number of these steps' batches infinite, as a corrupt file would."""
    original, bad = Batches.batch, set(steps)

    def batch(self: Batches, step: int) -> Batch:
        whole = original(self, step)
        return (
            dataclasses.replace(whole, x_0=whole.x_0.index_fill(0, torch.tensor([2]), math.inf))
            if step in bad
            else whole
        )

    monkeypatch.setattr(Batches, "batch", batch)


def test_a_bad_step_is_skipped_counted_and_resumed_over(tmp_path, monkeypatch):
    """It must not stop the run, enter the log's means, or be forgotten by a checkpoint."""
    poison(monkeypatch, [5, 6])
    runs.finished(runs.tiny(), runs.points(), tmp_path / "whole")
    assert [line.get("skipped") for line in log_of(tmp_path / "whole")] == [None, 2, None, None]
    assert all(math.isfinite(line["loss"]) for line in log_of(tmp_path / "whole"))
    saved = read_checkpoint(tmp_path / "whole/checkpoints/step-12")
    assert saved.state["bad_steps"] == [5, 6]
    assert all(tensor.isfinite().all() for tensor in saved.tensors.values())
    for step in (5, 9):
        runs.stopped_after(step, runs.tiny(), runs.points(), tmp_path / "stopped")
    runs.finished(runs.tiny(), runs.points(), tmp_path / "stopped")
    assert runs.differing(tmp_path / "stopped", runs.state_of(tmp_path / "whole")) == []


@pytest.mark.parametrize(("bad", "last"), [(range(3, 100), 12), (range(2, 100, 2), 20), (range(1, 300, 11), 100)])
def test_ten_bad_steps_in_a_row_or_in_a_thousand_end_the_run(tmp_path, monkeypatch, bad, last):
    """A run that learns nothing must not burn days; the checkpoints before are good."""
    poison(monkeypatch, bad)
    with pytest.raises(DivergedError, match=f"at step {last}:"):
        runs.finished(runs.tiny(steps=3000, save_every=1000), runs.points(), tmp_path / "run")


def test_bad_steps_far_apart_do_not_end_the_run(tmp_path, monkeypatch):
    """Nine in a thousand are weather; they are counted over resumptions all the same."""
    poison(monkeypatch, [*range(1, 9), 30])
    config = runs.tiny(steps=40, save_every=20)
    runs.stopped_after(25, config, runs.points(), tmp_path / "run")
    assert runs.finished(config, runs.points(), tmp_path / "run")[-1] == Ended(40, None)
    poison(monkeypatch, [44])
    with pytest.raises(DivergedError, match="at step 44: 10 steps"):
        runs.finished(runs.tiny(steps=60, save_every=20), runs.points(), tmp_path / "run")


def test_a_learning_rate_too_high_ends_with_exit_code_6_and_finite_checkpoints(tmp_path):
    """Never a NaN on disk, and one message that says what to lower."""
    data = runs.write_points(tmp_path)
    settings = {
        "optimiser__learning_rate": 1e6,
        "optimiser__kind": "adamw",
        "optimiser__warmup": 0,
        "steps": 2000,
        "save_every": 5,
    }
    process = runs.forked(runs.arguments(data, tmp_path / "run", **settings), tmp_path / "log")
    process.join()
    said = (tmp_path / "log").read_text()
    assert process.exitcode == 6, said
    assert "lower optimiser.learning_rate" in said
    assert "Traceback" not in said
    kept = list((tmp_path / "run/checkpoints").iterdir())
    assert len(kept) == 2
    for folder in kept:
        assert all(tensor.isfinite().all() for tensor in read_checkpoint(folder).tensors.values())


# Minutes


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds_a_look: float) -> None:
    """A monotonic clock that goes on by so much whenever it is looked at, from a time of its own."""
    now = [1e6]

    def monotonic() -> float:
        now[0] += seconds_a_look
        return now[0]

    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=monotonic))


def test_minutes_end_a_run_and_its_learning_rate(tmp_path, monkeypatch):
    """With two looks at the clock a step of 0.4 s each, a minute is 75 steps, and the last ones learn with next to nothing."""
    set_clock(monkeypatch, 0.4)
    config = runs.tiny(minutes=1.0, log_every=5, save_every=10_000, optimiser__warmup=0)
    events = runs.finished(config, runs.points(), tmp_path / "run")
    progressed = [event for event in events if isinstance(event, Progressed)]
    assert len(progressed) == pytest.approx(75, abs=2)
    assert progressed[-1].seconds == pytest.approx(60.0, abs=1.0)
    rates = [line["learning_rate"] for line in log_of(tmp_path / "run")]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * rates[0]
    assert isinstance(events[-2], Saved)


def test_minutes_are_counted_over_resumptions(tmp_path, monkeypatch):
    """Pauses cost nothing, and what was trained before counts: 20 s of 60 s are done after 25 steps."""
    set_clock(monkeypatch, 0.4)
    config = runs.tiny(minutes=1.0, log_every=5, save_every=25)
    runs.stopped_after(38, config, runs.points(), tmp_path / "run")
    set_clock(monkeypatch, 0.4)
    progressed = [
        event for event in runs.finished(config, runs.points(), tmp_path / "run") if isinstance(event, Progressed)
    ]
    assert progressed[0].step == 26
    assert progressed[0].seconds == pytest.approx(20.0, abs=1.5)
    assert progressed[-1].step == pytest.approx(75, abs=3)
