"""Denoisers that wrap a denoiser: any sampler works with any of them, and they wrap one another."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace
from typing import Any, final

from scorefield.arithmetic import along_batch
from scorefield.denoisers.base import Denoiser, EnergyDenoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Bool, Float, Tensor


@dataclass(frozen=True, eq=False)
class Wrapper(Denoiser, ABC):
    """A denoiser around another one, on the same path."""

    denoiser: Denoiser

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The wrapped denoiser's path."""
        return self.denoiser.path


@final
@dataclass(frozen=True, eq=False)
class Clipped(Wrapper):
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
class Centred(Wrapper):
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
class Inpainting(Wrapper):
    """A denoiser that is told a part of x₀:  D' = x_g where it is known, D elsewhere  (M42, M44).

    Where D' = x_g, any sampler's step is that of q(x_s | x_t, x₀ = x_g), of DDIM's family (M22), which keeps the marginal: if that part
    of x_t is a sample of q(x_t | x_g), that of x_s is one of q(x_s | x_g). A stochastic sampler so re-noises it at every step, a
    deterministic one keeps the noise that it began with; both end with x_g.

    Attributes:
        denoiser: of the whole.
        known: x_g in model space, (1, *d) for all samples of a batch, or (b, *d).
        keep: True where it is known; of a shape that broadcasts with x.

    Raises:
        UsageError: asked for another number of samples than it knows.
    """

    known: Float[Tensor, "_ *d"]
    keep: Bool[Tensor, "*k"]

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀, and put what is known in its place."""
        require_rows("Inpainting", len(self.known), len(x_t))
        prediction = self.denoiser(x_t, t, condition)
        return replace(prediction, x0=self.known.to(x_t).where(self.keep.to(x_t.device), prediction.x0))


def require_rows(wrapper: str, known: int, asked: int) -> None:
    """Refuse a batch other than the one whose samples a wrapper knows each by itself. Raises UsageError."""
    if known not in (1, asked):
        raise UsageError(
            f"{wrapper} knows {known} samples and is asked for {asked}; put it outside of wrappers that ask for more than the batch, such as guidance"
        )
