r"""Samplers of one evaluation a step:  x_s = a x_t + b D(x_t, t) + c z.

    (M23)  x_s = α_s D + √(σ_s² − κ²) ε̂ + κ z,   κ = η √(σ²_{t|s} σ_s²/σ_t²),   ε̂ = (x_t − α_t D)/σ_t

for any pair s < t of any path. η = 0 is DDIM, η = 1 DDPM with the variance β̃ (M24). Where a model has learned its variance,
c is an element's own: c = √(β̃^{1−v} β^v)  (M14).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, final

from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Memoryless, State, marginal
from scorefield.samplers.grids import Grid, Native
from scorefield.shapes import Float, Tensor


class Row(NamedTuple):
    """x_s = a x_t + b D + c z; with a ratio, c ratio^v stands for c, v being the answer's own."""

    a: float
    b: float
    c: float
    ratio: float | None = None


@dataclass(frozen=True)
class SingleStep(Memoryless, ABC):
    """A sampler whose step is a row of coefficients."""

    @abstractmethod
    def _row(self, path: Path, t: float, s: float) -> Row:
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
        prediction = denoiser(x_t, t, condition)
        x_0 = prediction.x0
        if row.ratio is not None:
            noise = _learned_noise(noise, prediction, row.ratio)
        if s == 0.0:
            return State(s, x_0, x_0, 1)
        x_s = (row.a * x_t).add_(x_0, alpha=row.b)
        return State(s, x_s if noise is None else x_s.add_(noise, alpha=row.c), x_0, 1)


def _learned_noise(noise: Tensor | None, prediction: Prediction, ratio: float) -> Tensor | None:
    """ratio^v z, so that c z has the variance exp(v log β + (1−v) log β̃)  (M14)."""
    if prediction.variance_mix is None:
        raise UsageError(
            "Ancestral with variance='learned' asks for a variance that this model has not learned; use variance='small' or 'large', "
            "or train with parameterisation.learned_variance=true"
        )
    return None if noise is None else noise * (prediction.variance_mix * math.log(ratio)).exp()


@final
@dataclass(frozen=True)
class DDIM(SingleStep):
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

    def _row(self, path: Path, t: float, s: float) -> Row:
        return _ddim_row(path, t, s, self.eta)


@lru_cache(maxsize=4096)
def _ddim_row(path: Path, t: float, s: float, eta: float) -> Row:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    kappa = eta * path.posterior(s, t).std if eta > 0.0 and s > 0.0 else 0.0
    if kappa > sigma_s:
        raise UsageError(
            f"DDIM with eta={eta:g} would put back more noise than x_s holds at t={s:g}; use a smaller eta or more steps"
        )
    direction = math.sqrt(sigma_s**2 - kappa**2) / sigma_t
    return Row(direction, alpha_s - direction * alpha_t, kappa)


@final
@dataclass(frozen=True)
class Ancestral(SingleStep):
    """DDPM's sampler between any two times of any path: x_s ~ N(mean of q(x_s | x_t, D), variance)  (M12–M14, M24).

    Attributes:
        steps: K; all T of a discrete path is the paper's.
        grid: the times.
        variance: `small`, the posterior's own β̃; `large`, the forward step's β = σ²_{t|s}  (Ho et al. 2020, section 3.2); or
            `learned`, between the two as the model says (Nichol & Dhariwal 2021, eq. 15).
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    variance: str = "small"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in ("small", "large", "learned"):
            raise UsageError(
                f"Ancestral needs a variance of 'small' (β̃), 'large' (β) or 'learned', got '{self.variance}'"
            )

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    def _row(self, path: Path, t: float, s: float) -> Row:
        return ancestral_row(path, t, s, self.variance)


@lru_cache(maxsize=4096)
def ancestral_row(path: Path, t: float, s: float, variance: str) -> Row:
    """The posterior's mean with the variance β̃, β = σ²_{t|s}, or β̃ and the ratio √(β/β̃)  (M5, M13, M14)."""
    if s == 0.0:
        return Row(0.0, 1.0, 0.0, 1.0 if variance == "learned" else None)
    posterior, large = path.posterior(s, t), float(path.bridge(s, t).std)
    small = float(posterior.std)
    means = float(posterior.from_x_t), float(posterior.from_x_0)
    if variance == "learned":
        return Row(*means, small, large / small)
    return Row(*means, small if variance == "small" else large)
