r"""The bytes of a stream: a header that says how long everything is, the chain's sections, and the last stage.

A file is one stream or several, one after the other, with an optional directory before them. All numbers are little
endian; a varint has seven bits a byte, the least first. Version 1, format byte = version + 64·kind:

    directory   "SFZ" · byte (kind 2) · varint length · that many bytes (zlib) · u32 CRC of all this
    group       "SFZ" · byte (kind 0) · 8 bytes profile id · varint n · byte schedule · byte seed · T varints (bits of each section)
                · varint bytes of the last stage · varint r, then r varints (which examples are stored as they are, as gaps)
                · u32 CRC of the examples · u32 CRC of this header
                then T sections, each followed by its u16 CRC, the last stage with its u16 CRC, the r stored examples
    one         "SFZ" · byte (kind 1) · 4 bytes profile id · byte seed + 16·schedule · T varints · varint last-stage bytes
                · u16 CRC of this header, then the payload without section CRCs, then u16 CRC of the payload and u16 of the example

The header's CRC finds every damaged byte before anything is believed; lengths are bounded before anything is allocated.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from scorefield.errors import RefusedFileError

MAGIC = b"SFZ"
VERSION = 1
_GROUP, _ONE, _DIRECTORY = 0, 1, 2
_MOST_EXAMPLES, _MOST_VALUES = 1024, 1 << 20

_LARGEST_DIRECTORY = 1 << 24
_LARGEST_RATIO = 64


class CodecError(RefusedFileError):
    """A stream that is damaged, hostile or of an unknown format."""


class ModelMismatchError(CodecError):
    """A stream that was made with another model or another profile."""


class TruncatedHeaderError(CodecError):
    """A stream that ends within its header: nothing can be shown."""


def group_size(values: int) -> int:
    """The most examples of so many values each that are coded together: about a million values, and so some 100 MB."""
    return max(1, min(_MOST_EXAMPLES, _MOST_VALUES // values))


@final
@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Attributes:
        profile: the first bytes of the profile's id: 8, or 4 in a stream of one example.
        count: n, how many examples.
        schedule: the number of the profile's schedule.
        seed: of the shared randomness.
        bits: of each section.
        last: bytes of the last stage.
        stored: which examples are stored as they are.
        checksum: CRC-32 of the examples, 16 bits of it in a stream of one.
    """

    profile: bytes
    count: int
    schedule: int
    seed: int
    bits: tuple[int, ...]
    last: int
    stored: tuple[int, ...] = ()
    checksum: int = 0

    @property
    def is_one(self) -> bool:
        """Whether this is the short form for one example."""
        return len(self.profile) == 4

    def sections(self) -> list[int]:
        """The bytes of each section of the chain, without its CRC."""
        return [(bits + 7) // 8 for bits in self.bits]


@final
@dataclass
class Reader:
    """Bytes that are read from the front.

    Attributes:
        data: all of them.
        position: how many have been read.
    """

    data: bytes
    position: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes. Raises TruncatedHeaderError where there are fewer."""
        if count > len(self.data) - self.position:
            raise TruncatedHeaderError(
                f"the stream ends within its header, after {len(self.data)} bytes; it cannot be shown: get the whole file"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def up_to(self, count: int) -> bytes:
        """The next bytes, or as many of them as there are."""
        return self.take(min(count, len(self.data) - self.position))

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self, limit: int) -> int:
        """The next varint, which may not exceed a limit. Raises CodecError."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if value > limit or shift > 63:
                raise CodecError(
                    f"the stream's header asks for {value}, at most {limit} is possible; the file is damaged"
                )
            if byte < 128:
                return value


def varint(value: int) -> bytes:
    """A number ≥ 0 in seven bits a byte, the least first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def crc16(data: bytes) -> bytes:
    """CRC-16/XMODEM: every burst of up to 16 bits is found."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def crc32(data: bytes) -> bytes:
    """CRC-32 as zlib has it."""
    return zlib.crc32(data).to_bytes(4, "little")


def pack_header(header: Header) -> bytes:
    """A header as bytes, with its CRC."""
    sections = b"".join(varint(bits) for bits in header.bits) + varint(header.last)
    if header.is_one:
        start = MAGIC + bytes([VERSION + 64 * _ONE]) + header.profile + bytes([header.seed + 16 * header.schedule])
        return start + sections + crc16(start + sections)
    start = MAGIC + bytes([VERSION + 64 * _GROUP]) + header.profile + varint(header.count)
    gaps = [b - a for a, b in zip((-1, *header.stored), header.stored, strict=False)]
    stored = varint(len(gaps)) + b"".join(varint(gap - 1) for gap in gaps)
    whole = start + bytes([header.schedule, header.seed]) + sections + stored + header.checksum.to_bytes(4, "little")
    return whole + crc32(whole)


@dataclass(frozen=True)
class Limits:
    """What the profile says a stream can be.

    Attributes:
        profile: the id of the profile at hand; b"" takes any.
        steps: T of each schedule.
        values: D of one example.
        bits: the most a value may cost in one section.
    """

    profile: bytes
    steps: tuple[int, ...]
    values: int
    bits: int = 8


def read_header(reader: Reader, limits: Limits) -> Header:
    """The next header.

    Raises:
        CodecError: it is no header of this format, or damaged.
        ModelMismatchError: it belongs to another profile.
        TruncatedHeaderError: it is cut.
    """
    start = reader.position
    kind = _kind(reader)
    if kind not in (_GROUP, _ONE):
        raise CodecError("the stream is not where it should be; the file is damaged")
    profile = reader.take(4 if kind == _ONE else 8)
    if limits.profile[: len(profile)] != profile:
        raise ModelMismatchError(
            f"the stream was made with profile {profile.hex()}, and this model's is {limits.profile[: len(profile)].hex()}; give the run that compressed it"
        )
    return _one(reader, start, profile, limits) if kind == _ONE else _group(reader, start, profile, limits)


def _kind(reader: Reader) -> int:
    if reader.take(3) != MAGIC:
        raise CodecError(
            "this is no stream of scorefield (it does not begin with 'SFZ'); give a file that `scorefield compress` wrote"
        )
    version, kind = reader.byte() & 63, reader.data[reader.position - 1] >> 6
    if version != VERSION:
        raise CodecError(
            f"the stream has format version {version}, and this scorefield reads {VERSION}; update scorefield"
        )
    return kind


def _one(reader: Reader, start: int, profile: bytes, limits: Limits) -> Header:
    both = reader.byte()
    schedule, seed = both >> 4, both & 15
    bits, last = _lengths(reader, schedule, 1, limits)
    _check(crc16, reader, start, 2)
    return Header(profile, 1, schedule, seed, bits, last)


def _group(reader: Reader, start: int, profile: bytes, limits: Limits) -> Header:
    count = reader.varint(group_size(limits.values))
    if count == 0:
        raise CodecError("the stream has no examples; the file is damaged")
    schedule, seed = reader.byte(), reader.byte()
    bits, last = _lengths(reader, schedule, count, limits)
    stored: list[int] = []
    for _ in range(reader.varint(count)):
        stored.append((stored[-1] if stored else -1) + 1 + reader.varint(count))
    checksum = int.from_bytes(reader.take(4), "little")
    _check(crc32, reader, start, 4)
    if stored and stored[-1] >= count:
        raise CodecError(f"the stream stores example {stored[-1]} of {count}; the file is damaged")
    return Header(profile, count, schedule, seed, bits, last, tuple(stored), checksum)


def _lengths(reader: Reader, schedule: int, count: int, limits: Limits) -> tuple[tuple[int, ...], int]:
    if schedule >= len(limits.steps):
        raise CodecError(
            f"the stream asks for schedule {schedule}, the profile has {len(limits.steps)}; the file is damaged"
        )
    most = limits.bits * limits.values * count + 64
    bits = tuple(reader.varint(most) for _ in range(limits.steps[schedule]))
    return bits, reader.varint(4 * limits.values * count + 64)


def _check(crc: Callable[[bytes], bytes], reader: Reader, start: int, size: int) -> None:
    found = reader.data[start : reader.position]
    if crc(found) != reader.take(size):
        raise CodecError("the stream's header is damaged; nothing can be shown: get the file again")


def pack_directory(entries: bytes) -> bytes:
    """A directory as bytes."""
    packed = zlib.compress(entries, 9)
    whole = MAGIC + bytes([VERSION + 64 * _DIRECTORY]) + varint(len(packed)) + packed
    return whole + crc32(whole)


def read_directory(reader: Reader) -> bytes | None:
    """The directory at the front; None where there is none.

    Raises:
        CodecError: damaged, or unpacked larger than is believed.
        TruncatedHeaderError: cut.
    """
    if len(reader.data) < 4 or reader.data[:3] != MAGIC or reader.data[3] >> 6 != _DIRECTORY:
        return None
    _kind(reader)
    packed = reader.take(reader.varint(_LARGEST_DIRECTORY))
    _check(crc32, reader, 0, 4)
    unpacker, most = zlib.decompressobj(), min(_LARGEST_DIRECTORY, _LARGEST_RATIO * len(reader.data) + (1 << 16))
    try:
        entries = unpacker.decompress(packed, most)
    except zlib.error as error:
        raise CodecError(f"the stream's directory is damaged ({error})") from None
    if unpacker.unconsumed_tail:
        raise CodecError(f"the stream's directory is over {most} bytes; the file is damaged")
    return entries
