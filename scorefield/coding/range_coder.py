r"""A range coder, byte by byte, as close to the information as its frequencies are.

The state is an interval [low, low + range) of 48-bit numbers. A symbol of the share [a, b)/2¹⁶ keeps that share of it; when the
range has fallen below 2⁴⁰ a byte is put out, and a carry runs back through those that are out (Martin 1979). The range never
has fewer than 40 bits, so a share is met to 2⁻²⁴. The end is the shortest number within the interval; a reader takes zeros
for what is past the end.
"""

from __future__ import annotations

from typing import final

import numpy as np

from scorefield.errors import UsageError

TOTAL_BITS = 16
_BITS, _LEAST = 48, 1 << 40
_MASK = (1 << _BITS) - 1


@final
class Encoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self._low, self._range, self._out = 0, 1 << _BITS, bytearray()

    def encode_many(self, lows: np.ndarray, highs: np.ndarray) -> None:
        """Code symbols of given shares, one after the other.

        Raises:
            UsageError: a share is empty or not within 0 … 2¹⁶.
        """
        _require_shares(lows, highs)
        start, size, out = self._low, self._range, self._out
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            unit = size >> TOTAL_BITS
            start += unit * low
            size = unit * (high - low)
            while size < _LEAST:
                if start > _MASK:
                    _carry(out)
                    start &= _MASK
                out.append(start >> (_BITS - 8))
                start = (start << 8) & _MASK
                size <<= 8
        self._low, self._range = start, size

    def finish(self) -> bytes:
        """Everything, with the shortest end; zeros at the end are left out, since a reader takes them for granted."""
        shifts = range(_BITS, -1, -8)
        rounded = (-(-self._low >> shift) << shift for shift in shifts)
        value = next(value for value in rounded if value < self._low + self._range)
        out = bytearray(self._out)
        if value > _MASK:
            _carry(out)
        return bytes(out + (value & _MASK).to_bytes(_BITS // 8, "big")).rstrip(b"\0")


def _require_shares(lows: np.ndarray, highs: np.ndarray) -> None:
    """An empty share would be coded for ever, and one out of range as another symbol."""
    wrong = np.flatnonzero((lows < 0) | (highs <= lows) | (highs > 1 << TOTAL_BITS))
    if len(wrong):
        low, high = lows[wrong[0]], highs[wrong[0]]
        raise UsageError(
            f"a symbol's share needs 0 ≤ low < high ≤ {1 << TOTAL_BITS}, got [{low}, {high}); give every symbol a frequency of 1 or more"
        )


def _carry(out: bytearray) -> None:
    """Add one to the last byte, and to those before it while they overflow."""
    place = len(out) - 1
    while out[place] == 255:
        out[place] = 0
        place -= 1
    out[place] += 1


@final
class Decoder:
    """Bytes in, symbols out; what is not there is read as zeros.

    Args:
        data: what `Encoder.finish` gave, or the front of it.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, _BITS // 8
        self._code, self._range = int.from_bytes(data[: _BITS // 8].ljust(_BITS // 8, b"\0"), "big"), 1 << _BITS

    def decode_rows(self, cumulative: np.ndarray, *, strict_prefix: bool = False) -> np.ndarray:
        """One symbol a row of cumulative frequencies; data that no encoder gives are read as some symbols.

        Args:
            cumulative: (n, V + 1) from 0 to 2¹⁶, rising.
            strict_prefix: whether the data are the front of more, so that a symbol is certain only if no bytes that may follow would
                change it; reading then ends before the first that is not.

        Returns:
            (n,) symbols, or as many as are certain.
        """
        code, size, position, data, count = self._code, self._range, self._position, self._data, len(self._data)
        symbols = []
        for row in cumulative:
            unit = size >> TOTAL_BITS
            code = min(code, (unit << TOTAL_BITS) - 1)  # of impossible data; without a bound it would grow for ever
            symbol = int(row.searchsorted(code // unit, side="right")) - 1
            low, high = int(row[symbol]), int(row[symbol + 1])
            if strict_prefix and position > count and code + (1 << 8 * (position - count)) > unit * high:
                break
            symbols.append(symbol)
            code -= unit * low
            size = unit * (high - low)
            while size < _LEAST:
                code = (code << 8) | (data[position] if position < count else 0)
                position += 1
                size <<= 8
        self._code, self._range, self._position = code, size, position
        return np.array(symbols, dtype=np.int64)
