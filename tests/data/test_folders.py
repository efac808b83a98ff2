"""Folders of images: what counts, in which order, and what is refused."""

from __future__ import annotations

import errno
import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scorefield.data import Dataset, encoded, open_data, report
from scorefield.data.dataset import Options
from scorefield.errors import UsageError
from tests.data.zoo import image_folder, noise, png, png_bomb


def grey_values(data: Dataset) -> list[int]:
    """The first pixel of each example: which file it is from."""
    return [int(value) for value in data.batch(range(len(data)))[:, 0, 0, 0]]


def flat(path: Path, value: int) -> Path:
    """An image of one grey, by which it is known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.full((4, 4), value, np.uint8)))
    return path


def reasons(data: Dataset) -> dict[str, str]:
    return {entry.path: entry.reason for entry in data.skipped}


def test_pixels_come_as_they_are(tmp_path: Path) -> None:
    data = open_data(image_folder(tmp_path, 5, grey=False))
    assert (data.shape, data.dtype.name, data.layout) == ((3, 8, 8), "uint8", "image")
    assert np.array_equal(data.batch([3, 1]), np.stack([noise(8, 8, 3, seed=s).transpose(2, 0, 1) for s in (3, 1)]))


def test_order_is_that_of_the_bytes_of_the_path(tmp_path: Path) -> None:
    """Not of the language, the file system, or the directory first; and names of any bytes are read."""
    names = [
        b"B.png",
        b"a.png",
        b"\xff.png",
        "é.png".encode(),
        "😀.png".encode(),
        b"10.png",
        b"9.png",
        b"a\nb.png",
        b"a b.png",
    ]
    names.append(b"l" * 251 + b".png")
    for value, name in enumerate(names):
        flat(tmp_path / os.fsdecode(name), value)
    expected = [names.index(name) for name in sorted(names)]
    assert grey_values(open_data(tmp_path)) == expected


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for value, name in enumerate(["dog/1.png", "cat/b/2.png", "cat/a/3.png", "Ape/4.png"]):
        flat(tmp_path / name, value)
    (tmp_path / "empty").mkdir()
    data = open_data(tmp_path)
    assert data.class_names == ("Ape", "cat", "dog")
    assert data.labels is not None and data.labels.tolist() == [0, 1, 1, 2] and grey_values(data) == [3, 2, 1, 0]


@pytest.mark.parametrize("names", [["1.png", "a/2.png"], ["a/1.png", "a/2.png"], ["1.png", "2.png"]])
def test_no_classes_where_some_image_has_none_or_all_have_one(tmp_path: Path, names: list[str]) -> None:
    for value, name in enumerate(names):
        flat(tmp_path / name, value)
    assert open_data(tmp_path).labels is None


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train/1.png", "test/2.png"):
        flat(tmp_path / name, 0)
    with pytest.raises(UsageError, match=r"splits \(test, train\), not classes; give one: .*/train"):
        open_data(tmp_path)


def test_a_mixed_folder_becomes_colour(tmp_path: Path) -> None:
    flat(tmp_path / "a.png", 7)
    (tmp_path / "b.png").write_bytes(png(noise(4, 4, 3)))
    data = open_data(tmp_path)
    assert data.shape == (3, 4, 4) and (data.batch([0]) == 7).all()
    assert "1 grey among colour: read as colour" in data.notes


def test_16_bits_are_kept_where_all_have_them(tmp_path: Path) -> None:
    values = noise(4, 4, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(values))
    data = open_data(tmp_path)
    assert data.dtype == np.uint16 and np.array_equal(data.batch([0])[0, 0], values)
    flat(tmp_path / "b.png", 9)
    mixed = open_data(tmp_path)
    assert mixed.dtype == np.uint8 and np.array_equal(mixed.batch([0])[0, 0], values >> 8)
    assert any("reduced to 8 bits" in note for note in mixed.notes)


def test_animations_are_used_with_a_warning(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    data = open_data(tmp_path)
    assert (
        data.batch([0])[0, :, 0, 0].tolist() == [255, 0, 0] and "1 animated: only the first frame is used" in data.notes
    )


def test_several_sizes_are_refused_with_the_fix_and_brought_to_one(tmp_path: Path) -> None:
    for index, side in enumerate((8, 8, 12)):
        (tmp_path / f"{index}.png").write_bytes(png(noise(side, side)))
    with pytest.raises(UsageError, match=r"8×8 \(2\), 12×12 \(1\).*--set data\.size=8"):
        open_data(tmp_path)
    data = open_data(tmp_path, size=(6, 4))
    assert data.shape == (1, 6, 4) and "3 resized and cropped to 6×4" in data.notes


@pytest.mark.parametrize("size", [0, -4, 100_000, (4, 0)])
def test_impossible_sizes_are_refused(tmp_path: Path, size: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"data\.size must be a side or \(height, width\)"):
        open_data(image_folder(tmp_path), size=size)


def zoo(root: Path) -> Path:
    """Four good images among all that a folder can hold."""
    image_folder(root, 4)
    outside = image_folder(root.parent / "outside", 1)
    (root / "cut.png").write_bytes(png(noise(8, 8))[:60])
    (root / "empty.png").write_bytes(b"")
    (root / "text.jpg").write_bytes(b"this is no image")
    (root / "bomb.png").write_bytes(png_bomb(50_000, 50_000))
    (root / "dir.png").mkdir()
    flat(root / "dir.png" / "inner.png", 1)
    os.mkfifo(root / "pipe.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "nowhere.png").symlink_to("missing.png")
    (root / "out.png").symlink_to(outside / "000.png")
    (root / "up").symlink_to(root)
    (root / "readme.txt").write_text("text")
    (root / ".hidden.png").write_bytes(b"")
    return root


def test_the_zoo_is_counted_by_reason_and_the_good_keep_their_order(tmp_path: Path) -> None:
    """Pipes are never opened (this test would hang), links never lead out, and no bad file moves a good one."""
    data = open_data(zoo(tmp_path / "zoo"), skip_bad=True)
    assert len(data) == 4
    assert np.array_equal(data.batch([3])[0, 0], noise(8, 8, seed=3))
    found = reasons(data)
    assert found["cut.png"] == "damaged or cut short"
    assert found["empty.png"].startswith("not an image of PNG")
    assert found["text.jpg"].startswith("not an image of PNG")
    assert found["bomb.png"] == "too large: more than 64 million pixels"
    assert found["dir.png"] == found["pipe.png"] == "not a regular file"
    assert found["loop.png"].startswith("cannot be read: Too many levels")
    assert found["nowhere.png"] == "cannot be read: No such file or directory"
    assert found["out.png"].startswith("link leading out of the folder")
    assert found["up"].startswith("link to a folder")
    assert set(found) == {
        "cut.png",
        "empty.png",
        "text.jpg",
        "bomb.png",
        "dir.png",
        "pipe.png",
        "loop.png",
        "nowhere.png",
        "out.png",
        "up",
    }
    assert report(data).skipped_by_reason["not a regular file"] == ["dir.png", "pipe.png"]


def test_more_than_one_percent_bad_stops_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"10 of 14 images cannot be used .*\(cut\.png\).*--skip-bad"):
        open_data(zoo(tmp_path / "zoo"))


def test_one_percent_bad_is_passed_over(tmp_path: Path) -> None:
    image_folder(tmp_path, 99, side=2)
    (tmp_path / "bad.png").write_bytes(b"")
    assert len(open_data(tmp_path)) == 99
    (tmp_path / "bad2.png").write_bytes(b"")
    with pytest.raises(UsageError, match="2 of 101"):
        open_data(tmp_path)


def test_links_are_followed_when_asked_and_end(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "in", 2)
    outside = image_folder(tmp_path / "out", 3)
    (root / "more").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "file.png").symlink_to(outside / "000.png")
    assert len(open_data(root, follow_links=True)) == 6
    with pytest.raises(UsageError, match="follow_links=True"):
        open_data(root)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    image_folder(tmp_path, 2)
    (tmp_path / "zz.png").symlink_to("000.png")
    assert len(open_data(tmp_path)) == 3


def test_sockets_and_devices_are_not_opened(tmp_path: Path) -> None:
    image_folder(tmp_path, 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        assert reasons(open_data(tmp_path, skip_bad=True)) == {"socket.png": "not a regular file"}


def test_names_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    """A report with raw bytes of a name could not be written as UTF-8, and a line break would forge lines."""
    image_folder(tmp_path, 1)
    (tmp_path / os.fsdecode(b"\xff\n.png")).write_bytes(b"")
    data = open_data(tmp_path, skip_bad=True)
    assert data.skipped[0].path == r"\xff\n.png"
    report(data).to_text().encode()


def test_the_digest_is_of_names_and_sizes(tmp_path: Path) -> None:
    image_folder(tmp_path / "a", 3)
    image_folder(tmp_path / "b", 3)
    digest = open_data(tmp_path / "a").digest
    assert open_data(tmp_path / "b").digest == digest
    (tmp_path / "b" / "002.png").rename(tmp_path / "b" / "003.png")
    assert open_data(tmp_path / "b").digest != digest
    assert open_data(tmp_path / "a", size=4).digest != digest


def test_folders_larger_than_memory_are_read_again_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pixels as from memory, and a file that vanishes meanwhile is named."""
    image_folder(tmp_path, 6)
    (tmp_path / "002x.png").write_bytes(b"bad")
    kept = open_data(tmp_path, skip_bad=True)
    monkeypatch.setattr(encoded, "MEMORY_BUDGET", 10)
    lazy = open_data(tmp_path, skip_bad=True)
    assert isinstance(lazy.examples, encoded.EncodedExamples)
    assert np.array_equal(lazy.batch([5, 0, 3]), kept.batch([5, 0, 3]))
    (tmp_path / "003.png").unlink()
    with pytest.raises(UsageError, match=r"003\.png: vanished"):
        lazy.batch([3])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no images in this folder \(found: nothing\); give one with \.bmp"),
        ({"a.txt": b"x", "b.heic": b"x"}, r"found: 1 \.\w+, 1 \.\w+"),
        ({"a.npy": b"x"}, r"a folder of \.npy files.*give one file"),
        ({"a.png": b"x"}, "no usable image; 1 not an image of PNG"),
    ],
)
def test_folders_without_images_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        open_data(tmp_path, skip_bad=True)


def test_unreadable_files_are_counted() -> None:
    def locked() -> io.BytesIO:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    items = [encoded.Item("good", lambda: io.BytesIO(png(noise(4, 4)))), encoded.Item("locked", locked)]
    found = encoded.decode_all(items, "here", Options(skip_bad=True))
    assert [(entry.path, entry.reason) for entry in found.skipped] == [("locked", "cannot be read: Permission denied")]
