"""Arrays as data: which axis is what, which values are refused, and safe reading of .npy and .npz files.

**The rule of the axes** (the first axis always counts the examples, N):

=============  ==========================================  ===========================================================
rank           integers                                    floats
=============  ==========================================  ===========================================================
2              points (N, D)                               points (N, D)
3              grey images (N, H, W)                       series (N, C, L); grey images (N, H, H) where square
4              images (N, H, W, C)                         images (N, C, H, W)
5              volumes (N, D, H, W, C)                     volumes (N, C, D, H, W)
=============  ==========================================  ===========================================================

At rank 4 and 5 the other end is taken where it alone has 1 to 4 entries: (N, 3, 32, 32) bytes are channels first,
(N, 32, 32, 3) floats channels last. `layout="channels-first"`, `"channels-last"` or `"no-channels"` says it outright.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from scorefield.data.dataset import ArrayExamples, Channels, Dataset, are_class_labels, array_digest, class_labels
from scorefield.errors import UsageError, unknown_name

LAYOUTS: dict[str, Channels] = {"channels-first": "first", "channels-last": "last", "no-channels": "none"}
SAMPLE_KEYS = ("samples", "x", "images", "data", "X", "x_train", "arr_0")
LABEL_KEYS = ("labels", "y", "classes", "label", "y_train")
MAX_RANK = 5
MEMORY_MAPPED_ABOVE = 1 << 28
CHUNK_BYTES = 1 << 24
_NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 1 << 16


def array_limit() -> int:
    """The most bytes one array in memory may have: 16 GiB, or half of this machine's memory where that is less."""
    return min(16 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


def array_dataset(
    array: np.ndarray,
    *,
    name: str,
    labels: np.ndarray | None = None,
    layout: str | None = None,
    levels: tuple[int, int] | None = None,
    notes: Iterable[str] = (),
) -> Dataset:
    """Make a dataset of an array (N, …) by the rule of the axes above.

    Raises:
        UsageError: Wrong dtype, rank or size, or a value that is not finite (with its index).
    """
    array = checked(array, name)
    channels = channel_axis(array, layout, name)
    examples = ArrayExamples(array, channels)
    numbers, class_names = (None, ()) if labels is None else class_labels(labels, len(array))
    return Dataset(
        name=name,
        examples=examples,
        shape=examples.read(np.arange(1)).shape[1:],
        dtype=array.dtype.newbyteorder("="),
        layout="array" if channels == "first" else "image",
        digest=array_digest(array, numbers),
        labels=numbers,
        class_names=class_names,
        notes=tuple(notes),
        levels=levels,
    )


def channel_axis(array: np.ndarray, layout: str | None, name: str) -> Channels:
    """Where the channels of an array (N, …) are, by the option `layout` or by the rule of the axes.

    Raises:
        UsageError: An unknown layout, or one that the rank cannot have.
    """
    if layout is not None:
        return _chosen_axis(array, layout, name)
    if array.ndim == 2:
        return "first"
    floating = array.dtype.kind == "f"
    if array.ndim == 3:
        return "first" if floating and array.shape[1] != array.shape[2] else "none"
    first, last = (1 <= array.shape[axis] <= 4 for axis in (1, -1))
    if floating:
        return "last" if last and not first else "first"
    return "first" if first and not last else "last"


def _chosen_axis(array: np.ndarray, layout: str, name: str) -> Channels:
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    channels = LAYOUTS[layout]
    if (channels == "none" and array.ndim == MAX_RANK) or (channels == "last" and array.ndim == 2):
        raise UsageError(f"{name}: an array of shape {array.shape} cannot be '{layout}'; leave the layout out")
    return channels


def checked(array: np.ndarray, name: str) -> np.ndarray:
    """The array itself, if a model can be made of it.

    Raises:
        UsageError: Wrong dtype, rank or size, or a value that is not finite (with its index).
    """
    check_header(array.shape, array.dtype, name)
    if array.dtype.kind == "f":
        _check_finite(array, name)
    return array


def check_header(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse what no values could mend: dtype, rank and size.

    Raises:
        UsageError: With what was found and how to mend it.
    """
    _check_dtype(dtype, name)
    if not 2 <= len(shape) <= MAX_RANK:
        fix = (
            "reshape points to (N, 1)"
            if len(shape) == 1
            else f"an array needs an axis of examples and at most {MAX_RANK - 1} more"
        )
        raise UsageError(f"{name}: got an array of rank {len(shape)}, shape {shape}; {fix}")
    if min(shape) <= 0:
        raise UsageError(
            f"{name}: an array of shape {shape} has no values; give at least one example of at least one value"
        )


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    fixes = {
        "O": "save one array of numbers (all examples of one shape); pickled objects are never loaded",
        "V": "save one plain array; fields of a structured array can be stacked with np.stack",
        "c": "save real and imaginary part as two channels: np.stack([x.real, x.imag], axis=1)",
        "b": "convert it with x.astype(np.uint8)",
        "U": "save numbers, not text",
        "S": "save numbers, not text",
    }
    if dtype.kind not in "iuf":
        raise UsageError(
            f"{name}: cannot model values of dtype {dtype}; {fixes.get(dtype.kind, 'convert it to float32')}"
        )
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise UsageError(f"{name}: cannot model values of dtype {dtype}; convert it with x.astype(np.float64)")


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Successive (start, rows) of an array, 16 MiB at a time, so that a memory-mapped file is never held whole."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _check_finite(array: np.ndarray, name: str) -> None:
    for start, rows in chunks(array):
        finite = np.isfinite(rows)
        if not finite.all():
            first = np.unravel_index(int(np.argmin(finite)), rows.shape)
            index = (start + int(first[0]), *(int(i) for i in first[1:]))
            raise UsageError(
                f"{name}: the value at index {index} is {rows[first]}; remove or replace what is not finite"
            )


def read_npy(path: Path, any_values: bool = False) -> np.ndarray:
    """Read a .npy file: into memory, or memory-mapped above 256 MiB; its header is checked before that.

    Args:
        path: The file.
        any_values: Whether values that cannot be modelled, such as labels, are let through.

    Raises:
        UsageError: Not a NumPy file, a header that promises more than the file holds, or no values to model.
    """
    with path.open("rb") as file:
        shape, dtype = _read_header(file, str(path))
        if not any_values:
            check_header(shape, dtype, str(path))
        _check_size(shape, dtype, path.stat().st_size - file.tell(), str(path))
    mapped = math.prod(shape) * dtype.itemsize > MEMORY_MAPPED_ABOVE
    return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


def read_npz(path: Path, leave: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Read samples, labels and notes from a .npz file; only the entries that are used are decompressed.

    The samples are `samples`, `x`, `images`, `data`, `X`, `x_train`, `arr_0` or the only array; labels are `labels`,
    `y`, `classes`, `label` or `y_train`. What is to be left, as it is wanted for something else, is neither.

    Raises:
        UsageError: Not a .npz file, no such array, or an entry that cannot be modelled or is larger than the limit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {key: info for key, info in _entries(archive).items() if key not in leave}
            key = _samples_key(entries, str(path))
            samples = _read_entry(archive, entries[key], f"{path}[{key}]")
            labels, notes = _npz_labels(archive, entries, len(samples), path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{path}: not an intact .npz file ({error}); write it again with np.savez") from error
    return samples, labels, notes


def read_npz_arrays(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of a .npz file by their keys, whatever their values.

    Raises:
        UsageError: Not a .npz file, no such key (with the nearest), or an entry that is damaged or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive)
            for key in keys:
                if key not in entries:
                    raise unknown_name(f"key of {path}", key, entries)
            return [_read_entry(archive, entries[key], f"{path}[{key}]", any_values=True) for key in keys]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{path}: not an intact .npz file ({error}); write it again with np.savez") from error


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a .npz file by their keys."""
    infos = (info for info in archive.infolist() if info.filename.endswith(".npy"))
    return {info.filename.removesuffix(".npy"): info for info in infos}


def _samples_key(entries: dict[str, zipfile.ZipInfo], name: str) -> str:
    for key in SAMPLE_KEYS:
        if key in entries:
            return key
    others = [key for key in entries if key not in LABEL_KEYS]
    if len(others) == 1:
        return others[0]
    found = ", ".join(sorted(others)[:10]) or "none"
    raise UsageError(f"{name}: cannot tell which array holds the samples (found: {found}); name it 'samples'")


def _npz_labels(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], count: int, path: Path
) -> tuple[np.ndarray | None, list[str]]:
    key = next((key for key in LABEL_KEYS if key in entries), None)
    if key is None:
        return None, []
    labels = _read_entry(archive, entries[key], f"{path}[{key}]", any_values=True)
    if labels.dtype.kind == "f" and not are_class_labels(labels):
        return None, [f"'{key}' is not used: its values are not whole numbers, so they name no classes"]
    if len(labels) != count:
        raise UsageError(f"{path}: {count} samples but {len(labels)} labels in '{key}'; save one label a sample")
    return labels, []


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, any_values: bool = False) -> np.ndarray:
    with archive.open(info) as file:
        shape, dtype = _read_header(file, name)
        if not any_values:
            check_header(shape, dtype, name)
        _check_size(shape, dtype, info.file_size - file.tell(), name)
        check_memory(info.file_size, name)
    with archive.open(info) as file:
        try:
            return npy_format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"{name}: {error}; the file is damaged or cut short: write it again") from error


def _read_header(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        version = npy_format.read_magic(file)
        if version not in readers:
            raise ValueError(f"format version {version}")
        shape, _, dtype = readers[version](file, max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # NumPy parses the header as Python: hostile ones raise nearly any type
        raise UsageError(
            f"{name}: not an intact NumPy array ({str(error)[:80]}); write it again with np.save"
        ) from error
    return shape, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], available: int, name: str) -> None:
    """Compare what the header promises with what is there, before anything is allocated."""
    if dtype.hasobject:
        raise UsageError(f"{name}: holds pickled objects, which are never loaded; save plain arrays of numbers")
    promised = math.prod(shape) * dtype.itemsize
    if promised > available:
        raise UsageError(
            f"{name}: the header promises {promised:,} bytes, the file holds {available:,}; "
            "it is damaged or cut short: write it again"
        )


def check_memory(byte_count: int, name: str) -> None:
    """Refuse what would not fit into memory.

    Raises:
        UsageError: More bytes than `array_limit`.
    """
    if byte_count > array_limit():
        raise UsageError(
            f"{name}: {byte_count:,} bytes do not fit into memory (limit {array_limit():,}); "
            "save the array with np.save as .npy, which is memory-mapped"
        )
