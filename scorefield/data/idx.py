"""IDX files, plain or gzipped: the format of MNIST and Fashion-MNIST.

Four bytes (0, 0, type, rank), the sizes as big-endian 32-bit integers, then the values in big-endian order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.data.arrays import check_memory
from scorefield.errors import UsageError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
_LARGEST_DEFLATE_RATIO = 1032


def is_idx(path: Path) -> bool:
    """Whether a file begins as an IDX file does, under gzip or not."""
    try:
        with _opened(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in _TYPES and start[3] > 0


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file. The header is checked against the file's size before anything is allocated.

    Raises:
        UsageError: Not an IDX file, or one whose header and size disagree.
    """
    try:
        with _opened(path) as file:
            shape, dtype = _read_header(file, path)
            expected = math.prod(shape) * dtype.itemsize
            _check_size(expected, path)
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); fetch or write it again") from error
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content):,}"
        raise UsageError(
            f"{path}: the header promises {expected:,} bytes of values, the file holds {found}; fetch it again"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array as an IDX file, gzipped where the name ends in .gz; the inverse of `read_idx`.

    Raises:
        UsageError: A dtype that IDX does not have.
    """
    code = _CODES.get(array.dtype.str[1:])
    if code is None:
        raise UsageError(f"IDX has no values of dtype {array.dtype}; convert to one of {', '.join(_CODES)}")
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(_TYPES[code]).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def labels_beside(path: Path) -> Path | None:
    """The file of labels that belongs to a file of images by its name: …-images-idx3-ubyte → …-labels-idx1-ubyte."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    if name == path.name:
        return None
    stem = name.removesuffix(".gz")
    candidates = (path.with_name(candidate) for candidate in (name, stem, f"{stem}.gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def images_among(paths: Sequence[Path]) -> Path | None:
    """The IDX file of images in a folder's listing: the training set where there is a choice, None without any.

    Raises:
        UsageError: Several, and none or more than one of them is named a training set.
    """
    found = [path for path in paths if "idx" in path.name and "idx1" not in path.name and is_idx(path)]
    training = [path for path in found if "train" in path.name]
    if len(found) <= 1 or len(training) == 1:
        return next(iter(training or found), None)
    names = ", ".join(path.name for path in found)
    raise UsageError(f"{found[0].parent}: holds several IDX files ({names}); name the one to use")


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(path, "rb") if compressed else path.open("rb")


def _read_header(file: BufferedReader | gzip.GzipFile, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise UsageError(
            f"{path}: does not begin as an IDX file; give an IDX file of images (…-images-idx3-ubyte[.gz])"
        )
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise UsageError(f"{path}: ends within its header; fetch or write it again")
    return struct.unpack(f">{start[3]}I", sizes), np.dtype(_TYPES[start[2]])


def _check_size(expected: int, path: Path) -> None:
    possible = path.stat().st_size * (_LARGEST_DEFLATE_RATIO if path.suffix == ".gz" else 1)
    if expected > possible:
        raise UsageError(
            f"{path}: the header promises {expected:,} bytes of values, more than the file can hold; fetch it again"
        )
    check_memory(expected, str(path))
