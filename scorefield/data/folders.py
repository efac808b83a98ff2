"""A folder of images: which files count, in which order, and which class each has.

The order is that of the bytes of the relative path, so that it depends on neither the machine's language nor the file
system. Classes are the first-level sub-folders, where every image lies in one and there are at least two.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scorefield.data.dataset import Dataset, Options, Skipped
from scorefield.data.encoded import Item, decode_all
from scorefield.data.images import SUFFIXES, Stream
from scorefield.errors import UsageError

_SPLITS = frozenset({"train", "test", "val", "valid", "validation", "training", "testing"})
_OTHER_DATA = (".npy", ".npz", ".parquet", ".tar")


@dataclass
class Listing:
    """What a folder holds: image files (relative) with their sizes, what was refused, and all other files by suffix."""

    root: Path
    follow_links: bool = False
    files: list[tuple[Path, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    entered: set[tuple[int, int]] = field(default_factory=set)

    def refuse(self, path: Path, reason: str) -> None:
        """Note that a path (relative) is not used, and why."""
        self.skipped.append(Skipped(printable(path), reason))


def list_images(root: Path, follow_links: bool = False) -> Listing:
    """List the images under a folder in their final order, opening none of them.

    Symbolic links are followed to files inside the folder only, and to folders not at all, unless asked; no folder is
    entered twice. Hidden files are passed over. What is named as an image but is no regular file is never opened.

    Raises:
        UsageError: The folder itself cannot be read.
    """
    listing = Listing(root, follow_links)
    try:
        _list_folder(listing, Path())
    except OSError as error:
        raise UsageError(f"{root}: cannot be read ({error.strerror}); check its permissions") from error
    listing.files.sort(key=lambda entry: os.fsencode(entry[0]))
    listing.skipped.sort(key=lambda entry: entry.path)
    return listing


def open_images(listing: Listing, name: str, options: Options) -> Dataset:
    """Open the images of a listing.

    Raises:
        UsageError: No image, too many that cannot be used, several sizes, or sub-folders that are splits.
    """
    classes = _class_folders([path for path, _ in listing.files], name)
    items = [Item(printable(path), _Opener(listing.root / path)) for path, _ in listing.files]
    decoded = decode_all(items, name, options, listing.skipped)
    kept = [listing.files[index] for index in decoded.kept]
    labels = np.array([classes.index(path.parts[0]) for path, _ in kept]) if classes else None
    return decoded.dataset(name, _digest(kept, decoded.shape), labels, tuple(printable(Path(part)) for part in classes))


def no_images(listing: Listing, name: str) -> UsageError:
    """The error for a folder without images, which says what it does hold."""
    data = [suffix for suffix in _OTHER_DATA if listing.others[suffix]]
    if data:
        return UsageError(
            f"{name}: a folder of {', '.join(data)} files, not of images; give one file, or shards-{{000..009}}.tar"
        )
    counts = [f"{count} {suffix or 'without suffix'}" for suffix, count in listing.others.most_common(5)]
    return UsageError(
        f"{name}: no images in this folder (found: {', '.join(counts) or 'nothing'}); "
        f"give one with {', '.join(sorted(SUFFIXES))} files"
    )


def printable(path: Path | str) -> str:
    """A path as text that can be shown and stored: bytes that are no UTF-8, and control characters, become escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@dataclass(frozen=True)
class _Opener:
    path: Path

    def __call__(self) -> Stream:
        return self.path.open("rb")


def _list_folder(listing: Listing, folder: Path) -> None:
    """List a folder (relative), unless it was entered before: a link may lead back up."""
    status = (listing.root / folder).stat()
    if (status.st_dev, status.st_ino) in listing.entered:
        return
    listing.entered.add((status.st_dev, status.st_ino))
    for path in (listing.root / folder).iterdir():
        if not path.name.startswith("."):
            _list_entry(listing, folder / path.name)


def _list_entry(listing: Listing, path: Path) -> None:
    full, suffix = listing.root / path, path.suffix.lower()
    try:
        reason = _refusal(full, listing)
        if reason is not None:
            listing.refuse(path, reason)
        elif suffix in SUFFIXES:
            listing.files.append((path, full.stat().st_size))
        elif full.is_dir():
            _list_folder(listing, path)
        else:
            listing.others[suffix] += 1
    except OSError as error:
        listing.refuse(path, f"cannot be read: {error.strerror}")


def _refusal(path: Path, listing: Listing) -> str | None:
    """Why an entry is refused before it is opened; None where it is not, or is none of our business.

    Raises:
        OSError: A link that leads nowhere or to itself, or a folder that cannot be entered.
    """
    image = path.suffix.lower() in SUFFIXES
    if path.is_symlink() and not listing.follow_links:
        if not image:
            return "link to a folder (follow_links=True follows it)" if path.is_dir() else None
        path.stat()
        if not path.resolve().is_relative_to(listing.root.resolve()):
            return "link leading out of the folder (follow_links=True follows it)"
    return "not a regular file" if image and not stat.S_ISREG(path.stat().st_mode) else None


def _class_folders(paths: list[Path], name: str) -> list[str]:
    """The sub-folders that are classes, in the order of their bytes; none where they cannot be."""
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths}
    if len(tops) > 1 and tops <= _SPLITS:
        splits = sorted(tops)
        raise UsageError(
            f"{name}: its sub-folders are splits ({', '.join(splits)}), not classes; give one: {name}/{splits[-1]}"
        )
    return [] if "" in tops or len(tops) < 2 else sorted(tops, key=os.fsencode)


def _digest(files: list[tuple[Path, int]], shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256(repr(shape).encode())
    for path, size in files:
        digest.update(os.fsencode(path) + f"\0{size}\0".encode())
    return digest.hexdigest()
