"""The range coder: what goes in comes out, in as many bytes as it is worth, and a cut stream gives nothing that is not true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.coding.range_coder import TOTAL_BITS, Decoder, Encoder
from scorefield.errors import UsageError

TOTAL = 1 << TOTAL_BITS


def random_rows(seed: int, count: int, symbols: int, power: float = 1.0) -> np.ndarray:
    """(count, symbols + 1) cumulative frequencies of 1 or more; a greater power makes them more uneven."""
    weights = np.random.default_rng(seed).random((count, symbols)) ** power
    frequencies = 1 + np.floor(weights / weights.sum(1, keepdims=True) * (TOTAL - symbols)).astype(np.int64)
    frequencies[:, -1] += TOTAL - frequencies.sum(1)
    return np.concatenate([np.zeros((count, 1), dtype=np.int64), frequencies.cumsum(1)], axis=1)


def likely(rows: np.ndarray, seed: int) -> np.ndarray:
    """Symbols drawn by their frequencies."""
    targets = np.random.default_rng(seed).integers(0, TOTAL, len(rows))
    return (rows[:, 1:] <= targets[:, None]).sum(1)


def encoded(rows: np.ndarray, symbols: np.ndarray) -> bytes:
    coder, places = Encoder(), np.arange(len(rows))
    coder.encode_many(rows[places, symbols], rows[places, symbols + 1])
    return coder.finish()


def information(rows: np.ndarray, symbols: np.ndarray) -> float:
    """Σ −log₂ p, in bits."""
    places = np.arange(len(rows))
    return float(-np.log2((rows[places, symbols + 1] - rows[places, symbols]) / TOTAL).sum())


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 40), st.sampled_from([1.0, 8.0, 60.0]), st.booleans())
def test_what_goes_in_comes_out_at_its_worth(seed: int, count: int, symbols: int, power: float, drawn: bool) -> None:
    """A share met with another on the way back changes a symbol; a lost bit a symbol or a long end shows in the length."""
    rows = random_rows(seed, count, symbols, power)
    values = likely(rows, seed) if drawn else np.random.default_rng(seed).integers(0, symbols, count)
    data = encoded(rows, values)
    assert np.array_equal(Decoder(data).decode_rows(rows), values)
    assert len(data) <= information(rows, values) / 8 + 2
    assert not data.endswith(b"\0")


def test_the_loss_is_below_a_millionth_of_a_bit() -> None:
    """A range kept narrower, 16 bits above the frequencies say, would lose 10⁻⁵ of each share."""
    rows, count = random_rows(1, 1, 3), 200_000
    values = np.zeros(count, dtype=np.int64)
    values[::7] = 2
    many = np.broadcast_to(rows, (count, 4))
    assert 8 * len(encoded(many, values)) - information(many, values) < 16 + 1e-6 * count


@pytest.mark.parametrize("place", ["first", "last", "between"])
def test_the_least_frequencies_are_coded(place: str) -> None:
    """A share of 1/65536 takes 16 bits, wherever it lies: at the ends the interval's border is the whole's."""
    low = {"first": 0, "last": TOTAL - 1, "between": 12345}[place]
    row = np.array(sorted({0, low, low + 1, TOTAL}))
    symbol = row.tolist().index(low)
    rows, values = np.broadcast_to(row, (1000, len(row))), np.full(1000, symbol)
    data = encoded(rows, values)
    assert np.array_equal(Decoder(data).decode_rows(rows), values)
    assert len(data) <= 2002


def test_a_certain_symbol_is_free() -> None:
    """A share of all must take no bits, however often."""
    rows = np.broadcast_to(np.array([0, TOTAL]), (100_000, 2))
    assert encoded(rows, np.zeros(100_000, dtype=np.int64)) == b""
    assert not Decoder(b"").decode_rows(rows[:10]).any()


def test_symbols_without_a_share_are_never_read() -> None:
    """A row with empty shares has equal borders; the symbol between them must not be chosen."""
    row = np.array([0, 0, 100, 100, 100, TOTAL, TOTAL])
    rows = np.broadcast_to(row, (500, len(row)))
    found = Decoder(np.random.default_rng(0).bytes(2000)).decode_rows(rows)
    assert set(found.tolist()) <= {1, 4}
    assert np.array_equal(Decoder(encoded(rows, found)).decode_rows(rows), found)


def test_nothing_is_no_bytes() -> None:
    """An end that wrote out the state would cost bytes for nothing."""
    assert Encoder().finish() == b""
    coder = Encoder()
    coder.encode_many(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    assert coder.finish() == b""
    assert Decoder(b"").decode_rows(np.empty((0, 3), dtype=np.int64)).shape == (0,)


def test_a_carry_runs_through_a_row_of_full_bytes() -> None:
    """A carry that stopped at the first byte would spoil all before it; bytes of 255 are what it must run through."""
    for length in range(1, 40):
        full = [(0x7FFF, 0x8000)] + [(TOTAL - 1, TOTAL)] * length
        for tail in [(TOTAL - 1, TOTAL), (1, 2), (0x8000, TOTAL)]:
            shares = np.array([*full, tail, (0x1234, 0x9876), (3, 50_000)])
            coder = Encoder()
            coder.encode_many(shares[:, 0], shares[:, 1])
            rows = np.stack([np.zeros(len(shares), dtype=np.int64), *shares.T, np.full(len(shares), TOTAL)], axis=1)
            found = Decoder(coder.finish()).decode_rows(rows)
            assert all(rows[i, k] == shares[i, 0] for i, k in enumerate(found))


def test_carries_do_happen() -> None:
    """Without one the test above would show nothing: shares of a third, at the top, must make a byte that is out change."""
    rows = np.broadcast_to(np.array([0, 43691, TOTAL]), (3000, 3))
    values = np.random.default_rng(5).integers(0, 2, 3000)
    coder, carried = Encoder(), 0
    for symbol in values:
        before = bytes(coder._out)
        coder.encode_many(rows[:1, symbol], rows[:1, symbol + 1])
        carried += not bytes(coder._out).startswith(before)
    assert carried > 0
    assert np.array_equal(Decoder(coder.finish()).decode_rows(rows), values)


def test_symbols_may_be_coded_in_portions() -> None:
    """A state that was not kept between two calls would begin again."""
    rows = random_rows(2, 400, 9, 4.0)
    values = likely(rows, 2)
    coder = Encoder()
    for row, symbol in zip(rows, values, strict=True):
        coder.encode_many(row[symbol : symbol + 1], row[symbol + 1 : symbol + 2])
    assert coder.finish() == encoded(rows, values)


def test_rows_may_be_read_in_portions() -> None:
    """A state that was not kept between two calls would begin again."""
    rows = random_rows(3, 300, 5)
    values = likely(rows, 3)
    reader = Decoder(encoded(rows, values))
    found = [reader.decode_rows(rows[first : first + 7]) for first in range(0, 300, 7)]
    assert np.array_equal(np.concatenate(found), values)


@pytest.mark.parametrize("power", [1.0, 30.0])
def test_every_front_of_a_stream_gives_true_symbols_only(power: float) -> None:
    """Zeros read in the place of what is missing look like symbols: one too many would be a pixel that was never there."""
    rows = random_rows(4, 400, 12, power)
    values = likely(rows, 4)
    data = encoded(rows, values)
    bits = -np.log2(np.diff(rows, axis=1)[np.arange(400), values] / TOTAL)
    counts = []
    for cut in range(len(data) + 1):
        reader = Decoder(data[:cut])
        found = reader.decode_rows(rows, strict_prefix=True)
        assert np.array_equal(found, values[: len(found)])
        counts.append(len(found))
        assert bits[: len(found)].sum() >= 8 * cut - 40 or len(found) == 400
    assert counts == sorted(counts)


@given(st.integers(0, 2**32), st.binary(max_size=12))
def test_certain_symbols_do_not_depend_on_what_follows(seed: int, follows: bytes) -> None:
    """A symbol called certain that other bytes behind the cut would change was not."""
    rows = random_rows(seed, 60, 6, 3.0)
    front = encoded(rows, likely(rows, seed))[:8]
    found = Decoder(front).decode_rows(rows, strict_prefix=True)
    assert np.array_equal(Decoder(front + follows).decode_rows(rows)[: len(found)], found)


@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_any_bytes_are_some_symbols(data: bytes, seed: int) -> None:
    """Damaged data are found by their checksum; before that nothing may be raised, and no symbol be out of its row."""
    rows = random_rows(seed, 100, 7, 20.0)
    for strict in (False, True):
        found = Decoder(data).decode_rows(rows, strict_prefix=strict)
        assert ((found >= 0) & (found < 7)).all()


def test_impossible_data_do_not_grow() -> None:
    """A number above its range that is carried along grows by each symbol's bits, and the time with its square."""
    rows = np.broadcast_to(np.array([0, 21845, TOTAL]), (20_000, 3))
    reader = Decoder(b"\xff" * 100_000)
    reader.decode_rows(rows)
    assert 0 <= reader._code < reader._range


@pytest.mark.parametrize(("low", "high"), [(5, 5), (9, 3), (-1, 5), (5, TOTAL + 1)])
def test_a_share_that_is_none_is_refused(low: int, high: int) -> None:
    """An empty share would be coded for ever, one out of range as another symbol."""
    coder = Encoder()
    with pytest.raises(UsageError, match="0 ≤ low < high ≤ 65536, got"):
        coder.encode_many(np.array([0, low]), np.array([7, high]))
    assert coder.finish() == b""
