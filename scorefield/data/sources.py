"""`open_data`: one string (or array) → a dataset, whatever it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.data import folders, idx, shapes, shards, tables, toys
from scorefield.data.arrays import array_dataset, read_npy, read_npz, read_npz_arrays
from scorefield.data.conditions import joined, named_columns, no_columns, read_conditions
from scorefield.data.dataset import ArrayExamples, Dataset, Options
from scorefield.data.images import SUFFIXES, resized
from scorefield.errors import MissingExtraError, UsageError, unknown_name

MAX_SIDE = 8192


def open_data(
    data: Any,
    *,
    size: int | tuple[int, int] | None = None,
    labels: Any = None,
    condition: Any = None,
    layout: str | None = None,
    skip_bad: bool = False,
    follow_links: bool = False,
) -> Dataset:
    """Open data of any kind as one dataset.

    Args:
        data: A built-in name (`NAMES`), a path (folder of images; .npy, .npz, .parquet, IDX or IDX.gz file; shards such
            as `shards-{000..127}.tar`), `hf:NAME[:split]`, an array (N, …), or a dataset, which is returned as it is.
        size: Side, or (height, width), to bring 8- and 16-bit images to: resized, and cropped to the centre.
        labels: One class an example, in place of those that the data have: an array, or the path of a .npy or IDX file.
        condition: Numbers that the examples come with: a column of a table or a key of a .npz file (several with commas
            between them), which is then neither data nor labels; or one row an example, as an array or the path of a .npy file.
        layout: Where an array has its channels, against the rule in `scorefield.data.arrays`: "channels-first",
            "channels-last" or "no-channels".
        skip_bad: Go on where more than 1 % of the images cannot be used.
        follow_links: Follow symbolic links out of a folder, and to folders.

    Raises:
        UsageError: An unknown name, a path that does not exist, or data that cannot be used; it says how to mend it.
        MissingExtraError: The data need an optional dependency.

    Example:
        >>> from scorefield.data import open_data
        >>> data = open_data("moons")
        >>> len(data), data.shape, data.batch([0, 1]).shape
        (50000, (2,), (2, 2))
    """
    columns = named_columns(condition)
    options = Options(_checked_size(size), layout, skip_bad, follow_links, columns)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, (str, os.PathLike)):
        dataset = _open_named(os.fspath(data), options)
    else:
        dataset = array_dataset(_as_array(data), name="array", layout=layout)
    dataset = _brought_to(dataset, options.size)
    dataset = dataset if labels is None else dataset.with_labels(_read_labels(labels))
    if columns and dataset.conditions is None:
        raise no_columns(dataset.name, columns)
    return dataset if condition is None or columns else _with_conditions(dataset, condition)


def _with_conditions(dataset: Dataset, condition: Any) -> Dataset:
    """The dataset with conditions of an array or a file, one row each of the examples that are used."""
    rows, names = read_conditions(condition)
    if dataset.skipped and len(rows) == len(dataset) + len(dataset.skipped):
        raise UsageError(
            f"{dataset.name}: {len(dataset.skipped)} examples are left out (first: {dataset.skipped[0].path}), and the condition has rows for them too; leave those out of both"
        )
    return dataset.with_conditions(rows, names)


def _checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in pair):
        raise UsageError(
            f"data.size must be a side or (height, width) of 1 to {MAX_SIDE} pixels, got {size}; give data.size=64"
        )
    return pair[0], pair[1]


def _as_array(data: Any) -> np.ndarray:
    try:
        return np.asarray(data)
    except (ValueError, TypeError) as error:
        raise UsageError(f"cannot make one array of the data ({error}); give examples of one shape") from error


def _brought_to(dataset: Dataset, size: tuple[int, int] | None) -> Dataset:
    """Resize the images of an array; those that were decoded from files are of this size already."""
    if size is None or dataset.shape[1:] == size:
        return dataset
    if len(dataset.shape) != 3 or dataset.dtype not in (np.uint8, np.uint16):
        raise UsageError(
            f"{dataset.name}: data.size is for images of 8 or 16 bits, not {dataset.dtype} of shape {dataset.shape}; "
            "leave it out"
        )
    larger = np.empty((len(dataset), dataset.shape[0], *size), dataset.dtype)
    for index in range(len(dataset)):
        larger[index] = [resized(channel, size) for channel in dataset.batch([index])[0]]
    height, width = dataset.shape[1:]
    return replace(
        dataset,
        examples=ArrayExamples(larger),
        shape=larger.shape[1:],
        notes=(*dataset.notes, f"resized from {height}×{width} to {size[0]}×{size[1]}"),
    )


def _read_labels(labels: Any) -> np.ndarray:
    if not isinstance(labels, (str, os.PathLike)):
        return np.asarray(labels)
    path = Path(labels)
    if not path.is_file():
        raise UsageError(f"labels: no file {path}; give a .npy or IDX file with one class an example")
    return idx.read_idx(path) if idx.is_idx(path) else read_npy(path, any_values=True)


def _open_named(data: str, options: Options) -> Dataset:
    if data in BUILT_IN:
        return BUILT_IN[data]()
    if data.startswith("hf:"):
        return tables.open_hugging_face(data, options)
    if shards.is_pattern(data):
        return shards.open_shards(data, options)
    path = Path(data).expanduser()
    if not data or not _exists(path):
        raise _not_found(folders.printable(data))
    try:
        return _open_path(path, data, options)
    except OSError as error:
        raise UsageError(f"{data}: cannot be read ({error.strerror or error}); check its permissions") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)[:200]!r}: not a path ({error}); give a name, a folder or a file") from error


def _not_found(data: str) -> UsageError:
    if os.sep in data or "." in data or not data:
        return UsageError(f"no file or folder '{data}'; check the path, or give one of: {', '.join(BUILT_IN)}")
    return unknown_name("data", data, BUILT_IN)


def _open_path(path: Path, name: str, options: Options) -> Dataset:
    if path.is_dir():
        return _open_folder(path, name, options)
    if not path.is_file():
        raise UsageError(f"{name}: neither a folder nor a regular file; give a folder of images or a file of data")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return array_dataset(read_npy(path), name=name, layout=options.layout)
    if suffix == ".npz":
        return _open_npz(path, name, options)
    if suffix in (".parquet", ".pq"):
        return tables.open_parquet(path, name, options)
    if suffix == ".tar":
        return shards.open_shards(name, options)
    if idx.is_idx(path):
        return _open_idx(path, name, options)
    raise _unknown_kind(path, name)


def _open_npz(path: Path, name: str, options: Options) -> Dataset:
    columns = read_npz_arrays(path, options.condition)
    samples, labels, notes = read_npz(path, leave=options.condition)
    dataset = array_dataset(samples, name=name, labels=labels, layout=options.layout, notes=notes)
    return dataset.with_conditions(*joined(columns, options.condition)) if columns else dataset


def _open_folder(path: Path, name: str, options: Options) -> Dataset:
    listing = folders.list_images(path, options.follow_links)
    if listing.files or listing.skipped:
        return folders.open_images(listing, name, options)
    images = idx.images_among(sorted(entry for entry in path.iterdir() if entry.is_file()))
    if images is None:
        raise folders.no_images(listing, name)
    opened = _open_idx(images, name, options)
    return replace(opened, notes=(*opened.notes, f"read {images.name}"))


def _open_idx(path: Path, name: str, options: Options) -> Dataset:
    array = idx.read_idx(path)
    if array.ndim == 1:
        raise UsageError(
            f"{path}: holds labels, one value an example; give the file of images (…-images-idx3-ubyte[.gz])"
        )
    beside = idx.labels_beside(path)
    labels = None if beside is None else idx.read_idx(beside)
    return array_dataset(array, name=name, labels=labels, layout=options.layout)


def _unknown_kind(path: Path, name: str) -> UsageError:
    if path.suffix.lower() in SUFFIXES:
        return UsageError(f"{name}: is one image; give the folder it lies in: {path.parent}")
    if path.stat().st_size == 0:
        return UsageError(f"{name}: is an empty file; write it again")
    return UsageError(
        f"{name}: cannot be read as data; give a folder of images, or a .npy, .npz, .parquet, .tar or IDX(.gz) file"
    )


def _mnist(name: str, part: slice) -> Dataset:
    """One part of the digits that come with the package: 4,500 to train on, 500 held out to measure by."""
    with resources.as_file(resources.files("scorefield.data") / "builtin" / "mnist-5k.npz") as path:
        samples, labels, _ = read_npz(path)
    note = "digits of MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0 as far as is known"
    labels = None if labels is None else labels[part]
    return array_dataset(samples[part], name=name, labels=labels, notes=[note], levels=(0, 256))


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the data 'digits'", "data") from error
    digits = load_digits()
    return array_dataset(digits.images.astype(np.uint8), name="digits", labels=digits.target, levels=(0, 17))


def _shapes(name: str, count: int, seed: int) -> Dataset:
    images, labels = shapes.pictures(count, seed)
    names = np.array(shapes.NAMES)
    return array_dataset(np.moveaxis(images, 1, -1), name=name, labels=names[labels], levels=(0, 256))


def _toy(name: str) -> Dataset:
    return array_dataset(toys.points(name), name=name)


BUILT_IN: dict[str, Callable[[], Dataset]] = {
    "mnist": partial(_mnist, "mnist", slice(4500)),
    "mnist-test": partial(_mnist, "mnist-test", slice(4500, 5000)),
    "digits": _digits,
    "shapes": partial(_shapes, "shapes", shapes.COUNT, 0),
    "shapes-test": partial(_shapes, "shapes-test", shapes.HELD_OUT, 1),
    **{name: partial(_toy, name) for name in toys.NAMES},
}
NAMES = tuple(BUILT_IN)
