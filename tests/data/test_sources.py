"""`open_data`: built-in names, and every string that names nothing."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scorefield.data import open_data, toys
from scorefield.errors import MissingExtraError, UsageError
from tests.data.zoo import noise, png, shard


def test_mnist_is_there_with_all_its_classes() -> None:
    """The demo trains on 4,500 digits and measures by 500 others: 500 of each class in all, shuffled, none twice."""
    train, test = open_data("mnist"), open_data("mnist-test")
    assert (len(train), train.shape, train.dtype.name, train.levels) == (4500, (1, 28, 28), "uint8", (0, 256))
    assert train.labels is not None and test.labels is not None
    assert (np.bincount(train.labels) + np.bincount(test.labels)).tolist() == [500] * 10
    both = np.concatenate([train.batch(range(4500)), test.batch(range(500))])
    assert len(np.unique(both.reshape(5000, -1), axis=0)) == 5000
    assert len(np.unique(train.labels[:100])) == 10


@pytest.mark.needs("sklearn")
def test_digits_have_17_grey_levels() -> None:
    data = open_data("digits")
    assert (len(data), data.shape, data.levels, data.classes) == (1797, (1, 8, 8), (0, 17), 10)


@pytest.mark.parametrize("name", toys.NAMES)
def test_toys_open_by_name_the_same_each_time(name: str) -> None:
    data = open_data(name)
    assert len(data) == 50_000 and data.dtype == np.float32 and data.digest == open_data(name).digest


def test_a_dataset_is_returned_as_it_is() -> None:
    data = open_data(noise(3, 4, 4))
    assert open_data(data) is data


def not_there(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module's import fail, as on a machine without the extra."""
    real = builtins.__import__

    def fake(name: str, *rest: object) -> object:
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fake)


@pytest.mark.parametrize(("module", "data"), [("sklearn", "digits"), ("pyarrow", "x.parquet"), ("datasets", "hf:x")])
def test_missing_extras_are_named(module: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.parquet").write_bytes(b"PAR1")
    not_there(module, monkeypatch)
    with pytest.raises(MissingExtraError, match=r"pip install 'scorefield\[data\]'"):
        open_data(data)


REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "typo": (lambda d: "mnits", "unknown data 'mnits'; did you mean 'mnist'"),
    "unknown": (lambda d: "zzz", "unknown data 'zzz'; known: .*checkerboard"),
    "empty": (lambda d: "", "no file or folder ''; check the path"),
    "missing file": (lambda d: str(d / "missing.npy"), "no file or folder .*check the path"),
    "missing folder": (lambda d: "no/such/folder", "no file or folder"),
    "null byte": (lambda d: "a\0b", r"unknown data 'a\\x00b'"),
    "too long": (lambda d: "x" * 10_000, "not a path"),
    "one image": (lambda d: write(d / "x.png", png(noise(4, 4))), "is one image; give the folder it lies in"),
    "empty file": (lambda d: write(d / "x.bin", b""), "is an empty file; write it again"),
    "csv": (lambda d: write(d / "x.csv", b"1,2,3\n"), "cannot be read as data; give a folder of images"),
    "pickle": (lambda d: write(d / "x.pkl", b"\x80\x04K\x01."), "cannot be read as data"),
    "torch file": (lambda d: write(d / "x.pt", b"PK\3\4"), "cannot be read as data"),
    "device": (lambda d: "/dev/null", "neither a folder nor a regular file"),
    "pipe": (lambda d: pipe(d / "x.npy"), "neither a folder nor a regular file"),
    "hub without a name": (lambda d: "hf:", "names no data set; give hf:NAME"),
    "shards missing": (lambda d: f"{d}/s-{{0..3}}.tar", "4 of 4 shards do not exist.*check the range"),
    "shards backwards": (lambda d: f"{d}/s-{{3..0}}.tar", "give one that counts up"),
    "shards without number": (lambda d: f"{d}/s-*.tar", r"1 of 1 shards do not exist"),
    "damaged shard": (lambda d: write(d / "x.tar", b"garbage" * 200), "not an intact, uncompressed tar file"),
    "gzipped shard": (lambda d: write(d / "x.tar", b"\x1f\x8b" + bytes(600)), "uncompressed tar file.*unpack"),
    "shard without images": (lambda d: str(shard(d / "x.tar", {"a.txt": b"1"})), "no usable image"),
    "shard without all classes": (
        lambda d: str(shard(d / "x.tar", {"a.png": png(noise(4, 4)), "a.cls": b"1", "b.png": png(noise(4, 4))})),
        r"1 of 2 examples have no class",
    ),
    "labels missing": (lambda d: "mnist labels=" + str(d / "y.npy"), "labels: no file"),
    "labels of another number": (lambda d: f"mnist labels={npy(d / 'y.npy', np.arange(9))}", "one entry an example"),
    "labels of fractions": (lambda d: f"mnist labels={npy(d / 'y.npy', np.linspace(0, 1, 4500))}", "whole numbers"),
}


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def npy(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize("case", REFUSED)
def test_strings_that_name_no_data_are_refused_with_the_fix(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    data, _, labels = make(tmp_path).partition(" labels=")
    with pytest.raises(UsageError, match=message):
        open_data(data, labels=labels or None)


def test_opening_and_reporting_need_no_torch() -> None:
    """A data report, or a refusal, must not wait for torch to be imported."""
    script = "import sys; from scorefield.data import open_data, report; report(open_data('moons')); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
