r"""Files of many examples: streams one after the other, pictures of any size as tiles, and what each was called.

A picture larger than the model's shape (H, W) is cut into ⌈h/H⌉·⌈w/W⌉ tiles in reading order, the last ones filled up by
repeating the edge; every tile is coded as an example of its own, so nothing is known of a neighbour's edge: the model has
never seen one. A directory is written only where it says something: pictures of the model's size that are called 000000,
000001 … need none where they are in one stream, and their number where they are in several.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from scorefield.coding.bitstream import CodecError, Reader, TruncatedHeaderError, pack_directory, read_directory
from scorefield.coding.codec import SEEDS, Codec, Decoded, Ledger
from scorefield.errors import UsageError

_LARGEST_SIDE = 1 << 20
_MOST_TILES = 1 << 24
_MOST_VALUES = 1 << 26


@final
@dataclass(frozen=True, eq=False)
class Picture:
    """One thing to be coded.

    Attributes:
        values: (C, *d) whole numbers from 0, of the model's shape or, for images, of any height and width.
        name: what it is called; "" for its number.
        is_grey: whether it was grey and was made colour, for a model of colour.
    """

    values: np.ndarray
    name: str = ""
    is_grey: bool = False


@final
@dataclass(frozen=True, eq=False)
class Unpacked:
    """What an archive, or the front of one, gives.

    Attributes:
        pictures: as many as can be shown.
        lossless: whether all are there and exact.
        exact: share of the values that are exact, of the examples that were reached.
        steps: of the chain that were received in the last stream, of how many.
        examples: how many examples (tiles) were reached.
    """

    pictures: tuple[Picture, ...]
    lossless: bool
    exact: float
    steps: tuple[int, int]
    examples: int


def pack(
    codec: Codec,
    pictures: Sequence[Picture],
    *,
    seed: int = 0,
    verify: Callable[[bytes, np.ndarray], bool] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[bytes, list[Ledger]]:
    """Pictures as an archive.

    Args:
        codec: of the model.
        pictures: at least one.
        seed: of the shared randomness, 0 to 15; with `verify` the first that is tried.
        verify: judges a stream by decoding it; one that does not come back is made anew with another seed.
        progress: told of the examples that are done.

    Raises:
        UsageError: nothing to pack, or pictures that are not of the model's kind.
        CodecError: no seed's stream comes back, where `verify` is given.
    """
    if not pictures:
        raise UsageError("there is nothing to compress; give files of pictures, or data")
    examples = np.concatenate([_tiles(picture.values, codec.profile.shape) for picture in pictures])
    streams, ledgers = [_directory(pictures, codec)], []
    for first in range(0, len(examples), codec.group):
        group = examples[first : first + codec.group]
        data, ledger = _verified(codec, group, seed, verify)
        streams.append(data)
        ledgers.append(ledger)
        progress(first + len(group))
    return b"".join(streams), ledgers


def _verified(
    codec: Codec, group: np.ndarray, seed: int, verify: Callable[[bytes, np.ndarray], bool] | None
) -> tuple[bytes, Ledger]:
    for attempt in range(SEEDS if verify else 1):
        data, ledger = codec.encode(group, seed=(seed + attempt) % SEEDS)
        if verify is None or verify(data, group):
            return data, ledger
    raise CodecError(
        "no stream decodes to what was compressed, with any seed: this model's network is not computed the same twice here; nothing is written"
    )


def unpack(codec: Codec, data: bytes, *, strict: bool = False) -> Unpacked:
    """The pictures of an archive; of the front of one, those that its bytes reach.

    Raises:
        CodecError: damaged, or cut where `strict`.
        ModelMismatchError: of another model or profile.
        TruncatedHeaderError: cut before anything can be shown.
    """
    reader = Reader(data)
    entries = _entries(read_directory(reader))
    parts: list[Decoded] = []
    is_cut = False
    while reader.position < len(data):
        try:
            parts.append(codec.read(reader))
        except TruncatedHeaderError:
            if not parts:
                raise
            is_cut = True
            break
        if not parts[-1].lossless:
            break
        if entries is None and reader.position < len(data):
            raise CodecError("bytes follow the stream, and no directory says what they are; the file is damaged")
    if not parts:
        raise TruncatedHeaderError("the file ends before its first stream; nothing can be shown: get the whole file")
    examples = np.concatenate([part.values for part in parts])
    pictures, wanted = _assembled(examples, entries, codec.profile.shape)
    if len(examples) > wanted:
        raise CodecError(f"the archive's directory is of {wanted} examples, and there are more; the file is damaged")
    lossless = not is_cut and all(part.lossless for part in parts) and len(examples) == wanted
    if strict and not lossless:
        raise CodecError("the archive is cut, so its pictures are not exact; get the whole file, or leave --strict out")
    shares = [part.exact * len(part.values) for part in parts]
    return Unpacked(pictures, lossless, sum(shares) / len(examples), parts[-1].steps, len(examples))


def _tiles(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A picture (C, h, w) as examples (n, C, H, W); what has the model's shape is one."""
    if values.shape == shape:
        return values[None]
    if len(shape) != 3 or values.ndim != 3 or values.shape[0] != shape[0] or not values.size:
        raise UsageError(
            f"the model is of shape {shape}, got {values.shape}; only the height and width of images may differ"
        )
    (_, high, wide), (_, height, width) = values.shape, shape
    rows, columns = -(-high // height), -(-wide // width)
    padded = np.pad(values, ((0, 0), (0, rows * height - high), (0, columns * width - wide)), mode="edge")
    tiles = padded.reshape(shape[0], rows, height, columns, width).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(tiles.reshape(rows * columns, *shape))


def _joined(tiles: np.ndarray, high: int, wide: int) -> np.ndarray:
    """The inverse of `_tiles`; tiles that are missing at the end leave 0."""
    _, channels, height, width = tiles.shape
    rows, columns = -(-high // height), -(-wide // width)
    whole = np.zeros((rows * columns, channels, height, width), dtype=tiles.dtype)
    whole[: len(tiles)] = tiles
    joined = whole.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return joined.reshape(channels, rows * height, columns * width)[:, :high, :wide]


def _directory(pictures: Sequence[Picture], codec: Codec) -> bytes:
    """What must be said of the pictures: nothing where each is called by its number and has the model's shape."""
    entries = [_entry(number, picture, codec.profile.shape) for number, picture in enumerate(pictures)]
    if not all(_is_entry(entry) for entry in entries) or any(
        picture.values.size > _MOST_VALUES for picture in pictures
    ):
        raise UsageError(
            f"a picture has at most {_MOST_VALUES:,} values, {_LARGEST_SIDE:,} a side and 4,095 characters of a name; cut it up"
        )
    if all(entry == [] for entry in entries):
        return b"" if len(entries) <= codec.group else pack_directory(str(len(entries)).encode())
    return pack_directory(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())


def _entry(number: int, picture: Picture, shape: tuple[int, ...]) -> list[Any]:
    """[name, grey, height, width], without what goes without saying at its end."""
    name = "" if picture.name == f"{number:06d}" else picture.name
    entry: list[Any] = [name, int(picture.is_grey)]
    entry += [] if picture.values.shape == shape else list(picture.values.shape[1:])
    while entry and entry[-1] in ("", 0):
        entry.pop()
    return entry


def _entries(data: bytes | None) -> list[list[Any]] | int | None:
    """A directory's entries, or their number, checked. Raises CodecError."""
    if data is None:
        return None
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        entries = None
    if type(entries) is int and 0 < entries <= _MOST_TILES:
        return entries
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise CodecError("the archive's directory is not one of scorefield; the file is damaged")
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) not in (0, 1, 2, 4):
        return False
    name, grey = entry[0] if entry else "", entry[1] if len(entry) > 1 else 0
    sides = entry[2:]
    is_size = all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides)
    return isinstance(name, str) and len(name) < 4096 and grey in (0, 1) and is_size


def _assembled(
    examples: np.ndarray, entries: list[list[Any]] | int | None, shape: tuple[int, ...]
) -> tuple[tuple[Picture, ...], int]:
    """The pictures that the examples make, and how many examples all pictures need."""
    if not isinstance(entries, list):
        return tuple(Picture(values, f"{k:06d}") for k, values in enumerate(examples)), entries or len(examples)
    pictures, first = [], 0
    for number, entry in enumerate(entries):
        name = entry[0] if entry and entry[0] else f"{number:06d}"
        is_grey, sides = bool(entry[1]) if len(entry) > 1 else False, entry[2:]
        if sides and len(shape) != 3:
            raise CodecError("the archive's directory has sizes for what is no image; the file is damaged")
        count = -(-sides[0] // shape[1]) * -(-sides[1] // shape[2]) if sides else 1
        if first + count > _MOST_TILES or count * math.prod(shape) > _MOST_VALUES:
            raise CodecError("the archive's directory asks for more tiles than can be; the file is damaged")
        if first < len(examples):
            tiles = examples[first : first + count].astype(np.uint16)
            pictures.append(Picture(_joined(tiles, *sides) if sides else tiles[0], name, is_grey))
        first += count
    return tuple(pictures), first
