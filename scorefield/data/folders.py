"""A folder of images: which files count, in which order, and which class each has.

The order is that of the bytes of the relative path, so that it depends neither on the language of the machine nor on the file
system. Classes are the first-level sub-folders, where every image lies in one and there are at least two.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from scorefield.data import idx
from scorefield.data.arrays import array_dataset
from scorefield.data.dataset import Dataset, Skipped
from scorefield.data.encoded import Item, decode_all
from scorefield.data.images import SUFFIXES
from scorefield.errors import UsageError

_SPLITS = frozenset({"train", "test", "val", "valid", "validation", "training", "testing"})
_OTHER_DATA = (".npy", ".npz", ".parquet", ".tar")


@dataclass
class Listing:
    """What a folder holds: usable files with their sizes, what was refused, and what was not looked at, by suffix."""

    files: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def sort(self) -> None:
        """Put the files into the order of their bytes."""
        self.files.sort(key=lambda entry: os.fsencode(entry[0]))
        self.skipped.sort(key=lambda entry: entry.path)


def open_folder(
    root: Path, *, name: str, size: tuple[int, int] | None = None, skip_bad: bool = False, follow_links: bool = False
) -> Dataset:
    """Open a folder of images, or one that holds IDX files.

    Raises:
        UsageError: No image, too many that cannot be used, several sizes, or sub-folders that are splits.
    """
    listing = list_images(root, follow_links)
    if not listing.files and not listing.skipped:
        return _open_other(root, name, listing)
    classes = _class_folders(listing.files, root)
    items = [Item(printable(path), _Opener(root / path)) for path, _ in listing.files]
    decoded = decode_all(items, where=name, size=size, skip_bad=skip_bad, skipped=listing.skipped)
    kept = [listing.files[index] for index in decoded.kept]
    labels, class_names = _labels([path for path, _ in kept], classes)
    return Dataset(
        name=name,
        examples=decoded.examples,
        shape=decoded.shape,
        dtype=decoded.dtype,
        layout="image",
        digest=_digest(kept, decoded.shape),
        labels=labels,
        class_names=class_names,
        skipped=decoded.skipped,
        notes=decoded.notes,
    )


def list_images(root: Path, follow_links: bool = False) -> Listing:
    """List the images under a folder in their final order, opening none of them.

    Symbolic links are followed to files inside the folder only, and to folders not at all, unless asked; no folder is entered
    twice. Hidden files are passed over. What is called an image but is no regular file is refused, never opened.

    Raises:
        UsageError: The folder itself cannot be read.
    """
    listing = Listing()
    try:
        top = os.stat(root)
        _list_into(listing, root, "", follow_links, {(top.st_dev, top.st_ino)})
    except OSError as error:
        raise UsageError(f"{root}: cannot be read ({error.strerror}); check its permissions") from error
    listing.sort()
    return listing


def printable(path: str) -> str:
    """A path as text that can be shown and stored: bytes that are no UTF-8, and control characters, become escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


@dataclass(frozen=True)
class _Opener:
    path: Path

    def __call__(self) -> IO[bytes]:
        return self.path.open("rb")


def _list_into(listing: Listing, root: Path, folder: str, follow_links: bool, entered: set[tuple[int, int]]) -> None:
    with os.scandir(root / folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in found:
        path = os.path.join(folder, entry.name)
        named_image = os.path.splitext(entry.name)[1].lower() in SUFFIXES
        reason = _refusal(entry, root, follow_links, named_image)
        if reason is not None:
            listing.skipped.append(Skipped(printable(path), reason))
        elif entry.is_dir() and not named_image:
            _enter(listing, root, path, follow_links, entered)
        elif named_image:
            listing.files.append((path, entry.stat().st_size))
        else:
            listing.others[os.path.splitext(entry.name)[1].lower()] += 1


def _enter(listing: Listing, root: Path, path: str, follow_links: bool, entered: set[tuple[int, int]]) -> None:
    """Go into a sub-folder, once: a link may lead back up."""
    try:
        status = os.stat(root / path)
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        _list_into(listing, root, path, follow_links, entered)
    except OSError as error:
        listing.skipped.append(Skipped(printable(path), f"cannot be read: {error.strerror}"))


def _refusal(entry: os.DirEntry[str], root: Path, follow_links: bool, named_image: bool) -> str | None:
    """Why an entry is refused before it is opened; None where it is not, or is none of our business."""
    try:
        if entry.is_symlink() and not follow_links:
            if not named_image:
                return "link to a folder (follow_links=True follows it)" if entry.is_dir() else None
            if not Path(entry.path).resolve().is_relative_to(root.resolve()):
                return "link leading out of the folder (follow_links=True follows it)"
        mode = entry.stat().st_mode
    except (OSError, RuntimeError) as error:
        return _broken_link(error) if named_image else None
    return "not a regular file" if named_image and not stat.S_ISREG(mode) else None


def _broken_link(error: Exception) -> str:
    return "link that leads nowhere" if isinstance(error, FileNotFoundError) else "link that leads to itself"


def _open_other(root: Path, name: str, listing: Listing) -> Dataset:
    """A folder without images: IDX files, or an error that says what it does hold."""
    images = idx.images_among(sorted(path for path in root.iterdir() if path.is_file()))
    if images is not None:
        return open_idx(images, name=name, note=f"read {images.name}")
    data = [suffix for suffix in _OTHER_DATA if listing.others[suffix]]
    if data:
        raise UsageError(f"{name}: a folder of {', '.join(data)} files, not of images; give one file (or shards-{{000..009}}.tar) itself")
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in listing.others.most_common(5)) or "nothing"
    raise UsageError(f"{name}: no images in this folder (found: {found}); give one with {', '.join(sorted(SUFFIXES))} files")


def open_idx(path: Path, *, name: str, layout: str | None = None, note: str | None = None) -> Dataset:
    """Open an IDX file of examples with the labels beside it, where there are any.

    Raises:
        UsageError: Not an intact IDX file, one of labels, or labels of another number.
    """
    array = idx.read_idx(path)
    if array.ndim == 1:
        raise UsageError(f"{path}: holds one value an example, so labels; give the file of images (…-images-idx3-ubyte[.gz])")
    beside = idx.labels_beside(path)
    labels = None if beside is None else idx.read_idx(beside)
    return array_dataset(array, name=name, labels=labels, layout=layout, notes=[note] if note else [])


def _class_folders(files: list[tuple[str, int]], root: Path) -> list[str]:
    """The sub-folders that are classes, in the order of their bytes; none where they cannot be."""
    tops = {path.split(os.sep)[0] if os.sep in path else "" for path, _ in files}
    if len(tops) > 1 and tops <= _SPLITS:
        raise UsageError(f"{root}: its sub-folders are splits ({', '.join(sorted(tops))}), not classes; give one of them: {root}/train")
    return [] if "" in tops or len(tops) < 2 else sorted(tops, key=os.fsencode)


def _labels(paths: list[str], classes: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if not classes:
        return None, ()
    number = {folder: index for index, folder in enumerate(classes)}
    labels = np.array([number[path.split(os.sep)[0]] for path in paths], dtype=np.int64)
    return labels, tuple(printable(folder) for folder in classes)


def _digest(files: list[tuple[str, int]], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(repr(shape).encode())
    for path, size in files:
        digest.update(os.fsencode(path) + f"\0{size}\0".encode())
    return digest.hexdigest()


def counted_suffixes(listing: Listing) -> Iterator[str]:
    """What lies beside the images and is not used, one phrase a suffix."""
    for suffix, count in listing.others.most_common():
        yield f"{count} files {suffix or 'without suffix'} not looked at"
