"""`open_data`: one string (or array) → a dataset, whatever it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.data import idx, shards, tables, toys
from scorefield.data.arrays import array_dataset, read_npy, read_npz
from scorefield.data.dataset import Dataset
from scorefield.data.folders import open_folder, open_idx
from scorefield.data.images import SUFFIXES
from scorefield.errors import MissingExtraError, UsageError, unknown_name

MAX_SIDE = 8192


@dataclass(frozen=True)
class Options:
    """How to read data, as `open_data` was told."""

    size: tuple[int, int] | None = None
    layout: str | None = None
    skip_bad: bool = False
    follow_links: bool = False


def open_data(
    data: Any,
    *,
    size: int | tuple[int, int] | None = None,
    labels: Any = None,
    layout: str | None = None,
    skip_bad: bool = False,
    follow_links: bool = False,
) -> Dataset:
    """Open data of any kind as one dataset.

    Args:
        data: A built-in name (`NAMES`), a path (folder of images; .npy, .npz, .parquet, IDX or IDX.gz file; shards such as
            `shards-{000..127}.tar`), `hf:NAME[:split]`, an array (N, …), or a dataset, which is returned as it is.
        size: Side, or (height, width), to bring images of folders, tables and shards to: resized and cropped to the centre.
        labels: One class an example, in place of those that the data have: an array, or the path of a .npy or IDX file.
        layout: Where an array has its channels, against the rule in `scorefield.data.arrays`: "channels-first", "channels-last"
            or "no-channels".
        skip_bad: Go on where more than 1 % of the images cannot be used.
        follow_links: Follow symbolic links out of a folder, and to folders.

    Raises:
        UsageError: An unknown name, a path that does not exist, or data that cannot be used; the message says how to mend it.
        MissingExtraError: The data need an optional dependency.

    Example:
        >>> from scorefield.data import open_data
        >>> data = open_data("moons")
        >>> len(data), data.shape, data.batch([0, 1]).shape
        (50000, (2,), (2, 2))
    """
    options = Options(_size(size), layout, skip_bad, follow_links)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, (str, os.PathLike)):
        dataset = _open_named(os.fspath(data), options)
    else:
        dataset = array_dataset(_as_array(data), name="array", layout=layout)
    return dataset if labels is None else dataset.with_labels(_read_labels(labels))


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in pair):
        raise UsageError(f"data.size must be a side or (height, width) of 1 to {MAX_SIDE} pixels; got {size}: for example data.size=64")
    return pair[0], pair[1]


def _as_array(data: Any) -> np.ndarray:
    try:
        return np.asarray(data)
    except (ValueError, TypeError) as error:
        raise UsageError(f"cannot make one array of the data ({error}); give examples of one shape") from error


def _read_labels(labels: Any) -> np.ndarray:
    if not isinstance(labels, (str, os.PathLike)):
        return np.asarray(labels)
    path = Path(labels)
    if not path.is_file():
        raise UsageError(f"labels: no file {path}; give a .npy or IDX file with one class an example")
    return idx.read_idx(path) if idx.is_idx(path) else np.load(path, allow_pickle=False)


def _open_named(data: str, options: Options) -> Dataset:
    if data in BUILT_IN:
        return BUILT_IN[data](options)
    if data.startswith("hf:"):
        return tables.open_hugging_face(data, size=options.size, layout=options.layout, skip_bad=options.skip_bad)
    if shards.is_pattern(data):
        return shards.open_shards(data, size=options.size, skip_bad=options.skip_bad)
    path = Path(data).expanduser()
    if not _exists(path):
        raise _not_found(data)
    return _open_path(path, data, options)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)[:200]!r}: cannot be a path ({error}); give a name, a folder or a file") from error


def _not_found(data: str) -> UsageError:
    if os.sep in data or "." in data or not data:
        return UsageError(f"no file or folder '{data}'; check the path, or give one of: {', '.join(BUILT_IN)}")
    return unknown_name("data", data, BUILT_IN)


def _open_path(path: Path, name: str, options: Options) -> Dataset:
    if path.is_dir():
        return open_folder(path, name=name, size=options.size, skip_bad=options.skip_bad, follow_links=options.follow_links)
    if not path.is_file():
        raise UsageError(f"{name}: neither a folder nor a regular file; give a folder of images or a file of data")
    try:
        return _open_file(path, name, options)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error}); check its permissions") from error


def _open_file(path: Path, name: str, options: Options) -> Dataset:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return array_dataset(read_npy(path), name=name, layout=options.layout)
    if suffix == ".npz":
        samples, labels, notes = read_npz(path)
        return array_dataset(samples, name=name, labels=labels, layout=options.layout, notes=notes)
    if suffix in (".parquet", ".pq"):
        return tables.open_parquet(path, name=name, size=options.size, layout=options.layout, skip_bad=options.skip_bad)
    if suffix == ".tar":
        return shards.open_shards(name, size=options.size, skip_bad=options.skip_bad)
    if idx.is_idx(path):
        return open_idx(path, name=name, layout=options.layout)
    raise _unknown_kind(path, name)


def _unknown_kind(path: Path, name: str) -> UsageError:
    if path.suffix.lower() in SUFFIXES:
        return UsageError(f"{name}: is one image; give the folder it lies in: {path.parent}")
    if path.stat().st_size == 0:
        return UsageError(f"{name}: is an empty file; write it again")
    return UsageError(f"{name}: not a kind of data that can be read; give a folder of images, or a .npy, .npz, .parquet, .tar or IDX(.gz) file")


def _mnist(options: Options) -> Dataset:
    with resources.as_file(resources.files("scorefield.data") / "builtin" / "mnist-5k.npz") as path:
        samples, labels, _ = read_npz(path)
    note = "5,000 digits of MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0 as far as is known"
    return array_dataset(samples, name="mnist", labels=labels, notes=[note], levels=(0, 256))


def _digits(options: Options) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the data 'digits'", "data") from error
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    return array_dataset(images, name="digits", labels=digits.target, levels=(0, 17))


def _toy(name: str) -> Callable[[Options], Dataset]:
    return lambda options: array_dataset(toys.points(name), name=name)


BUILT_IN: dict[str, Callable[[Options], Dataset]] = {
    "mnist": _mnist,
    "digits": _digits,
    **{name: _toy(name) for name in toys.NAMES},
}
NAMES = tuple(BUILT_IN)
