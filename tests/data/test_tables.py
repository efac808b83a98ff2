"""Parquet files and Hugging Face data sets on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorefield.data import open_data
from scorefield.errors import UsageError
from tests.data.zoo import noise, png

pytestmark = pytest.mark.needs("pyarrow")


def parquet(path: Path, **columns: Any) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return str(path)


def test_columns_of_numbers_are_points(tmp_path: Path) -> None:
    columns = {"a": [1.5, 2.5, 3.5], "b": np.array([1, 2, 3]), "name": ["x", "y", "z"], "label": ["u", "v", "u"]}
    data = open_data(parquet(tmp_path / "x.parquet", **columns))
    assert data.shape == (2,) and data.batch([1]).tolist() == [[2.5, 2.0]]
    assert data.labels is not None and data.labels.tolist() == [0, 1, 0] and data.class_names == ("u", "v")
    assert data.notes == ("columns not used, as they hold no numbers: name",)


def test_a_column_of_vectors_is_points(tmp_path: Path) -> None:
    data = open_data(parquet(tmp_path / "x.parquet", v=[[1.0, 2.0], [3.0, 4.0]]))
    assert data.shape == (2,) and data.batch([1]).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("boxed", [True, False])
def test_a_column_of_images_is_decoded(tmp_path: Path, boxed: bool) -> None:
    """As the hub stores them ({bytes, path}) and as plain bytes."""
    contents = [png(noise(4, 5, 3, seed=index)) for index in range(3)]
    cells = [{"bytes": content, "path": None} for content in contents] if boxed else contents
    data = open_data(parquet(tmp_path / "x.parquet", image=cells, label=[4, 2, 4]))
    assert data.shape == (3, 4, 5) and data.class_names == ("2", "4")
    assert np.array_equal(data.batch([2])[0], noise(4, 5, 3, seed=2).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x", "y"]}, r"no column of images or numbers \(found: a \(string\)\)"),
        ({"a": [1.0, None]}, r"column 'a' is empty in 1 rows \(first: row 1\); fill or drop"),
        ({"a": [1.0, float("nan")]}, r"index \(1, 0\) is nan"),
        ({"v": [[1.0], [1.0, 2.0]]}, r"several lengths \(\[1, 2\]\)"),
        ({"a": np.zeros(0)}, "no rows"),
        ({"image": [{"bytes": None, "path": "x.png"}]}, "stored as paths|is empty"),
        ({"image": [b"bad"]}, "no usable image.*row 0"),
    ],
)
def test_tables_are_refused_with_the_fix(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    import pyarrow as pa

    if "image" in columns and isinstance(columns["image"][0], dict):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"image": pa.array(columns["image"], kind)}
    with pytest.raises(UsageError, match=message):
        open_data(parquet(tmp_path / "x.parquet", **columns))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = Path(parquet(tmp_path / "x.parquet", a=np.arange(99.0)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match="not an intact Parquet file"):
        open_data(path)


@pytest.mark.needs("datasets")
def test_a_saved_hugging_face_data_set_opens_with_its_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "saved"))
    data = open_data(f"hf:{tmp_path}/saved")
    assert len(data) == 2 and data.class_names == ("no", "yes") and data.batch([1]).tolist() == [[3.0, 4.0]]
    assert len(open_data(f"hf:{tmp_path}/saved:test")) == 1
    with pytest.raises(UsageError, match="check the name, the split"):
        open_data(f"hf:{tmp_path}/saved:other")
