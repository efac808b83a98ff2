"""Shared randomness: the published words, a table that is what it says, and rows that have nothing to do with each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri

from scorefield.coding.generator import Stream

COUNT = 200_000
MASK = (1 << 64) - 1
GOLDEN, MIXERS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mixed(z: int) -> int:
    """SplitMix64's finaliser in whole numbers of any size."""
    z &= MASK
    z = ((z ^ (z >> 30)) * MIXERS[0]) & MASK
    z = ((z ^ (z >> 27)) * MIXERS[1]) & MASK
    return z ^ (z >> 31)


def test_the_words_are_those_of_the_published_generator() -> None:
    """SplitMix64 seeded 1234567 has known outputs: another constant, shift or counter would make every stream unreadable."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert Stream(1234567).words(5).tolist() == known


def test_the_words_of_an_independent_computation_are_the_same() -> None:
    """Whole numbers of any size, reduced by hand, would show a word that did not wrap around."""
    for seed in (0, 1, MASK):
        words = [mixed(seed + GOLDEN * (place + 1)) for place in range(20)]
        assert Stream(seed).words(20).tolist() == words


def test_a_stream_is_named_the_same_way_for_ever() -> None:
    """Each part is mixed into the state before the next: with another step, kept files would select another noise."""
    for parts in [(0,), (1, 2), (2, 1), (7, -1, 1 << 63)]:
        state = 0
        for part in parts:
            state = mixed((state ^ (part & MASK)) * MIXERS[1] + GOLDEN)
        assert Stream.of(*parts).seed == state


def test_the_normal_numbers_are_the_4096_quantiles() -> None:
    """A damaged table, or a wrong half of it, would not be round(4096 Φ⁻¹((i + ½)/4096)) divided by its deviation."""
    quantiles = np.round(4096.0 * ndtri((np.arange(4096) + 0.5) / 4096.0))
    words = Stream(3).words(COUNT // 5)
    fields = np.stack([(words >> np.uint64(12 * place)) & np.uint64(4095) for place in range(5)], axis=1).ravel()
    assert np.array_equal(Stream(3).normal(COUNT), (quantiles / quantiles.std())[fields.astype(np.int64)])
    assert len(np.unique(fields)) == 4096


def test_the_normal_numbers_have_the_moments_of_one() -> None:
    """A scale of 4096 in the place of the deviation, or fields that overlap, would move a moment by many standard errors."""
    e = Stream.of(1, 2, 3).normal(COUNT)
    for power, moment, spread in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]:
        assert abs((e**power).mean() - moment) < 5.0 * math.sqrt(spread / COUNT) + 0.004 * (power == 4)


@pytest.mark.parametrize(("one", "other"), [((1,), (2,)), ((5, 0), (5, 1)), ((1, 2), (2, 1)), ((0,), (0, 0))])
def test_neighbouring_streams_are_independent(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Parts that are added, or a counter that runs from one seed into the next, would give rows that agree at some shift."""
    e, f = Stream.of(*one).normal(COUNT), Stream.of(*other).normal(COUNT)
    for shift in range(-3, 4):
        assert abs((e * np.roll(f, shift)).mean()) < 5.0 / math.sqrt(COUNT)
    assert not np.intersect1d(Stream.of(*one).words(1000), Stream.of(*other).words(1000)).size


def test_a_row_is_not_correlated_with_itself() -> None:
    """Five fields of one word that share bits would show at a distance of one to four."""
    e = Stream.of(9).normal(COUNT)
    for shift in range(1, 12):
        assert abs((e * np.roll(e, shift)).mean()) < 5.0 / math.sqrt(COUNT)


@pytest.mark.parametrize("parts", [(-1,), (1 << 64,), (-(1 << 70), 3), ()])
def test_any_whole_numbers_are_a_name(parts: tuple[int, ...]) -> None:
    """A part that does not fit 64 bits is reduced; a warning or an error would depend on numpy's version."""
    assert 0 <= Stream.of(*parts).seed < 1 << 64


def test_parts_are_taken_modulo_64_bits() -> None:
    """A reduction that kept more would be another on a machine with other words."""
    assert Stream.of(-1) == Stream.of((1 << 64) - 1)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 64, 1001])
def test_the_front_of_a_row_is_the_row(count: int) -> None:
    """A number that depended on how many are asked for could not be read by anybody else."""
    stream = Stream.of(4)
    for row in (stream.words, stream.normal, stream.signs):
        assert np.array_equal(row(count), row(2000)[:count])
        assert row(count).shape == (count,)


@pytest.mark.parametrize("first", [0, 1, 4, 5, 7, 500])
def test_a_row_may_be_read_from_any_place(first: int) -> None:
    """A word or field miscounted at the start would shift every label of a block of states."""
    stream = Stream.of(4)
    whole = stream.normal(1000)
    assert np.array_equal(stream.words(50, first), stream.words(1000)[first : first + 50])
    for count in (0, 1, 3, 5, 100):
        assert np.array_equal(stream.normal(count, first), whole[first : first + count])
    places = np.array([[first, 999], [3, first + 1]])
    assert np.array_equal(stream.normal_at(places), whole[places])


def test_signs_are_fair() -> None:
    """A sign that leant to one side would shift the labels' mean."""
    signs = Stream.of(8).signs(COUNT)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5.0 / math.sqrt(COUNT)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 5000])
def test_a_permutation_has_every_place_once(count: int) -> None:
    """A place missed or taken twice could not be turned back."""
    order = Stream.of(6, count).permutation(count)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(count))


def test_a_permutation_is_a_random_one() -> None:
    """Places that stay near where they were would leave the energy of a direction where it is."""
    order = Stream.of(6).permutation(5000)
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 5.0 / math.sqrt(5000)
    assert (order == np.arange(5000)).sum() < 10
