"""Elementary functions: the float and the tensor of a time give the same, at the ends of their ranges too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

from scorefield import arithmetic
from scorefield.arithmetic import along_batch, clip, divide, is_number, per_sample_sum, softplus
from tests.worlds import RANKS, normal, relative_error

ANY_SIGN = (-3.0, -1e-9, 0.0, 1e-9, 0.7, 12.0)
POSITIVE = (0.0, 1e-300, 1e-9, 0.7, 1.0, 12.0)
ABOVE_MINUS_ONE = (-1.0, -0.5, -1e-12, 0.0, 1e-12, 3.0)

FUNCTIONS = [
    ("exp", ANY_SIGN, mp.exp),
    ("expm1", ANY_SIGN, mp.expm1),
    ("log", POSITIVE, mp.log),
    ("log1p", ABOVE_MINUS_ONE, lambda x: mp.log(1 + x)),
    ("sqrt", POSITIVE, mp.sqrt),
    ("sin", ANY_SIGN, mp.sin),
    ("asinh", ANY_SIGN, mp.asinh),
]


@pytest.mark.parametrize(("name", "inputs", "reference"), FUNCTIONS, ids=[name for name, *_ in FUNCTIONS])
def test_function_is_right_for_floats_and_tensors(
    name: str, inputs: tuple[float, ...], reference: Callable[..., object]
) -> None:
    """A name bound to another function, or log 0 raising for floats and not for tensors, would break one of two branches."""
    function = getattr(arithmetic, name)
    together = function(torch.tensor(inputs, dtype=torch.float64)).tolist()
    for x, from_tensor in zip(inputs, together, strict=True):
        from_float = function(x)
        assert isinstance(from_float, float)
        wanted = -math.inf if (name, x) in {("log", 0.0), ("log1p", -1.0)} else reference(mpf(x))
        for got in (from_float, from_tensor):
            assert got == wanted if math.isinf(float(wanted)) else relative_error(got, wanted) < 1e-15  # type: ignore[arg-type]


@given(x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_atan2_takes_the_ordinate_first(x: float, y: float) -> None:
    """Arguments in the other order give the complement of the angle."""
    assert arithmetic.atan2(y, x) == math.atan2(y, x)
    as_tensor = arithmetic.atan2(torch.tensor(y, dtype=torch.float64), torch.tensor(x, dtype=torch.float64))
    assert float(as_tensor) == pytest.approx(math.atan2(y, x), rel=1e-14)


@given(x=st.floats(-1e3, 1e3))
def test_softplus_keeps_its_digits(x: float) -> None:
    """ln(1 + eˣ) as it is written overflows above 709 and is 0 below −37."""
    wanted = mp.log(1 + mp.exp(mpf(x)))
    if wanted > 1e-300:
        assert relative_error(softplus(x), wanted) < 1e-14
    assert float(softplus(torch.tensor(x, dtype=torch.float64))) == pytest.approx(softplus(x), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(("x", "wanted"), [(-2.0, 0.5), (0.5, 0.5), (0.75, 0.75), (3.0, 2.0)])
def test_clip_holds_both_ends(x: float, wanted: float) -> None:
    """One-sided clipping would pass three of these four."""
    assert clip(x, 0.5, 2.0) == wanted
    assert float(clip(torch.tensor(x, dtype=torch.float64), 0.5, 2.0)) == wanted


@pytest.mark.parametrize("x", [-2.0, 3.0])
@pytest.mark.parametrize("y", [0.0, 0.5, -4.0])
def test_division_by_zero_is_infinite_with_the_numerators_sign(x: float, y: float) -> None:
    """Rates at an end of a path are infinite; a ZeroDivisionError there would stop a sampler."""
    as_tensor = float(divide(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)))
    assert divide(x, y) == as_tensor
    if y == 0.0:
        assert as_tensor == math.copysign(math.inf, x)


@pytest.mark.parametrize(("x", "wanted"), [(1, True), (0.5, True), (torch.tensor(0.5), False), ("1", False)])
def test_what_is_a_number(x: object, wanted: bool) -> None:
    """A one-element tensor is a batch of times, not a number: it may need a gradient."""
    assert is_number(x) is wanted


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_value_a_sample_multiplies_that_sample(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Broadcast along the wrong axis, (b,) would meet the last dimension; in float64 it would change the batch's dtype."""
    x, values = normal(3, *shape).to(dtype), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    product = along_batch(values, x) * x
    assert product.dtype == dtype
    assert all(torch.equal(product[k], float(values[k]) * x[k]) for k in range(3))
    assert along_batch(2.5, x) == 2.5


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_per_sample_sum_keeps_the_batch_alone(shape: tuple[int, ...]) -> None:
    """A sum over dim=(1, 2, 3) would fail for every rank but four."""
    x = normal(3, *shape)
    assert torch.allclose(per_sample_sum(x), torch.stack([sample.sum() for sample in x]))
