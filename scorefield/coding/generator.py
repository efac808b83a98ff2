r"""Shared randomness: the same numbers on every machine, from integers alone.

A word is SplitMix64's hash of a counter (Steele, Lea & Flood 2014). A word's five fields of 12 bits each choose one of 4096
normal quantiles Φ⁻¹((i + ½)/4096), kept here as whole numbers: nothing is computed that a machine could round otherwise.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_FIELD, _FIELDS = 12, 5

_SCALE = 4095.348799140446
"""The standard deviation of the table below."""

_QUANTILES = (
    "c-qBHIZnes6nzO!Vkd+xtYKfpDu_S`AtZz-kU%sPRB7laDLDW&5?7$&1RR9ZP%<9kW%e1{1U<d=Pn;44P%enYed&Mxv0uL|^5x%L"
    "`?s1Fw|oAUeRqHB_C5QHUDvJVo9zpC&3-p;?oGcI=Wa{BWM0)-chS9+b-P8rnJ)TU-q-H%3VG>SuAWo(GG{TlES_d%uj<WBZMy6#"
    "Z~E1arbX3s-9>qqulhxo`6gfNuOccAmx`k466>-iS93B`)l91PbYiot+o7uLVyYUIO(NB)Dl~brM@>kq*MuZerit^JhcC%~tZedy"
    "ly<%a%pRmXU{b&-n|@K}Qk`L>iAQKK-k^*$@eqS4Pbi|<(`HZ87>dbaIA(;Am=Q)}h8Uv^wMD%}*}^zwgoz#|DW@nyOjFDdwu!b0"
    "W+~<<7BEk^NU?-vf)%V1tYMvC1Dga}*v1Zav4?#epo2pk;TR`4#Tm|VflFNB8n?K^J-T?nBcAY#7rfyepZLNzI;GdrP5Hz70X>v5"
    "x&"
)
"""round(4096 Φ⁻¹((i + ½)/4096)) of the upper half: the differences, little endian, packed."""


@final
@dataclass(frozen=True)
class Stream:
    """An endless row of words.

    Attributes:
        seed: of 64 bits.
    """

    seed: int

    @classmethod
    def of(cls, *parts: int) -> Stream:
        """The stream that belongs to some numbers, in their order."""
        state = np.zeros(1, dtype=np.uint64)
        for part in parts:
            state = _mixed((state ^ np.uint64(part & (1 << 64) - 1)) * _MIXERS[1] + _GOLDEN)
        return cls(int(state[0]))

    def words(self, count: int, first: int = 0) -> np.ndarray:
        """(count,) words of 64 bits, from a place of the row on."""
        return self._at(np.arange(first, first + count, dtype=np.uint64))

    def normal(self, count: int, first: int = 0) -> np.ndarray:
        """(count,) standard normal numbers out of 4096 values, float64, from a place of their row on."""
        start = first // _FIELDS
        words = self.words(-(-(first + count) // _FIELDS) - start, start)[:, None]
        fields = words >> (np.arange(_FIELDS, dtype=np.uint64) * np.uint64(_FIELD))
        skipped = first - start * _FIELDS
        return _quantile(fields.ravel()[skipped : skipped + count])

    def normal_at(self, places: np.ndarray) -> np.ndarray:
        """The numbers of `normal` at some places of the row, without those between."""
        words, fields = np.divmod(places.astype(np.uint64), np.uint64(_FIELDS))
        return _quantile(self._at(words) >> (fields * np.uint64(_FIELD)))

    def signs(self, count: int) -> np.ndarray:
        """(count,) of −1 and 1, float64."""
        bits = np.unpackbits(self.words(-(-count // 64)).astype("<u8").view(np.uint8), bitorder="little")
        return 1.0 - 2.0 * bits[:count]

    def permutation(self, count: int) -> np.ndarray:
        """A permutation of 0 … count − 1."""
        return np.argsort(self.words(count), kind="stable").astype(np.int64, copy=False)

    def _at(self, places: np.ndarray) -> np.ndarray:
        """The words at some places of the row."""
        return _mixed(np.uint64(self.seed) + _GOLDEN * (places + np.uint64(1)))


def _mixed(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser."""
    words = (words ^ (words >> np.uint64(30))) * _MIXERS[0]
    words = (words ^ (words >> np.uint64(27))) * _MIXERS[1]
    return words ^ (words >> np.uint64(31))


def _quantile(fields: np.ndarray) -> np.ndarray:
    """The normal numbers of the lowest twelve bits."""
    return _table()[(fields & np.uint64((1 << _FIELD) - 1)).astype(np.int64)]


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """The 4096 quantiles with variance 1."""
    steps = np.frombuffer(zlib.decompress(base64.b85decode("".join(_QUANTILES))), dtype="<u2")
    upper = np.cumsum(steps.astype(np.int64))
    table = np.concatenate([-upper[::-1], upper]) / _SCALE
    table.flags.writeable = False
    return table
