r"""Time grids: at which times of a path a sampler asks the denoiser.

A grid of K steps from `start` to `end` has K + 1 times, t_K = start > … > t_0 = end. Where the end is data (t = 0) the last
step only takes the denoiser's answer, so the K questions are spread from start to the path's t_min, and 0 follows  (M25).

`Leading`, `Trailing` and `Linear` are the sub-sequences that DDIM and its followers call leading (DDIM's own "linear"),
trailing and linspace; `Quadratic` is DDIM's, `Karras` EDM's (eq. 5), `LogSNR` DPM-Solver's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, Discrete, Path

_LOWEST_LOG_SNR = -5.0


@dataclass(frozen=True)
class Grid(ABC):
    """A rule that places times."""

    def times(self, path: Path, steps: int, start: float | None = None, end: float = 0.0) -> tuple[float, ...]:
        """The steps + 1 times from start (t_max where None) down to end.

        Raises:
            UsageError: fewer than one step, times outside of the path or in the wrong order, or more steps than a
                discrete path has between them.
        """
        start = path.t_max if start is None else start
        self._check(path, steps, start, end)
        times = self._place(path, steps, start, end)
        above = times[0] > max(start, path.snap(start)) * (
            1.0 + 1e-9
        )  # a chain's steps, pushed apart, may not fit below the start
        if above or any(later >= earlier for earlier, later in pairwise(times)):
            raise UsageError(
                f"{self} cannot place {steps} distinct steps between t={start:g} and t={end:g} of this path; use fewer steps or another grid"
            )
        return times

    @abstractmethod
    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        """The times, for arguments that have been checked."""

    @staticmethod
    def _check(path: Path, steps: int, start: float, end: float) -> None:
        if steps < 1:
            raise UsageError(f"a sampler needs at least 1 step, got {steps}")
        if not 0.0 <= end < start <= path.t_max:
            raise UsageError(
                f"sampling goes from a time to a smaller one within [0, {path.t_max:g}], got start={start:g}, end={end:g}"
            )
        if isinstance(path, Discrete) and steps > path.steps:
            raise UsageError(
                f"{steps} steps are more than this {path.steps}-step model has; use at most {path.steps} or train with a continuous path"
            )


def _spread(low: float, high: float, count: int, curve: float = 1.0) -> list[float]:
    """`count` numbers from high to low, uniform in the number's 1/curve-th power; the ends are exact."""
    if count == 1:
        return [high]
    inner = [
        (high ** (1 / curve) + (low ** (1 / curve) - high ** (1 / curve)) * k / (count - 1)) ** curve
        for k in range(1, count - 1)
    ]
    return [high, *inner, low]


def _questions(path: Path, steps: int, end: float) -> tuple[int, float, tuple[float, ...]]:
    """(how many times to spread, down to which, what follows): t_min stands in for an end that is data."""
    return (steps, path.t_min, (0.0,)) if end == 0.0 else (steps + 1, end, ())


@final
@dataclass(frozen=True)
class Linear(Grid):
    """Uniform in t, both ends included: "linspace"."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        count, low, tail = _questions(path, steps, end)
        return (*(path.snap(t) for t in _spread(low, start, count)), *tail)


@final
@dataclass(frozen=True)
class Quadratic(Grid):
    """τ_k = low + c k²: DDIM's quadratic sub-sequence, up to the start itself where the authors' code stops at 0.8 T."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        count, low, tail = _questions(path, steps, end)
        inner = [low + (start - low) * (1.0 - k / (count - 1)) ** 2 for k in range(1, count - 1)]
        times = [start, *inner, low] if count > 1 else [start]
        return (*_distinct([path.snap(t) for t in times], path), *tail)


@final
@dataclass(frozen=True)
class Trailing(Grid):
    """start, start − c, …, c, end with c = (start − end)/K: uniform with the first time exact."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        width = (start - end) / steps
        return (start, *(path.snap(start - width * k) for k in range(1, steps)), end)


@final
@dataclass(frozen=True)
class Leading(Grid):
    """Steps 1 + c (K − 1), …, 1 + c, 1 of a chain of T, c = ⌊T/K⌋, then data: DDIM's "linear".

    On a continuous path it means the same of a chain of `chain` steps.
    """

    chain: int = 1000

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        unit = path.t_max / (path.steps if isinstance(path, Discrete) else self.chain)
        first, last = math.floor(start / unit + 1e-9), math.ceil(end / unit - 1e-9)
        stride = (first - last) // steps
        return (*(unit * (last + 1 + stride * k) for k in reversed(range(steps))), end)


@final
@dataclass(frozen=True)
class LogSNR(Grid):
    """Uniform in λ = log(α/σ)  (DPM-Solver)."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        count, low, tail = _questions(path, steps, end)
        noisy, clean = _finite_log_snr(path, start), path.log_snr(low)
        inner = [path.time_of(noisy + (clean - noisy) * k / (count - 1)) for k in range(1, count - 1)]
        return (*([start, *inner, low] if count > 1 else [start]), *tail)


@final
@dataclass(frozen=True)
class Karras(Grid):
    """Uniform in s^{1/ρ}, s = σ/α: steps shrink towards data  (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0.0 < self.rho < math.inf:
            raise UsageError(f"Karras needs a positive rho, got {self.rho}")

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        count, low, tail = _questions(path, steps, end)
        levels = _spread(math.exp(-path.log_snr(low)), math.exp(-_finite_log_snr(path, start)), count, self.rho)
        inner = [path.time_of(-math.log(level)) for level in levels[1:-1]]
        return (*([start, *inner, low] if count > 1 else [start]), *tail)


@final
@dataclass(frozen=True)
class Native(Grid):
    """What the path's own paper uses: Karras for EDM, uniform log-SNR for VE, trailing for all whose t is a schedule."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        grid: Grid = Karras() if isinstance(path, EDM) else LogSNR() if isinstance(path, VE) else Trailing()
        return grid._place(path, steps, start, end)


def _finite_log_snr(path: Path, t: float) -> float:
    """λ(t), or where nothing of the data is left at t, a λ at which next to nothing is."""
    value = path.log_snr(t)
    return value if value > -15.0 else _LOWEST_LOG_SNR


def _distinct(times: list[float], path: Path) -> list[float]:
    """Push snapped times that fell together apart by one step of the chain, from the clean end upwards."""
    if not isinstance(path, Discrete):
        return times
    nodes = [round(t * path.steps) for t in times]
    for k in reversed(range(len(nodes) - 1)):
        nodes[k] = max(nodes[k], nodes[k + 1] + 1)
    return [node / path.steps for node in nodes]


GRIDS: tuple[type[Grid], ...] = (Native, Linear, Quadratic, Trailing, Leading, LogSNR, Karras)
"""Every public grid; the contract tests run over this list."""
