r"""DDRM: each spectral coordinate walks as its own measurement allows  (Kawar, Elad, Ermon & Song 2022).

In the coordinates z = Vᵀx of A = U S Vᵀ, with σ̄ = σ/α, a coordinate is known by its measurement up to σ_y/S. From time t to s

    not measured:      x̄_s = D + σ̄_s (√(1−η²) ε̂ + η z)
    σ̄_s < σ_y/S:       x̄_s = D + σ̄_s (√(1−η²) (S⁻¹ȳ − D)/(σ_y/S) + η z)
    σ̄_s ≥ σ_y/S:       x̄_s = (1−η_b) D + η_b S⁻¹ȳ + √(σ̄_s² − η_b² σ_y²/S²) z

ȳ = Uᵀy, D short for VᵀD. A measured coordinate has the right noise at every time if D is taken to say nothing of it; its
bias is that what the measurement says of the others comes only through x_t, as in replacement, and that coordinates are
taken to be independent. One evaluation a step, no derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any, ClassVar, final

import torch

from scorefield.arithmetic import along_batch
from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.operators import Decomposed
from scorefield.editing.posterior import Method, measured
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers import Grid, Sampler, State
from scorefield.samplers.base import Draw, marginal
from scorefield.samplers.grids import Native
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class DDRM(Method):
    """Denoising diffusion restoration: one evaluation a step  (M42; Kawar et al. 2022, eq. 7–8 and theorem 3.2).

    With another sampler than its own, its answer is D with the measurement in the place of the coordinates that it tells more of
    than x_t does.

    Attributes:
        eta: η in [0, 1], how much noise is drawn anew at each step.
        eta_b: η_b in (0, 1], how much of the measurement replaces the prediction where it is the better.

    Raises:
        UsageError: settings that are no such numbers, or an operator without a decomposition.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.eta <= 1.0 and 0.0 < self.eta_b <= 1.0):
            raise UsageError(
                f"DDRM needs eta from 0 to 1 and eta_b above 0 up to 1, got eta={self.eta}, eta_b={self.eta_b}"
            )

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D + η_b A⁺ (y − A D) on the coordinates with σ̄_t ≥ σ_y/S."""
        prediction = denoiser(x_t, t, condition)
        spectrum = Spectrum.of(measurement, x_t)
        is_better = along_batch(denoiser.path.sigma(t), x_t) * spectrum.values >= measurement.noise * along_batch(
            denoiser.path.alpha(t), x_t
        )
        moved = torch.where(spectrum.is_measured & is_better, spectrum.apart(prediction.x0) * spectrum.inverse, 0.0)
        return replace(prediction, x0=prediction.x0 + self.eta_b * spectrum.operator.from_spectrum(moved))

    def sampler(self, inner: Sampler) -> Sampler:
        """The spectral walk at the other's times."""
        return Spectral(inner.steps, inner.grid, self.eta, self.eta_b)


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """A measurement in spectral coordinates.

    Attributes:
        operator: A.
        values: S, of x's kind.
        y: Uᵀ y.
        is_measured: where S is more than rounding.
        inverse: S⁻¹ there.
    """

    operator: Decomposed
    values: Float[Tensor, "*d"]
    y: Float[Tensor, "b *d"]
    is_measured: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, measurement: Measurement, like: Tensor) -> Spectrum:
        """Of an operator with a decomposition. Raises UsageError for another."""
        operator = measurement.operator
        if not isinstance(operator, Decomposed):
            raise UsageError(
                f"DDRM needs the singular value decomposition of A, which {type(operator).__name__} has not; use moment matching or "
                "ΠGDM, or give A as Dense, Separable, Mask or Projection"
            )
        values = operator.singular_values.to(like)
        is_measured = values > 1e-3 * values.max()
        inverse = torch.where(is_measured, 1.0 / values.clamp(min=1e-30), 0.0)
        return cls(operator, values, operator.measured_spectrum(measurement.y.to(like)), is_measured, inverse)

    def apart(self, x: Tensor) -> Tensor:
        """Uᵀ (y − A x)."""
        return self.y - self.values * self.operator.to_spectrum(x)


@final
@dataclass(frozen=True)
class Spectral(Sampler):
    """DDRM's walk, for a `Posterior` that it takes the measurement and the prior's denoiser of  (Kawar et al. 2022, eq. 8).

    Attributes:
        steps: K; one evaluation a step.
        grid: the times.
        eta, eta_b: as of `DDRM`.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    eta: float = 0.85
    eta_b: float = 1.0
    order: ClassVar[int] = 1
    is_deterministic: ClassVar[bool] = False

    def evaluations(self) -> int:
        """K."""
        return self.steps

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Coordinate by coordinate; the last step takes D, and the measurement where it has no noise."""
        posterior = measured(denoiser, type(self).__name__)
        measurement = posterior.measurement
        spectrum = Spectrum.of(measurement, x)
        for number, (t, s) in zip(count(1), pairwise(times), strict=False):
            x_0 = posterior.denoiser(x, t, condition).x0
            if s == 0.0:
                pasted = self.eta_b * measurement.correction(x_0) if measurement.noise == 0.0 else torch.zeros_like(x_0)
                x = x_0 = x_0 + pasted
            else:
                x = self._step(posterior.path, spectrum, measurement.noise, x, x_0, t, s, draw(x))
            yield State(s, x, x_0, number)

    def _step(
        self, path: Path, spectrum: Spectrum, noise: float, x_t: Tensor, x_0: Tensor, t: float, s: float, z: Tensor
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
        to_spectrum, kept = spectrum.operator.to_spectrum, math.sqrt(1.0 - self.eta**2)
        d, z = to_spectrum(x_0), to_spectrum(z)
        apart = spectrum.y - spectrum.values * d
        free = alpha_s * d + sigma_s * (kept * (to_spectrum(x_t) - alpha_t * d) / sigma_t + self.eta * z)
        coarse = alpha_s * d + sigma_s * (kept * apart / max(noise, 1e-30) + self.eta * z)
        spare = (sigma_s**2 - (alpha_s * noise * self.eta_b * spectrum.inverse) ** 2).clamp(min=0.0)
        fine = alpha_s * (d + self.eta_b * spectrum.inverse * apart) + spare.sqrt() * z
        known = torch.where(sigma_s * spectrum.values < alpha_s * noise, coarse, fine)
        return spectrum.operator.from_spectrum(torch.where(spectrum.is_measured, known, free))
