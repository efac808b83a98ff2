r"""One step of the reverse chain as a law:  p_θ(x_s | x_t) = N(μ_θ, Σ_θ)  for s < t, and how it is compared with the truth.

    (M12) q(x_s | x_t, x₀) = N(μ̃, β̃ I), the posterior of the path
    (M13) μ_θ = μ̃ with D in the place of x₀
    (M14) Σ_θ = exp(v log β + (1 − v) log β̃), v from the network          (Nichol & Dhariwal 2021, eq. 15)
    (M16) KL(N(μ₁, Σ₁) ‖ N(μ₂, Σ₂)) = ½ Σ [log Σ₂/Σ₁ − 1 + Σ₁/Σ₂ + (μ₂ − μ₁)²/Σ₂], covariances diagonal
    (M18) the decoder p_θ(x₀ | x₁) of data with finitely many values       (Ho et al. 2020, eq. 13)

β = σ²_{t|s} and β̃ = σ²_{t|s} σ_s²/σ_t² belong to the pair of times, so a v learned on all steps serves any sub-sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from scorefield.arithmetic import Time, along_batch, is_number, log, per_sample_sum
from scorefield.denoisers.base import Prediction
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True, eq=False)
class Normal:
    """A normal law of independent coordinates.

    Attributes:
        mean: (b, *d).
        log_variance: (b, *d), or what broadcasts to it.
    """

    mean: Float[Tensor, "b *d"]
    log_variance: Tensor


def log_variances(path: Path, s: Time, t: Time) -> tuple[Time, Time]:
    """log β and log β̃ of the step from t to s  (M13).

    At s = 0 β̃ is 0, whose logarithm nobody can learn: that of the step from 2t to t stands for it, which for the first step
    of a chain is the second's (Nichol & Dhariwal 2021, their code); β where the path ends before 2t.

    Args:
        path: any path.
        s: the earlier time, 0 ≤ s < t: a float, or a (b,) tensor.
        t: the later one, in kind.
    """
    large = 2.0 * log(path.bridge(s, t).std)
    if is_number(s):
        lower, upper = (s, t) if s > 0.0 else (t, 2.0 * t)
        return large, 2.0 * log(path.posterior(lower, upper).std) if upper <= path.t_max else large
    first = s == 0.0
    lower, upper = s.where(~first, t), t.where(~first, 2.0 * t)
    is_known = upper <= path.t_max
    small = 2.0 * log(path.posterior(lower.where(is_known, 0.5 * t), upper.where(is_known, t)).std)
    return large, small.where(is_known, large)


def learned_log_variance(path: Path, s: Time, t: Time, mix: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """log Σ = v log β + (1 − v) log β̃ of the step from t to s  (M14); `mix` is v, a prediction's `variance_mix`."""
    large, small = (along_batch(value, mix) for value in log_variances(path, s, t))
    return small + mix * (large - small)


def true_posterior(path: Path, x_0: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], s: Time, t: Time) -> Normal:
    """q(x_s | x_t, x₀)  (M12), with `log_variances`' answer where s = 0."""
    _, small = log_variances(path, s, t)
    log_variance = small if not is_number(small) else x_0.new_full((len(x_0),), small)
    return Normal(_posterior_mean(path, x_0, x_t, s, t), along_batch(log_variance, x_0))


def model_posterior(prediction: Prediction, s: Time) -> Normal:
    """p_θ(x_s | x_t): the posterior's mean at x₀ = D, and the learned variance, or β̃ where there is none  (M13, M14)."""
    path, t, mix = prediction.path, prediction.t, prediction.variance_mix
    if mix is None:
        return true_posterior(path, prediction.x0, prediction.x_t, s, t)
    mean = _posterior_mean(path, prediction.x0, prediction.x_t, s, t)
    return Normal(mean, learned_log_variance(path, s, t, mix))


def _posterior_mean(path: Path, x_0: Tensor, x_t: Tensor, s: Time, t: Time) -> Tensor:
    """μ̃ = (α_{t|s} σ_s²/σ_t²) x_t + (α_s σ²_{t|s}/σ_t²) x₀  (M12)."""
    row = path.posterior(s, t)
    return along_batch(row.from_x_t, x_t) * x_t + along_batch(row.from_x_0, x_0) * x_0


def kl_divergence(one: Normal, other: Normal) -> Float[Tensor, " b"]:
    """KL(one ‖ other) in nats, summed over the coordinates  (M16)."""
    gap = (one.log_variance - other.log_variance).double()  # eᵍ − 1 − g is a small difference of them
    apart = (one.mean - other.mean).square() * (-other.log_variance).exp()
    return 0.5 * per_sample_sum(gap.expm1() - gap + apart).to(one.mean.dtype)


def log_density(x: Float[Tensor, "b *d"], law: Normal) -> Float[Tensor, " b"]:
    """log N(x; μ, Σ) in nats, summed over the coordinates."""
    apart = (x - law.mean).square() * (-law.log_variance).exp()
    return -0.5 * per_sample_sum(apart + law.log_variance + math.log(2.0 * math.pi))


def log_probability(x: Float[Tensor, "b *d"], law: Normal, levels: int) -> Float[Tensor, " b"]:
    """log of the law's mass on the bins of data with so many values, in nats, summed over the coordinates  (M18).

    The values are evenly spaced from −1 to 1; each has the bin of its width about it, the outer two go on without end. Found
    from the smaller tails' logarithms in float64, so that it stays finite and exact however far the law is from the data.

    Args:
        x: data at those values.
        law: what the data are coded by.
        levels: how many values there are: 256 for 8-bit data.
    """
    import torch

    half = 1.0 / (levels - 1)
    std = (0.5 * law.log_variance.double()).exp()
    middle, lowest, highest = (x.double() - law.mean.double()) / std, x < half - 1.0, x > 1.0 - half
    below, above = middle - half / std, middle + half / std
    # Mirrored where the bin is right of the mean: there 1 − Φ keeps its digits and Φ does not.
    right = middle > 0.0
    low, high = torch.where(right, -above, below), torch.where(right, -below, above)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    inner = log_high + torch.log(-torch.expm1(log_low - log_high))
    outer = torch.special.log_ndtr(torch.where(lowest, above, -below))
    return per_sample_sum(torch.where(lowest | highest, outer, inner)).to(x.dtype)
