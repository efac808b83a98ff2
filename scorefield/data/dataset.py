"""What every source of data becomes: examples of one shape and type, read by index, with labels where there are any.

Examples are stored and handed out in the data's own units and dtype, channels first: (n, C, *d), or (n, D) for points.
The way to model space and back is a `Representation`; nothing here knows of it, or of torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from scorefield.data.conditions import checked_conditions
from scorefield.errors import UsageError

Layout = Literal["image", "array"]
"""How results are laid out: "image" has its channels last, or none at all where there is one; "array" is as stored."""

Channels = Literal["first", "last", "none"]
"""Where a stored array has its channels: (n, C, *d), (n, *d, C) or (n, *d)."""

MAX_CLASSES = 10_000
_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 1 << 20


@runtime_checkable
class Examples(Protocol):
    """Examples that can be read by index, in any order and from any thread."""

    def __len__(self) -> int:
        """The number of examples."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read (n, C, *d) for n indices."""


@dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples in one array, in memory or memory-mapped."""

    array: np.ndarray
    channels: Channels = "first"

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read (n, C, *d) for n indices, as a new contiguous array in native byte order."""
        return np.ascontiguousarray(_channels_first(native(self.array[indices]), self.channels))


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of other examples, in an order of their own."""

    examples: Examples
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read (n, C, *d) for n positions in this choice."""
        return self.examples.read(self.indices[indices])


@dataclass(frozen=True)
class Options:
    """How to read data, as `open_data` was told: it explains each."""

    size: tuple[int, int] | None = None
    layout: str | None = None
    skip_bad: bool = False
    follow_links: bool = False
    condition: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A file or entry that is not used, and why. The path is printable, whatever bytes the name is made of."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one shape and dtype with their labels and conditions; made by `open_data`.

    Attributes:
        name: What it was opened as, for people.
        examples: Where the examples are read from.
        shape: The shape of one example, channels first: (C, *d), or (D,) for points.
        dtype: The dtype of the data, and of results drawn from a model of them.
        layout: "image": results have channels last, or none where C = 1; "array": results are laid out as `shape`.
        digest: SHA-256 of what the data are (names and sizes of files, contents of arrays): a resumed run compares it.
        labels: Class of each example, 0 … classes − 1, or None.
        class_names: One name a class, in the order of the labels.
        skipped: What was left out, and why.
        notes: What was decided or noticed when the data were read, one sentence each.
        levels: For integer data (lowest value, number of values) where the source knows them, else None.
        conditions: (n, k) float64, the numbers that the examples come with, in their own units; or None.
        condition_names: One name each of the k numbers.
    """

    name: str
    examples: Examples
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: Layout
    digest: str
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    levels: tuple[int, int] | None = None
    conditions: np.ndarray | None = None
    condition_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def classes(self) -> int:
        """The number of classes, 0 without labels."""
        return len(self.class_names)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read examples: (n, C, *d) for n indices, in the data's own units and dtype, always a new array.

        Raises:
            IndexError: An index is not below the number of examples.
            UsageError: A file has vanished or changed since the data were opened.
        """
        return self.examples.read(np.asarray(indices, dtype=np.int64))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The dataset of these examples in this order; its digest tells it from the whole."""
        indices = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.digest.encode() + indices.astype("<i8").tobytes()).hexdigest()
        labels = None if self.labels is None else self.labels[indices]
        conditions = None if self.conditions is None else self.conditions[indices]
        chosen = Chosen(self.examples, indices)
        return replace(self, examples=chosen, labels=labels, conditions=conditions, digest=digest)

    def with_labels(self, raw: np.ndarray) -> Dataset:
        """The dataset with other labels: whole numbers or names, one an example."""
        labels, class_names = class_labels(raw, len(self))
        digest = hashlib.sha256(self.digest.encode() + labels.astype("<i8").tobytes()).hexdigest()
        return replace(self, labels=labels, class_names=class_names, digest=digest)

    def with_conditions(self, raw: Any, names: Sequence[str] = ("condition",)) -> Dataset:
        """The dataset with other conditions, (n,) or (n, k) numbers; the digest covers them.

        Raises:
            UsageError: No numbers, not one row an example, or a value that is not finite.
        """
        rows, names = checked_conditions(raw, names, len(self))
        digest = hashlib.sha256(f"{self.digest} {names}".encode() + rows.astype("<f8").tobytes()).hexdigest()
        return replace(self, conditions=rows, condition_names=names, digest=digest)


def class_labels(raw: np.ndarray, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes 0 … K − 1 in the order of their values, and name them: ((n,) int64, K names).

    Raises:
        UsageError: Not one label an example, not whole numbers or names, or more than 10,000 classes.
    """
    raw = np.asarray(raw)
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.shape != (count,):
        raise UsageError(
            f"labels need one entry an example, shape ({count},); got shape {raw.shape}: pass the labels of these data"
        )
    if not are_class_labels(raw):
        raise UsageError(
            f"labels must be whole numbers or names; got {raw.dtype}: convert them with labels.astype(int)"
        )
    values, labels = np.unique(raw, return_inverse=True)
    if len(values) > MAX_CLASSES:
        raise UsageError(
            f"labels have {len(values)} classes; at most {MAX_CLASSES} are possible: group them, or leave them out"
        )
    whole = values.dtype.kind not in "US"
    return labels.astype(np.int64), tuple(str(int(value)) if whole else str(value) for value in values)


def are_class_labels(raw: np.ndarray) -> bool:
    """Whether values can number or name classes: integers, booleans, strings, or floats that are whole."""
    if raw.dtype.kind == "f":
        return bool(np.all(np.isfinite(raw)) and np.all(raw == np.round(raw)))
    return raw.dtype.kind in "iubUS"


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; itself where it is so already."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _channels_first(array: np.ndarray, channels: Channels) -> np.ndarray:
    if channels == "last":
        return np.moveaxis(array, -1, 1)
    return array[:, None] if channels == "none" else array


def array_digest(array: np.ndarray, labels: np.ndarray | None) -> str:
    """SHA-256 of dtype, shape, contents and labels; of arrays above 64 MiB, 64 blocks of 1 MiB spread evenly."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    starts: Sequence[int] = range(0, len(array), rows)
    if len(starts) > _SAMPLED_BLOCKS:
        starts = [round(position) for position in np.linspace(0, len(array) - rows, _SAMPLED_BLOCKS)]
    for start in starts:
        digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    if labels is not None:
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()
