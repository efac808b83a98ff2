r"""Latents: the probability flow as a code, and what lies between two of them.

    (M43)  encode: x_t₀ = α(t_min) x₀, along the flow (M26) up to t;  decode: down again, and x₀ = x/α(t_min)
    (M46)  x_t, x'_t ~ q(·|x₀), q(·|x'₀) with one noise z,  x̄_t = (1 − λ) x_t + λ x'_t,  then p(x₀ | x̄_t)

At t = 0 there is no noise to tell apart, so that a code is of the flow between t_min and t: both ways, so that a round trip errs by
the solver alone. The latent of a data set is not quite normal: data have no noise of σ(t_min) in them.

With one noise for both ends, x̄_t = α ((1 − λ) x₀ + λ x'₀) + σ z: an edit (M44) of the two pictures laid over one another. By the flow the
ends have noises of their own, ε = (x_t − α x₀)/σ. Their mean would be too short: of two independent normal vectors it has half of the squared length.
`slerp` goes along the arc instead, on which the length stays (Shoemake 1985; Song et al. 2021, DDIM, section 5.3).
"""

from __future__ import annotations

from typing import Any

import torch

from scorefield.arithmetic import Time, along_batch, is_number, per_sample_sum
from scorefield.denoisers import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Discrete, Path
from scorefield.samplers import Karras, Sampler, UniPC
from scorefield.shapes import Float, Tensor

STEPS = 50
_STRAIGHT = 1e-6


def inverter(path: Path, steps: int = STEPS) -> Sampler:
    """The sampler whose round trips err least at fifty evaluations each way: UniPC of order 3 on Karras's grid  (M43)."""
    return UniPC(steps=min(steps, path.steps - 1) if isinstance(path, Discrete) else steps, order=3, grid=Karras())


def encode(
    denoiser: Denoiser,
    x_0: Float[Tensor, "b *d"],
    sampler: Sampler | None = None,
    *,
    end: float | None = None,
    condition: Any = None,
) -> Float[Tensor, "b *d"]:
    """Along the probability flow from data to time `end`: x₀ → x_t, one code for each x₀  (M43; Song et al. 2021, section 4.3).

    Args:
        denoiser: whose flow.
        x_0: data in model space.
        sampler: deterministic; `inverter` where None.
        end: where to; t_max where None.
        condition: handed to the denoiser, the same for both ways.

    Raises:
        UsageError: a stochastic sampler.
    """
    path = denoiser.path
    walker, top = sampler or inverter(path), path.t_max if end is None else end
    _require_flow(walker)
    start = path.alpha(path.t_min) * x_0
    if top <= path.t_min:
        return start
    return walker.sample(denoiser, start, start=path.t_min, end=top, condition=condition)


def decode(
    denoiser: Denoiser,
    x_t: Float[Tensor, "b *d"],
    sampler: Sampler | None = None,
    *,
    start: float | None = None,
    condition: Any = None,
) -> Float[Tensor, "b *d"]:
    """Along the probability flow from time `start` to data: the inverse of `encode` with the same sampler, up to its error  (M43).

    Args:
        denoiser: whose flow.
        x_t: the code, in model space.
        sampler: deterministic; `inverter` where None.
        start: the code's time; t_max where None.
        condition: as it was encoded with.

    Raises:
        UsageError: a stochastic sampler.
    """
    path = denoiser.path
    walker, top = sampler or inverter(path), path.t_max if start is None else start
    _require_flow(walker)
    x = x_t
    if top > path.t_min:
        x = walker.sample(denoiser, x_t, start=top, end=path.t_min, condition=condition)
    return x / path.alpha(path.t_min)


def slerp(
    a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"], weight: float | Float[Tensor, " b"]
) -> Float[Tensor, "b *d"]:
    r"""Spherical interpolation:  (sin((1 − λ) Ω) a + sin(λ Ω) b)/sin Ω,  Ω the angle between a and b  (M43; Shoemake 1985).

    Of vectors of one length, all that lie between have it too. Where a and b lie on one line, and Ω says no way round, it is the line.

    Args:
        a: at λ = 0.
        b: at λ = 1.
        weight: λ in [0, 1], one for all or one a sample.
    """
    one, other = a.double(), b.double()
    lengths = (per_sample_sum(one * one) * per_sample_sum(other * other)).sqrt().clamp(min=1e-300)
    angle = (per_sample_sum(one * other) / lengths).clamp(-1.0, 1.0).acos()
    share = torch.full_like(angle, weight) if is_number(weight) else weight.to(angle)  # type: ignore[arg-type, union-attr]
    straight = angle.sin() < _STRAIGHT
    sine = angle.sin().where(~straight, 1.0)
    first = (1.0 - share).where(straight, ((1.0 - share) * angle).sin() / sine)
    second = share.where(straight, (share * angle).sin() / sine)
    return (along_batch(first, one) * one + along_batch(second, other) * other).to(a)


def lerp(a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"], weight: Time) -> Float[Tensor, "b *d"]:
    """(1 − λ) a + λ b."""
    share = along_batch(weight, a)
    return (1.0 - share) * a + share * b


def between(
    path: Path,
    t: float,
    ends: tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]],
    codes: tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]],
    weight: float | Float[Tensor, " b"],
) -> Float[Tensor, "b *d"]:
    """What lies between two codes at time t: data by the line, their noises ε = (x_t − α x₀)/σ along the arc  (M43, M46).

    x̄_t = α ((1 − λ) x₀ + λ x'₀) + σ slerp(ε, ε', λ); at λ = 0 and 1 it is the code itself.
    """
    alpha, sigma = path.alpha(t), path.sigma(t)
    first, second = ((code - alpha * x_0) / sigma for code, x_0 in zip(codes, ends, strict=True))
    return alpha * lerp(*ends, weight) + sigma * slerp(first, second, weight)


def _require_flow(sampler: Sampler) -> None:
    if not sampler.is_deterministic:
        raise UsageError(
            f"{type(sampler).__name__} draws noise, and a code is of the flow, which has none; use a deterministic sampler (UniPC, DDIM with eta=0)"
        )


def weights(count: int) -> Float[Tensor, " n"]:
    """λ from 0 to 1, `count` of them. Raises UsageError below two."""
    if count < 2:
        raise UsageError(f"an interpolation has at least its two ends, got count={count}")
    return torch.tensor([k / (count - 1) for k in range(count)], dtype=torch.float64)


__all__ = ["STEPS", "between", "decode", "encode", "inverter", "lerp", "slerp", "weights"]
