"""Whatever bytes a file holds: it opens, or one type of error says so. Nothing else escapes, nothing hangs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.data import open_data
from scorefield.data.idx import write_idx
from scorefield.errors import UsageError
from tests.data.zoo import noise, png, shard


def npy(path: Path) -> None:
    np.save(path, noise(6, 4, 5))


def npz(path: Path) -> None:
    np.savez_compressed(path, samples=noise(6, 4, 5), labels=np.arange(6))


def idx(path: Path) -> None:
    write_idx(path, noise(6, 4, 5))


def tar(path: Path) -> None:
    shard(path, {"a.png": png(noise(4, 4)), "a.cls": b"1", "b.png": png(noise(4, 4)), "b.cls": b"0"})


def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0], "label": [0, 1]}), path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "x.npy": npy,
    "x.npz": npz,
    "x-idx3": idx,
    "x-idx3.gz": idx,
    "x.tar": tar,
    "x.parquet": parquet,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one intact file of each kind."""
    folder = tmp_path_factory.mktemp("intact")
    for name, make in MAKERS.items():
        make(folder / name)
    return {name: (folder / name).read_bytes() for name in MAKERS}


def survives(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            data = open_data(path)
        except UsageError as error:
            assert str(path) in str(error) and "Traceback" not in str(error)
        else:
            assert data.batch([0]).shape == (1, *data.shape)


FRACTIONS = st.floats(0, 1, exclude_max=True)


@pytest.mark.needs("pyarrow")
@given(st.sampled_from(sorted(MAKERS)), st.lists(st.tuples(FRACTIONS, st.integers(0, 255)), max_size=4), FRACTIONS)
def test_damaged_files_open_or_are_refused(
    originals: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[float, int]],
    cut: float,
) -> None:
    content = bytearray(originals[name])
    for place, value in changes:
        content[int(place * len(content))] = value
    kept = len(content) if changes else int(cut * len(content))
    survives(tmp_path_factory.getbasetemp() / name, bytes(content[:kept]))


@pytest.mark.needs("pyarrow")
@given(st.sampled_from(sorted(MAKERS)), st.binary(max_size=400), st.booleans())
def test_any_bytes_open_or_are_refused(
    originals: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, name: str, tail: bytes, headed: bool
) -> None:
    survives(tmp_path_factory.getbasetemp() / name, (originals[name][:16] if headed else b"") + tail)
