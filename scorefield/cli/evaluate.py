"""`scorefield evaluate`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.common import Command, load_model, print_json, reading_of, say, set_threads
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from scorefield.data import Dataset


@dataclass(frozen=True)
class EvaluateCommand(Command):
    """Measure how far samples are from data: distances with error bars, coverage, memorisation.

    The samples are drawn from a run, or read from a file that `sample` wrote. With `--test` every figure stands beside its
    noise floor, that of held-out data. The figures of a run are kept in it (evaluation.json) and shown in its report.
    """

    samples: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SAMPLES")]
    """A run's folder, or samples as any kind of data."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The training data."""

    test: str | None = None
    """Held-out data of the same kind, for the noise floors."""

    count: Annotated[int, tyro.conf.arg(name="n", aliases=("-n",))] = 2000
    """How many samples to draw from a run."""

    seed: int = 0
    """Seed of the drawing and of what is random in measuring."""

    batch: int = 256
    """Samples at a time."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Draw, measure, print, and keep the figures with the run."""
        if self.count < 10 or self.batch < 1:
            raise UsageError(f"evaluating needs -n ≥ 10 and --batch ≥ 1, got {self.count} and {self.batch}")
        set_threads(self.threads)
        import torch

        from scorefield.data import open_data
        from scorefield.evaluation.evaluate import evaluate

        is_run = os.path.isfile(os.path.join(self.samples, "config.json"))
        options = reading_of(self.samples) if is_run else {}
        reference = open_data(self.data, **options)
        samples = self._drawn(reference) if is_run else _all(open_data(self.samples))
        labels = None if reference.labels is None else torch.from_numpy(reference.labels)
        test = None if self.test is None else _all(open_data(self.test, **options))
        found = evaluate(samples, _all(reference), test, labels=labels, seed=self.seed)
        print(found.table())
        if is_run:
            self._keep(found.as_json())
        if self.json:
            print_json(found.as_json())
        return 0

    def _drawn(self, reference: Dataset) -> Tensor:
        """Samples of the run: under the reference's conditions, as often as in it, where it has them and the model wants them."""
        import numpy as np
        import torch

        model = load_model(self.samples, self.device)
        say(f"drawing {self.count} samples")
        condition = None
        if model.config.conditions and reference.conditions is not None:
            condition = reference.conditions[np.random.default_rng(self.seed).integers(len(reference), size=self.count)]
        drawn = model.sample(self.count, seed=self.seed, batch=self.batch, condition=condition)
        return torch.from_numpy(model.config.representation.channels_first(drawn))

    def _keep(self, figures: dict[str, Any]) -> None:
        from scorefield.evaluation.report import report_html
        from scorefield.storage import json_bytes, write_bytes

        run = Path(self.samples)
        write_bytes(run / "evaluation.json", json_bytes(figures))
        write_bytes(run / "report.html", report_html(run).encode())


def _all(dataset: Dataset) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(dataset.batch(np.arange(len(dataset))))
