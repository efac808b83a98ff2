"""Many encoded images → examples of one shape: from a folder, from shards, from a table's cells.

Every image is decoded once when the data are opened, so that what is damaged is known, and counted, before training
starts. The pixels are kept in memory where they fit into `MEMORY_BUDGET`; else they are decoded again when asked for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from scorefield.data.dataset import ArrayExamples, Dataset, Examples, Options, Skipped
from scorefield.data.images import (
    CHANNELS,
    FORMATS,
    Header,
    ImageError,
    Kind,
    Stream,
    decode,
    read_header,
    strict_pillow,
)
from scorefield.errors import UsageError

MEMORY_BUDGET = 2 << 30
BAD_LIMIT = 0.01
_CHUNK = 256
_SHOWN = 5

Result = TypeVar("Result")
Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Item:
    """One encoded image: a printable name, and how to open its bytes."""

    name: str
    open: Callable[[], Stream]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What became of a list of items: examples of the good ones, in order, and the reasons of the others."""

    examples: Examples
    kept: np.ndarray
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]

    def dataset(self, name: str, digest: str, labels: np.ndarray | None, class_names: tuple[str, ...]) -> Dataset:
        """The dataset of these images; the labels are those of the kept."""
        return Dataset(
            name=name,
            examples=self.examples,
            shape=self.shape,
            dtype=self.dtype,
            layout="image",
            digest=digest,
            labels=labels,
            class_names=class_names,
            skipped=self.skipped,
            notes=self.notes,
        )


@dataclass(frozen=True, eq=False)
class EncodedExamples:
    """Images decoded when they are asked for, several at a time."""

    items: Sequence[Item]
    kind: Kind
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Decode (n, C, H, W).

        Raises:
            UsageError: A file has vanished or changed since the data were opened.
        """
        items = [self.items[index] for index in indices]
        with strict_pillow():
            pixels = list(_in_threads(lambda item: _decoded(item, self.kind, self.size), items))
        for item, result in zip(items, pixels, strict=True):
            if isinstance(result, ImageError):
                raise UsageError(
                    f"{item.name}: {result}; it was intact when the data were opened: restore it and resume"
                )
        return np.stack([result for result in pixels if isinstance(result, np.ndarray)])


def decode_all(items: Sequence[Item], where: str, options: Options, skipped: Sequence[Skipped] = ()) -> Decoded:
    """Decode images to one shape and kind: grey if all are, 16-bit grey if all are, colour else.

    Args:
        items: The encoded images, in their final order.
        where: What they come from, for messages.
        options: The size to bring them to, without which they must all be of one; whether to go on if many are bad.
        skipped: What could not even be opened; counted with the bad.

    Raises:
        UsageError: No image, more than 1 % bad, or several sizes and none asked for.
    """
    with strict_pillow():
        headers = list(_in_threads(_header, items))
        good = [index for index, header in enumerate(headers) if isinstance(header, Header)]
        known = [header for header in headers if isinstance(header, Header)]
        bad = {index: str(header) for index, header in enumerate(headers) if isinstance(header, ImageError)}
        if not known:
            _check_bad(items, bad, skipped, where, skip_bad=True)
        kind, common = _common_kind(known), options.size or _common_size(known, where)
        examples, failed = _decode_good([items[index] for index in good], kind, common)
    bad |= {good[position]: reason for position, reason in failed.items()}
    all_skipped = _check_bad(items, bad, skipped, where, options.skip_bad)
    return Decoded(
        examples=examples,
        kept=np.array([index for index in good if index not in bad], dtype=np.int64),
        shape=(CHANNELS[kind], *common),
        dtype=np.dtype(np.uint16 if kind == "grey16" else np.uint8),
        skipped=all_skipped,
        notes=tuple(_notes(known, kind, options.size)),
    )


def _header(item: Item) -> Header | ImageError:
    return _attempt(item, read_header)


def _decoded(item: Item, kind: Kind, size: tuple[int, int]) -> np.ndarray | ImageError:
    return _attempt(item, lambda file: decode(file, kind, size))


def _attempt(item: Item, action: Callable[[Stream], Result]) -> Result | ImageError:
    """Open an item and do something with it; a failure is a value, so that it can cross threads and be counted."""
    try:
        with item.open() as file:
            return action(file)
    except ImageError as error:
        return error
    except FileNotFoundError:
        return ImageError("vanished")
    except OSError as error:
        return ImageError(f"cannot be read: {error.strerror or error}")


def _in_threads(function: Callable[[Argument], Result], arguments: Sequence[Argument]) -> Iterator[Result]:
    """Map in order over threads, a chunk at a time, so that an interrupt need not wait for all of it."""
    workers = min(8, len(os.sched_getaffinity(0)), len(arguments))
    if workers <= 1:
        yield from map(function, arguments)
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(arguments), _CHUNK):
            yield from pool.map(function, arguments[start : start + _CHUNK])


def _decode_good(items: Sequence[Item], kind: Kind, size: tuple[int, int]) -> tuple[Examples, dict[int, str]]:
    """Decode everything once: (examples without those that failed, reasons of those by position)."""
    dtype = np.uint16 if kind == "grey16" else np.uint8
    shape = (CHANNELS[kind], *size)
    fits = len(items) * int(np.prod(shape)) * np.dtype(dtype).itemsize <= MEMORY_BUDGET
    memory = np.empty((len(items) if fits else 0, *shape), dtype)
    failed: dict[int, str] = {}
    for position, result in enumerate(_in_threads(lambda item: _decoded(item, kind, size), items)):
        if isinstance(result, ImageError):
            failed[position] = str(result)
        elif fits:
            memory[position - len(failed)] = result
    kept = [item for position, item in enumerate(items) if position not in failed]
    return ArrayExamples(memory[: len(kept)]) if fits else EncodedExamples(kept, kind, size), failed


def _check_bad(
    items: Sequence[Item], bad: dict[int, str], skipped: Sequence[Skipped], where: str, skip_bad: bool
) -> tuple[Skipped, ...]:
    """Everything skipped, in order; too much of it, or nothing left, is an error."""
    everything = (*skipped, *(Skipped(items[index].name, reason) for index, reason in sorted(bad.items())))
    total = len(items) + len(skipped)
    if len(everything) == total:
        raise UsageError(
            f"{where}: no usable image; {_summary(everything) or 'there is none'}; give images of {', '.join(FORMATS)}"
        )
    if len(everything) > BAD_LIMIT * total and not skip_bad:
        raise UsageError(
            f"{where}: {len(everything)} of {total} images cannot be used (at most 1 % are passed over): "
            f"{_summary(everything)}; mend or remove them, or go on without them: train with --set data.skip_bad=true, or data --skip-bad"
        )
    return everything


def _summary(skipped: Sequence[Skipped]) -> str:
    by_reason: dict[str, list[str]] = {}
    for entry in skipped:
        by_reason.setdefault(entry.reason, []).append(entry.path)
    return "; ".join(
        f"{len(paths)} {reason} ({', '.join(paths[:_SHOWN])}{', …' if len(paths) > _SHOWN else ''})"
        for reason, paths in by_reason.items()
    )


def _common_kind(headers: Sequence[Header]) -> Kind:
    kinds = {header.kind for header in headers}
    if "colour" in kinds:
        return "colour"
    return "grey16" if kinds == {"grey16"} else "grey"


def _common_size(headers: Sequence[Header], where: str) -> tuple[int, int]:
    sizes = Counter((header.height, header.width) for header in headers)
    if len(sizes) == 1:
        return next(iter(sizes))
    listed = ", ".join(f"{height}×{width} ({count})" for (height, width), count in sizes.most_common(_SHOWN))
    more = f" and {len(sizes) - _SHOWN} others" if len(sizes) > _SHOWN else ""
    smallest = min(min(size) for size in sizes)
    raise UsageError(
        f"{where}: the images have several sizes (height×width): {listed}{more}; "
        f"bring them to one with --set data.size={smallest} (data --size {smallest}): resized and cropped to the centre"
    )


def _notes(headers: Sequence[Header], kind: Kind, size: tuple[int, int] | None) -> Iterator[str]:
    animated = sum(header.animated for header in headers)
    if animated:
        yield f"{animated} animated: only the first frame is used"
    kinds = Counter(header.kind for header in headers)
    if kind == "colour" and kinds["colour"] < len(headers):
        yield f"{len(headers) - kinds['colour']} grey among colour: read as colour"
    if kinds["grey16"] and kind != "grey16":
        yield f"{kinds['grey16']} of 16 bits among 8: reduced to 8 bits (v >> 8)"
    changed = sum((header.height, header.width) != size for header in headers)
    if size is not None and changed:
        yield f"{changed} resized and cropped to {size[0]}×{size[1]}"
