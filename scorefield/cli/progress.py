"""The live line of training: images a second, loss, time left; silent where standard error is no terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from scorefield.training.configuration import RunConfig
from scorefield.training.loop import Calibrating, Event, Progressed, Saved

_REFRESHES_PER_SECOND = 4
_SMOOTHING = 0.02


class TrainingProgress:
    """Shows the events of a training run as one line, on the leading process only.

    Attributes:
        leads: whether this is the process that speaks.
    """

    def __init__(self, config: RunConfig) -> None:
        self.leads = int(os.environ.get("RANK", "0")) == 0
        self._config = config
        self._last: Progressed | None = None
        self._loss = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
        )
        console = Console(file=sys.stderr)
        shows = self.leads and sys.stderr.isatty()
        self._progress = Progress(
            *columns, console=console, disable=not shows, refresh_per_second=_REFRESHES_PER_SECOND
        )
        self._task = self._progress.add_task("training", total=1.0, figures="")

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Progressed):
            self._loss = event.loss if self._last is None else self._loss + _SMOOTHING * (event.loss - self._loss)
            self._last = event
            self._progress.update(self._task, completed=event.progress, figures=self._figures(event))
        elif isinstance(event, Saved):
            self._progress.update(self._task, description=f"training (saved at {event.step})")
        elif isinstance(event, Calibrating):
            figures = f"up to {event.evaluations} evaluations (--set calibrate=false leaves it out)"
            self._progress.update(self._task, description="calibrating the sampler", figures=figures)

    def _figures(self, event: Progressed) -> str:
        left = event.seconds * (1.0 - event.progress) / max(event.progress, 1e-9)
        minutes, seconds = divmod(int(min(left, 359_999)), 60)
        return f"step {event.step} · {event.examples_per_second:.0f} samples/s · loss {self._loss:.4f} · {minutes}:{seconds:02d} left"

    def last(self) -> dict[str, Any]:
        """The last figures, for `--json`."""
        if self._last is None:
            return {}
        return {
            "loss": self._loss,
            "seconds": round(self._last.seconds, 3),
            "examples_per_second": round(self._last.examples_per_second, 2),
        }

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()
