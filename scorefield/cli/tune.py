"""`scorefield tune`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import (
    Command,
    load_model,
    print_json,
    require_parent,
    say,
    set_threads,
    whole_numbers,
)
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.samplers.calibration.tuning import Gain


@dataclass(frozen=True)
class TuneCommand(Command):
    """Learn the time grid and the step coefficients for small budgets, longer than `calibrate` does.

    What is learned from some trajectories of the model is judged on others, kept only where it is better, and used from then on
    whenever samples are drawn with that many evaluations by the sampler `calibrated`.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    evaluations: Annotated[str, tyro.conf.arg(metavar="4,6,8,12")] = "4,6,8,12"
    """For which numbers of evaluations."""

    rounds: int = 6
    """How long to search."""

    pilots: int | None = None
    """How many trajectories to learn from, and as many to judge by; chosen by the size of a sample without it."""

    plot: str | None = None
    """Where to draw error against evaluations, before and after: an .svg file; tuning.svg in the model's folder without it."""

    guidance: float | None = None
    """Scale of classifier-free guidance to tune for; the model's own without it."""

    seed: int = 0
    """Seed of the trajectories' noise."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Tune, print, draw, keep."""
        budgets = whole_numbers(self.evaluations, "--evaluations")
        plot = self.plot or os.path.join(self.model, "tuning.svg")
        if not plot.lower().endswith(".svg"):
            raise UsageError(f"--plot {plot}: the picture is written as .svg; name a file that ends so")
        if self.plot is not None:
            require_parent(self.plot)
        set_threads(self.threads)
        from dataclasses import asdict

        from scorefield.model_calibration import save_calibration, tune_model
        from scorefield.storage import write_bytes

        model = load_model(self.model, self.device)
        if self.guidance is not None:
            model = model.with_guidance(self.guidance)
        found, gains = tune_model(
            model, budgets=budgets, pilots=self.pilots, rounds=self.rounds, seed=self.seed, progress=_Table()
        )
        save_calibration(self.model, found)
        write_bytes(plot, _chart(gains).encode())
        kept = sum(gain.kept for gain in gains)
        say(f"{kept} of {len(gains)} plans are better and kept in {self.model}/calibration.json; the picture is {plot}")
        if self.json:
            print_json({"model": self.model, "plot": plot, "gains": [asdict(gain) for gain in gains]})
        return 0


class _Table:
    """A row for each budget as it is done, under a head."""

    def __init__(self) -> None:
        self._is_new = True

    def __call__(self, gain: Gain) -> None:
        """Print a row."""
        if self._is_new:
            print("evaluations  uncalibrated      before       after")
            self._is_new = False
        row = f"{gain.evaluations:11d}  {gain.uncalibrated:12.4g}  {gain.before:10.4g}  {gain.after:10.4g}"
        print(row if gain.kept else f"{row}  (what there was stays)", flush=True)


def _chart(gains: Sequence[Gain]) -> str:
    from scorefield.evaluation.charts import Series, line_chart

    x = [gain.evaluations for gain in gains]
    return line_chart(
        [
            Series("uncalibrated", x, [gain.uncalibrated for gain in gains]),
            Series("before", x, [gain.before for gain in gains]),
            Series("tuned", x, [gain.after for gain in gains]),
        ],
        title="error to the model's own flow",
        x_label="evaluations",
        y_label="RMSE",
        log_x=True,
        log_y=True,
    )
