r"""Time grids: at which times of a path a sampler asks the denoiser.

A grid of K steps from `start` to `end` has K + 1 times, t_K = start > … > t_0 = end. Where the end is data (t = 0) the last
step only takes the denoiser's answer, so the K questions are spread from start to the path's t_min, and 0 follows  (M25).

`Leading`, `Trailing` and `Linear` are the sub-sequences that DDIM and its followers call leading (DDIM's own "linear"),
trailing and linspace; `Quadratic` is DDIM's, `Karras` EDM's (eq. 5), `LogSNR` DPM-Solver's, which others call exponential.
`Levels` takes σ/α themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Discrete, Path

_LOWEST_LOG_SNR = -5.0
_VP = VP()


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


def _spread(low: float, high: float, count: int) -> list[float]:
    """`count` numbers from high to low, uniform; the ends are exact."""
    if count == 1:
        return [high]
    return [high, *(high + (low - high) * k / (count - 1) for k in range(1, count - 1)), low]


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

    On a continuous path it means the same of a chain of `chain` steps; one step from below the first of them goes all the way.
    """

    chain: int = 1000

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        unit = path.t_max / (path.steps if isinstance(path, Discrete) else self.chain)
        first, last = math.floor(start / unit + 1e-9), math.ceil(end / unit - 1e-9)
        stride = (first - last) // steps
        if first == last and steps == 1:
            return (start, end)
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


@dataclass(frozen=True)
class _InLevels(Grid, ABC):
    """A grid that is uniform in a rising function of s = σ/α."""

    @abstractmethod
    def _of_level(self, s: float) -> float:
        """The function."""

    @abstractmethod
    def _level_of(self, u: float) -> float:
        """Its inverse."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        count, low, tail = _questions(path, steps, end)
        clean, noisy = math.exp(-path.log_snr(low)), math.exp(-_finite_log_snr(path, start))
        levels = [self._level_of(u) for u in _spread(self._of_level(clean), self._of_level(noisy), count)]
        inner = [path.time_of(-math.log(level)) for level in levels[1:-1]]
        return (*([start, *inner, low] if count > 1 else [start]), *tail)


@final
@dataclass(frozen=True)
class Karras(_InLevels):
    """Uniform in s^{1/ρ}, s = σ/α: steps shrink towards data  (M25; Karras et al. 2022, eq. 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        _require_positive("Karras", "rho", self.rho)

    def _of_level(self, s: float) -> float:
        return float(s ** (1.0 / self.rho))

    def _level_of(self, u: float) -> float:
        return float(u**self.rho)


@final
@dataclass(frozen=True)
class Asinh(_InLevels):
    """Uniform in arsinh(s/κ), s = σ/α: as log-SNR above κ, as s itself below, where nothing is left to resolve  (M25).

    Attributes:
        kappa: κ, a level about as small as the data's finest detail.
    """

    kappa: float = 0.05

    def __post_init__(self) -> None:
        _require_positive("Asinh", "kappa", self.kappa)

    def _of_level(self, s: float) -> float:
        return math.asinh(s / self.kappa)

    def _level_of(self, u: float) -> float:
        return self.kappa * math.sinh(u)


@final
@dataclass(frozen=True)
class Rational(_InLevels):
    """Uniform in s/(κ + s), s = σ/α: steps of s grow as (κ + s)², dense where s ≲ κ  (M25).

    κ = 1 is uniform in σ/(α+σ), the time of the straight path whatever the path is.

    Attributes:
        kappa: κ, a level about as large as the data's deviation.
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("Rational", "kappa", self.kappa)

    def _of_level(self, s: float) -> float:
        return s / (self.kappa + s)

    def _level_of(self, u: float) -> float:
        return self.kappa * u / (1.0 - u)


@final
@dataclass(frozen=True)
class Levels(Grid):
    """Given values of σ/α, one a step, noisiest first, such as a grid that has been measured; data follow  (M25).

    A way that begins or ends between them takes those that lie within, so that it may have fewer steps; on a discrete path a
    level means its nearest step.

    Attributes:
        levels: s_1 > … > s_K > 0, where the denoiser is asked.

    Raises:
        UsageError: levels that do not fall strictly, another number of steps, or levels beyond the path's.
    """

    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        falls = all(0.0 < later < earlier < math.inf for earlier, later in pairwise((*self.levels, 1e-300)))
        if not falls:
            raise UsageError(f"Levels needs positive, finite σ/α that fall strictly, got {self.levels}")

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        if steps != len(self.levels):
            raise UsageError(
                f"Levels has {len(self.levels)} levels, which are as many steps, got steps={steps}; make the two equal"
            )
        times = [path.snap(path.time_of(-math.log(level))) for level in self.levels]
        if times[0] > path.t_max * (1.0 + 1e-9):
            raise UsageError(
                f"Levels begins at σ/α = {self.levels[0]:g}, but this path ends at {math.exp(-path.log_snr(path.t_max)):g}; leave out the levels above that"
            )
        inner = [min(max(t, path.t_min), path.t_max) for t in times]
        if start < path.t_max:
            inner = [start, *(t for t in inner if t < start * (1.0 - 1e-9))]
        return (*(t for t in inner if t > end * (1.0 + 1e-9)), end)


@final
@dataclass(frozen=True)
class VPTime(Grid):
    """Uniform in a power of the time that the path VP has at the same σ/α, like `Trailing` without a last question near data.

    The K questions are the first K of K + 1 points from start to end, so that the last of them is as far from data as the
    others are from each other: a question at almost no noise is a wasted one.

    Attributes:
        power: of the time; 1 is uniform in it, 1/2 is quadratic.
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        _require_positive("VPTime", "power", self.power)

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        high = _vp_time(math.exp(-_finite_log_snr(path, start))) ** self.power
        low = _vp_time(math.exp(-path.log_snr(end or path.t_min))) ** self.power
        if end == 0.0:  # the last question is one step above data, or at t_min where that is the higher
            low = max(0.0, (low * steps - high) / (steps - 1)) if steps > 1 else 0.0
        times = [start]
        for k in range(1, steps):
            level = _vp_level((high + (low - high) * k / steps) ** (1.0 / self.power))
            times.append(path.snap(max(path.t_min, path.time_of(-math.log(level)))))
        return (*_distinct(times, path), end)


def _vp_time(level: float) -> float:
    """The time at which VP has this σ/α, beyond its end too: the positive root of ½ t² (β₁ − β₀) + t β₀ = log(1 + s²)."""
    slope, low = _VP.beta_max - _VP.beta_min, _VP.beta_min
    return (math.sqrt(low**2 + 2.0 * slope * math.log1p(level**2)) - low) / slope


def _vp_level(t: float) -> float:
    """σ/α of VP at a time."""
    return math.sqrt(math.expm1(0.5 * t**2 * (_VP.beta_max - _VP.beta_min) + t * _VP.beta_min))


@final
@dataclass(frozen=True)
class Native(Grid):
    """What the path's own paper uses: Karras for EDM, uniform log-SNR for VE, trailing for all whose t is a schedule."""

    def _place(self, path: Path, steps: int, start: float, end: float) -> tuple[float, ...]:
        grid: Grid = Karras() if isinstance(path, EDM) else LogSNR() if isinstance(path, VE) else Trailing()
        return grid._place(path, steps, start, end)


def _require_positive(grid: str, name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise UsageError(f"{grid} needs a positive {name}, got {value}")


def _finite_log_snr(path: Path, t: float) -> float:
    """λ(t), or where nothing of the data is left at t, a λ at which next to nothing is."""
    value = path.log_snr(t)
    return value if value > -15.0 else _LOWEST_LOG_SNR


def _distinct(times: list[float], path: Path) -> list[float]:
    """Push snapped times that fell together apart by one step of the chain: upwards from the clean end, then down from the start."""
    if not isinstance(path, Discrete):
        return times
    nodes = [round(t * path.steps) for t in times]
    start = nodes[0]
    for k in reversed(range(len(nodes) - 1)):
        nodes[k] = max(nodes[k], nodes[k + 1] + 1)
    nodes[0] = start
    for k in range(1, len(nodes)):
        nodes[k] = min(nodes[k], nodes[k - 1] - 1)
    return [node / path.steps for node in nodes]


GRIDS: tuple[type[Grid], ...] = (
    Native,
    Linear,
    Quadratic,
    Trailing,
    Leading,
    LogSNR,
    Karras,
    Asinh,
    Rational,
    Levels,
    VPTime,
)
"""Every public grid; the contract tests run over this list, but for `Levels`, which is nothing without its levels."""
