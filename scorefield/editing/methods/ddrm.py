r"""DDRM: each spectral coordinate walks as its own measurement allows  (Kawar, Elad, Ermon & Song 2022).

In the coordinates z = Vᵀx of A = U S Vᵀ, with σ̄ = σ/α, a coordinate is known by ȳ = S⁻¹Uᵀy up to τ = σ_y/S. From time t to s

    σ̄_s ≥ τ:       x̄_s = ȳ + √(σ̄_s² − τ²) z
    σ̄_s < τ:       x̄_s = D + σ̄_s (ρ (p − D)/u + √(1−ρ²) z),   ρ = σ̄_s/u
    not measured:  x̄_s = D + σ̄_s (√(1−η²) (x̄_t − D)/σ̄_t + η z)

D short for VᵀD, (p, u) = (ȳ, τ) at the first step below τ and (x̄_t, σ̄_t) after. At the level τ a coordinate *is* its measurement, and
below the prior's own reverse process (M5) goes on from there: where all are measured equally well, as in denoising, the draws are the
posterior's whatever the data are. The paper writes σ̄_s (√(1−η²) (ȳ − D)/τ + η z) in the second line: there a step, however short, draws
η² of the noise anew around D, and so loses η² of what D leaves open; many steps make a point of it. The third line is the paper's, and
loses that too: a coordinate of white Gaussian data, D = v x̄/(v + σ̄²), tends with the steps to the share (1 + √(1−η²))/2 of its variance,
0.76 at η = 0.85, where η √(1−ρ²) in the place of η, the choice `is_reverse`, has all of it at η = 1. It is not the usual choice because of the bias that is left: what the
measurement says of other coordinates comes only through x_t, as in replacement, and more noise drawn anew lets them agree better.
One evaluation a step, no derivative.
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
from scorefield.editing.operators import NOTHING, Decomposed
from scorefield.editing.posterior import Method, measured
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers import Grid, Sampler, State
from scorefield.samplers.base import Draw, marginal
from scorefield.samplers.grids import Native
from scorefield.shapes import Float, Tensor

_UNKNOWN = 10.0
"""τ from which on a measurement says nothing of data of deviation about 1."""


@final
@dataclass(frozen=True)
class DDRM(Method):
    """Denoising diffusion restoration: one evaluation a step  (M42; Kawar et al. 2022, eq. 7–8 and theorem 3.2).

    With another sampler than its own, its answer is D with the measurement in the place of the coordinates that it tells more of
    than x_t does.

    Attributes:
        eta: η in [0, 1], how much noise is drawn anew at each step in coordinates that are not measured.
        is_reverse: whether it is a share of what the reverse process draws, and not of all.

    Raises:
        UsageError: η is no such number, or an operator without a decomposition.
    """

    eta: float = 0.85
    is_reverse: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(f"DDRM needs eta from 0 to 1, got eta={self.eta}")

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D + A⁺ (y − A D) on the coordinates with σ̄_t ≥ σ_y/S."""
        prediction = denoiser(x_t, t, condition)
        spectrum = Spectrum.of(measurement, x_t)
        is_better = along_batch(denoiser.path.sigma(t), x_t) * spectrum.values >= measurement.noise * along_batch(
            denoiser.path.alpha(t), x_t
        )
        moved = torch.where(spectrum.is_measured & is_better, spectrum.apart(prediction.x0) * spectrum.inverse, 0.0)
        return replace(prediction, x0=prediction.x0 + spectrum.operator.from_spectrum(moved))

    def sampler(self, inner: Sampler) -> Sampler:
        """The spectral walk at the other's times."""
        return Spectral(inner.steps, inner.grid, self.eta, self.is_reverse)


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """A measurement in spectral coordinates.

    Attributes:
        operator: A.
        values: S, of x's kind.
        y: Uᵀ y.
        is_measured: where S is more than rounding drowns, and τ below ten units of model space, whose data are of about one.
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
                f"DDRM, and RePaint where there is noise, need the singular value decomposition of A, which {type(operator).__name__} has not; use moment matching or "
                "ΠGDM, or give A as Dense, Separable, Mask or Projection"
            )
        values = operator.singular_values.to(like)
        least = (measurement.cutoff if measurement.noise == 0.0 else NOTHING) * values.max()
        is_measured = values > torch.maximum(least, values.new_tensor(measurement.noise / _UNKNOWN))
        inverse = torch.where(is_measured, 1.0 / values.clamp(min=1e-30), 0.0)
        return cls(operator, values, operator.measured_spectrum(measurement.y.to(like)), is_measured, inverse)

    def apart(self, x: Tensor) -> Tensor:
        """Uᵀ (y − A x)."""
        return self.y - self.values * self.operator.to_spectrum(x)

    def level(self, noise: float) -> Float[Tensor, "*d"]:
        """τ = σ_y/S: up to what a coordinate is known; ∞ where it is not measured."""
        return torch.where(self.is_measured, noise * self.inverse, math.inf)

    def met(self, x_t: Tensor, alpha: float, sigma: float, noise: float, z: Tensor) -> Float[Tensor, "b *d"]:
        """x_t with α ȳ + √(σ² − α² τ²) z in the place of what is measured at least so well."""
        spare = sigma**2 - (alpha * self.level(noise)) ** 2
        met = alpha * self.inverse * self.y + spare.clamp(min=0.0).sqrt() * self.operator.to_spectrum(z)
        return self.operator.from_spectrum(torch.where(spare >= 0.0, met, self.operator.to_spectrum(x_t)))


@final
@dataclass(frozen=True)
class Spectral(Sampler):
    """DDRM's walk, for a `Posterior` that it takes the measurement and the prior's denoiser of  (Kawar et al. 2022, eq. 8).

    Attributes:
        steps: K; one evaluation a step.
        grid: the times.
        eta, is_reverse: as of `DDRM`.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    eta: float = 0.85
    is_reverse: bool = False
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
                pasted = measurement.correction(x_0) if measurement.noise == 0.0 else torch.zeros_like(x_0)
                x = x_0 = x_0 + pasted
            else:
                x = self._step(posterior.path, spectrum, measurement.noise, x, x_0, t, s, draw(x))
            yield State(s, x, x_0, number)

    def _step(
        self, path: Path, spectrum: Spectrum, noise: float, x_t: Tensor, x_0: Tensor, t: float, s: float, z: Tensor
    ) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
        to_spectrum, known, tau = spectrum.operator.to_spectrum, spectrum.inverse * spectrum.y, spectrum.level(noise)
        d, z = to_spectrum(x_0), to_spectrum(z)
        ratio, guess = alpha_t * sigma_s / (alpha_s * sigma_t), (to_spectrum(x_t) - alpha_t * d) / sigma_t
        drawn = self.eta * (math.sqrt(max(0.0, 1.0 - ratio**2)) if self.is_reverse else 1.0)
        free = alpha_s * d + sigma_s * (math.sqrt(1.0 - drawn**2) * guess + drawn * z)
        is_first = sigma_t > alpha_t * tau
        least = tau.clamp(min=1e-30)
        ratios = torch.where(is_first, sigma_s / (alpha_s * least), ratio).clamp(max=1.0)
        below = ratios * torch.where(is_first, (known - d) / least, guess) + (1.0 - ratios**2).sqrt() * z
        above = alpha_s * known + (sigma_s**2 - (alpha_s * tau) ** 2).clamp(min=0.0).sqrt() * z
        met = torch.where(sigma_s < alpha_s * tau, alpha_s * d + sigma_s * below, above)
        return spectrum.operator.from_spectrum(torch.where(spectrum.is_measured, met, free))
