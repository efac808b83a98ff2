"""The last stage's laws: whole numbers that sum to one, the same in any order of adding, and fitted to what they are told."""

from __future__ import annotations

import numpy as np
import pytest

from scorefield.coding.last_stage import decode_values, encode_values, nearest_levels
from scorefield.coding.neighbours import Neighbourhood
from scorefield.coding.pixel_fit import NoisedExamples, fit_pixels
from scorefield.coding.pixels import TOTAL, Law, PixelNetwork, make_tables

SHAPES = [(1, 5, 7), (3, 4, 3), (2, 9), (6,), (1, 3, 2, 4), (1, 1, 1)]


def noised(shape: tuple[int, ...], levels: int, count: int = 12, seed: int = 0) -> NoisedExamples:
    """Examples with structure: a slope, one of two brightnesses, and a little noise."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.1, 0.6, int(np.prod(shape))).reshape(shape)
    bright = rng.integers(0, 2, (count, *[1] * len(shape))) * 0.3
    values = np.clip(
        np.rint((slope + bright + 0.02 * rng.standard_normal((count, *shape))) * (levels - 1)), 0, levels - 1
    )
    clear = values * 2.0 / (levels - 1) - 1.0
    z = clear + 0.3 * rng.standard_normal(clear.shape)
    return NoisedExamples(values.astype(np.int64), np.rint(np.clip(z, -1, 1) * 4096) / 4096, np.rint(z * 4096) / 4096)


def fitted(shape: tuple[int, ...], levels: int, steps: int = 3) -> PixelNetwork:
    """A network after a few steps."""
    examples = noised(shape, levels)
    return fit_pixels(shape, levels, lambda _: examples, steps=steps)


def random_law(network: PixelNetwork, rows: int = 50, seed: int = 0) -> Law:
    """Laws of all kinds, impossible ones included."""
    rng, m = np.random.default_rng(seed), network.mixtures
    reach = 80.0 * network.levels
    mean = np.clip(np.floor(rng.uniform(-reach, reach, (rows, m))), -64.0 * network.levels, 64.0 * network.levels)
    return Law(rng.integers(1, 1 << 20, (rows, m)).astype(float), mean, rng.integers(0, 112, (rows, m)))


@pytest.mark.parametrize("levels", [2, 17, 256, 4096])
def test_every_value_has_a_share_and_all_sum_to_one(levels: int) -> None:
    """A frequency of 0 could not be coded, and a sum that is not 2¹⁶ would be decoded as something else."""
    network = PixelNetwork((1,), levels, 3, {}, make_tables())
    law = random_law(network)
    cumulative = network.cumulative(law)
    assert (
        (cumulative[:, 0] == 0).all()
        and (cumulative[:, -1] == TOTAL).all()
        and (np.diff(cumulative, axis=1) >= 1).all()
    )
    for value in {0, 1, levels // 2, levels - 1}:
        low, high = network.interval(law, np.full(50, value))
        assert (low == cumulative[:, value]).all() and (high == cumulative[:, value + 1]).all()


def test_a_law_is_a_discretised_logistic() -> None:
    """One component must have the mass sigmoid((b + ½ − μ)/e^s) below each edge, to the resolution of its tables."""
    network = PixelNetwork((1,), 256, 1, {}, make_tables())
    scale = 2.0 ** (-4 + (60 + 0.5) / 8)
    law = Law(np.ones((1, 1)), np.array([[100.0 * 16]]), np.array([[60]]))
    edges = np.arange(1, 256)
    exact = 1.0 / (1.0 + np.exp(-(edges - 0.5 - 100.0) / scale))
    found = (network.cumulative(law)[0, 1:-1] - edges) / (TOTAL - 256)
    assert np.abs(found - exact).max() < 0.003


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_come_back(shape: tuple[int, ...]) -> None:
    """The receiver goes value by value where the sender went all at once: any shape, and numbers of examples that no block fits."""
    network, examples = fitted(shape, 17), noised(shape, 17, count=5, seed=1)
    data, bits = encode_values(network, examples.values, examples.denoised, examples.noised)
    values, certain = decode_values(network, data, examples.denoised, examples.noised)
    assert (values == examples.values).all() and certain == values.size
    assert 8 * len(data) <= bits.sum() + 16


def test_a_cut_last_stage_gives_only_what_is_certain() -> None:
    """A value that needs bytes which are not there must be D's, never a guess of the coder's."""
    network, examples = fitted((1, 5, 7), 17), noised((1, 5, 7), 17, count=5, seed=1)
    data, _ = encode_values(network, examples.values, examples.denoised, examples.noised)
    place, before = network.neighbourhood, 0
    plain = place.by_position(nearest_levels(examples.denoised, 17)).transpose(1, 2, 0).ravel()
    right = place.by_position(examples.values).transpose(1, 2, 0).ravel()
    for size in range(len(data) + 1):
        values, certain = decode_values(network, data[:size], examples.denoised, examples.noised, whole=False)
        found = place.by_position(values).transpose(1, 2, 0).ravel()
        assert (found[:certain] == right[:certain]).all() and (found[certain:] == plain[certain:]).all()
        assert certain >= before
        before = certain
    assert before > 0.7 * right.size


def test_whole_numbers_make_the_order_of_adding_irrelevant() -> None:
    """The first layer's sums must be the same however the inputs are ordered: below 2⁵³ they are exact."""
    network = fitted((1, 5, 7), 256, steps=5)
    for name in ("first", "second", "last", "linear"):
        weight = network.tensors[name]
        assert (weight == np.rint(weight)).all() and np.abs(weight).max() <= 2**15
        worst = len(weight) * np.abs(weight).max() * 2.0**17
        assert worst < 2.0**53
        order = np.random.default_rng(0).permutation(len(weight))
        inputs = np.floor(np.random.default_rng(1).uniform(-(2**17), 2**17, (4, len(weight))))
        assert (inputs @ weight == inputs[:, order] @ weight[order]).all()


def test_fitting_learns_what_neighbours_tell() -> None:
    """Half of the brightness's bit is in D, all of it in the values before: the fitted law must cost far less than uniform."""
    examples, held = noised((1, 6, 6), 17, count=200), noised((1, 6, 6), 17, count=50, seed=2)
    rng, told = np.random.default_rng(0), []
    network = fit_pixels(
        (1, 6, 6),
        17,
        lambda _: examples[rng.integers(0, 200, 32)],
        steps=150,
        progress=lambda _, bits: told.append(bits),
    )
    _, bits = encode_values(network, held.values, held.denoised, held.noised)
    assert bits.mean() / 36 < 1.9 < 0.6 * np.log2(17) and abs(np.mean(told[-20:]) - bits.mean() / 36) < 0.25


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_know_only_what_comes_before(shape: tuple[int, ...]) -> None:
    """A causal window that looked ahead could not be decoded; a round trip of orders must give the picture back."""
    place = Neighbourhood(shape)
    own = np.arange(place.positions)[:, None]
    assert ((place.causal < own) | (place.causal == place.positions)).all()
    assert (place.around[:, 0] == own[:, 0]).all() and place.close.shape[1] <= 9
    batch = np.random.default_rng(0).integers(0, 9, (2, *shape))
    assert (place.as_examples(place.by_position(batch)) == batch).all()
