r"""A codec of one model: lossy at every prefix, exact at the end.

    z ← α₀ m + e₀                                         shared pseudo-random numbers, which cost nothing
    for every step:   x̂ ← D(z),   d = p (x − x̂)/q
                      e ← a noise out of 2ⁿ shared ones that looks like a draw of N(d, I): its number is sent, n ≈ ½|d|²/ln 2
                      z ← c z + p x̂ + q e
    then every value, exactly, by the law that `pixels` finds from z, D(z) and the values before it

The receiver has all but x, and so follows the same z: errors of the selected noise never accumulate, since every d is
measured from the z that was really reached (a closed loop). Sender and receiver agree because the network is computed in
float64 and rounded to a grid that is a million times coarser than its error, z after every step to another; all else is
exact or elementwise. Where a machine's rounding nevertheless differs, a checksum says so: never a wrong picture.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass
from typing import final

import numpy as np

from scorefield.coding import trellis
from scorefield.coding.bitstream import (
    CodecError,
    Header,
    Limits,
    Reader,
    crc16,
    group_size,
    pack_header,
    read_header,
)
from scorefield.coding.generator import Stream
from scorefield.coding.last_stage import decode_values, encode_values, nearest_levels
from scorefield.coding.profile import CodecProfile
from scorefield.coding.schedule import Node, Schedule, Step
from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError

_DENOISED_GRID, _NOISED_GRID = 2.0**12, 2.0**14
_PRIOR, _SELECTION = 1, 2

SEEDS = 16
"""How many seeds of the shared randomness there are."""


@final
@dataclass(frozen=True, eq=False)
class Decoded:
    """What a stream, or the front of one, gives.

    Attributes:
        values: (n, C, *d) whole numbers from 0 to V − 1.
        lossless: whether these are the examples, to the last value.
        steps: of the chain that were received, of how many.
        size: bytes that were used.
        exact: share of the values that are exact.
    """

    values: np.ndarray
    lossless: bool
    steps: tuple[int, int]
    size: int
    exact: float


@final
@dataclass(frozen=True, eq=False)
class Ledger:
    """Where a stream's bits went.

    Attributes:
        header: bits of the header and the checksums.
        chain: bits of each section.
        last: bits of the last stage.
        stored: bits of the examples that are stored as they are.
        ideal_chain: KL of each step in bits, along the path that was taken.
        ideal_last: −log₂ P of the values in the last stage.
        values: how many values there are.
    """

    header: int
    chain: tuple[int, ...]
    last: int
    stored: int
    ideal_chain: tuple[float, ...]
    ideal_last: float
    values: int

    @property
    def total(self) -> int:
        """All bits."""
        return self.header + sum(self.chain) + self.last + self.stored

    @property
    def bound(self) -> float:
        """The bound of the path that was taken: what coding without any loss would have cost."""
        return sum(self.ideal_chain) + self.ideal_last


@final
@dataclass(frozen=True, eq=False)
class Codec:
    """Encoder and decoder of one model and profile.

    Attributes:
        denoiser: the model's, in float64, without guidance.
        profile: what is shared beside it.
        batch: examples at a time in the network; it changes nothing in the stream. Float64 is fastest in small batches.
    """

    denoiser: Denoiser
    profile: CodecProfile
    batch: int = 8

    def encode(self, values: np.ndarray, *, seed: int = 0) -> tuple[bytes, Ledger]:
        """One stream of at most `group` examples.

        Args:
            values: (n, C, *d) whole numbers from 0 to V − 1.
            seed: of the shared randomness, 0 to 15.

        Raises:
            UsageError: examples of another shape, or values out of range.
        """
        self._check(values)
        if seed not in range(SEEDS):
            raise UsageError(f"the seed of the shared randomness is 0 to {SEEDS - 1}, got {seed}")
        kept = self._least(values, self._candidates(len(values)), seed)
        costly = np.flatnonzero(kept.costs > self.stored_bits)
        if len(values) == 1 and 8 * len(kept.data) > self.stored_bits:
            costly = np.array([0])
        if len(costly):
            fewer = self._encoded(values, kept.schedule, seed, tuple(costly.tolist()))
            kept = min(kept, fewer, key=lambda coded: len(coded.data))
        return kept.data, kept.ledger

    def decode(self, data: bytes, *, strict: bool = False) -> Decoded:
        """The examples of a stream; of the front of one, as good as it allows.

        Args:
            data: one stream.
            strict: whether a stream that is cut is an error.

        Raises:
            CodecError: damaged, cut where `strict`, or decoded to something else than was encoded.
            ModelMismatchError: of another model or profile.
            TruncatedHeaderError: cut before anything can be shown.
        """
        reader = Reader(data)
        decoded = self.read(reader)
        if reader.position < len(data):
            raise CodecError(f"{len(data) - reader.position} bytes follow the stream; the file is damaged")
        if strict and not decoded.lossless:
            raise CodecError(
                "the stream is cut, so its examples are not exact; get the whole file, or leave strict out"
            )
        return decoded

    def read(self, reader: Reader) -> Decoded:
        """The next stream's examples; the reader is left behind them. Raises as `decode` does."""
        start = reader.position
        header = read_header(reader, self.limits)
        parts = _Parts.of(reader, header, self.stored_bytes)
        alive = np.setdiff1d(np.arange(header.count), header.stored)
        values = np.zeros((header.count, *self.profile.shape), dtype=np.int64)
        values[alive], exact = self._followed(header, parts, len(alive))
        for place, stored in zip(header.stored, parts.stored, strict=False):
            values[place] = self._unpacked(stored)
            exact += values[place].size
        if parts.is_whole:
            self._verify(values, header, parts)
        done = len(parts.sections)
        whole = parts.is_whole and exact == values.size
        return Decoded(values, whole, (done, len(header.bits)), reader.position - start, exact / max(1, values.size))

    @property
    def limits(self) -> Limits:
        """What a stream for this codec can be."""
        steps = tuple(len(schedule.steps) for schedule in self.profile.schedules)
        return Limits(self.profile.id, steps, math.prod(self.profile.shape))

    @property
    def group(self) -> int:
        """The most examples of a stream."""
        return group_size(math.prod(self.profile.shape))

    @property
    def stored_bytes(self) -> int:
        """The bytes of an example stored as it is."""
        return (math.prod(self.profile.shape) * max(1, (self.profile.levels - 1).bit_length()) + 7) // 8

    @property
    def stored_bits(self) -> int:
        """The bits of an example stored as it is."""
        return 8 * self.stored_bytes

    def _check(self, values: np.ndarray) -> None:
        shape, levels = self.profile.shape, self.profile.levels
        if values.shape[1:] != shape or not 1 <= len(values) <= self.group:
            raise UsageError(
                f"a stream holds 1 to {self.group} examples of shape {shape}, got {values.shape}; cut them up"
            )
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= levels:
            raise UsageError(
                f"the codec is of whole numbers from 0 to {levels - 1}, got {values.dtype} from {values.min()} to {values.max()}"
            )

    def _candidates(self, count: int) -> list[int]:
        """The schedules worth trying: for one example all, as that is cheap; else the one whose expected cost is least."""
        schedules = self.profile.schedules
        if count == 1:
            return [number for number in range(len(schedules)) if number < 16]
        return [min(range(len(schedules)), key=lambda number: self._expected(number, count))]

    def _expected(self, number: int, count: int) -> float:
        """The bits that a chain is expected to cost for so many examples, with its share of the header."""
        memory, size = self.profile.schedules[number].memory, count * math.prod(self.profile.shape)
        sections = [bits * size for bits in self.profile.expected_bits[number]]
        return sum(bits / trellis.efficiency(memory, max(1, round(bits))) + 36.0 for bits in sections)

    def _least(self, values: np.ndarray, schedules: list[int], seed: int) -> _Coded:
        """The shortest of several streams."""
        return min((self._encoded(values, number, seed) for number in schedules), key=lambda coded: len(coded.data))

    def _encoded(self, values: np.ndarray, number: int, seed: int, stored: tuple[int, ...] = ()) -> _Coded:
        """One stream by a given schedule, with some examples stored as they are."""
        alive = np.setdiff1d(np.arange(len(values)), stored)
        chosen = values[alive]
        chain = self._chain(chosen, self.profile.schedules[number], seed)
        last, last_bits = encode_values(self.profile.pixels, chosen, chain.denoised, chain.noised)
        one = len(values) == 1 and not stored
        examples = self._packed_all(values)
        header = Header(
            self.profile.id[: 4 if one else 8],
            len(values),
            number,
            seed,
            tuple(chain.bits),
            len(last),
            stored,
            zlib.crc32(examples),
        )
        start = pack_header(header)
        kept = [self._packed(values[place]) for place in stored]
        body = _one_body(chain.sections, last, examples) if one else _group_body(chain.sections, last, kept)
        sizes = tuple(8 * len(section) for section in chain.sections)
        rest = 8 * (len(start) + len(body)) - sum(sizes) - 8 * len(last) - self.stored_bits * len(stored)
        ledger = Ledger(
            rest, sizes, 8 * len(last), self.stored_bits * len(stored), chain.ideal, float(last_bits.sum()), values.size
        )
        costs = np.zeros(len(values))
        costs[alive] = chain.costs + last_bits
        return _Coded(start + body, ledger, costs, number)

    def _chain(self, values: np.ndarray, schedule: Schedule, seed: int) -> _Chain:
        """The sender's way through the chain."""
        x = values * (2.0 / max(1, self.profile.levels - 1)) - 1.0
        size, per_nat = x.size, 1.0 / math.log(2.0)
        z, ideal, bits, sections = self._start(len(x), schedule.nodes[0], seed), [], [], []
        costs = np.zeros(len(x))
        for number, (node, step) in enumerate(zip(schedule.nodes, schedule.steps, strict=False)):
            denoised = self._denoised(z, node)
            wanted = (x - denoised) * (step.pull / step.std)
            nats = 0.5 * (wanted**2).reshape(len(x), math.prod(self.profile.shape)).sum(axis=1)
            ideal.append(float(nats.sum()) * per_nat)
            costs += nats * per_nat
            bits.append(_section_bits(ideal[-1], schedule.memory, size))
            layout = trellis.Layout(size, bits[-1], schedule.memory)
            section, noise = trellis.encode(wanted.ravel(), layout, Stream.of(seed, _SELECTION, number))
            sections.append(section)
            z = _moved(z, denoised, noise.reshape(z.shape), step)
        return _Chain(
            self._denoised(z, schedule.nodes[-1]), _clear(z, schedule.nodes[-1]), sections, bits, tuple(ideal), costs
        )

    def _followed(self, header: Header, parts: _Parts, count: int) -> tuple[np.ndarray, int]:
        """The receiver's way through what there is of the chain and the last stage: values, and how many are certain."""
        schedule = self.profile.schedules[header.schedule]
        z = self._start(count, schedule.nodes[0], header.seed)
        for number, section in enumerate(parts.sections):
            step = schedule.steps[number]
            layout = trellis.Layout(z.size, header.bits[number], schedule.memory)
            noise = trellis.decode(section, layout, Stream.of(header.seed, _SELECTION, number))
            z = _moved(z, self._denoised(z, schedule.nodes[number]), noise.reshape(z.shape), step)
        node = schedule.nodes[len(parts.sections)]
        denoised = self._denoised(z, node)
        if parts.last is None:
            return nearest_levels(denoised, self.profile.levels), 0
        whole = len(parts.last) == header.last
        return decode_values(self.profile.pixels, parts.last, denoised, _clear(z, node), whole=whole)

    def _start(self, count: int, node: Node, seed: int) -> np.ndarray:
        """z₀ = α₀ m + shared noise."""
        shape = (count, *self.profile.shape)
        mean = np.array(self.profile.mean).reshape(-1, *(1,) * (len(shape) - 2))
        noise = Stream.of(seed, _PRIOR).normal(math.prod(shape)).reshape(shape)
        return _on_grid(noise + node.alpha * mean, _NOISED_GRID)

    def _denoised(self, z: np.ndarray, node: Node) -> np.ndarray:
        """D(z), held within the data's range, on its grid: the one thing that a machine's rounding could touch."""
        import torch

        parts = []
        with torch.inference_mode():
            for first in range(0, len(z), self.batch):
                x_t = torch.from_numpy(z[first : first + self.batch] * node.scale)
                parts.append(self.denoiser(x_t, node.time).x0.cpu().numpy())
        found = np.concatenate(parts) if parts else z
        return _on_grid(np.clip(np.nan_to_num(found, nan=0.0), -1.0, 1.0), _DENOISED_GRID)

    def _verify(self, values: np.ndarray, header: Header, parts: _Parts) -> None:
        examples = self._packed_all(values)
        is_right = crc16(examples) == parts.check if header.is_one else zlib.crc32(examples) == header.checksum
        if not is_right:
            raise CodecError(
                "the stream decodes to something else than was compressed: it is damaged, or this machine rounds otherwise than the sender's; nothing is shown"
            )

    def _packed_all(self, values: np.ndarray) -> bytes:
        return values.astype("<u2").tobytes()

    def _packed(self, example: np.ndarray) -> bytes:
        """An example as it is: every value in as few bits as V needs."""
        width = max(1, (self.profile.levels - 1).bit_length())
        bits = (example.reshape(-1, 1) >> np.arange(width)) & 1
        return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()

    def _unpacked(self, data: bytes) -> np.ndarray:
        width, size = max(1, (self.profile.levels - 1).bit_length()), math.prod(self.profile.shape)
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: size * width].reshape(size, width)
        values = (bits.astype(np.int64) << np.arange(width)).sum(axis=1)
        return np.minimum(values, self.profile.levels - 1).reshape(self.profile.shape)


@dataclass(frozen=True, eq=False)
class _Coded:
    data: bytes
    ledger: Ledger
    costs: np.ndarray
    schedule: int


@dataclass(frozen=True, eq=False)
class _Chain:
    denoised: np.ndarray
    noised: np.ndarray
    sections: list[bytes]
    bits: list[int]
    ideal: tuple[float, ...]
    costs: np.ndarray


@dataclass(frozen=True, eq=False)
class _Parts:
    """What there is of a stream's body.

    Attributes:
        sections: of the chain, whole ones only.
        last: what there is of the last stage; None where it has not begun.
        stored: examples that are stored as they are.
        check: of the example, in a stream of one.
        is_whole: whether nothing is missing.
    """

    sections: list[bytes]
    last: bytes | None
    stored: list[bytes]
    check: bytes
    is_whole: bool

    @classmethod
    def of(cls, reader: Reader, header: Header, stored_bytes: int) -> _Parts:
        """The body behind a header, as far as it goes. Raises CodecError where a checksum is wrong."""
        return _parts_of_one(reader, header) if header.is_one else _parts_of_group(reader, header, stored_bytes)


def _parts_of_one(reader: Reader, header: Header) -> _Parts:
    sizes = header.sections()
    body = reader.up_to(sum(sizes) + header.last + 4)
    is_whole = len(body) == sum(sizes) + header.last + 4
    payload = body[:-4] if is_whole else body
    if is_whole and crc16(payload) != body[-4:-2]:
        raise CodecError("the stream is damaged; nothing is shown: get the file again")
    ends = np.cumsum([0, *sizes]).tolist()
    sections = [payload[a:b] for a, b in itertools.pairwise(ends) if b <= len(payload)]
    last = payload[ends[-1] : ends[-1] + header.last] if len(sections) == len(sizes) else None
    return _Parts(sections, last, [], body[-2:], is_whole)


def _parts_of_group(reader: Reader, header: Header, stored_bytes: int) -> _Parts:
    sections: list[bytes] = []
    for size in header.sections():
        section = reader.up_to(size + 2)
        if len(section) < size + 2:
            return _Parts(sections, None, [], b"", is_whole=False)
        sections.append(_unchecked(section))
    last = reader.up_to(header.last + 2)
    if len(last) < header.last + 2:
        return _Parts(sections, last[: header.last - 1], [], b"", is_whole=False)
    stored = [reader.up_to(stored_bytes) for _ in header.stored]
    whole = [example for example in stored if len(example) == stored_bytes]
    return _Parts(sections, _unchecked(last), whole, b"", is_whole=len(whole) == len(stored))


def _unchecked(section: bytes) -> bytes:
    """A section without its CRC. Raises CodecError where that is wrong."""
    if crc16(section[:-2]) != section[-2:]:
        raise CodecError("the stream is damaged; nothing is shown: get the file again")
    return section[:-2]


def _one_body(sections: list[bytes], last: bytes, examples: bytes) -> bytes:
    payload = b"".join(sections) + last
    return payload + crc16(payload) + crc16(examples)


def _group_body(sections: list[bytes], last: bytes, stored: list[bytes]) -> bytes:
    return b"".join(part + crc16(part) for part in (*sections, last)) + b"".join(stored)


def _section_bits(ideal: float, memory: int, size: int) -> int:
    """How many bits select the noise of a step whose KL is so many: more, since a trellis is not perfect."""
    bits = round(ideal / trellis.efficiency(memory, max(1, round(ideal))))
    return min(bits, 8 * size)


def _moved(z: np.ndarray, denoised: np.ndarray, noise: np.ndarray, step: Step) -> np.ndarray:
    """z′ = c z + p x̂ + q e, on its grid."""
    return _on_grid(step.carry * z + step.pull * denoised + step.std * noise, _NOISED_GRID)


def _clear(z: np.ndarray, node: Node) -> np.ndarray:
    """z/α."""
    return z * math.sqrt(1.0 + node.ratio * node.ratio)


def _on_grid(values: np.ndarray, grid: float) -> np.ndarray:
    """Values rounded to multiples of 1/grid."""
    return np.floor(values * grid + 0.5) / grid
