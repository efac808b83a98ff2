"""Tables as data: Parquet files and Hugging Face data sets, with columns of images, vectors or numbers."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.data.arrays import array_dataset, check_memory
from scorefield.data.conditions import joined
from scorefield.data.dataset import Dataset, Options, class_labels
from scorefield.data.encoded import Item, decode_all
from scorefield.data.images import Stream
from scorefield.errors import MissingExtraError, UsageError, unknown_name

LABEL_COLUMNS = ("label", "labels", "class", "classes", "y", "fine_label")


@dataclass(frozen=True)
class _Bytes:
    content: bytes

    def __call__(self) -> Stream:
        return io.BytesIO(self.content)


def open_parquet(path: Path, name: str, options: Options) -> Dataset:
    """Open a Parquet file: a column of images, of vectors of one length, or all columns of numbers as points (N, D).

    A column called `label`, `labels`, `class`, `classes` or `y` gives the classes.

    Raises:
        MissingExtraError: pyarrow is not installed.
        UsageError: Not an intact Parquet file, empty cells, or no column that can be modelled.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("reading Parquet files", "data") from error
    try:
        with pq.ParquetFile(path) as file:
            check_memory(sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), name)
            table = file.read()
            table.validate(full=True)
    except UsageError:
        raise
    except Exception as error:  # Arrow passes on whatever type its native readers meet
        raise UsageError(f"{name}: not an intact Parquet file ({error}); write it again") from error
    return open_table(table, name, options)


def open_table(table: Any, name: str, options: Options) -> Dataset:
    """Make a dataset of a pyarrow table; the columns of its condition are neither data nor labels.

    Raises:
        UsageError: Empty cells, an unknown column, or no column that can be modelled.
    """
    if table.num_rows == 0:
        raise UsageError(f"{name}: the table has no rows; give at least one example")
    for column in options.condition:
        if column not in table.column_names:
            raise unknown_name(f"column of {name}", column, table.column_names)
    left = table.select([column for column in table.column_names if column not in options.condition])
    dataset, kept = _modelled(left, name, options)
    if not options.condition:
        return dataset
    rows, names = joined(
        [_numbers(_column(table, column, name), name) for column in options.condition], options.condition
    )
    return dataset.with_conditions(rows[kept], names)


def _modelled(table: Any, name: str, options: Options) -> tuple[Dataset, np.ndarray | slice]:
    """The dataset of a table, and which of its rows are in it."""
    import pyarrow.types as types

    label = next((column for column in LABEL_COLUMNS if column in table.column_names), None)
    raw = None if label is None else np.asarray(_column(table, label, name).to_numpy(zero_copy_only=False))
    labels = raw.astype(str) if raw is not None and raw.dtype.kind == "O" else raw
    fields = [field for field in table.schema if field.name != label]
    image = next((field.name for field in fields if _is_image(field.type, types)), None)
    if image is not None:
        return _images(_column(table, image, name), labels, name, options)
    vectors = [field.name for field in fields if types.is_list(field.type) or types.is_fixed_size_list(field.type)]
    if len(vectors) == 1:
        points = _vectors(_column(table, vectors[0], name), name)
        return array_dataset(points, name=name, labels=labels, layout=options.layout), slice(None)
    numbers = [field.name for field in fields if types.is_integer(field.type) or types.is_floating(field.type)]
    if not numbers:
        found = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        raise UsageError(f"{name}: no column of images or numbers (found: {found}); convert columns to numbers")
    columns = [_column(table, column, name).to_numpy(zero_copy_only=False) for column in numbers]
    notes = _unused(table, numbers, label)
    return array_dataset(_as_floats(np.stack(columns, axis=1)), name=name, labels=labels, notes=notes), slice(None)


def _column(table: Any, column: str, name: str) -> Any:
    """One column in one piece, without empty cells."""
    cells = table.column(column).combine_chunks()
    if cells.null_count:
        first = next(row for row, empty in enumerate(cells.is_null().to_pylist()) if empty)
        raise UsageError(
            f"{name}: column '{column}' is empty in {cells.null_count} rows (first: row {first}); fill or drop them"
        )
    return cells


def _is_image(kind: Any, types: Any) -> bool:
    if types.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_bytes(kind.field(i).type, types) for i in range(kind.num_fields)
        )
    return _is_bytes(kind, types)


def _is_bytes(kind: Any, types: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _unused(table: Any, used: list[str], label: str | None) -> list[str]:
    unused = [column for column in table.column_names if column not in used and column != label]
    return [f"columns not used, as they hold no numbers: {', '.join(unused)}"] if unused else []


def _as_floats(points: np.ndarray) -> np.ndarray:
    """Columns of a table are measurements: counts among them are modelled as floats too."""
    return points if points.dtype.kind == "f" else points.astype(np.float64)


def _numbers(cells: Any, name: str) -> np.ndarray:
    """A column of numbers or of vectors of them."""
    import pyarrow.types as types

    is_vector = types.is_list(cells.type) or types.is_fixed_size_list(cells.type)
    return _vectors(cells, name) if is_vector else np.asarray(cells.to_numpy(zero_copy_only=False))


def _vectors(cells: Any, name: str) -> np.ndarray:
    lengths = set(cells.value_lengths().to_pylist()) if hasattr(cells, "value_lengths") else {cells.type.list_size}
    if len(lengths) != 1:
        raise UsageError(f"{name}: vectors of several lengths ({sorted(lengths)[:5]}); bring them to one")
    return np.asarray(cells.to_pylist())


def _images(cells: Any, labels: np.ndarray | None, name: str, options: Options) -> tuple[Dataset, np.ndarray | slice]:
    contents = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells.to_pylist()]
    missing = sum(content is None for content in contents)
    if missing:
        raise UsageError(
            f"{name}: {missing} images are stored as paths, not as bytes; give the folder of images instead"
        )
    items = [Item(f"{name} row {row}", _Bytes(content)) for row, content in enumerate(contents)]
    decoded = decode_all(items, name, options)
    numbers, class_names = (None, ()) if labels is None else class_labels(labels[decoded.kept], len(decoded.kept))
    digests = [hashlib.sha256(contents[index]).digest() for index in decoded.kept]
    digest = hashlib.sha256(b"".join(digests)).hexdigest()
    return decoded.dataset(name, digest, numbers, class_names), decoded.kept


def open_hugging_face(data: str, options: Options) -> Dataset:
    """Open `hf:NAME[:split]`: a data set of the hub, or a local path that `save_to_disk` wrote; split `train` if none.

    Raises:
        MissingExtraError: `datasets` is not installed.
        UsageError: No such data set or split, or no column that can be modelled.
    """
    name, _, split = data.removeprefix("hf:").partition(":")
    if not name:
        raise UsageError(
            f"'{data}' names no data set; give hf:NAME or hf:NAME:SPLIT, for example hf:ylecun/mnist:train"
        )
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Hugging Face data sets", "data") from error
    try:
        table_set = _load(datasets, name, split or "train")
    except Exception as error:  # the library raises its own errors, those of the network and of the file formats
        raise UsageError(
            f"{data}: cannot be loaded ({error}); check the name, the split and the network, or give a local path"
        ) from error
    names = _class_names(table_set)
    raw = table_set.with_format("arrow")[:]
    opened = open_table(raw, data, options)
    if opened.labels is None or names is None or opened.class_names != tuple(str(i) for i in range(len(names))):
        return opened
    return replace(opened, class_names=tuple(names))


def _load(datasets: Any, name: str, split: str) -> Any:
    path = Path(name).expanduser()
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        stored = datasets.load_from_disk(str(path))
        return stored[split] if isinstance(stored, dict) else stored
    return datasets.load_dataset(name, split=split)


def _class_names(table_set: Any) -> list[str] | None:
    feature = next((table_set.features[column] for column in LABEL_COLUMNS if column in table_set.features), None)
    return getattr(feature, "names", None)
