"""scorefield's samplers by name, each as a rule from a problem and a number of evaluations to a sampler.

`default` is what a trained model is drawn from with, `uncalibrated` what any other denoiser is; a sampler that is not
deterministic is judged by its distribution alone. A new sampler is a line of `OURS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from frontier_problems import Counted, Problem
from torch import Tensor

from scorefield.samplers import (
    DDIM,
    DEIS,
    LMS,
    AdamsBashforth,
    Ancestral,
    DPMSolverMultistep,
    Grid,
    Heun,
    Karras,
    Linear,
    LogSNR,
    Quadratic,
    Sampler,
    Trailing,
    UniPC,
)

Rule = Callable[[Problem, int], Sampler]

GRIDS: dict[str, Grid] = {
    "quadratic": Quadratic(),
    "log-SNR": LogSNR(),
    "Karras": Karras(),
    "linear": Linear(),
    "trailing": Trailing(),
}
ON_A_GRID: dict[str, Callable[[int, Grid], Sampler]] = {
    "DDIM": DDIM,
    "Heun": lambda n, grid: Heun((n + 1) // 2, grid),
    **{f"AB-{k} v": lambda n, grid, k=k: AdamsBashforth(n, grid, order=k) for k in (2, 3, 4)},
    **{f"AB-{k} u": lambda n, grid, k=k: AdamsBashforth(n, grid, order=k, quantity="straight") for k in (2, 3, 4)},
    **{f"DPM++ {k}M": lambda n, grid, k=k: DPMSolverMultistep(n, grid, order=k) for k in (2, 3)},
    **{f"DPM {k}M": lambda n, grid, k=k: DPMSolverMultistep(n, grid, order=k, prediction="noise") for k in (2, 3)},
    **{f"UniPC-{k}": lambda n, grid, k=k: UniPC(n, grid, order=k) for k in (2, 3)},
    "DEIS-3": lambda n, grid: DEIS(n, grid, order=3),
    "LMS-4": LMS,
}

OURS: dict[str, Rule] = {
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
