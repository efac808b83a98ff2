"""Plans written down by hand, for tests that need no calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.paths import Path, Rectified
from scorefield.samplers import LogSNR
from scorefield.samplers.plans import Calibration, Plan, Step
from tests.worlds import exact_flow


def ratio(path: Path, t: float) -> float:
    """r = α/σ."""
    return path.alpha(t) / path.sigma(t)


def grid(path: Path, count: int) -> tuple[float, ...]:
    """Times uniform in log-SNR, without the end."""
    return LogSNR().times(path, count)[:-1]


def held(path: Path, times: tuple[float, ...]) -> Plan:
    """Every answer held until the next one: DDIM with η = 0, and its end at the last answer."""
    ratios = [ratio(path, t) for t in times]
    steps = [Step(1.0 / after, (1.0 - before / after,)) for before, after in pairwise(ratios)]
    again = tuple(Step(step.carry, (0.0, *step.weights)) for step in steps)
    return Plan(times, (*steps, Step(0.0, (1.0,))), again, 0.1, 0.2)


def lines(path: Path, times: tuple[float, ...]) -> Plan:
    """Answers on straight lines in r, ∫ D dr by the last two and corrected by the trapezium: Adams of second order."""
    ratios = [ratio(path, t) for t in times]
    steps, again = [], []
    for n, (before, after) in enumerate(pairwise(ratios)):
        width = after - before
        lean = 0.5 * width**2 / (before - ratios[n - 1]) if n else 0.0
        weights = ((width + lean) / after, -lean / after) if n else (width / after,)
        steps.append(Step(1.0 / after, weights))
        again.append(Step(1.0 / after, (0.5 * width / after, 0.5 * width / after)))
    return Plan(times, (*steps, Step(0.0, (1.0,))), tuple(again), 0.1, 0.2)


def mended(path: Path, times: tuple[float, ...]) -> Plan:
    """Held answers, corrected by the trapezium: of second order, and no number of it is above 1."""
    return replace(held(path, times), corrections=lines(path, times).corrections)


def only(path: Path, *plans: Plan) -> Calibration:
    """A calibration of these plans."""
    return Calibration(path, plans)


def flow_to_data(world: GaussianMixture, x_T: Tensor) -> Tensor:
    """Where the exact flow takes noise, on any path and whatever its t_min: in x/(α+σ) all paths are the straight one."""
    path = world.path
    alpha, sigma = path.alpha(path.t_max), path.sigma(path.t_max)
    straight = GaussianMixture(Rectified(), world.weights, world.means, world.covariances)
    return exact_flow(straight, x_T / (alpha + sigma), sigma / (alpha + sigma), 1e-9)


def rms(gap: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(gap.double().square().mean()))
