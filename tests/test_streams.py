"""Per-sample noise: known answers, independence of the batch, and the statistics of a normal source."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scorefield.errors import UsageError
from scorefield.streams import BatchStream, BrownianPath, SampleStreams, _mix, noise_source
from tests.worlds import RANKS, seeded

MASK = 2**64 - 1


def unsigned(words: torch.Tensor) -> list[int]:
    """Words as the unsigned numbers that the reference prints."""
    return [word & MASK for word in words.flatten().tolist()]


def reference_mix(z: int) -> int:
    """SplitMix64's finaliser in whole numbers of Python (Steele, Lea & Flood 2014, figure 16; Vigna's splitmix64.c)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(word: int) -> int:
    """An unsigned word as the signed number that a tensor holds."""
    return word - 2**64 if word >= 2**63 else word


def test_known_answers_of_splitmix64() -> None:
    """The published first outputs of SplitMix64 from seed 1234567, whose state grows by 2⁶⁴/φ before each."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = torch.tensor([signed((1234567 + k * 0x9E3779B97F4A7C15) & MASK) for k in range(1, 6)])
    assert unsigned(_mix(states)) == published


@given(word=st.integers(-(2**63), 2**63 - 1))
def test_mixing_is_the_references(word: int) -> None:
    """A shift that copies the sign instead of zeros differs on half of all words."""
    assert unsigned(_mix(torch.tensor([word]))) == [reference_mix(word & MASK)]


@given(seed=st.integers(-(2**70), 2**70), sample=st.integers(0, 2**40), draw=st.integers(0, 10_000))
def test_words_are_the_hash_of_four_numbers(seed: int, sample: int, draw: int) -> None:
    """The stream is a promise: another order of hashing would give every stored seed another picture."""
    golden = 0x9E3779B97F4A7C15
    key = reference_mix((reference_mix((seed + sample * golden) & MASK) + 2 * draw + 1) & MASK)
    wanted = [reference_mix((key + position * golden) & MASK) for position in (1, 2, 3)]
    assert unsigned(SampleStreams.numbered(seed, sample, 1).words(draw, 3)) == wanted


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sample_does_not_depend_on_its_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Sample k of a seed is the same bits alone, in any batch, and in any order."""
    like = torch.zeros(7, *shape, dtype=dtype)
    together = SampleStreams.numbered(5, 0, 7).normal(like, 3)
    assert (together.shape, together.dtype) == (like.shape, dtype)
    split = [
        SampleStreams.numbered(5, first, count).normal(like[:count], 3) for first, count in ((0, 2), (2, 4), (6, 1))
    ]
    assert torch.equal(torch.cat(split), together)
    shuffled = torch.tensor([4, 0, 6])
    assert torch.equal(SampleStreams(5, shuffled).normal(like[:3], 3), together[shuffled])


def test_one_picture_is_the_start_of_a_larger_one_only_in_uniforms() -> None:
    """Uniform number i of a draw does not depend on how many are asked for."""
    streams = SampleStreams.numbered(1, 0, 3)
    assert torch.equal(streams.uniform(2, 9)[:, :4], streams.uniform(2, 4))


def test_uniforms_are_inside_the_open_interval_and_uniform() -> None:
    """A zero would give an infinite normal; the Kolmogorov–Smirnov distance at 0.1 % is 1.95/√n."""
    u = SampleStreams.numbered(0, 0, 100).uniform(0, 2_000).flatten().sort().values
    assert 0.0 < float(u[0]) < float(u[-1]) < 1.0
    assert u.dtype == torch.float64
    ranks = torch.arange(1, len(u) + 1, dtype=torch.float64) / len(u)
    assert float((u - ranks).abs().max()) < 1.95 / math.sqrt(len(u))


@pytest.mark.parametrize("axis", ["positions", "samples", "draws", "seeds"])
def test_normals_are_normal_along_every_axis(axis: str) -> None:
    """200,000 numbers along one axis of (seed, sample, draw, position): law, and first four moments, of N(0, 1)."""
    z = numbers_along(axis).flatten()
    n = len(z)
    distance = (torch.special.ndtr(z.sort().values) - torch.arange(1, n + 1, dtype=torch.float64) / n).abs().max()
    assert float(distance) < 1.95 / math.sqrt(n)
    for power, mean, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float(z.pow(power).mean()) - mean) < 4.0 * math.sqrt(variance / n)


def numbers_along(axis: str) -> torch.Tensor:
    """(rows, columns) normals, 200,000 in all, whose columns differ by one along an axis only."""
    like = torch.zeros(100, 2, dtype=torch.float64)
    if axis == "positions":
        return SampleStreams.numbered(0, 0, 2).normal(torch.zeros(2, 100_000, dtype=torch.float64), 0)
    if axis == "samples":
        return SampleStreams.numbered(0, 0, 100_000).normal(torch.zeros(100_000, 2, dtype=torch.float64), 0).T
    if axis == "draws":
        return torch.cat([SampleStreams.numbered(0, 0, 100).normal(like, draw) for draw in range(1000)], dim=1)
    return torch.cat([SampleStreams.numbered(seed, 0, 100).normal(like, 0) for seed in range(1000)], dim=1)


@pytest.mark.parametrize("axis", ["positions", "samples", "draws", "seeds"])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_neighbours_are_not_correlated(axis: str, lag: int) -> None:
    """Numbers, and their squares, next to each other along an axis: correlation within 4 of 1/√n."""
    z = numbers_along(axis)
    for values in (z, (z.square() - 1.0) / math.sqrt(2.0)):
        products = values[:, lag:] * values[:, :-lag]
        assert abs(float(products.mean())) < 4.0 / math.sqrt(products.numel())


def test_the_two_halves_of_a_pair_are_not_correlated() -> None:
    """Cosine and sine of one angle are independent normals only if both are there once."""
    z = SampleStreams.numbered(3, 0, 50).normal(torch.zeros(50, 4_000, dtype=torch.float64), 1)
    first, second = z[:, :2_000], z[:, 2_000:]
    for one, other in ((first, second), (first.square() - 1.0, second.square() - 1.0)):
        assert abs(float((one * other).mean())) < 4.0 * 2.0 / math.sqrt(first.numel())
    assert float((first - second).abs().min()) > 0.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_odd_number_of_values_is_served(count: int) -> None:
    """Pairs are made two at a time; the last half of the last pair is left over."""
    assert SampleStreams.numbered(0, 0, 2).normal(torch.zeros(2, count), 0).shape == (2, count)


def test_generator_of_torch_is_a_source() -> None:
    """The same generator gives the same numbers in like's dtype; each draw advances it."""
    like = torch.zeros(2, 3, dtype=torch.float64)
    source = BatchStream(seeded(1))
    first, second = source.normal(like, 1), source.normal(like, 1)
    wanted = seeded(1)
    assert torch.equal(first, torch.randn(2, 3, generator=wanted, dtype=torch.float64))
    assert torch.equal(second, torch.randn(2, 3, generator=wanted, dtype=torch.float64))


def test_every_kind_of_generator_becomes_a_source() -> None:
    """Streams stay themselves, a torch generator is wrapped, None is none."""
    streams = SampleStreams.numbered(0, 0, 1)
    assert noise_source(streams) is streams
    assert isinstance(noise_source(seeded()), BatchStream)
    assert noise_source(None) is None


def test_a_brownian_path_is_one_path_in_steps_of_any_length() -> None:
    """W at the end is the same whatever the stride, and a draw is standard normal: √K times it is the sum of K increments."""
    increments = torch.randn(12, 5, 2, generator=seeded(), dtype=torch.float64)
    like = torch.zeros(5, 2)
    for stride in (1, 2, 3, 12):
        source = BrownianPath(increments, stride)
        draws = [source.normal(like, draw) for draw in range(1, 12 // stride + 1)]
        assert draws[0].dtype == torch.float32
        assert torch.allclose(sum(draws) * math.sqrt(stride), increments.sum(0).float(), atol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(BrownianPath(increments).normal(increments[0], 7), increments[6])


def test_the_end_of_a_brownian_path_is_refused_with_the_fix() -> None:
    """A shorter sum for the last step would be less noise than the step asks for."""
    with pytest.raises(UsageError, match="2 draws of 3 increments, and draw 3 was asked for; make it longer"):
        BrownianPath(torch.zeros(8, 1, 1), 3).normal(torch.zeros(1, 1), 3)
