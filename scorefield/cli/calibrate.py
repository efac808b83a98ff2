"""`scorefield calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import Command, load_model, print_json, say, set_threads, whole_numbers

if TYPE_CHECKING:
    from scorefield.samplers.plans import Plan


@dataclass(frozen=True)
class CalibrateCommand(Command):
    """Make the default sampler accurate for this model: plans for 4 to 50 evaluations, from the model's own trajectories.

    Prints, for each number of evaluations, the error to the model's own probability flow on noise that the plan was not made
    from, without and with it. The plans are kept in the model's folder (calibration.json) and used from then on.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    evaluations: Annotated[str | None, tyro.conf.arg(metavar="4,6,8")] = None
    """For which numbers of evaluations, beside the plans that there are; all from 4 to 50, anew, without it."""

    pilots: int | None = None
    """How many trajectories to learn from; chosen by the size of a sample without it."""

    rounds: int = 1
    """How long to search for better times, for up to 10 evaluations."""

    guidance: float | None = None
    """Scale of classifier-free guidance to calibrate for; the model's own without it."""

    seed: int = 0
    """Seed of the trajectories' noise."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Calibrate, print, keep."""
        budgets = None if self.evaluations is None else whole_numbers(self.evaluations, "--evaluations")
        set_threads(self.threads)
        from scorefield.model_calibration import calibrate_model, save_calibration

        # A whole calibration replaces the old one, whatever that is; one for some budgets goes with the rest of it.
        model = load_model(self.model, self.device, calibrated=budgets is not None)
        if self.guidance is not None:
            model = model.with_guidance(self.guidance)
        found = calibrate_model(
            model, budgets=budgets, pilots=self.pilots, rounds=self.rounds, seed=self.seed, progress=_Table()
        )
        save_calibration(self.model, found)
        say(f"{len(found.plans)} plans from {found.pilots} trajectories are in {self.model}/calibration.json")
        if self.json:
            rows = [
                {"evaluations": plan.evaluations, "uncalibrated": plan.uncalibrated, "calibrated": plan.error}
                for plan in found.plans
            ]
            print_json({"model": self.model, "pilots": found.pilots, "asked": found.asked, "plans": rows})
        return 0


class _Table:
    """A row for each plan as it is made, under a head."""

    def __init__(self) -> None:
        self._is_new = True

    def __call__(self, plan: Plan) -> None:
        """Print a row."""
        if self._is_new:
            print("evaluations  uncalibrated  calibrated")
            self._is_new = False
        print(f"{plan.evaluations:11d}  {plan.uncalibrated:12.4g}  {plan.error:10.4g}", flush=True)
