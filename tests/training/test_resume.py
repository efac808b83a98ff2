"""A run that was stopped, however it was stopped, goes on to the very bytes of one that was not."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorefield.data import Dataset
from scorefield.errors import NoCheckpointError, UsageError
from scorefield.training import checkpoints, loop
from tests.faults import DAMAGE
from tests.training import runs

UNET = {
    "network": "unet",
    "network__widths": [8, 8],
    "network__depths": [1, 1],
    "network__head_width": 8,
    "network__embedding": 8,
}
IMPORTANCE = {
    "path": "vp",
    "objective__times": "importancesampled",
    "objective__times__strata": 3,
    "objective__times__depth": 2,
}

KINDS: dict[str, tuple[Dataset, dict[str, Any]]] = {
    "labels and dropout": (runs.points(), {"label_dropout": 0.3, "network__dropout": 0.3}),
    "no labels": (runs.points(classes=0), {}),
    "conditions": (
        runs.points().with_conditions(np.random.default_rng(1).normal(size=(50, 2))),
        {"label_dropout": 0.3, "network__dropout": 0.3},
    ),
    "importance-sampled times": (runs.points(), IMPORTANCE),
    "micro-batches": (runs.points(), {"accumulate": 4, "network__dropout": 0.3}),
    "Muon and a constant average": (
        runs.points(),
        {"optimiser__kind": "muon", "average__profile": "constant", "average__width": 5.0},
    ),
    "images that are mirrored": (runs.images(), {**UNET, "data__flip": True, "network__dropout": 0.1}),
    "a log out of step with the checkpoints": (runs.points(), {"log_every": 5, "save_every": 3}),
    "DDPM": (
        runs.points(),
        {
            "path": "discrete",
            "parameterisation": "noise",
            "objective__weighting": "simple",
            "objective__times": "uniform",
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_vanished_thrice_ends_in_the_same_bytes(tmp_path, kind):
    """Anything that is not saved, or is drawn from a state that is not a function of the step, differs here."""
    dataset, settings = KINDS[kind]
    config = runs.tiny(**settings)
    runs.finished(config, dataset, tmp_path / "whole")
    for step in (2, 7, 11):
        runs.stopped_after(step, config, dataset, tmp_path / "stopped")
    runs.finished(config, dataset, tmp_path / "stopped")
    assert runs.differing(tmp_path / "stopped", runs.state_of(tmp_path / "whole")) == []


def test_what_is_compared_is_all_there(tmp_path):
    """A comparison of nothing would always succeed; another seed must be seen."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "one")
    state = runs.state_of(tmp_path / "one")
    files = {"state.safetensors", "state.json", "manifest.json"}
    kept = {f"checkpoints/step-{step}/{name}" for step in (8, 12) for name in files}
    assert state.keys() == kept | {"config.json", "model.safetensors", "run.json", "data.json", "log.jsonl"}
    runs.finished(runs.tiny(seed=1), runs.points(), tmp_path / "other")
    assert "model.safetensors" in runs.differing(tmp_path / "other", state)
    assert "log.jsonl" in runs.differing(tmp_path / "other", state)


@pytest.mark.parametrize(
    ("module", "missing", "call"), [(loop, "save_model", 3), (loop, "save_checkpoint", 3), (checkpoints, "_prune", 3)]
)
def test_a_run_killed_in_its_last_save_is_completed(tmp_path, monkeypatch, module, missing, call):
    """The last step is done; the same command must still write the checkpoint and the model, and delete what is too old."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "whole")
    monkeypatch.setattr(module, missing, dying(getattr(module, missing), call))
    with pytest.raises(InterruptedError):
        runs.finished(runs.tiny(), runs.points(), tmp_path / "stopped")
    monkeypatch.undo()
    runs.finished(runs.tiny(), runs.points(), tmp_path / "stopped")
    assert runs.differing(tmp_path / "stopped", runs.state_of(tmp_path / "whole")) == []


def dying(original: Any, call: int) -> Any:
    """The function, ending the process's work at its n-th call."""
    calls = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise InterruptedError
        return original(*arguments, **options)

    return wrapped


def test_a_finished_run_is_left_as_it_is(tmp_path):
    """The same command once more must not train on, nor rewrite the log."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    before = runs.state_of(tmp_path / "run")
    events = runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    assert not any(isinstance(event, loop.Progressed) for event in events)
    assert runs.differing(tmp_path / "run", before) == []


def test_times_of_files_do_not_matter(tmp_path):
    """After a clock that was wrong, or a copy, the newest checkpoint is still that of the highest step."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "whole")
    runs.stopped_after(11, runs.tiny(), runs.points(), tmp_path / "stopped")
    for name, when in (("step-4", 4102444800), ("step-8", 0)):
        for path in (tmp_path / "stopped/checkpoints" / name, *(tmp_path / "stopped/checkpoints" / name).iterdir()):
            os.utime(path, (when, when))
    events = runs.finished(runs.tiny(), runs.points(), tmp_path / "stopped")
    assert min(event.step for event in events if isinstance(event, loop.Progressed)) == 9
    assert runs.differing(tmp_path / "stopped", runs.state_of(tmp_path / "whole")) == []


def test_a_damaged_checkpoint_is_passed_over_and_made_again(tmp_path, caplog):
    """Training from the one before gives the same bytes; from the beginning it would cost all that was done."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "whole")
    runs.stopped_after(11, runs.tiny(), runs.points(), tmp_path / "run")
    DAMAGE["flip middle byte"](tmp_path / "run/checkpoints/step-8/state.safetensors")
    with caplog.at_level(logging.WARNING, "scorefield"):
        events = runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    assert "step-8 is damaged and passed over" in caplog.text
    assert min(event.step for event in events if isinstance(event, loop.Progressed)) == 5
    assert runs.differing(tmp_path / "run", runs.state_of(tmp_path / "whole")) == []


def test_with_no_intact_checkpoint_nothing_is_trained_or_deleted(tmp_path):
    """A silent restart at step 0 would overwrite days of work."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    for step in (8, 12):
        DAMAGE["truncate by 1"](tmp_path / f"run/checkpoints/step-{step}/state.json")
    before = runs.state_of(tmp_path / "run")
    with pytest.raises(NoCheckpointError, match="none of the 2 checkpoints"):
        runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    assert runs.differing(tmp_path / "run", before) == []


# What may change between two sessions


def test_more_steps_may_be_asked_for(tmp_path):
    """With a learning rate that does not depend on the end, 8 steps and then 12 are 12 steps."""
    settings = {"optimiser__decay": "constant"}
    runs.finished(runs.tiny(**settings), runs.points(), tmp_path / "whole")
    runs.finished(runs.tiny(steps=8, **settings), runs.points(), tmp_path / "longer")
    runs.finished(runs.tiny(**settings), runs.points(), tmp_path / "longer")
    assert runs.differing(tmp_path / "longer", runs.state_of(tmp_path / "whole")) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": 32}, "batch was 16, now 32"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"optimiser__learning_rate": 0.5}, r"optimiser.learning_rate was 0\.\d+, now 0.5"),
        ({"network__width": 24}, "network.width was 16, now 24"),
    ],
)
def test_any_other_setting_is_refused_and_named(tmp_path, changed, said):
    """Going on under other settings makes a run that nobody can repeat."""
    runs.finished(runs.tiny(), runs.points(), tmp_path / "run")
    before = runs.state_of(tmp_path / "run")
    with pytest.raises(UsageError, match=said):
        runs.finished(runs.tiny(steps=20, **changed), runs.points(), tmp_path / "run")
    assert runs.differing(tmp_path / "run", before) == []


def test_other_data_are_refused(tmp_path):
    """The order of the examples is a function of their number: with other data it is another run."""
    runs.finished(runs.tiny(), runs.points(50), tmp_path / "run")
    with pytest.raises(UsageError, match="was trained on other data"):
        runs.finished(runs.tiny(steps=20), runs.points(51), tmp_path / "run")


# Signals, kills and locks, with real processes

LONG: dict[str, Any] = {"steps": 160, "save_every": 8, "network__dropout": 0.2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The long run, uninterrupted: its command's data and its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    data = runs.write_points(folder)
    process = runs.forked(runs.arguments(data, folder / "run", **LONG), folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return data, runs.state_of(folder / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_step_saves_and_says_so(tmp_path, whole, number):
    """Exit 130 or 143 with a checkpoint of that very step; resumed, the run is that which was never stopped."""
    data, reference = whole
    words = runs.arguments(data, tmp_path / "run", **LONG)
    process = runs.forked(words, tmp_path / "log")
    runs.wait_for(tmp_path / "run/checkpoints/step-16")
    assert process.pid is not None
    os.kill(process.pid, number)
    sent = time.monotonic()
    process.join()
    assert time.monotonic() - sent < 5.0
    assert process.exitcode == 128 + number, (tmp_path / "log").read_text()
    said = re.search(r"stopped and saved at step (\d+)", (tmp_path / "log").read_text())
    assert said is not None
    assert (tmp_path / f"run/checkpoints/step-{said[1]}/manifest.json").is_file()
    again = runs.forked(words, tmp_path / "log")
    again.join()
    assert again.exitcode == 0, (tmp_path / "log").read_text()
    assert runs.differing(tmp_path / "run", reference) == []


def test_a_second_process_is_turned_away_and_the_first_goes_on(tmp_path, whole):
    """Two writers in one folder destroy each other's checkpoints."""
    data, reference = whole
    words = runs.arguments(data, tmp_path / "run", **LONG)
    first = runs.forked(words, tmp_path / "first")
    runs.wait_for(tmp_path / "run/checkpoints/step-8")
    second = runs.forked(words, tmp_path / "second")
    second.join()
    first.join()
    assert second.exitcode == 5
    assert f"in use by process {first.pid}" in (tmp_path / "second").read_text()
    assert first.exitcode == 0
    assert runs.differing(tmp_path / "run", reference) == []


@pytest.mark.slow
def test_kill_minus_nine_and_the_same_command(tmp_path):
    """The promise as a user meets it: a process of its own, on mixture-2d, killed at a checkpoint and killed anywhere."""
    settings = {"steps": 24, "save_every": 2, "label_dropout": 0.0}
    words = runs.arguments("mixture-2d", tmp_path / "run", **settings)
    chance = random.Random(0)
    for step in (4, 10):
        process = subprocess.Popen(runs.command(words), stderr=subprocess.DEVNULL)
        runs.wait_for(tmp_path / f"run/checkpoints/step-{step}", seconds=100)
        time.sleep(chance.random() * 0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    reference = runs.forked(runs.arguments("mixture-2d", tmp_path / "whole", **settings), tmp_path / "log")
    reference.join()
    last = subprocess.run(runs.command(words), check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert runs.differing(tmp_path / "run", runs.state_of(tmp_path / "whole")) == []
    assert not list((tmp_path / "run").rglob(".tmp-*"))


# Two processes


def torchrun(words: list[str], log: Path) -> subprocess.Popen[str]:
    """The command in two processes of one thread each."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "scorefield"]
    with log.open("a") as said:
        return subprocess.Popen([*start, *words], stdout=said, stderr=subprocess.STDOUT, text=True)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The process numbers of the children, in the order they were started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_are_one_with_two_micro_batches_and_die_together(tmp_path, caplog):
    """Bit for bit, dropout and labels included; when one is killed the other does not hang."""
    settings = {**IMPORTANCE, "steps": 120, "save_every": 20, "network__dropout": 0.3, "optimiser__decay": "constant"}
    data = runs.write_points(tmp_path)
    one = runs.forked(runs.arguments(data, tmp_path / "one", **settings, accumulate=2), tmp_path / "log")
    two = torchrun(runs.arguments(data, tmp_path / "two", **settings), tmp_path / "log")
    runs.wait_for(tmp_path / "two/checkpoints/step-20", seconds=100)
    children = ranks_of(two)
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    killed = time.monotonic()
    assert two.wait(timeout=60) != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert time.monotonic() - killed < 15.0
    two = torchrun(runs.arguments(data, tmp_path / "two", **settings), tmp_path / "log")
    assert two.wait() == 0, (tmp_path / "log").read_text()
    one.join()
    assert one.exitcode == 0, (tmp_path / "log").read_text()
    run = json.loads((tmp_path / "two/run.json").read_text())
    assert run["machine"]["processes"] == 2
    assert set(runs.differing(tmp_path / "two", runs.state_of(tmp_path / "one"))) == {"run.json"}
    resumed = runs.forked(runs.arguments(data, tmp_path / "two", **settings | {"steps": 128}), tmp_path / "alone")
    resumed.join()
    assert resumed.exitcode == 0
    assert "made with processes 2, now 1" in (tmp_path / "alone").read_text()
