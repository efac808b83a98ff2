r"""DiffPIR: the point between the prediction and the measurement, without a derivative  (Zhu et al. 2023).

    D' = argmin_x ‖y − A x‖²/σ_y² + λ ‖x − D‖²/σ̄²  =  D + Aᵀ (A Aᵀ + (σ_y²/r²) I)⁻¹ (y − A D),   r² = σ̄²/λ,   σ̄ = σ/α
    x_s = α_s D' + σ_s (√(1−ζ) ε̂ + √ζ z),   ε̂ = (x_t − α_t D')/σ_t

With V = r² I it would be Bayes' rule; so its bias is that what x_t knows is taken to be white and the same at every x_t, which also keeps
the measurement from telling anything of what it does not see, but through x_t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, final

from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.posterior import Method
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers import Grid, Sampler
from scorefield.samplers.base import marginal
from scorefield.samplers.grids import Native
from scorefield.samplers.single_step import Row, SingleStep
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class DiffPIR(Method):
    """Plug-and-play restoration: one evaluation a question  (M42; Zhu et al. 2023, algorithm 1).

    Attributes:
        weight: λ, how much the prediction counts beside the measurement.
        zeta: ζ in [0, 1], how much of the noise is drawn anew at each step.

    Raises:
        UsageError: settings that are no such numbers.
    """

    weight: float = 1.0
    zeta: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 < self.weight < math.inf:
            raise UsageError(f"DiffPIR needs a positive weight λ, got {self.weight}")
        Renoising(zeta=self.zeta)

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D + Aᵀ (A Aᵀ + (λ σ_y²/σ̄²) I)⁻¹ (y − A D); 1/σ̄² = (α/σ)², so that α = 0 is a value like another."""
        prediction = denoiser(x_t, t, condition)
        path = denoiser.path
        ratio = self.weight * (measurement.noise * path.alpha(t) / path.sigma(t)) ** 2
        return replace(prediction, x0=prediction.x0 + measurement.corrected_by(prediction.x0, ratio))

    def sampler(self, inner: Sampler) -> Sampler:
        """The paper's own steps at the other's times."""
        return Renoising(inner.steps, inner.grid, self.zeta)


@final
@dataclass(frozen=True)
class Renoising(SingleStep):
    """x_s = α_s D + σ_s (√(1−ζ) ε̂ + √ζ z): each step forgets the share ζ of its noise  (M23 with κ² = ζ σ_s²; Zhu et al. 2023, eq. 14).

    Attributes:
        steps: K.
        grid: the times.
        zeta: ζ in [0, 1]: 0 is DDIM.
    """

    steps: int = 100
    grid: Grid = field(default_factory=Native)
    zeta: float = 0.6
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.zeta <= 1.0:
            raise UsageError(f"zeta is the share of the noise that is drawn anew, from 0 to 1, got {self.zeta}")

    @property
    def is_deterministic(self) -> bool:
        """ζ = 0."""
        return self.zeta == 0.0

    def _row(self, path: Path, t: float, s: float) -> Row:
        return _renoising_row(path, t, s, self.zeta)


@lru_cache(maxsize=4096)
def _renoising_row(path: Path, t: float, s: float, zeta: float) -> Row:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    kept = math.sqrt(1.0 - zeta) * sigma_s / sigma_t
    return Row(kept, alpha_s - kept * alpha_t, math.sqrt(zeta) * sigma_s)
