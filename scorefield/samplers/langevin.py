r"""Langevin dynamics: draws from p_t by its score alone, at one level or down a ladder of them.

    (M32)  x ← x + (ε/2) ŝ(x) + √ε z            unadjusted (ULA); its law is off by O(ε)
           accepted with probability min(1, e^{E(x) − E(x')} q(x | x')/q(x' | x))      Metropolis-adjusted (MALA); exact
    (M33)  at each σ from σ_max to σ_min, T times:  x ← x + a ŝ + √(2a) z,  a = ϵ σ²/σ_min²;  at last x = D;
           adjusted in the same way, or not

∇² log p_t ⪰ −I/σ_t², whatever the data: in units of σ_t² a step has one meaning at every level of every path, and below
ε = 4 (a = 2) it cannot diverge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Draw, Sampler, State, marginal
from scorefield.samplers.grids import Grid, LogSNR, Native
from scorefield.samplers.moves import Place, chain, langevin_row, moved, require_energy
from scorefield.samplers.noise_levels import relative_step
from scorefield.samplers.single_step import Row
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class Langevin(Sampler):
    """A Langevin chain at one time t, for p_t(x); then one deterministic step to the end, which at data is D  (M32).

    The order is that of the unadjusted chain's law in ε.

    With `metropolis` a state's `info` has `accepted` (b,) of its last move, and `acceptance` (b,), the share so far.

    Attributes:
        steps: K: K − 1 moves of the chain and the step to the end; no more than a discrete path has steps.
        grid: of no effect here: the chain stays at one time.
        step_size: ε in units of σ_t², below 4.
        time: t; the time that the trajectory starts from where None.
        metropolis: whether moves are accepted or refused by the energy, which the denoiser must then have (Roberts & Tweedie 1996).
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    step_size: float = 0.1
    time: float | None = None
    metropolis: bool = False
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.step_size < 4.0:
            raise UsageError(
                f"Langevin needs a step_size in (0, 4), in units of σ² at its time; from 4 on it diverges; got {self.step_size}"
            )
        if self.time is not None and not 0.0 < self.time < math.inf:
            raise UsageError(f"Langevin needs a time above 0, where there is noise to walk in, got {self.time}")

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    @property
    def decides_by_noise(self) -> bool:
        """With `metropolis`."""
        return self.metropolis

    def evaluations(self) -> int:
        """K; 2K with `metropolis`, which asks for the energy as often."""
        return 2 * self.steps if self.metropolis else self.steps

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """K − 1 moves at the chain's time, and the step to the end of `times`  (M32)."""
        t, end, moves = self._level(denoiser.path, times), times[-1], len(times) - 2
        walked = self._adjusted if self.metropolis else self._unadjusted
        state = None
        for state in walked(denoiser, x, t, moves, draw, condition):
            yield state
            x = state.x
        if state is None or not self.metropolis:
            x_0 = denoiser(x, t, condition).x0
            asked = 1 + (state.evaluations if state else 0)
        else:
            x_0, asked = state.x0, state.evaluations
        yield State(end, _denoised(denoiser.path, x, x_0, t, end), x_0, asked, state.info if state else None)

    def _level(self, path: Path, times: Sequence[float]) -> float:
        """The chain's time, one that the path knows."""
        t = path.snap(times[0] if self.time is None else self.time)
        if not times[-1] < t <= path.t_max:
            raise UsageError(
                f"Langevin's time must lie above the end t={times[-1]:g} and within the path, up to {path.t_max:g}; got {t:g}"
            )
        return t

    def _unadjusted(
        self, denoiser: Denoiser, x: Tensor, t: float, moves: int, draw: Draw, condition: Any
    ) -> Iterator[State]:
        row = langevin_row(denoiser.path, t, 0.5 * self.step_size)
        for k in range(1, moves + 1):
            x_0 = denoiser(x, t, condition).x0
            x = moved(row, x, x_0, draw(x))
            yield State(t, x, x_0, k)

    def _adjusted(
        self, denoiser: Denoiser, x: Tensor, t: float, moves: int, draw: Draw, condition: Any
    ) -> Iterator[State]:
        """Propose by a Langevin step, and keep what Metropolis and Hastings keep."""
        known = require_energy("Langevin with metropolis=true", denoiser, "set metropolis=false")
        start = Place.of(known, x, t, condition)
        for place in chain(known, start, t, 0.5 * self.step_size, moves, draw, condition):
            yield State(t, place.x, place.x_0, 2 * place.moves + 2, place.info)


@lru_cache(maxsize=4096)
def _denoising_row(path: Path, t: float, s: float) -> Row:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    return Row(sigma_s / sigma_t, alpha_s - sigma_s / sigma_t * alpha_t, 0.0)


def _denoised(path: Path, x: Tensor, x_0: Tensor, t: float, s: float) -> Tensor:
    """α_s D + σ_s ε̂ (M23 with η = 0): D itself at s = 0."""
    if s == 0.0:
        return x_0
    row = _denoising_row(path, t, s)
    return (row.a * x).add_(x_0, alpha=row.b)


@final
@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """NCSN's sampler: T Langevin steps at each of L levels, from the noisiest down; NCSNv2's last denoising step  (M33).

    The order is that of its law in ϵ.

    Every move is a state, at its level's time. The step a = ϵ σ²/σ_min² is as the authors' code has it; algorithm 1 of NCSN
    as printed writes a/2 for a.

    Attributes:
        steps: L, how many levels.
        grid: where they are; geometric by default.
        inner_steps: T.
        epsilon: ϵ, below 2 σ_min²; NCSN's is 2e-5 for its σ_min = 0.01. None is the one that NCSNv2's closed form gives for
            these levels (M34).
        denoise: whether the walk ends with D, the mean of the data given the last x (Jolicoeur-Martineau et al. 2020).
        metropolis: whether moves are accepted or refused by the energy, which the denoiser must then have: every level's law is
            then left exactly as it is. A state's `info` has `accepted` (b,) of its move and `acceptance` (b,), the share at its level.
    """

    steps: int = 10
    grid: Grid = field(default_factory=LogSNR)
    inner_steps: int = 100
    epsilon: float | None = None
    denoise: bool = True
    metropolis: bool = False
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.inner_steps <= 1_000_000:
            raise UsageError(f"AnnealedLangevin needs between 1 and 1,000,000 inner_steps, got {self.inner_steps}")
        if self.epsilon is not None and not 0.0 < self.epsilon < math.inf:
            raise UsageError(f"AnnealedLangevin needs a positive, finite epsilon, got {self.epsilon}")

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    @property
    def decides_by_noise(self) -> bool:
        """With `metropolis`."""
        return self.metropolis

    def evaluations(self) -> int:
        """L T, and one to denoise; 2 L (T + 1) with `metropolis`, which needs the energies too and knows D in the end."""
        if self.metropolis:
            return 2 * self.steps * (self.inner_steps + 1)
        return self.steps * self.inner_steps + self.denoise

    def relative_step(self, path: Path) -> float:
        """u = a/σ² = ϵ/σ_min², the same at every level  (M33, M34).

        Raises:
            UsageError: u ≥ 2, where the dynamics diverge at every level.
        """
        low, high = path.sigma(path.t_min), path.sigma(path.t_max)
        if self.epsilon is None:
            return relative_step((high / low) ** (1.0 / max(1, self.steps - 1)), self.inner_steps)
        if self.epsilon >= 2.0 * low**2:
            raise UsageError(
                f"AnnealedLangevin with epsilon={self.epsilon:g} diverges at σ_min={low:g}, where it must be below 2σ_min²={2.0 * low**2:.3g}; lower it, or leave it out to have it chosen"
            )
        return self.epsilon / low**2

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """T moves at every level; to an end that is not data, at that end too and not at the start, whose law x has  (M33)."""
        levels = times[:-1] if times[-1] == 0.0 else times[1:]
        walked = self._adjusted if self.metropolis else self._unadjusted
        state = None
        for state in walked(denoiser, x, levels, draw, condition):
            yield state
        if state is None or times[-1] != 0.0 or not self.denoise:
            return
        if self.metropolis:
            yield State(0.0, state.x0, state.x0, state.evaluations, state.info)
        else:
            x_0 = denoiser(state.x, state.t, condition).x0
            yield State(0.0, x_0, x_0, state.evaluations + 1)

    def _unadjusted(
        self, denoiser: Denoiser, x: Tensor, levels: Sequence[float], draw: Draw, condition: Any
    ) -> Iterator[State]:
        u, asked = self.relative_step(denoiser.path), 0
        for t in levels:
            row = langevin_row(denoiser.path, t, u)
            for _ in range(self.inner_steps):
                x_0, asked = denoiser(x, t, condition).x0, asked + 1
                x = moved(row, x, x_0, draw(x))
                yield State(t, x, x_0, asked)

    def _adjusted(
        self, denoiser: Denoiser, x: Tensor, levels: Sequence[float], draw: Draw, condition: Any
    ) -> Iterator[State]:
        """The same moves, each with its Metropolis test; a level's law is another one, so energies are asked for anew there."""
        known = require_energy("AnnealedLangevin with metropolis=true", denoiser, "set metropolis=false")
        u, asked = self.relative_step(known.path), 0
        for t in levels:
            start, asked = Place.of(known, x, t, condition), asked + 2
            for place in chain(known, start, t, u, self.inner_steps, draw, condition):
                x, asked = place.x, asked + 2
                yield State(t, x, place.x_0, asked, place.info)
