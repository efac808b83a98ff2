"""Arrays: the rule of the axes, and every array that is refused with the fix in the message."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorefield.data import arrays, open_data
from scorefield.errors import UsageError
from tests.data.zoo import noise, npy, zipped


@pytest.mark.parametrize(
    ("array", "layout", "shape", "kept"),
    [
        (noise(5, 8, 6), None, (1, 8, 6), "image"),
        (noise(5, 8, 6, dtype=np.uint16), None, (1, 8, 6), "image"),
        (noise(5, 8, 6, 3), None, (3, 8, 6), "image"),
        (noise(5, 8, 6, 1), None, (1, 8, 6), "image"),
        (noise(5, 3, 8, 6), None, (3, 8, 6), "array"),
        (noise(5, 8, 6, 12), None, (12, 8, 6), "image"),
        (noise(5, 64), None, (64,), "array"),
        (noise(5, 2, 8, 6, 9), None, (2, 8, 6, 9), "array"),
        (noise(5, 6, 7, 8, 1), None, (1, 6, 7, 8), "image"),
        (np.zeros((5, 64)), None, (64,), "array"),
        (np.zeros((5, 2, 64)), None, (2, 64), "array"),
        (np.zeros((5, 28, 28)), None, (1, 28, 28), "image"),
        (np.zeros((5, 16, 8, 8), np.float32), None, (16, 8, 8), "array"),
        (np.zeros((5, 8, 6, 3), np.float32), None, (3, 8, 6), "image"),
        (np.zeros((5, 3, 8, 6, 4), np.float32), None, (3, 8, 6, 4), "array"),
        (np.zeros((5, 64, 2)), "channels-last", (2, 64), "image"),
        (np.zeros((5, 64)), "no-channels", (1, 64), "image"),
        (noise(5, 8, 6), "channels-first", (8, 6), "array"),
    ],
)
def test_axes_are_read_by_the_rule(array: np.ndarray, layout: str | None, shape: tuple[int, ...], kept: str) -> None:
    """A wrong axis trains a model of nonsense in silence."""
    data = open_data(array, layout=layout)
    assert (data.shape, data.layout, len(data)) == (shape, kept, 5)
    assert data.batch([1, 0]).shape == (2, *shape)


def test_batches_hold_the_examples_asked_for_and_are_new(tmp_path: Path) -> None:
    """In any order, with repetition, from memory and from a memory map, and never a view of the data."""
    pixels = noise(6, 4, 5, 3)
    np.save(tmp_path / "x.npy", pixels)
    for data in (open_data(pixels), open_data(str(tmp_path / "x.npy"))):
        batch = data.batch([4, 0, 4])
        assert np.array_equal(batch, pixels[[4, 0, 4]].transpose(0, 3, 1, 2))
        batch[:] = 0
        assert np.array_equal(data.batch([4]), pixels[[4]].transpose(0, 3, 1, 2))


def test_large_files_are_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MEMORY_MAPPED_ABOVE", 10)
    np.save(tmp_path / "x.npy", noise(6, 4, 5))
    assert isinstance(arrays.read_npy(tmp_path / "x.npy"), np.memmap)
    assert np.array_equal(open_data(tmp_path / "x.npy").batch([3])[:, 0], noise(6, 4, 5)[[3]])


def test_foreign_byte_order_reads_as_the_same_values(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", values.astype(">f8"))
    data = open_data(tmp_path / "x.npy")
    assert data.dtype.isnative and np.array_equal(data.batch(range(4)), values)


@pytest.mark.parametrize("key", ["samples", "x", "images", "data", "anything"])
@pytest.mark.parametrize("label_key", ["labels", "y", "classes"])
def test_npz_finds_samples_and_labels(tmp_path: Path, key: str, label_key: str) -> None:
    npz_of(tmp_path / "x.npz", **{key: noise(5, 4, 4), label_key: np.array([3, 7, 3, 9, 9])})
    data = open_data(tmp_path / "x.npz")
    assert data.labels is not None and data.labels.tolist() == [0, 1, 0, 2, 2]
    assert data.class_names == ("3", "7", "9")
    assert np.array_equal(data.batch([2])[:, 0], noise(5, 4, 4)[[2]])


def test_own_results_can_be_read_back(tmp_path: Path) -> None:
    """Samples as they are written (samples, seeds, classes) are data again."""
    np.savez(tmp_path / "x.npz", samples=noise(3, 4, 4), seeds=np.arange(3), classes=np.array([1, 0, 1]))
    assert open_data(tmp_path / "x.npz").classes == 2


def test_labels_that_name_no_classes_are_left_out_with_a_note(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples=noise(3, 4, 4), y=np.array([0.5, 1.0, 2.0]))
    data = open_data(tmp_path / "x.npz")
    assert data.labels is None and "whole numbers" in data.notes[0]


def test_labels_can_be_given(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array(["cat", "dog", "cat"]))
    for labels in (np.array([5, 9, 5]), ["cat", "dog", "cat"], tmp_path / "y.npy"):
        assert open_data(noise(3, 4, 4), labels=labels).labels.tolist() == [0, 1, 0]  # type: ignore[union-attr]


def test_the_digest_tells_data_apart_and_keeps(tmp_path: Path) -> None:
    """A resumed run must notice changed data, and must not stop for a file that was only moved."""
    np.save(tmp_path / "a.npy", noise(50, 4, 4))
    np.save(tmp_path / "b.npy", noise(50, 4, 4))
    changed = noise(50, 4, 4)
    changed[31, 2, 2] ^= 1
    digest = open_data(tmp_path / "a.npy").digest
    assert digest == open_data(tmp_path / "b.npy").digest
    assert digest != open_data(changed).digest
    assert digest != open_data(noise(50, 4, 4), labels=np.arange(50) % 2).digest
    assert digest != open_data(noise(50, 4, 4)).subset([0, 1]).digest


def test_subset_keeps_examples_and_labels_together() -> None:
    part = open_data(noise(5, 4, 4), labels=[0, 1, 2, 0, 1]).subset([4, 2]).subset([1, 0])
    assert part.labels is not None and part.labels.tolist() == [2, 1]
    assert np.array_equal(part.batch([0, 1])[:, 0], noise(5, 4, 4)[[2, 4]])
    with pytest.raises(IndexError):
        part.batch([2])


def not_finite(value: float) -> np.ndarray:
    points = np.zeros((5, 3), np.float32)
    points[3, 1] = value
    return points


REFUSED_ARRAYS: dict[str, tuple[Callable[[], object], str]] = {
    "one axis": (lambda: np.zeros(5), r"rank 1.*reshape points to \(N, 1\)"),
    "no axis": (lambda: np.float32(1.0), "rank 0"),
    "six axes": (lambda: np.zeros((1,) * 6), "rank 6.*at most 4 more"),
    "no examples": (lambda: np.zeros((0, 3)), "no values; give at least one example"),
    "no values": (lambda: np.zeros((5, 0)), "no values"),
    "not a number": (lambda: not_finite(np.nan), r"index \(3, 1\) is nan; remove or replace"),
    "infinite": (lambda: not_finite(-np.inf), r"index \(3, 1\) is -inf; remove or replace"),
    "objects": (lambda: np.array([[1, None]], object), "dtype object.*pickled objects are never loaded"),
    "complex": (lambda: np.zeros((5, 3), complex), r"complex128.*np\.stack\(\[x\.real, x\.imag\]"),
    "booleans": (lambda: np.zeros((5, 3), bool), r"bool.*astype\(np\.uint8\)"),
    "text": (lambda: np.array([["a", "b"]]), "save numbers, not text"),
    "fields": (lambda: np.zeros((5, 3), [("a", "f4")]), r"np\.stack"),
    "dates": (lambda: np.zeros((5, 3), "datetime64[s]"), "convert it to float32"),
    "ragged": (lambda: [[1, 2], [3]], "give examples of one shape"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_arrays_are_refused_with_the_fix(case: str) -> None:
    make, message = REFUSED_ARRAYS[case]
    with pytest.raises(UsageError, match=message):
        open_data(make())


def test_the_first_bad_value_is_found_in_a_later_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 24)
    with pytest.raises(UsageError, match=r"index \(3, 1\)"):
        open_data(not_finite(np.nan))


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def npz_of(path: Path, **entries: Any) -> Path:
    np.savez(path, **entries)
    return path


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{"a": 1}]], object), allow_pickle=True)
    return buffer.getvalue()


REFUSED_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty npy": (lambda d: written(d / "x.npy", b""), "not an intact NumPy array"),
    "garbage npy": (lambda d: written(d / "x.npy", b"garbage" * 99), "not an intact NumPy array.*np.save"),
    "cut npy": (lambda d: written(d / "x.npy", npy("(100, 3)", content=bytes(10))), "promises 1,200 bytes.*holds 10"),
    "huge header": (lambda d: written(d / "x.npy", npy("(1000000, 1000000)")), "promises 4,000,000,000,000 bytes"),
    "overflowing header": (lambda d: written(d / "x.npy", npy(f"({2**40}, {2**40})")), "promises"),
    "negative header": (lambda d: written(d / "x.npy", npy("(-5, 3)")), "has no values"),
    "header of code": (lambda d: written(d / "x.npy", npy("__import__('os')")), "not an intact NumPy array"),
    "header of a type": (lambda d: written(d / "x.npy", npy("(1, 3)", "'nonsense'")), "not an intact NumPy array"),
    "nested header": (lambda d: written(d / "x.npy", npy("(" * 5000)), "not an intact NumPy array"),
    "later version": (lambda d: written(d / "x.npy", b"\x93NUMPY\x09\x00" + bytes(99)), "not an intact NumPy array"),
    "pickled npy": (lambda d: written(d / "x.npy", pickled()), "never loaded"),
    "pickled npz": (lambda d: zipped(d / "x.npz", samples=pickled()), "never loaded"),
    "pickled labels": (
        lambda d: zipped(d / "x.npz", samples=npy("(1, 2)", content=bytes(8)), y=pickled()),
        "never loaded",
    ),
    "empty npz": (lambda d: npz_of(d / "x.npz"), "cannot tell which array holds the samples.*name it 'samples'"),
    "unclear npz": (lambda d: npz_of(d / "x.npz", a=noise(2, 3), b=noise(2, 3)), r"found: a, b\); name it 'samples'"),
    "damaged npz": (lambda d: written(d / "x.npz", b"PK\3\4" + bytes(99)), r"not an intact \.npz"),
    "npz cut": (lambda d: zipped(d / "x.npz", samples=npy("(9, 3)", content=bytes(10))), "promises 108 bytes"),
    "label count": (lambda d: npz_of(d / "x.npz", x=noise(5, 3), y=np.arange(4)), "5 samples but 4 labels"),
    "label shape": (lambda d: npz_of(d / "x.npz", x=noise(5, 3), y=np.zeros((5, 2), int)), r"shape \(5,\).*\(5, 2\)"),
    "NaN in file": (lambda d: save_npy(d / "x.npy", not_finite(np.nan)), r"index \(3, 1\)"),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_files_are_refused_with_the_fix(tmp_path: Path, case: str) -> None:
    make, message = REFUSED_FILES[case]
    with pytest.raises(UsageError, match=message):
        open_data(str(make(tmp_path)))


def test_a_zip_bomb_is_refused_by_its_uncompressed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "array_limit", lambda: 1000)
    np.savez_compressed(tmp_path / "x.npz", samples=np.zeros((100, 100), np.uint8))
    with pytest.raises(UsageError, match=r"do not fit into memory \(limit 1,000\); save the array with np.save"):
        open_data(tmp_path / "x.npz")


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", samples=npy("(50, 3)", content=bytes(600)))
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(content)
    with pytest.raises(UsageError, match="write it again"):
        open_data(path)


def test_unknown_layouts_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'channels-last'"):
        open_data(noise(3, 4, 4), layout="channel-last")
    with pytest.raises(UsageError, match="leave the layout out"):
        open_data(noise(3, 4), layout="channels-last")


def test_images_of_an_array_can_be_resized() -> None:
    data = open_data(noise(3, 8, 8, 3), size=4)
    assert data.shape == (3, 4, 4) and data.batch(range(3)).shape == (3, 3, 4, 4) and "8×8 to 4×4" in data.notes[0]
    with pytest.raises(UsageError, match="leave it out"):
        open_data("moons", size=4)
