"""scorefield's samplers by name, each as a rule from a problem and a number of evaluations to a sampler.

`default` is what a trained model is drawn from with, `uncalibrated` what any other denoiser is; a sampler that is not
deterministic is judged by its distribution alone. A new sampler is a line of `OURS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from frontier_problems import Counted, Problem
from torch import Tensor

import scorefield
from scorefield.model_calibration import calibrate_model
from scorefield.samplers import (
    DDIM,
    DEIS,
    AdamsBashforth,
    Ancestral,
    Calibrated,
    Calibration,
    DPMSolverMultistep,
    Grid,
    Heun,
    LogSNR,
    Quadratic,
    Sampler,
    UniPC,
    VPTime,
)
from scorefield.samplers.calibration.calibrate import calibrate, pilot_count

Rule = Callable[[Problem, int], Sampler]

GRIDS: dict[str, Grid] = {"quadratic": Quadratic(), "log-SNR": LogSNR(), "VP time": VPTime()}
ON_A_GRID: dict[str, Callable[[int, Grid], Sampler]] = {
    "DDIM": DDIM,
    "Heun": lambda n, grid: Heun((n + 1) // 2, grid),
    "DEIS-3": lambda n, grid: DEIS(n, grid, order=3),
    **{f"AB-{k} v": lambda n, grid, k=k: AdamsBashforth(n, grid, order=k) for k in (3, 4)},
    **{f"AB-{k} u": lambda n, grid, k=k: AdamsBashforth(n, grid, order=k, quantity="straight") for k in (3, 4)},
    **{f"DPM++ {k}M": lambda n, grid, k=k: DPMSolverMultistep(n, grid, order=k) for k in (2, 3)},
    **{f"UniPC-{k}": lambda n, grid, k=k: UniPC(n, grid, order=k) for k in (2, 3)},
}


_SEED = 77  # of the pilots: not the noise that is measured


@cache
def calibration(problem: Problem) -> Calibration:
    """A network's own, as `scorefield train` leaves it, and what `calibrate` finds for a closed form from noise of its own."""
    run = problem.made_of.get("run")
    if run is not None:
        model = scorefield.load(run)
        return model.calibration or calibrate_model(model, rounds=0, seed=_SEED)
    shape = problem.x_T.shape[1:]
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(4 * pilot_count(shape), *shape, generator=generator, dtype=problem.x_T.dtype)
    return calibrate(problem.denoiser, noise * problem.path.prior_std)


OURS: dict[str, Rule] = {
    "default": lambda problem, n: Calibrated(n, calibration=calibration(problem)),
    "uncalibrated": lambda _, n: Calibrated(n),
    **{
        f"{name}, {on}": lambda _, n, make=make, grid=grid: make(n, grid)
        for name, make in ON_A_GRID.items()
        for on, grid in GRIDS.items()
    },
    "DDPM": lambda _, n: Ancestral(n),
}
"""Every sampler that is measured."""

DEFAULTS = ("default", "uncalibrated")
"""The names in `OURS` that have columns of their own in the tables, and that no screening leaves out."""


@dataclass(frozen=True)
class Setting:
    """A name of `OURS`."""

    name: str
    rule: Rule

    @property
    def is_deterministic(self) -> bool:
        """Of any budget's sampler."""
        return self.name != "DDPM"

    @property
    def is_kept(self) -> bool:
        """Whether a screening must let it pass."""
        return self.name in DEFAULTS


SETTINGS = tuple(Setting(name, rule) for name, rule in OURS.items())


def run(problem: Problem, counted: Counted, setting: Setting, budget: int) -> Tensor:
    """A sampler's image of the problem's noise."""
    sampler = setting.rule(problem, budget)
    generator = None if sampler.is_deterministic else torch.Generator().manual_seed(11)
    return sampler.sample(counted, problem.x_T, condition=problem.condition, generator=generator)
