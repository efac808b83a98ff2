"""Numbers that examples come with: from every kind of data, aligned with them whatever is chosen or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorefield.data import open_data, report
from scorefield.data.conditions import MOST_CONDITIONS
from scorefield.errors import UsageError
from tests.data.zoo import noise, png

TARGET = [0.5, -1.0, 2.0, 4.0]


def parquet(path: Path, **columns: Any) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return str(path)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def npy(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


@pytest.mark.needs("pyarrow")
def test_columns_of_a_table_are_the_condition_and_no_data(tmp_path: Path) -> None:
    """A target that stays among the data is copied by the model, and the samples are of another shape."""
    columns: dict[str, list[float]] = {
        "a": [1.0, 2.0, 3.0, 4.0],
        "b": [0.0, 1.0, 0.0, 1.0],
        "y": [7, 8, 9, 10],
        "t": TARGET,
    }
    data = open_data(parquet(tmp_path / "x.parquet", **columns), condition="t, y")
    assert data.shape == (2,) and data.labels is None and data.condition_names == ("t", "y")
    assert data.conditions is not None and data.conditions.dtype == np.float64
    assert np.array_equal(data.conditions, np.array([TARGET, columns["y"]]).T)


def test_dates_keep_their_days() -> None:
    """Seconds since 1970, hours of Julian days: in 32 bits a thousand of them are a few."""
    for stamps in (1.7e9 + np.arange(1000.0), 2_460_000.5 + np.arange(1000.0) / 24.0):
        data = open_data(np.zeros((1000, 2), np.float32), condition=stamps)
        assert data.conditions is not None and np.array_equal(data.conditions[:, 0], stamps)
        of = report(data).conditions["condition"]
        assert of["deviation"] == pytest.approx(stamps.std(), rel=1e-6)


@pytest.mark.needs("pyarrow")
def test_a_column_of_vectors_beside_images_follows_those_that_are_kept(tmp_path: Path) -> None:
    """A damaged picture among the rows must not move the conditions of those after it."""
    pictures = [png(noise(6, 6, seed=0)), b"damaged", png(noise(6, 6, seed=1))]
    path = parquet(tmp_path / "x.parquet", image=pictures, v=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    data = open_data(path, condition="v", skip_bad=True)
    assert data.shape == (1, 6, 6) and data.condition_names == ("v[0]", "v[1]")
    assert data.conditions is not None and data.conditions.tolist() == [[1.0, 2.0], [5.0, 6.0]]


@pytest.mark.needs("datasets")
def test_a_column_of_a_hugging_face_data_set(tmp_path: Path) -> None:
    """The columns of `hf:` data are those of its table."""
    import datasets

    datasets.Dataset.from_dict({"x": [1.0, 2.0, 3.0, 4.0], "label": TARGET}).save_to_disk(str(tmp_path / "x"))
    data = open_data(f"hf:{tmp_path / 'x'}", condition="label")
    assert data.conditions is not None and data.conditions[:, 0].tolist() == TARGET and data.labels is None


def test_a_key_of_an_npz_file_is_neither_data_nor_labels(tmp_path: Path) -> None:
    """`y` is taken for labels and `x` for data, unless they are the condition."""
    path = npz(tmp_path / "x.npz", pictures=noise(4, 5, 6), y=np.array(TARGET), x=np.ones((4, 2)))
    data = open_data(path, condition="y,x")
    assert data.shape == (1, 5, 6) and data.labels is None and data.condition_names == ("y", "x[0]", "x[1]")
    assert data.conditions is not None and data.conditions[:, 0].tolist() == TARGET


def test_a_file_or_an_array_beside_any_data(tmp_path: Path) -> None:
    """Folders, IDX files and names have no columns: their numbers lie in a file of their own; the labels stay."""
    path = npy(tmp_path / "t.npy", np.array(TARGET))
    for condition in (path, Path(path), np.array(TARGET), TARGET):
        data = open_data(noise(4, 5, 6), labels=[0, 1, 1, 0], condition=condition)
        assert data.conditions is not None and data.conditions[:, 0].tolist() == TARGET and data.classes == 2
    assert open_data(noise(4, 5, 6), condition=path).condition_names == ("t",)


def test_choosing_examples_and_labels_keeps_the_conditions_with_them() -> None:
    """A condition of another example teaches nonsense without a word."""
    data = open_data(noise(4, 5, 6), condition=TARGET).subset([3, 1]).with_labels(np.array([0, 1]))
    assert data.conditions is not None and data.conditions[:, 0].tolist() == [4.0, -1.0]
    resized = open_data(noise(4, 6, 6).astype(np.uint8), condition=TARGET, size=3)
    assert resized.conditions is not None and resized.shape == (1, 3, 3)


def test_the_digest_covers_the_conditions_and_their_names(tmp_path: Path) -> None:
    """A resumed run compares the digest alone: other targets are other data."""
    plain, changed = np.array(TARGET), np.array([*TARGET[:3], 4.5])
    named = [npy(tmp_path / f"{name}.npy", plain) for name in ("a", "b")]
    digests = [open_data(noise(4, 5, 6), condition=c).digest for c in (None, plain, changed, *named)]
    assert len(set(digests)) == 5
    assert open_data(noise(4, 5, 6), condition=plain).digest == digests[1]


def test_the_report_says_their_ranges_mean_and_deviation() -> None:
    """They are what the model standardises by."""
    found = report(open_data(noise(4, 5, 6), condition=TARGET))
    of = found.conditions["condition"]
    assert (of["minimum"], of["maximum"], of["mean"]) == (-1.0, 4.0, 1.375)
    assert of["deviation"] == pytest.approx(np.std(TARGET))
    assert "condition: -1 to 4, mean 1.375" in found.to_text() and found.to_dict()["conditions"] == found.conditions


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (TARGET[:3], r"shape \(4,\) or \(4, k\); got \(3,\): give the rows of these data"),
        (np.ones((4, 2, 2)), r"got \(4, 2, 2\)"),
        (np.ones((4, 0)), r"got \(4, 0\)"),
        ([0.0, np.nan, 1.0, 2.0], "the value of row 1 is nan"),
        ([0.0, 1.0, 1e300, 2.0], r"the value of row 2 is 1e\+300"),
        (["a", "b", "c", "d"], "must be numbers, got <U1"),
        (np.ones((4, MOST_CONDITIONS + 1)), f"at most {MOST_CONDITIONS}"),
        ("nowhere.npy", "no file nowhere.npy"),
        ("height", "have no columns or keys such as 'height'; give data.condition the path of a .npy file"),
        ("a,,b", "has an empty name"),
    ],
)
def test_what_cannot_be_a_condition_is_refused_with_the_fix(condition: Any, said: str) -> None:
    """Whatever got through here would be learned, or would poison every weight at once."""
    with pytest.raises(UsageError, match=said):
        open_data(noise(4, 5, 6), condition=condition)


def test_unknown_keys_are_answered_with_the_nearest(tmp_path: Path) -> None:
    """A slip of the keyboard is named, not trained without."""
    path = npz(tmp_path / "x.npz", samples=noise(4, 5, 6), height=TARGET, name=np.array(["a", "b", "c", "d"]))
    with pytest.raises(UsageError, match=r"unknown key of .*x.npz 'heigth'; did you mean 'height'"):
        open_data(path, condition="heigth")
    with pytest.raises(UsageError, match="the condition 'name' must be numbers"):
        open_data(path, condition="name")


@pytest.mark.needs("pyarrow")
def test_columns_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """An empty cell is no number, and a table without other columns has nothing to model."""
    path = parquet(tmp_path / "x.parquet", a=[1.0, 2.0], age=[1, 2], name=["x", "y"])
    holes = parquet(tmp_path / "holes.parquet", a=[1.0, 2.0], age=[1.0, None])
    for table, condition, said in (
        (path, "aeg", "unknown column of .*x.parquet 'aeg'; did you mean 'age'"),
        (path, "name", "the condition 'name' must be numbers"),
        (path, "a,age", "no column of images or numbers"),
        (holes, "age", "column 'age' is empty in 1 rows"),
    ):
        with pytest.raises(UsageError, match=said):
            open_data(table, condition=condition)


def test_rows_for_files_that_are_left_out_are_named(tmp_path: Path) -> None:
    """Which row belongs to which file cannot be guessed once one is missing."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(noise(6, 6, seed=number)) if number != 1 else b"damaged")
    with pytest.raises(UsageError, match=r"1 examples are left out \(first: 1.png\), and the condition has rows"):
        open_data(str(tmp_path), condition=[0.0, 1.0, 2.0], skip_bad=True)
    assert open_data(str(tmp_path), condition=[0.0, 2.0], skip_bad=True).conditions is not None
