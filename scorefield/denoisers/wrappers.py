"""Denoisers that wrap a denoiser: any sampler works with any of them, and they wrap one another."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace
from typing import Any, final

from scorefield.arithmetic import along_batch
from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


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
