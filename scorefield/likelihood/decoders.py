r"""The last term of a bound: what the data themselves cost once z = x_τ, next to them, is known.

    discretised Gaussian   −log p(x | z) = −Σ log ∫_bin N(u; D, v) du                        (M18; Ho et al. 2020, eq. 13)
    lattice                p(x | z) ∝ exp(−(x − c)²/2v) over the values that data can have    (Kingma et al. 2021, eq. 8, for c = z/α, v = σ²/α²)
    density                −log N(x; D, v), for data that are no integers

D is the denoiser's answer at z. A lattice about D with a fitted v is the best of them where the noise is not small beside a bin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

from scorefield.arithmetic import per_sample_sum
from scorefield.denoisers.base import Prediction
from scorefield.denoisers.reverse import Normal, log_density, log_probability
from scorefield.shapes import Float, Tensor

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Decoder(ABC):
    """p(x | z); a subclass is final."""

    @abstractmethod
    def log_probability(self, x_0: Float[Tensor, "b *d"], prediction: Prediction) -> Float[Tensor, " b"]:
        """log p(x₀ | x_τ) in nats, of data in model space and the denoiser's answer at x_τ, both float64."""


@final
@dataclass(frozen=True)
class Discretised(Decoder):
    """The mass of N(D, v) on the data's bins  (M18).

    Attributes:
        levels: how many values the data have.
        ratio: v in units of σ²/α².
    """

    levels: int
    ratio: float = 1.0

    def log_probability(self, x_0: Float[Tensor, "b *d"], prediction: Prediction) -> Float[Tensor, " b"]:
        """Σ log ∫_bin N(u; D, v) du."""
        law = Normal(prediction.x0, x_0.new_tensor(_log_noise(prediction) + math.log(self.ratio)))
        return log_probability(x_0, law, self.levels)


@final
@dataclass(frozen=True)
class Lattice(Decoder):
    """p ∝ exp(−(x − c)²/2v) over the data's values.

    Attributes:
        levels: how many values the data have, evenly from −1 to 1.
        ratio: v in units of σ²/α².
        about_denoised: whether c is D; z/α itself otherwise, which with ratio 1 is VDM's.
    """

    levels: int
    ratio: float = 1.0
    about_denoised: bool = True

    def log_probability(self, x_0: Float[Tensor, "b *d"], prediction: Prediction) -> Float[Tensor, " b"]:
        """Σ [−(x − c)²/2v − log Σ_k exp(−(x_k − c)²/2v)]."""
        alpha = prediction.path.alpha(prediction.t)
        centre = prediction.x0 if self.about_denoised else prediction.x_t / alpha
        sharpness = 0.5 * math.exp(-_log_noise(prediction)) / self.ratio
        own = -sharpness * (x_0 - centre).square()
        return per_sample_sum(own - _log_sum(centre.flatten(), sharpness, self.levels).view_as(centre))


@final
@dataclass(frozen=True)
class Density(Decoder):
    """The density N(x; D, v) of data that are no integers.

    Attributes:
        ratio: v in units of σ²/α².
    """

    ratio: float = 1.0

    def log_probability(self, x_0: Float[Tensor, "b *d"], prediction: Prediction) -> Float[Tensor, " b"]:
        """Σ log N(x; D, v)."""
        return log_density(x_0, Normal(prediction.x0, x_0.new_tensor(_log_noise(prediction) + math.log(self.ratio))))


def candidates(levels: int | None) -> list[Decoder]:
    """The decoders that are tried for data of so many levels; None for data that are no integers."""
    ratios = [2.0**k for k in (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)]
    if levels is None:
        return [Density(ratio) for ratio in ratios]
    about_denoised = [kind(levels, ratio) for kind in (Discretised, Lattice) for ratio in ratios]
    return [*about_denoised, Lattice(levels, about_denoised=False)]


def _log_noise(prediction: Prediction) -> float:
    """log σ²/α² at the prediction's time, one for the whole batch."""
    return -2.0 * float(prediction.path.log_snr(prediction.t))


def _log_sum(centres: Float[Tensor, " n"], sharpness: float, levels: int) -> Float[Tensor, " n"]:
    """log Σ_k exp(−sharpness (x_k − c)²) over the levels that matter: those within 9 deviations, and the nearest."""
    width = 2.0 / (levels - 1)
    reach = min(levels, math.ceil(9.0 / (width * math.sqrt(2.0 * sharpness))) + 1)
    offsets = torch.arange(-reach, reach + 1, device=centres.device)
    parts = []
    for part in centres.split(max(1, _CHUNK // len(offsets))):
        nearest = ((part + 1.0) / width).round().clamp(0, levels - 1).long()
        numbers = (nearest[:, None] + offsets).to(part.dtype)
        exponents = -sharpness * (part[:, None] - (numbers * width - 1.0)).square()
        parts.append(exponents.masked_fill((numbers < 0) | (numbers >= levels), -math.inf).logsumexp(1))
    return torch.cat(parts)
