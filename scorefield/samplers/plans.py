r"""What a calibration finds: for each budget of evaluations, where to ask the denoiser and how to add up its answers.

In y = x/σ and r = α/σ every Gaussian path's probability flow is dy = D dr  (M26 divided by σ), so a linear multistep method is

    x̄_{n+1} = ã_n y_n + Σ_j b_{n,j} D_{n−j},      x̄ = x/α = y/r,

and predicting at n is preceded by a correction of the same form from n − 1, now that D_n is known. Whatever the numbers are, a
step must take a data set of one point to that point: ã_n r_n + Σ_j b_{n,j} = 1. A plan that does not is refused.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import final

from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import marginal
from scorefield.samplers.tables import Correction, Row

_CONSISTENT = 1e-6


@final
@dataclass(frozen=True)
class Step:
    """x̄ = carry · y + Σ_j weights[j] D_{n−j}, newest first; y is the point that the step starts from."""

    carry: float
    weights: tuple[float, ...]


@final
@dataclass(frozen=True)
class Plan:
    """How to draw with one number of evaluations.

    Attributes:
        times: t_1 = t_max > … > t_N, where the denoiser is asked.
        steps: N steps, from each of them to the next, the last to data.
        corrections: N − 1 steps, from t_{n−1} to t_n, for n = 2 … N.
        error: root mean square to the model's own flow on noise that the plan was not made from.
        uncalibrated: the same of the uncalibrated sampler.
    """

    times: tuple[float, ...]
    steps: tuple[Step, ...]
    corrections: tuple[Step, ...]
    error: float
    uncalibrated: float

    def __post_init__(self) -> None:
        count = len(self.times)
        if count < 1 or len(self.steps) != count or len(self.corrections) != count - 1:
            raise UsageError(
                f"a plan needs a step for each time and a correction for each but the first, got {len(self.steps)} and {len(self.corrections)} for {count}"
            )
        if any(later >= earlier for earlier, later in pairwise(self.times)) or self.times[-1] <= 0.0:
            raise UsageError("a plan's times must fall and be positive")
        for n, step in enumerate(self.steps):
            _require_history(step, n + 1)
        for n, step in enumerate(self.corrections):
            _require_history(step, n + 2)

    @property
    def evaluations(self) -> int:
        """N."""
        return len(self.times)

    @property
    def amplification(self) -> float:
        """How large an error in the answers may come out of a step, as a multiple: the greatest Σ_j |b_{n,j}|, 1 at best."""
        return max(math.fsum(map(abs, step.weights)) for step in (*self.steps, *self.corrections))


@final
@dataclass(frozen=True)
class Calibration:
    """The plans of one denoiser, by budget.

    Attributes:
        path: the path that they are made for.
        plans: in the order of their evaluations.
        guidance: the scale of guidance that the denoiser had.
        pilots: how many trajectories they were made from.
        asked: how many evaluations of one sample that took.
        model: SHA-256 of the weights; empty where the denoiser is no stored model.
    """

    path: Path
    plans: tuple[Plan, ...]
    guidance: float = 1.0
    pilots: int = 0
    asked: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        if any(later.evaluations <= earlier.evaluations for earlier, later in pairwise(self.plans)):
            raise UsageError("a calibration's plans must be in the order of their evaluations, one for each")
        for plan in self.plans:
            if plan.times[0] != self.path.t_max:
                raise UsageError(f"a plan must begin at the path's t_max={self.path.t_max:g}, got {plan.times[0]:g}")
            rows(plan, self.path)

    def plan(self, evaluations: int) -> Plan | None:
        """The plan of the most evaluations that are no more than these; None below the least."""
        budgets = [plan.evaluations for plan in self.plans]
        place = bisect_right(budgets, evaluations)
        return self.plans[place - 1] if place else None

    def with_plans(self, plans: dict[int, Plan]) -> Calibration:
        """The same with plans added or replaced, by their evaluations."""
        known = {plan.evaluations: plan for plan in self.plans} | plans
        ordered = tuple(known[budget] for budget in sorted(known))
        return Calibration(self.path, ordered, self.guidance, self.pilots, self.asked, self.model)


@lru_cache(maxsize=64)
def rows(plan: Plan, path: Path) -> tuple[Row, ...]:
    """A plan as a table over x, which starts at x = σ y.

    Raises:
        UsageError: a step that does not keep a data set of one point.
    """
    points = [marginal(path, t) for t in plan.times]
    ends = [*points[1:], (1.0, 0.0)]
    table = []
    for n, (point, end, step) in enumerate(zip(points, ends, plan.steps, strict=True)):
        correction = _in_x(plan.corrections[n - 1], points[n - 1], point) if n else None
        carry, weights = _in_x(step, point, end)
        table.append(Row((0.0, 1.0), carry, weights, 0.0, None if correction is None else Correction(*correction)))
    return tuple(table)


def _in_x(step: Step, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, tuple[float, ...]]:
    """x_end = α_end (ã x/σ + Σ_j b_j D_{n−j}) as the coefficient of x and those of the answers."""
    (alpha, sigma), (alpha_end, _) = start, end
    total = step.carry * alpha / sigma + math.fsum(step.weights)
    size = 1.0 + abs(step.carry * alpha / sigma) + math.fsum(map(abs, step.weights))
    if not abs(total - 1.0) <= _CONSISTENT * size:
        raise UsageError(
            f"a step's numbers must keep a data set of one point (their sum is 1), got {total:.8g}; calibrate again"
        )
    return alpha_end * step.carry / sigma, tuple(alpha_end * weight for weight in step.weights)


def _require_history(step: Step, known: int) -> None:
    if not 1 <= len(step.weights) <= known:
        raise UsageError(f"a step of {len(step.weights)} answers where {known} are known; calibrate again")
    if not all(map(math.isfinite, (step.carry, *step.weights))):
        raise UsageError("a step's numbers must be finite; calibrate again")
