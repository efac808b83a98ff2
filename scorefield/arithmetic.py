"""Elementary functions of a time, be it one number or a tensor of them, and the one broadcast helper.

A sampler's grid is made of Python floats (64-bit, a few nanoseconds an operation); a training batch has a float64 tensor
of times. The formulas of the paths are written once, for both.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from scorefield.shapes import Tensor

Time: TypeAlias = Any
"""One float or a tensor of them; a function of it answers in kind. (A type variable would say so, but no union may be put in its place.)"""


def is_number(x: Any) -> bool:
    """Whether x is one number for the whole batch rather than a tensor."""
    return isinstance(x, (float, int))


def exp(x: Time) -> Time:
    """eˣ."""
    return math.exp(x) if is_number(x) else x.exp()


def expm1(x: Time) -> Time:
    """eˣ − 1, accurate near x = 0."""
    return math.expm1(x) if is_number(x) else x.expm1()


def log(x: Time) -> Time:
    """ln x, with ln 0 = −∞."""
    if not is_number(x):
        return x.log()
    return math.log(x) if x > 0.0 else -math.inf


def log1p(x: Time) -> Time:
    """ln(1 + x), accurate near x = 0, with ln 0 = −∞."""
    if not is_number(x):
        return x.log1p()
    return math.log1p(x) if x > -1.0 else -math.inf


def sqrt(x: Time) -> Time:
    """√x."""
    return math.sqrt(x) if is_number(x) else x.sqrt()


def sin(x: Time) -> Time:
    """sin x."""
    return math.sin(x) if is_number(x) else x.sin()


def asinh(x: Time) -> Time:
    """arsinh x."""
    return math.asinh(x) if is_number(x) else x.asinh()


def atan2(y: Time, x: Time) -> Time:
    """The angle of the point (x, y)."""
    return math.atan2(y, x) if is_number(y) else y.atan2(x)


def clip(x: Time, low: float, high: float) -> Time:
    """x held between low and high."""
    return min(max(x, low), high) if is_number(x) else x.clamp(low, high)


def divide(x: Time, y: Time) -> Time:
    """x / y with x / 0 = ±∞, as for tensors."""
    if not is_number(y):
        return x / y
    return x / y if y != 0.0 else math.copysign(math.inf, x)


def softplus(x: Time) -> Time:
    """ln(1 + eˣ), without overflow for large x and without loss for small."""
    return clip(x, 0.0, math.inf) + log1p(exp(-abs(x)))


def along_batch(value: Time, x: Tensor) -> Time:
    """Make one value per sample multiply a batch of any rank: (b,) becomes (b, 1, …, 1) in x's dtype.

    One number for the whole batch stays as it is.
    """
    if is_number(value):
        return value
    return value.to(dtype=x.dtype, device=x.device).reshape(-1, *(1,) * (x.ndim - 1))


def per_sample_sum(x: Tensor) -> Tensor:
    """The sum over everything but the batch: (b, …) → (b,)."""
    return x.flatten(1).sum(1)
