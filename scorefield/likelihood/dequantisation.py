r"""From a density to the probability of data with finitely many values: points z about the data, and what they weigh.

    −log P(x) ≤ −log (1/K) Σ_k w_k,   w = p_λ₀(z)/q(z|x) · [p(x|z)],   z ~ q(·|x)

K = 1 is the dequantisation bound, and a larger K comes nearer to −log P(x) (Burda et al. 2016). At the noise σ of the end point,
δ being the distance between two values of the data:

    uniform           z = α (x + δ u/2), u uniform in (−1, 1):  q = (α δ)^{−D}                      (Theis et al. 2016)
    truncated normal  z = α x + σ ε, |ε| < τ = α δ/2σ:  q = N(ε)/(σ Z), Z = erf(τ/√2)               (Zheng et al. 2023)
    variational       z = α x + σ ε:  q = N(ε)/σ, and the decoder p(x|z) beside it                  (Kingma et al. 2021)
    none              z = α x, for data that are no integers:  w = p_λ₀(z) α^D

The cells of the first two tile space, so that P is a law; nothing is left out at the end point, and nothing is trained.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from scorefield.likelihood.subject import Batch
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True, eq=False)
class Points:
    """z, (b, *d), and log q(z|x), (b,), both float64."""

    z: Float[Tensor, "b *d"]
    log_q: Float[Tensor, " b"]


@dataclass(frozen=True)
class Dequantisation(ABC):
    """A law q(z|x); a subclass is final.

    Attributes:
        needs_decoder: whether z may lie in another value's cell, so that p(x|z) belongs to the weight.
        needs_levels: whether it is for data with finitely many values.
    """

    needs_decoder: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = True

    @abstractmethod
    def points(self, batch: Batch, path: Path, t: float, bin_width: float, repeat: int, number: int) -> Points:
        """Draw z at time t for each sample, by the noise of this repeat and number."""


@final
@dataclass(frozen=True)
class UniformNoise(Dequantisation):
    """z = α (x + δ u/2)."""

    def points(self, batch: Batch, path: Path, t: float, bin_width: float, repeat: int, number: int) -> Points:
        """u uniform in (−1, 1)."""
        alpha = path.alpha(t)
        u = 2.0 * batch.uniform(repeat, number, batch.dimension).view_as(batch.precise) - 1.0
        log_q = -batch.dimension * math.log(alpha * bin_width)
        return Points(alpha * (batch.precise + 0.5 * bin_width * u), batch.zeros() + log_q)


@final
@dataclass(frozen=True)
class TruncatedNormal(Dequantisation):
    """z = α x + σ ε with ε within the data's own cell."""

    def points(self, batch: Batch, path: Path, t: float, bin_width: float, repeat: int, number: int) -> Points:
        """ε = √2 erf⁻¹((2u − 1) Z)."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        mass = math.erf(0.5 * alpha * bin_width / sigma / math.sqrt(2.0))
        u = batch.uniform(repeat, number, batch.dimension).view_as(batch.precise)
        noise = math.sqrt(2.0) * ((2.0 * u - 1.0) * mass).clamp(-1.0 + 1e-15, 1.0 - 1e-15).erfinv()
        constant = batch.dimension * (math.log(mass) + math.log(sigma))
        return Points(alpha * batch.precise + sigma * noise, _log_standard_normal(noise) - constant)


@final
@dataclass(frozen=True)
class GaussianNoise(Dequantisation):
    """z = α x + σ ε, as the path itself noises; what z forgets of x the decoder pays."""

    needs_decoder: ClassVar[bool] = True

    def points(self, batch: Batch, path: Path, t: float, bin_width: float, repeat: int, number: int) -> Points:
        """ε ~ N(0, I)."""
        noise = batch.normal(repeat, number)
        log_q = _log_standard_normal(noise) - batch.dimension * math.log(path.sigma(t))
        return Points(path.perturb(batch.precise, t, noise), log_q)


@final
@dataclass(frozen=True)
class Undisturbed(Dequantisation):
    """z = α x: the density of data that are no integers."""

    needs_levels: ClassVar[bool] = False

    def points(self, batch: Batch, path: Path, t: float, bin_width: float, repeat: int, number: int) -> Points:
        """No noise."""
        alpha = path.alpha(t)
        return Points(alpha * batch.precise, batch.zeros() - batch.dimension * math.log(alpha))


DEQUANTISATIONS: dict[str, Dequantisation] = {
    "uniform": UniformNoise(),
    "truncated-normal": TruncatedNormal(),
    "variational": GaussianNoise(),
    "none": Undisturbed(),
}
"""Every way, by the name that the command line knows it by."""


def _log_standard_normal(noise: Tensor) -> Tensor:
    """log N(ε; 0, I), summed over the coordinates."""
    return -0.5 * (noise.square() + math.log(2.0 * math.pi)).flatten(1).sum(1)
