"""Measuring the order of a solver of the probability flow: where ways begin and end, exact ends, errors and their ratios."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.paths import EDM, Path
from scorefield.samplers import Sampler
from tests.worlds import exact_flow, mixture, normal

WAYS = {"most of the way": (8.0, 0.02), "middle to middle": (3.0, 0.3), "upwards": (0.3, 3.0)}
"""From one level σ/α to another."""


def level(path: Path, s: float) -> float:
    """The time at which σ/α = s."""
    return path.time_of(-math.log(s))


def errors(
    sampler: Sampler,
    world: GaussianMixture,
    x: Tensor,
    ends: tuple[float, float],
    exact: Tensor,
    steps: tuple[int, ...],
) -> list[float]:
    """Root mean square errors at the end, for several numbers of steps."""
    runs = (replace(sampler, steps=count).sample(world, x, start=ends[0], end=ends[1]) for count in steps)
    return [float((run - exact).square().mean().sqrt()) for run in runs]


def orders(found: list[float]) -> list[float]:
    """The orders seen between runs of doubled steps."""
    return [math.log2(coarse / fine) for coarse, fine in zip(found, found[1:], strict=False)]


@cache
def flow_between(way: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Points x̄ = x/α at one level σ/α and where the flow takes them: one question for all paths."""
    world = mixture(EDM())
    x_bar = world.means.repeat(2, 1) + math.hypot(1.0, way[0]) * normal(6, 2)
    return x_bar, exact_flow(world, x_bar, *way)
