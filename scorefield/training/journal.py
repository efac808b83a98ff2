"""The logs of a run: what was learned (the same for every run of a seed) and how long it took (not the same).

`log.jsonl` has no clock in it, so that a run that was killed and resumed writes the same bytes as one that was not;
`timing.jsonl` has the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.storage import AppendLog, read_bytes, truncate_log
from scorefield.training.run_folder import RunFolder
from scorefield.training.trainer import StepResult

LOWEST, HIGHEST, BINS = -6.0, 5.0, 11
"""The bins of log(σ/α) that losses are told by: eleven of width one; the outer ones hold what lies beyond."""

_TIMING_LIMIT = 1 << 30


class Tally:
    """Sums since the last line of the log, kept as tensors so that a checkpoint can hold them."""

    def __init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)  # steps, loss, gradient norm, steps that were not finite
        self.bins = torch.zeros(2, BINS, dtype=torch.float64)  # losses and counts by noise level

    def add(self, result: StepResult) -> None:
        """Take in one step."""
        if not result.is_finite:
            self.sums[3] += 1
            return
        losses, log_sigma = result.losses.double().cpu(), result.log_sigma.double().cpu()
        self.sums += torch.tensor([1.0, float(losses.mean()), result.gradient_norm, 0.0], dtype=torch.float64)
        place = ((log_sigma - LOWEST) / (HIGHEST - LOWEST) * BINS).long().clamp(0, BINS - 1)
        self.bins[0].index_add_(0, place, losses)
        self.bins[1].index_add_(0, place, torch.ones_like(losses))

    def line(self, step: int, examples: int, learning_rate: float) -> dict[str, Any]:
        """One line of the log."""
        steps, loss, norm, skipped = self.sums.tolist()
        means = [total / count if count else None for total, count in self.bins.T.tolist()]
        share = max(steps, 1.0)
        line = {
            "step": step,
            "examples": examples,
            "loss": loss / share if steps else None,
            "gradient_norm": norm / share if steps else None,
            "learning_rate": learning_rate,
            "loss_by_noise": means,
        }
        return line | ({"skipped": int(skipped)} if skipped else {})

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint."""
        return {"tally.sums": self.sums, "tally.bins": self.bins}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.sums, self.bins = tensors["tally.sums"].clone(), tensors["tally.bins"].clone()


@dataclass
class Clock:
    """The seconds of training, over all resumptions, by a clock that cannot be set back."""

    before: float
    started: float

    @classmethod
    def after(cls, seconds: float) -> Clock:
        """A clock that goes on from some seconds."""
        return cls(seconds, time.monotonic())

    @property
    def seconds(self) -> float:
        """Since the first start of the run, without the pauses."""
        return self.before + time.monotonic() - self.started


class Journal:
    """Both logs, open; or neither, in a process that does not write."""

    def __init__(self, log: AppendLog | None, timing: AppendLog | None) -> None:
        self._log, self._timing = log, timing
        self._timed = -1

    def write(self, line: Mapping[str, Any], seconds: float, examples_per_second: float) -> None:
        """Add a line to each."""
        if self._log is not None:
            self._log.append(line)
        self.time(line["step"], seconds, examples_per_second)

    def time(self, step: int, seconds: float, examples_per_second: float) -> None:
        """Add a line to the timing alone, one a step: a run by the clock must know it to the step it was saved at."""
        if self._timing is not None and step != self._timed:
            self._timed = step
            rate = round(examples_per_second, 2)
            self._timing.append({"step": step, "seconds": round(seconds, 3), "examples_per_second": rate})

    def sync(self) -> None:
        """Make all lines so far survive a power cut."""
        for log in (self._log, self._timing):
            if log is not None:
                log.sync()


@contextmanager
def opened(run: RunFolder, step: int, writes: bool) -> Iterator[Journal]:
    """The logs of a run cut back to a step and opened; nothing where this process does not write."""
    if not writes:
        yield Journal(None, None)
        return
    for path in (run.log, run.timing):
        truncate_log(path, step)
    with AppendLog(run.log) as log, AppendLog(run.timing) as timing:
        yield Journal(log, timing)


def seconds_until(run: RunFolder, step: int) -> float:
    """How long a run had trained when it reached a step, by its timing log."""
    import json

    if not run.timing.is_file():
        return 0.0
    seconds = 0.0
    for text in read_bytes(run.timing, _TIMING_LIMIT).splitlines():
        try:
            line = json.loads(text)
            seconds = max(seconds, float(line["seconds"])) if int(line["step"]) <= step else seconds
        except (ValueError, KeyError, TypeError):
            continue
    return seconds
