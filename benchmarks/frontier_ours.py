"""scorefield's samplers by name, each as a rule from a problem and a number of evaluations to a sampler.

`default` is what a trained model is drawn from with, `uncalibrated` what any other denoiser is; a sampler that is not
deterministic is left to its distribution. A new sampler is a line of `OURS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from frontier_problems import Counted, Problem
from torch import Tensor

from scorefield.samplers import DDIM, GRIDS, Ancestral, Heun, Leading, Native, Sampler

Rule = Callable[[Problem, int], Sampler]

OURS: dict[str, Rule] = {
    **{f"DDIM, {grid.__name__}": lambda _, n, grid=grid: DDIM(n, grid()) for grid in GRIDS if grid is not Native},
    **{
        f"Heun, {grid.__name__}": lambda _, n, grid=grid: Heun((n + 1) // 2, grid())
        for grid in GRIDS
        if grid not in (Native, Leading)
    },
    "DDPM": lambda _, n: Ancestral(n),
}
"""Every sampler that is measured."""

DEFAULTS = ("default", "uncalibrated")
"""The names in `OURS` that have columns of their own in the tables."""


@dataclass(frozen=True)
class Setting:
    """A name of `OURS`."""

    name: str
    rule: Rule

    @property
    def is_deterministic(self) -> bool:
        """Of any budget's sampler."""
        return self.name != "DDPM"


SETTINGS = tuple(Setting(name, rule) for name, rule in OURS.items())


def run(problem: Problem, counted: Counted, setting: Setting, budget: int) -> Tensor:
    """A sampler's image of the problem's noise."""
    sampler = setting.rule(problem, budget)
    generator = None if sampler.is_deterministic else torch.Generator().manual_seed(11)
    return sampler.sample(counted, problem.x_T, condition=problem.condition, generator=generator)
