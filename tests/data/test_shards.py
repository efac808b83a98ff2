"""WebDataset shards: images and classes in the order of the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scorefield.data import open_data
from tests.data.zoo import noise, png, shard


def members(start: int, count: int, label: bool = True) -> dict[str, bytes]:
    found = {}
    for index in range(start, start + count):
        found[f"{index:04d}.png"] = png(noise(4, 4, 3, seed=index))
        if label:
            found[f"{index:04d}.cls"] = f"{index % 3}\n".encode()
    return found


@pytest.mark.parametrize("pattern", ["s-{000..002}.tar", "s-*.tar"])
def test_shards_are_one_dataset_in_order(tmp_path: Path, pattern: str) -> None:
    for number in range(3):
        shard(tmp_path / f"s-{number:03d}.tar", members(4 * number, 4))
    data = open_data(str(tmp_path / pattern))
    assert len(data) == 12 and data.class_names == ("0", "1", "2")
    assert data.labels is not None and data.labels.tolist() == [index % 3 for index in range(12)]
    assert np.array_equal(data.batch([9])[0], noise(4, 4, 3, seed=9).transpose(2, 0, 1))


def test_classes_may_be_names_in_json_or_missing(tmp_path: Path) -> None:
    named = {
        "a.jpg": png(noise(4, 4)),
        "a.json": b'{"label": "cat"}',
        "b.png": png(noise(4, 4)),
        "b.json": b'{"label": "ape"}',
    }
    assert open_data(str(shard(tmp_path / "a.tar", named))).class_names == ("ape", "cat")
    assert open_data(str(shard(tmp_path / "b.tar", members(0, 2, label=False)))).labels is None


def test_bad_images_are_named_by_their_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", members(0, 3) | {"9.png": b"bad", "9.cls": b"0"})
    data = open_data(str(path), skip_bad=True)
    assert len(data) == 3 and data.skipped[0].path == "a.tar/9.png"


def test_members_are_never_unpacked(tmp_path: Path) -> None:
    """A name that climbs out of the folder is only a name."""
    (tmp_path / "in").mkdir()
    path = shard(tmp_path / "in" / "a.tar", {"../../x.png": png(noise(4, 4))})
    before = sorted(tmp_path.rglob("*"))
    assert len(open_data(str(path))) == 1 and sorted(tmp_path.rglob("*")) == before
