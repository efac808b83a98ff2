"""Data ↔ model space: exact both ways, in the data's own dtype and layout."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from scorefield.data import Representation, open_data, report
from scorefield.errors import UsageError
from tests.data.zoo import noise

FLOAT_WIDTHS: dict[int, Literal[16, 32, 64]] = {2: 16, 4: 32, 8: 64}
DTYPES = ["uint8", "uint16", "int16", "int64", "float16", "float32", "float64"]


def representation_of(array: np.ndarray, layout: str | None = None) -> Representation:
    return report(open_data(array, layout=layout)).representation


@st.composite
def data_arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of every dtype and rank, a few examples each."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    elements: st.SearchStrategy[Any]
    if dtype.kind == "f":
        elements = st.floats(-1000, 1000, width=FLOAT_WIDTHS[dtype.itemsize])
    else:
        low = 0 if dtype.kind == "u" else -300
        elements = st.integers(low, 255 if dtype.itemsize == 1 else 5000)
    return draw(arrays_of.arrays(dtype, tuple(shape), elements=elements))


def test_arrays_that_cannot_be_written_are_read_without_a_word() -> None:
    """Every picture of Pillow's is such an array; a warning would be an error where warnings are."""
    array = np.arange(120, dtype=np.uint8).reshape(4, 6, 5)
    kind = representation_of(array)
    array.flags.writeable = False
    channels = kind.channels_first(array)
    channels.flags.writeable = False
    assert torch.equal(kind.to_model(channels), kind.to_model(channels.copy()))


@given(data_arrays())
def test_data_come_back_in_their_own_dtype_and_layout(array: np.ndarray) -> None:
    """Integers bit for bit; floats as exactly as 32 bits in model space allow."""
    data = open_data(array)
    representation = report(data).representation
    batch = data.batch(range(len(data)))
    back = representation.from_model(representation.to_model(batch))
    assert back.dtype == array.dtype
    assert np.array_equal(representation.channels_first(back).shape, batch.shape)
    if array.dtype.kind == "f":
        spread = max(abs(value) for value in (*representation.scale, *representation.shift, 1e-3))
        tolerance = 1e-5 * spread + np.abs(batch) * np.finfo(array.dtype).eps
        assert (
            np.abs(representation.channels_first(back) - batch.astype(np.float64)) <= tolerance + 1e-6 * np.abs(batch)
        ).all()
    else:
        assert np.array_equal(representation.channels_first(back), batch)


@pytest.mark.parametrize(
    ("shape", "back"),
    [
        ((4, 8, 6), (4, 8, 6)),
        ((4, 8, 6, 3), (4, 8, 6, 3)),
        ((4, 3, 8, 6), (4, 3, 8, 6)),
        ((4, 8, 6, 1), (4, 8, 6)),
        ((4, 9), (4, 9)),
    ],
)
def test_results_have_the_layout_of_the_data(shape: tuple[int, ...], back: tuple[int, ...]) -> None:
    """Images are N,H,W or N,H,W,C; what came channels first goes out so."""
    array = noise(*shape)
    data = open_data(array)
    r = report(data).representation
    result = r.from_model(r.to_model(data.batch(range(4))))
    assert result.shape == back and np.array_equal(result, array.reshape(back))


@given(st.builds(lambda d, s: (d, s), st.sampled_from(DTYPES), st.lists(st.integers(1, 4), min_size=2, max_size=5)))
def test_it_survives_json(case: tuple[str, list[int]]) -> None:
    """It is stored with the model: what is read back must be equal."""
    dtype, shape = case
    r = representation_of((np.arange(math.prod(shape)) % 50).astype(dtype).reshape(shape))
    assert Representation.from_dict(json.loads(json.dumps(r.to_dict()))) == r


@pytest.mark.parametrize(
    ("highest", "dtype", "low", "levels"),
    [
        (255, "uint8", 0, 256),
        (100, "uint8", 0, 256),
        (16, "uint8", 0, 17),
        (1, "uint8", 0, 2),
        (0, "uint8", 0, 1),
        (1000, "uint16", 0, 1024),
        (4095, "uint16", 0, 4096),
        (65535, "uint16", 0, 65536),
        (255, "int64", 0, 256),
    ],
)
def test_levels_are_the_bits_in_use(highest: int, dtype: str, low: int, levels: int) -> None:
    """12-bit data in 16-bit containers fill [−1, 1], and a few grey levels are just those."""
    array = np.zeros((2, 4, 4), dtype)
    array[0, 0, 0] = highest
    r = representation_of(array)
    assert (r.low, r.levels) == (low, levels)
    ends = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert np.unique(r.from_model(ends)).tolist() == sorted({low, low + levels - 1})


def test_signed_integers_have_their_own_lowest_value() -> None:
    r = representation_of(np.array([[[-3, 5]], [[100, 90]]], np.int16))
    assert (r.low, r.levels) == (-128, 256)


def test_integers_of_too_many_values_are_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match="over 65536 values; convert them to float32"):
        representation_of(np.array([[0, 10**6]]))


def test_integers_stay_in_range_whatever_the_model_says() -> None:
    r = representation_of(noise(4, 8, 6))
    assert np.unique(r.from_model(torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 6))).tolist() == [
        0,
        255,
    ]


def test_256_levels_are_the_familiar_map() -> None:
    """x/127.5 − 1, as in every paper."""
    z = representation_of(noise(4, 16, 16)).to_model(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16))
    assert z.dtype == torch.float32
    assert torch.allclose(z.flatten().double(), torch.arange(256.0).double() / 127.5 - 1.0, atol=1e-7)


def test_floats_get_mean_0_and_standard_deviation_1() -> None:
    x = np.random.default_rng(0).normal(5.0, 3.0, (1000, 2, 8)).astype(np.float32)
    r = representation_of(x)
    z = r.to_model(x)
    assert len(r.scale) == 1 and abs(float(z.mean())) < 1e-5 and abs(float(z.std()) - 1.0) < 1e-3


def test_features_of_different_scale_are_scaled_by_themselves() -> None:
    x = np.random.default_rng(0).normal([0.0, 1e6, 5.0], [1e-3, 1e4, 0.0], (1000, 3))
    r = representation_of(x)
    z = r.to_model(x)
    assert len(r.scale) == 3 and r.scale[2] == 1.0
    assert torch.allclose(z.std(dim=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3)


def test_a_large_offset_of_64_bit_floats_is_not_drowned() -> None:
    """1e9 + unit noise: cast to 32 bits first, every value would be the same."""
    x = 1e9 + np.random.default_rng(0).normal(size=(100, 1, 4, 6))
    r = representation_of(x)
    assert np.abs(r.from_model(r.to_model(x)) - x).max() < 1e-6


def test_the_log_determinant_is_that_of_the_map() -> None:
    """Against the Jacobian that autograd finds."""
    r = Representation((3, 2), "float64", "array", (1.0, 2.0, 3.0), (0.5, 2.0, 7.0))
    scale = torch.tensor(r.scale, dtype=torch.float64).reshape(3, 1)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: ((x.reshape(3, 2) - 1.0) / scale).flatten(), torch.zeros(6, dtype=torch.float64)
    )
    assert math.isclose(r.log_determinant, float(torch.linalg.slogdet(jacobian)[1]), rel_tol=1e-12)
    assert math.isclose(representation_of(noise(4, 8, 6)).log_determinant, -48 * math.log(127.5), rel_tol=1e-12)


def test_the_input_is_not_changed() -> None:
    for array in (noise(2, 1, 4, 4), np.ones((2, 1, 4, 6), np.float32), np.ones((2, 1, 4, 6))):
        before = array.copy()
        Representation(
            (1, *array.shape[2:]),
            array.dtype.name,
            "array",
            (3.0,),
            (2.0,),
            0,
            256 if array.dtype == np.uint8 else None,
        ).to_model(array)
        assert np.array_equal(array, before)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"of data of shape \(1, 8, 6\), got \(1, 6, 8\)"):
        representation_of(noise(4, 8, 6)).to_model(noise(4, 1, 6, 8))


GOOD = representation_of(noise(4, 8, 6)).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [0, 8, 6]},
        {"shape": []},
        {"shape": [10**9, 10**9]},
        {"shape": [1.5, 8, 6]},
        {"dtype": "object"},
        {"dtype": "U5"},
        {"dtype": "nonsense"},
        {"layout": "sideways"},
        {"scale": [0.0]},
        {"scale": [-1.0]},
        {"scale": [math.nan]},
        {"shift": [math.inf]},
        {"shift": ["a"]},
        {"scale": [1.0, 1.0]},
        {"levels": None},
        {"levels": 0},
        {"levels": 10**9},
        {"extra": 1},
    ],
)
def test_a_stored_one_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    """It is read from a file that anybody may have written."""
    with pytest.raises(UsageError, match="data representation"):
        Representation.from_dict(GOOD | change)
