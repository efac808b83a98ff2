"""The log says what was learned and holds no clock; the timing log has the clock, and adds it up over resumptions."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from scorefield.training.journal import BINS, HIGHEST, LOWEST, Clock, Tally, opened, seconds_until
from scorefield.training.run_folder import RunFolder
from scorefield.training.trainer import StepResult


def result(losses: list[float], log_sigma: list[float], norm: float = 2.0, *, finite: bool = True) -> StepResult:
    """What a step met."""
    return StepResult(torch.tensor(losses), torch.tensor(log_sigma), norm, finite)


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    return run


def test_a_line_has_the_means_of_all_steps_since_the_last():
    """The last step's loss alone would be noise."""
    tally = Tally()
    tally.add(result([1.0, 3.0], [0.0, 0.0], norm=1.0))
    tally.add(result([5.0, 7.0], [0.0, 0.0], norm=4.0))
    line = tally.line(20, 40, 1e-3)
    assert (line["step"], line["examples"], line["learning_rate"]) == (20, 40, 1e-3)
    assert (line["loss"], line["gradient_norm"]) == (4.0, 2.5)
    assert "skipped" not in line


def test_losses_are_told_by_noise_level_and_empty_bins_are_null():
    """A bin shifted by one, or 0 for 'nothing seen', would draw a wrong curve."""
    tally = Tally()
    edges = [LOWEST, LOWEST + 0.99, LOWEST + 1.01, 0.5, HIGHEST - 0.01]
    tally.add(result([1.0, 3.0, 5.0, 7.0, 9.0], edges))
    assert tally.line(1, 5, 0.0)["loss_by_noise"] == [2.0, 5.0, None, None, None, None, 7.0, None, None, None, 9.0]
    assert (HIGHEST - LOWEST) / BINS == 1.0


def test_levels_beyond_the_bins_count_in_the_outer_ones():
    """An index out of range would stop training, or count at the other end."""
    tally = Tally()
    tally.add(result([1.0, 2.0], [-50.0, 50.0]))
    bins = tally.line(1, 2, 0.0)["loss_by_noise"]
    assert (bins[0], bins[-1]) == (1.0, 2.0)


def test_a_step_that_was_not_finite_is_counted_and_poisons_nothing():
    """One NaN in a mean makes the whole line NaN."""
    tally = Tally()
    tally.add(result([1.0, 3.0], [0.0, 0.0]))
    tally.add(result([math.nan, 3.0], [0.0, 0.0], norm=math.inf, finite=False))
    line = tally.line(2, 4, 0.0)
    assert (line["loss"], line["gradient_norm"], line["skipped"]) == (2.0, 2.0, 1)


def test_a_line_of_nothing_but_bad_steps_says_null():
    """A loss of 0 would look like success."""
    tally = Tally()
    tally.add(result([math.nan], [0.0], finite=False))
    assert tally.line(1, 1, 0.0)["loss"] is None


def test_a_tally_comes_back_in_the_same_bits():
    """A checkpoint between two lines holds half a line; float32 or a lost count would change the line."""
    steps = [result([0.1 * n, 0.3], [0.1 * n - 3, 2.0], norm=0.7 * n) for n in range(1, 8)]
    whole, first, second = Tally(), Tally(), Tally()
    for step in steps:
        whole.add(step)
    for step in steps[:4]:
        first.add(step)
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for step in steps[4:]:
        second.add(step)
    assert json.dumps(whole.line(7, 14, 0.1)) == json.dumps(second.line(7, 14, 0.1))


def test_restoring_does_not_write_into_the_checkpoint():
    """Two restores from one checkpoint must give the same."""
    tensors = {name: tensor.clone() for name, tensor in Tally().tensors().items()}
    tally = Tally()
    tally.restore(tensors)
    tally.add(result([1.0], [0.0]))
    assert not any(tensor.any() for tensor in tensors.values())


def test_the_log_has_no_clock_and_the_timing_has(run):
    """A clock in the log would make every resumed run differ from one that was not stopped."""
    with opened(run, 0, True) as journal:
        journal.write(Tally().line(5, 10, 0.1), 1.2345, 100.0)
        journal.sync()
    log, timing = json.loads(run.log.read_text()), json.loads(run.timing.read_text())
    assert set(log) == {"step", "examples", "loss", "gradient_norm", "learning_rate", "loss_by_noise"}
    assert timing == {"step": 5, "seconds": 1.234, "examples_per_second": 100.0}


def test_lines_after_the_resumed_step_are_cut_off(run):
    """A killed run has logged steps that its last checkpoint does not know; they would be there twice."""
    with opened(run, 0, True) as journal:
        for step in (5, 10, 15):
            journal.write({"step": step}, float(step), 1.0)
    with opened(run, 10, True):
        pass
    for log in (run.log, run.timing):
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [5, 10]


def test_a_process_that_does_not_write_makes_no_file(run):
    """Two ranks that append to one log would tear its lines."""
    with opened(run, 0, False) as journal:
        journal.write({"step": 1}, 1.0, 1.0)
        journal.sync()
    assert not run.log.exists()
    assert not run.timing.exists()


def test_training_time_is_what_the_timing_log_says_at_the_resumed_step(run):
    """Time that was lost with the steps after the checkpoint must not count; torn and foreign lines must not stop a run."""
    assert seconds_until(run, 100) == 0.0
    run.timing.write_text(
        '{"step": 5, "seconds": 2.5}\n{"step": 10, "seconds": 4.0}\n{"seconds": 9}\n[1]\n{"step": 15, "sec'
    )
    assert seconds_until(run, 4) == 0.0
    assert seconds_until(run, 7) == 2.5
    assert seconds_until(run, 10) == 4.0
    assert seconds_until(run, 99) == 4.0


def test_the_clock_goes_on_from_before_and_ignores_the_wall_clock(monkeypatch):
    """A wall clock that is set back a day would otherwise end, or never end, a run of minutes."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock.after(30.0)
    now[0] = 102.5
    assert clock.seconds == 32.5
