"""Denoisers that wrap a denoiser: any sampler works with any of them, and they wrap one another."""

from __future__ import annotations

import math
from abc import ABC
from dataclasses import dataclass, replace
from typing import Any, final

from scorefield.arithmetic import Time, along_batch, is_number
from scorefield.denoisers.base import Denoiser, EnergyDenoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Bool, Float, Tensor


@dataclass(frozen=True, eq=False)
class _Wrapper(Denoiser, ABC):
    denoiser: Denoiser

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The wrapped denoiser's path."""
        return self.denoiser.path


@final
@dataclass(frozen=True, eq=False)
class Clipped(_Wrapper):
    """D held within the range of the data, as DDPM samples  (Ho et al. 2020, section 3.2; their code's `clip_denoised`)."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UsageError(f"Clipped needs low < high, got low={self.low}, high={self.high}")

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ and clip it."""
        prediction = self.denoiser(x_t, t, condition)
        return replace(prediction, x0=prediction.x0.clamp(self.low, self.high))


@final
@dataclass(frozen=True, eq=False)
class Centred(_Wrapper):
    """A denoiser of data with mean m from one of centred data:  D(x_t, t) = m + D₀(x_t − α m, t).

    With EDM's preconditioning and a network that answers zero this is the best linear denoiser, E[x₀ | x_t] of a Gaussian
    N(m, σ_d² I), where a network trained on uncentred data would have to learn the mean first.
    """

    mean: float | Tensor = 0.0

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict the centred x₀ and add the mean."""
        prediction = self.denoiser(x_t - along_batch(self.path.alpha(t), x_t) * self.mean, t, condition)
        return replace(prediction, x0=prediction.x0 + self.mean, x_t=x_t)


@final
@dataclass(frozen=True, eq=False)
class CentredEnergy(EnergyDenoiser):
    """`Centred` around a denoiser that knows its energy, which it still does:  E(x_t, t) = E₀(x_t − α m, t)  (M10)."""

    denoiser: EnergyDenoiser
    mean: float | Tensor = 0.0

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The wrapped denoiser's path."""
        return self.denoiser.path

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict the centred x₀ and add the mean."""
        return Centred(self.denoiser, self.mean)(x_t, t, condition)

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """The energy of the centred data  (M10)."""
        return self.denoiser.energy(x_t - along_batch(self.path.alpha(t), x_t) * self.mean, t, condition)


@final
@dataclass(frozen=True, eq=False)
class Inpainting(_Wrapper):
    """A denoiser that is told a part of x₀:  D' = x_g where it is known, D elsewhere  (M42, M44).

    Where D' = x_g, any sampler's step is that of q(x_s | x_t, x₀ = x_g), of DDIM's family (M22), which keeps the marginal: if that part
    of x_t is a sample of q(x_t | x_g), that of x_s is one of q(x_s | x_g). A stochastic sampler so re-noises it at every step, a
    deterministic one keeps the noise that it began with; both end with x_g.

    Attributes:
        denoiser: of the whole.
        known: x_g in model space, (1, *d) for all samples of a batch, or (b, *d).
        keep: True where it is known; of a shape that broadcasts with x.
    """

    known: Float[Tensor, "_ *d"]
    keep: Bool[Tensor, "*k"]

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀, and put what is known in its place."""
        prediction = self.denoiser(x_t, t, condition)
        return replace(prediction, x0=self.known.to(x_t).where(self.keep.to(x_t.device), prediction.x0))


@final
@dataclass(frozen=True, eq=False)
class ClassifierFree(_Wrapper):
    """Classifier-free guidance:  D = D_∅ + w (D_y − D_∅)  (M42; Ho & Salimans 2022, eq. 6, in the denoiser).

    w = 1 is the conditional denoiser itself; a larger w draws what is more typical of the class, and less varied. Both
    questions are one batch of twice the size; without a condition nothing is guided. A learned variance is the label's.

    Attributes:
        denoiser: trained with its labels dropped now and then.
        null_label: what means "no label"; NaN where the condition is numbers.
        scale: w.
    """

    null_label: int | float = 0
    scale: float = 1.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale < math.inf:
            raise UsageError(f"ClassifierFree needs a scale ≥ 0 (1 is no guidance), got {self.scale}")

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ with and without the label, and go on from the one through the other."""
        if condition is None or self.scale == 1.0:
            return self.denoiser(x_t, t, condition)
        labels = condition.new_full(condition.shape, self.null_label)
        times: Time = t if is_number(t) else _twice(t, t)
        both = self.denoiser(_twice(x_t, x_t), times, _twice(condition, labels))
        guided, free = both.x0[: len(x_t)], both.x0[len(x_t) :]
        mix = None if both.variance_mix is None else both.variance_mix[: len(x_t)]
        return Prediction(free.lerp(guided, self.scale), x_t, t, self.path, mix)


def _twice(first: Time, second: Time) -> Tensor:
    import torch

    return torch.cat([first, second])
