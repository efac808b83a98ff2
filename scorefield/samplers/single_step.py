r"""Samplers of one evaluation a step:  x_s = a x_t + b D(x_t, t) + c z.

    (M23)  x_s = α_s D + √(σ_s² − κ²) ε̂ + κ z,   κ = η √(σ²_{t|s} σ_s²/σ_t²),   ε̂ = (x_t − α_t D)/σ_t

for any pair s < t of any path. η = 0 is DDIM, η = 1 DDPM with the variance β̃ (M24).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Memoryless, State, marginal
from scorefield.samplers.grids import Grid, Native
from scorefield.shapes import Float, Tensor


class _Row(NamedTuple):
    """x_s = a x_t + b D + c z."""

    a: float
    b: float
    c: float


@dataclass(frozen=True)
class _SingleStep(Memoryless, ABC):
    @abstractmethod
    def _row(self, path: Path, t: float, s: float) -> _Row:
        """The step's coefficients."""

    def evaluations(self) -> int:
        """K: one a step."""
        return self.steps

    def needs_noise(self, path: Path, t: float, s: float) -> bool:
        """Whether the step's c is not zero; the last step, to data, has none."""
        return not self.is_deterministic and s > 0.0

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "b *d"],
        t: float,
        s: float,
        noise: Float[Tensor, "b *d"] | None = None,
        condition: Any = None,
    ) -> State:
        """x_s = a x_t + b D(x_t, t) + c z  (M23)."""
        row = self._row(denoiser.path, t, s)
        x_0 = denoiser(x_t, t, condition).x0
        if s == 0.0:
            return State(s, x_0, x_0, 1)
        x_s = (row.a * x_t).add_(x_0, alpha=row.b)
        return State(s, x_s if noise is None else x_s.add_(noise, alpha=row.c), x_0, 1)


@final
@dataclass(frozen=True)
class DDIM(_SingleStep):
    """The generalised sampler of Song et al. 2021 (DDIM, eq. 12) between any two times of any path  (M22–M24, M26).

    Deterministic for η = 0, where it is Euler's method in x̄ = x/α, s = σ/α and runs both ways: upwards it encodes data.

    Attributes:
        steps: K.
        grid: the sub-sequence τ.
        eta: η ≥ 0, the noise put back at each step as a multiple of DDPM's.
    """

    steps: int = 50
    grid: Grid = field(default_factory=Native)
    eta: float = 0.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta < math.inf:
            raise UsageError(f"DDIM needs eta ≥ 0 (0 is deterministic, 1 is DDPM), got {self.eta}")

    @property
    def is_deterministic(self) -> bool:
        """η = 0."""
        return self.eta == 0.0

    def _row(self, path: Path, t: float, s: float) -> _Row:
        return _ddim_row(path, t, s, self.eta)


@lru_cache(maxsize=4096)
def _ddim_row(path: Path, t: float, s: float, eta: float) -> _Row:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    kappa = eta * path.posterior(s, t).std if eta > 0.0 and s > 0.0 else 0.0
    if kappa > sigma_s:
        raise UsageError(
            f"DDIM with eta={eta:g} would put back more noise than x_s holds at t={s:g}; use a smaller eta or more steps"
        )
    direction = math.sqrt(sigma_s**2 - kappa**2) / sigma_t
    return _Row(direction, alpha_s - direction * alpha_t, kappa)


@final
@dataclass(frozen=True)
class Ancestral(_SingleStep):
    """DDPM's sampler between any two times of any path: x_s ~ N(mean of q(x_s | x_t, D), variance)  (M12, M13, M24).

    Attributes:
        steps: K; all T of a discrete path is the paper's.
        grid: the times.
        variance: `small`, the posterior's own β̃, or `large`, the forward step's β = σ²_{t|s}  (Ho et al. 2020, section 3.2).
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    variance: str = "small"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in ("small", "large"):
            raise UsageError(f"Ancestral needs a variance of 'small' (β̃) or 'large' (β), got '{self.variance}'")

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    def _row(self, path: Path, t: float, s: float) -> _Row:
        return _ancestral_row(path, t, s, self.variance)


@lru_cache(maxsize=4096)
def _ancestral_row(path: Path, t: float, s: float, variance: str) -> _Row:
    if s == 0.0:
        return _Row(0.0, 1.0, 0.0)
    posterior = path.posterior(s, t)
    std = posterior.std if variance == "small" else path.bridge(s, t).std
    return _Row(float(posterior.from_x_t), float(posterior.from_x_0), float(std))
