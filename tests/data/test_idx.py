"""IDX files: what is written is read, and a header that lies is refused before anything is allocated."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.data import open_data
from scorefield.data.idx import read_idx, write_idx
from scorefield.errors import UsageError
from tests.data.zoo import noise

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@given(
    dtype=st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    suffix=st.sampled_from(["", ".gz"]),
)
def test_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], suffix: str) -> None:
    """The round trip, for every type that the format has."""
    path = tmp_path_factory.mktemp("idx") / f"x-idx{suffix}"
    array = (np.arange(np.prod(shape)) % 100).astype(dtype).reshape(shape)
    write_idx(path, array)
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("label_suffix", ["", ".gz"])
def test_labels_are_found_by_their_name(tmp_path: Path, suffix: str, label_suffix: str) -> None:
    write_idx(tmp_path / (IMAGES + suffix), noise(6, 4, 5))
    write_idx(tmp_path / (LABELS + label_suffix), np.array([0, 2, 1, 0, 2, 1], np.uint8))
    data = open_data(tmp_path / (IMAGES + suffix))
    assert data.shape == (1, 4, 5) and data.labels is not None and data.labels.tolist() == [0, 2, 1, 0, 2, 1]


def test_a_folder_gives_its_training_set(tmp_path: Path) -> None:
    """As Debian ships Fashion-MNIST: four files in one folder."""
    for part, count in (("train", 6), ("t10k", 3)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", noise(count, 4, 5))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    data = open_data(tmp_path)
    assert len(data) == 6 and data.classes == 6 and "train-images" in data.notes[-1]


def test_several_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    for part in "ab":
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", noise(3, 4, 5))
    with pytest.raises(UsageError, match="several IDX files.*name the one to use"):
        open_data(tmp_path)


HEADER = bytes([0, 0, 8, 3]) + struct.pack(">3I", 10, 4, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + bytes(199), "promises 200 bytes of values, the file holds 199"),
        (HEADER + bytes(201), "the file holds more"),
        (HEADER[:9], "ends within its header"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 9) + bytes(9), "more than the file can hold"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 9) + bytes(9), "holds labels.*give the file of images"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 4, 5), "no values"),
        (b"\x1f\x8b" + bytes(50), "cannot be read as data|cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        open_data(tmp_path / IMAGES)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{IMAGES}.gz"
    write_idx(path, noise(50, 4, 5))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UsageError, match="fetch"):
        open_data(path)


def test_a_gzip_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    """A header of 8 EB in a file of 1 kB: nothing is decompressed."""
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**21, 2**21, 2**21) + bytes(10**6)))
    with pytest.raises(UsageError, match="more than the file can hold"):
        open_data(path)


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / IMAGES, noise(6, 4, 5))
    write_idx(tmp_path / LABELS, np.zeros(5, np.uint8))
    with pytest.raises(UsageError, match=r"shape \(6,\); got shape \(5,\)"):
        open_data(tmp_path / IMAGES)


@pytest.mark.needs("fashion-mnist")
def test_fashion_mnist_as_debian_ships_it() -> None:
    data = open_data("/usr/share/datasets/fashion-mnist")
    assert len(data) == 60_000 and data.shape == (1, 28, 28) and data.classes == 10
    assert np.bincount(data.labels).tolist() == [6000] * 10  # type: ignore[arg-type]
