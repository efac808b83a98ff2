"""WebDataset shards: plain tar files whose members that share a name up to the first dot make one example."""

from __future__ import annotations

import glob
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scorefield.data.dataset import Dataset, Options, Skipped, array_digest, class_labels
from scorefield.data.encoded import Item, decode_all
from scorefield.data.folders import printable
from scorefield.data.images import MAX_BYTES, SUFFIXES, Stream
from scorefield.errors import UsageError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL_BYTES = 1 << 12
MAX_SHARDS = 100_000


@dataclass(frozen=True)
class _Member:
    """Opens one member of a tar file by its place, without reading the file from its beginning."""

    shard: Path
    offset: int
    size: int

    def __call__(self) -> Stream:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


def is_pattern(data: str) -> bool:
    """Whether a string names shards: a tar file, several by braces or by a star."""
    return data.endswith(".tar") and ("{" in data or "*" in data)


def open_shards(data: str, options: Options) -> Dataset:
    """Open shards such as `shards-{000..127}.tar`: an example is an image and, if any, a class (`.cls`).

    Raises:
        UsageError: No such shards, damaged or compressed ones, no images, or classes for some examples only.
    """
    shards = _expand(data)
    items: list[Item] = []
    classes: list[bytes | None] = []
    skipped: list[Skipped] = []
    for shard in shards:
        for item, cls in _examples(shard, skipped):
            items.append(item)
            classes.append(cls)
    decoded = decode_all(items, data, options, skipped)
    labels, class_names = _labels([classes[index] for index in decoded.kept], data)
    digest = array_digest(np.array([items[index].name for index in decoded.kept]), labels)
    return decoded.dataset(data, digest, labels, class_names)


def _expand(data: str) -> list[Path]:
    """The shards that a pattern names, in order."""
    match = _RANGE.search(data)
    if match is None:
        found = sorted(glob.glob(str(Path(data).expanduser()))) or [data]
    else:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MAX_SHARDS:
            raise UsageError(
                f"{data}: a range of shards from {first} to {last}; give one that counts up, such as {{000..009}}"
            )
        width = len(match[1])
        found = [f"{data[: match.start()]}{number:0{width}d}{data[match.end() :]}" for number in range(first, last + 1)]
    paths = [Path(path).expanduser() for path in found]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UsageError(
            f"{data}: {len(missing)} of {len(paths)} shards do not exist (first: {missing[0]}); check the range"
        )
    return paths


def _examples(shard: Path, skipped: list[Skipped]) -> Iterator[tuple[Item, bytes | None]]:
    """Image and class of each example of a shard, in the order of the shard."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    groups.setdefault(f"{folder}/{key}", {})[f".{suffix.lower()}"] = member
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(
            f"{shard}: not an intact, uncompressed tar file ({error}); unpack .tar.gz first, or write it again"
        ) from error
    for members in groups.values():
        image = next((member for suffix, member in members.items() if suffix in SUFFIXES), None)
        if image is not None and image.size > MAX_BYTES:
            skipped.append(Skipped(f"{shard.name}/{printable(image.name)}", "too large: more than 256 MB"))
        elif image is not None:
            name = f"{shard.name}/{printable(image.name)}"
            yield Item(name, _Member(shard, image.offset_data, image.size)), _class_of(shard, members)


def _class_of(shard: Path, members: dict[str, tarfile.TarInfo]) -> bytes | None:
    for suffix in (".cls", ".cls.txt", ".txt"):
        if suffix in members and members[suffix].size <= _LABEL_BYTES:
            member = members[suffix]
            return _Member(shard, member.offset_data, member.size)().read().strip()
    if ".json" in members and members[".json"].size <= _LABEL_BYTES:
        member = members[".json"]
        return _label_in_json(_Member(shard, member.offset_data, member.size)().read())
    return None


def _label_in_json(content: bytes) -> bytes | None:
    try:
        label = json.loads(content).get("label")
    except (ValueError, AttributeError):
        return None
    return None if label is None else str(label).encode()


def _labels(classes: list[bytes | None], data: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    known = [cls for cls in classes if cls is not None]
    if not known:
        return None, ()
    if len(known) < len(classes):
        raise UsageError(
            f"{data}: {len(classes) - len(known)} of {len(classes)} examples have no class (.cls); give all or none one"
        )
    texts = [cls.decode("utf-8", "replace") for cls in known]
    whole = all(text.lstrip("-").isdigit() for text in texts)
    return class_labels(np.array([int(text) for text in texts] if whole else texts), len(texts))
