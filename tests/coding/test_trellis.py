"""Noise selected by a trellis: both sides have the same, it leans as far as its bits allow, and is normal otherwise."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.coding.generator import Stream
from scorefield.coding.trellis import LARGEST_MEMORY, Layout, decode, efficiency, encode
from scorefield.errors import UsageError


def direction(dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dimensions)


def of_bits(dimensions: int, bits: int, memory: int, seed: int = 0) -> np.ndarray:
    """A direction whose divergence is worth so many bits: ½|u|² = n ln 2 · efficiency."""
    u = direction(dimensions, seed)
    return u * math.sqrt(2.0 * bits * math.log(2.0) * efficiency(memory, bits) / (u @ u))


def measured(u: np.ndarray, e: np.ndarray, bits: int) -> float:
    """corr²/(2 n ln 2)."""
    return float((u @ e) ** 2 / (u @ u) / (2.0 * bits * math.log(2.0)))


GOLDEN = [0.4855813503400206, 0.05722955760183154, 1.8314984554122158]
"""The first of the noise that bytes 0 … 24 select at D = 300, n = 200, L = 6."""

# ── both sides ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("memory", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("dimensions", [1, 2, 63, 64, 65, 127, 1000])
@pytest.mark.parametrize("bits", [0, 1, 7, 40, 200])
def test_both_sides_have_the_same_noise(dimensions: int, bits: int, memory: int) -> None:
    """Odd sizes, fewer bits than the state has, and more bits than dimensions: another rule on one side shows at once."""
    layout, stream = Layout(dimensions, bits, memory), Stream.of(dimensions, bits)
    data, e = encode(direction(dimensions), layout, stream)
    assert len(data) == layout.bytes == math.ceil(bits / 8)
    assert e.shape == (dimensions,)
    assert e.dtype == np.float64
    assert np.array_equal(decode(data, layout, stream), e)


@given(st.integers(1, 300), st.integers(0, 1300), st.integers(1, 10), st.integers(0, 2**32), st.data())
def test_any_bytes_select_a_noise(dimensions: int, bits: int, memory: int, seed: int, data: st.DataObject) -> None:
    """A receiver is sent anything; nothing may be raised before a checksum says so."""
    layout = Layout(dimensions, bits, memory)
    e = decode(data.draw(st.binary(min_size=layout.bytes, max_size=layout.bytes)), layout, Stream(seed))
    assert e.shape == (dimensions,)
    assert np.isfinite(e).all()


def test_no_bits_are_plain_shared_noise() -> None:
    """Nothing to choose from: the direction must not matter, and the noise be normal."""
    layout, stream = Layout(50_000, 0, 12), Stream.of(1)
    data, e = encode(direction(50_000), layout, stream)
    assert data == b""
    assert np.array_equal(e, decode(b"", layout, stream))
    assert abs(e.mean()) < 5.0 / math.sqrt(50_000)
    assert abs((e**2).mean() - 1.0) < 5.0 * math.sqrt(2.0 / 50_000)


def test_nothing_is_selected_of_nothing() -> None:
    """A section of an empty group must not divide by its dimensions."""
    assert encode(np.empty(0), Layout(0, 0, 12), Stream.of(1))[1].shape == (0,)


def test_the_reader_computes_what_the_formulas_say() -> None:
    """The bits of one section, followed with no arrays at all: state, label, sign, rotation and place of each dimension."""
    layout, stream, data = Layout(70, 33, 4), Stream.of(5), b"\x5a\xc3\x0f\x99\x80"
    labels, signs = Stream.of(stream.seed, 1), Stream.of(stream.seed, 2).signs(70)
    bits = [(data[i // 8] >> (7 - i % 8)) & 1 for i in range(33)]
    spread, state = [], 0
    span = max((i + 1) * 70 // 33 - i * 70 // 33 for i in range(33))
    for i, bit in enumerate(bits):
        state = (2 * state + bit) % 16
        spread += [labels.normal(16 * span)[state * span + j] for j in range((i + 1) * 70 // 33 - i * 70 // 33)]
    spread = np.array(spread) * signs
    sylvester = np.array([[(-1.0) ** (i & j).bit_count() for j in range(64)] for i in range(64)])
    rotated = np.concatenate([sylvester @ spread[:64] / 8.0, sylvester[:4, :4] @ spread[64:68] / 2.0])
    pair = np.array([spread[68] + spread[69], spread[68] - spread[69]]) / math.sqrt(2.0)
    e = decode(data, layout, stream)
    assert np.allclose(
        e[Stream.of(stream.seed, 3).permutation(70)], np.concatenate([rotated, pair]), rtol=0.0, atol=1e-12
    )


def test_a_section_is_read_the_same_for_ever() -> None:
    """Whole streams are kept: the noise of these bytes, as the formulas above give it, must not move by one bit."""
    e = decode(bytes(range(25)), Layout(300, 200, 6), Stream.of(7))
    again = decode(bytes(range(25)), Layout(300, 200, 6), Stream.of(7))
    assert e.tobytes() == again.tobytes()
    assert e[:3].tolist() == GOLDEN


# ── how far it leans ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_of_all_paths_is_found() -> None:
    """Each of 2¹⁰ sections decoded: a wrong predecessor or label in the search would miss the largest ⟨u, e⟩."""
    for seed in range(4):
        layout, stream, u = Layout(30, 10, 3), Stream.of(seed), direction(30, seed)
        sections = [(number << 6).to_bytes(2, "big") for number in range(1024)]
        best = max(float(u @ decode(section, layout, stream)) for section in sections)
        assert float(u @ encode(u, layout, stream)[1]) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.3])
def test_the_efficiency_is_what_a_codec_counts_on(rate: float) -> None:
    """.86 at L = 12: a state with fewer bits, labels that do not change with time, or a lost chunk would fall short."""
    bits = int(20_000 * rate)
    u = direction(20_000)
    _, e = encode(u, Layout(20_000, bits, 12), Stream.of(1))
    assert measured(u, e, bits) >= 0.86


@pytest.mark.parametrize("memory", [6, 8, 10, 12])
@pytest.mark.parametrize("bits", [32, 128, 512])
def test_the_stored_efficiencies_are_those_measured(memory: int, bits: int) -> None:
    """A table that promised more would make every step fall short of its mean, and one of less would waste bits."""
    found = []
    for seed in range(max(3, 900 // bits)):
        u = direction(10 * bits, seed)
        found.append(measured(u, encode(u, Layout(10 * bits, bits, memory), Stream.of(seed))[1], bits))
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    assert abs(float(np.mean(found)) - efficiency(memory, bits)) < 0.015 + 4.0 * error


def test_the_efficiency_grows_with_memory_and_bits() -> None:
    """The codec divides by it: it must be a share of one, and never fall by more than what its measurement leaves open."""
    for memory in range(1, LARGEST_MEMORY + 1):
        row = [efficiency(memory, bits) for bits in range(1, 3000, 7)]
        assert all(0.0 < value < 1.0 for value in row)
        assert all(later >= value - 0.011 for value, later in zip(row, row[1:], strict=False))
    large = [efficiency(memory, 4096) for memory in (6, 8, 10, 12, 14, 16)]
    assert large == sorted(large)


@pytest.mark.parametrize("rate", [0.05, 0.2, 1.0])
def test_what_is_left_is_a_draw_of_the_mean_that_was_wanted(rate: float) -> None:
    """e = u + ε: a coefficient other than 1, or another variance than 1, and the chain would leave its own path."""
    dimensions, memory = 20_000, 10
    bits = int(rate * dimensions)
    u = of_bits(dimensions, bits, memory)
    _, e = encode(u, Layout(dimensions, bits, memory), Stream.of(2))
    assert float(u @ e) / float(u @ u) == pytest.approx(1.0, abs=0.03)
    residual = e - u
    assert 0.95 < float(residual.var()) < 1.03
    assert abs(float(residual.mean())) < 5.0 / math.sqrt(dimensions)
    assert float((residual**4).mean()) / float(residual.var()) ** 2 == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_mean_square_is_one_and_twice_the_divergence(rate: float) -> None:
    """⟨e²⟩ = 1 + 2 ln 2 · KL/D, KL in bits: noise that is only flipped towards u keeps 1, and a scaled one passes it."""
    dimensions, memory = 20_000, 10
    bits = int(rate * dimensions)
    u = of_bits(dimensions, bits, memory)
    kl = 0.5 * float(u @ u) / math.log(2.0)
    _, e = encode(u, Layout(dimensions, bits, memory), Stream.of(3))
    expected = 1.0 + 2.0 * math.log(2.0) * kl / dimensions
    assert float((e**2).mean()) == pytest.approx(expected, abs=0.02 + 5.0 * math.sqrt(2.0 / dimensions))


def test_the_rotation_spreads_a_direction_of_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large numbers overwhelm the bits that cover them: with the rotation undone, less of them must be met."""
    u = np.zeros(8192)
    u[:300] = direction(300)

    def mean() -> float:
        layout = Layout(8192, 800, 8)
        return float(np.mean([measured(u, encode(u, layout, Stream.of(seed))[1], 800) for seed in range(3)]))

    rotated = mean()
    monkeypatch.setattr("scorefield.coding.trellis._rotated", np.copy)
    assert rotated > mean() + 0.04


def test_more_bits_than_dimensions_are_used() -> None:
    """Above one bit a dimension a sample's label depends on several new bits: they must still bring it nearer."""
    found = []
    for rate in (0.5, 1, 2, 3):
        layout = Layout(600, int(600 * rate), 10)
        u = direction(600)
        found.append(float(u @ encode(u, layout, Stream.of(1))[1]))
    assert found == sorted(found)
    assert found[2] > 1.2 * found[0]


# ── chunks and memory ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("dimensions", "bits"), [(784_000, 400_000), (5000, 1024), (5000, 1023), (7, 5000), (9, 0)])
def test_chunks_have_the_bits_that_make_them_efficient(dimensions: int, bits: int) -> None:
    """Short chunks lose what the first L bits cannot choose; bits that no chunk takes are paid for nothing."""
    layout = Layout(dimensions, bits, 12)
    assert layout.chunks * layout.chunk_dimensions >= dimensions
    assert layout.chunks == 1 or layout.chunk_bits >= 256
    assert 0 <= bits - layout.chunks * layout.chunk_bits < max(1, layout.chunks)
    assert layout.starts[0] == 0
    assert layout.starts[-1] == layout.chunk_dimensions or bits == 0


def test_a_chunk_is_another_code_than_its_neighbour() -> None:
    """The same labels in each: what the same bits select of two chunks must have nothing in common."""
    layout = Layout(16_384, 1024, 6)
    e = np.empty(16_384)
    order = Stream.of(Stream.of(4).seed, 3).permutation(16_384)
    half = bytes(np.random.default_rng(0).bytes(64))
    e[:] = decode(half + half, layout, Stream.of(4))[order]
    assert layout.chunks == 2
    assert abs(float((e[:8192] * e[8192:]).mean())) < 5.0 / math.sqrt(8192)


def test_a_changed_bit_spoils_one_chunk_only() -> None:
    """Damage in one chunk must not run into another: their states begin anew."""
    layout, stream = Layout(16_384, 1024, 6), Stream.of(4)
    order = Stream.of(stream.seed, 3).permutation(16_384)
    data = bytearray(np.random.default_rng(0).bytes(128))
    before = decode(bytes(data), layout, stream)[order]
    data[63] ^= 1
    after = decode(bytes(data), layout, stream)[order]
    assert np.array_equal(before[8192:], after[8192:])
    assert not np.array_equal(before[:8192], after[:8192])


def test_groups_of_chunks_are_found_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many chunks are searched at a time is memory's matter: the section must be the same."""
    layout, u = Layout(9000, 3000, 5), direction(9000)
    together = encode(u, layout, Stream.of(1))
    monkeypatch.setattr("scorefield.coding.trellis._SIDE_BY_SIDE", 1)
    alone = encode(u, layout, Stream.of(1))
    assert np.allclose(float(u @ alone[1]), float(u @ together[1]), rtol=1e-5)
    assert (np.frombuffer(alone[0], np.uint8) == np.frombuffer(together[0], np.uint8)).mean() > 0.9


def test_labels_in_portions_are_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bits over many dimensions: a block of states that began at another place would find another path."""
    layout, u = Layout(4000, 12, 8), direction(4000)
    whole = encode(u, layout, Stream.of(1))
    monkeypatch.setattr("scorefield.coding.trellis._LABELS_AT_ONCE", 5000)
    portions = encode(u, layout, Stream.of(1))
    assert float(u @ portions[1]) == pytest.approx(float(u @ whole[1]), rel=1e-5)


@pytest.mark.parametrize("bits", [1, 4, 50])
def test_a_short_section_of_a_large_group_needs_little_memory(bits: int) -> None:
    """2^L labels of D/n numbers would be gigabytes: twenty bytes sent to a reader could fill its machine."""
    layout = Layout(200_000, bits, LARGEST_MEMORY)
    tracemalloc.start()
    decode(bytes(layout.bytes), layout, Stream.of(1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * layout.dimensions


def test_a_sender_needs_little_memory_for_a_short_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bits over 100,000 dimensions have 25 million labels at L = 10, 100 MB: a block of them at a time is enough."""
    monkeypatch.setattr("scorefield.coding.trellis._LABELS_AT_ONCE", 1 << 18)
    layout = Layout(100_000, 4, 10)
    tracemalloc.start()
    encode(direction(100_000), layout, Stream.of(1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("memory", [-1, 0, LARGEST_MEMORY + 1])
def test_a_memory_that_no_trellis_has_is_refused(memory: int) -> None:
    """Without states there is no search, and 2^L of them must fit a machine."""
    with pytest.raises(UsageError, match=f"memory of 1 to 16 bits, got {memory}; 12 is usual"):
        Layout(10, 5, memory)


@pytest.mark.parametrize(("dimensions", "bits"), [(-1, 5), (5, -1)])
def test_negative_sizes_are_refused(dimensions: int, bits: int) -> None:
    """They would be an empty section, silently."""
    with pytest.raises(UsageError, match="give numbers ≥ 0"):
        Layout(dimensions, bits, 12)
