r"""Restart sampling: Heun's steps down, and in some intervals of σ/α up again by the forward process, several times  (Xu et al. 2023).

    x̄_high = x̄_low + √(s_high² − s_low²) z   (M4),   then Heun from s_high to s_low  (M26),   repeated

The noise forgets what the flow's own errors have become; what the solver adds on a short way is less than on the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, pairwise
from typing import Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Draw, Sampler, State
from scorefield.samplers.churn import forward
from scorefield.samplers.grids import Grid, Karras
from scorefield.samplers.ode import Heun
from scorefield.shapes import Float, Tensor

_HEUN = Heun()
_RHO = 7.0

Interval = tuple[float, float, int, int]
"""(low, high, repeats, steps): the σ/α between which, how often, and in how many steps of Heun's each time."""


@final
@dataclass(frozen=True)
class Restart(Sampler):
    """Heun's sampler with restarts  (M26, M4; Xu et al. 2023, algorithm 2).

    An interval's low end is the nearest of the grid's inner times; where that lies above its high end, the interval moves as
    a whole, and it ends at t_max at the latest. The law's error falls at second order as `steps` and the intervals' own
    steps grow together. An interval that a part of the way does not contain is left out.

    Attributes:
        steps: K, of the way down.
        grid: its times, EDM's by default.
        intervals: (low, high, repeats, steps) each, low < high in σ/α.

    Raises:
        UsageError: intervals that are no such thing.
    """

    steps: int = 18
    grid: Grid = field(default_factory=Karras)
    intervals: tuple[tuple[float, float, int, int], ...] = ((0.06, 0.3, 4, 3),)
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high, repeats, steps in self.intervals:
            if not (0.0 < low < high < math.inf and repeats >= 1 and steps >= 1):
                raise UsageError(
                    f"Restart needs intervals (low, high, repeats, steps) with 0 < low < high and at least one repeat and step, got {(low, high, repeats, steps)}"
                )

    @property
    def is_deterministic(self) -> bool:
        """Whether there are no intervals, or no inner time to restart from."""
        return not self.intervals

    def evaluations(self) -> int:
        """2K − 1 down, and two for each step of each repeat, for K ≥ 2."""
        repeated = sum(2 * repeats * steps for _, _, repeats, steps in self.intervals)
        return 2 * self.steps - 1 + (repeated if self.steps > 1 else 0)

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Down the times, and from where an interval begins up and down again."""
        asked = 0
        for t, s, up in restart_plan(denoiser.path, tuple(times), self.intervals):
            if up:
                scale, std = forward(denoiser.path, up, t)
                x = (x * scale).add_(draw(x), alpha=std)
            state = _HEUN.step(denoiser, x, t, s, None, condition)
            x, asked = state.x, asked + state.evaluations
            yield State(s, x, state.x0, asked)


@lru_cache(maxsize=256)
def restart_plan(
    path: Path, times: tuple[float, ...], intervals: tuple[Interval, ...]
) -> tuple[tuple[float, float, float], ...]:
    """(t, s, from where noise is added up to t before the step, 0 for none) of every step  (M4, M26)."""
    placed = [(low, interval) for interval in intervals if (low := _low_end(path, times, interval)) is not None]
    plan: list[tuple[float, float, float]] = []
    for t, s in pairwise(times):
        plan.append((t, s, 0.0))
        for low, interval in placed:
            if low == s:
                plan += _restarts(path, low, interval)
    return tuple(plan)


def _level(path: Path, t: float) -> float:
    return math.exp(-path.log_snr(t)) if path.log_snr(t) > -700.0 else math.inf


def _low_end(path: Path, times: tuple[float, ...], interval: Interval) -> float | None:
    """The inner time nearest to the interval's low end in log σ/α; None where the way does not contain that."""
    wanted = path.time_of(-math.log(interval[0]))
    if len(times) < 3 or not times[-1] <= wanted <= times[0]:
        return None
    return min(times[1:-1], key=lambda t: abs(path.log_snr(t) + math.log(interval[0])))


def _restarts(path: Path, low: float, interval: Interval) -> list[tuple[float, float, float]]:
    """The steps of all repeats: the first of each begins with noise."""
    wanted, high, repeats, steps = interval
    bottom = _level(path, low)
    top = min(high if high > bottom else bottom * high / wanted, 0.999 * _level(path, path.t_max))
    root = [s ** (1.0 / _RHO) for s in (top, bottom)]
    levels = [(root[0] + (root[1] - root[0]) * k / steps) ** _RHO for k in range(steps)]
    way = [*(path.time_of(-math.log(level)) for level in levels), low]
    once = [(t, s, 0.0 if k else low) for k, (t, s) in zip(count(), pairwise(way), strict=False)]
    return once * repeats
