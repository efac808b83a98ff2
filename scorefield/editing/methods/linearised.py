r"""A denoiser and its derivative at one point, for the methods that look through the denoiser.

    V v = (σ²/α) Jᵀ v,   J = ∂D/∂x_t

For an exact denoiser J is symmetric and V = Cov[x₀ | x_t], finite at every noise level, though 1/α is not. Where all but
nothing of the data is left, α/σ < 10⁻³, J is rounding or, of a network, anything: there the question is asked at the time at which
α/σ = 10⁻³ and for the same noise, which changes what x_t says of x₀ by a millionth.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, final

import torch

from scorefield.arithmetic import Time, along_batch, is_number
from scorefield.denoisers import Denoiser, Prediction
from scorefield.denoisers.energy import twice_differentiable
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor

_LEAST = 1e-3


@final
@dataclass(frozen=True, eq=False)
class Linearised:
    """D(x_t, t) and products with V, under `torch.no_grad()` too.

    Nothing of a graph leaves it, unless the caller differentiates by x_t, as a method around a method does.

    Attributes:
        prediction: the denoiser's answer.
        point: where it was asked, with a graph from there to `answer`.
        answer: D, with its graph.
        scale: σ²/α, ready to multiply a batch.
        is_recorded: whether the caller differentiates.
    """

    prediction: Prediction
    point: Float[Tensor, "b *d"]
    answer: Float[Tensor, "b *d"]
    scale: Time
    is_recorded: bool

    @classmethod
    def at(cls, denoiser: Denoiser, x_t: Float[Tensor, "b *d"], t: Time, condition: Any = None) -> Linearised:
        """Ask the denoiser once."""
        path, asked = denoiser.path, in_sight(denoiser.path, t)
        is_recorded = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad(), twice_differentiable() if is_recorded else nullcontext():
            point = x_t * along_batch(path.sigma(asked) / path.sigma(t), x_t)
            point = point if is_recorded else point.detach().requires_grad_()
            prediction = denoiser(point, asked, condition)
        x_0, mix = prediction.x0, prediction.variance_mix
        if not is_recorded:
            x_0, mix = x_0.detach(), None if mix is None else mix.detach()
        scale = along_batch(path.sigma(asked) ** 2 / path.alpha(asked), x_t)
        kept = replace(prediction, x0=x_0, x_t=x_t, t=t, variance_mix=mix)
        return cls(kept, point, prediction.x0, scale, is_recorded)

    @property
    def x0(self) -> Float[Tensor, "b *d"]:
        """D."""
        return self.prediction.x0

    def covariance(self, v: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """V v = (σ²/α) Jᵀ v by one vector-Jacobian product."""
        if not self.answer.requires_grad:
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(
            self.answer, self.point, v, retain_graph=True, create_graph=self.is_recorded, materialize_grads=True
        )
        return self.scale * product


def in_sight(path: Path, t: Time) -> Time:
    """t, or the last time at which the data can be told from noise."""
    last = _last(path)
    return min(t, last) if is_number(t) else t.clamp(max=last)


@lru_cache(maxsize=64)
def _last(path: Path) -> float:
    faint = math.log(_LEAST)
    return path.t_max if path.log_snr(path.t_max) >= faint else min(path.snap(path.time_of(faint)), path.t_max)


def spread(path: Path, t: Time, data_std: float) -> Time:
    """r² = σ² σ_d²/(α² σ_d² + σ²), the variance that x₀ ~ N(·, σ_d² I) has left given x_t."""
    variance = path.sigma(t) ** 2
    return variance * data_std**2 / (path.alpha(t) ** 2 * data_std**2 + variance)
