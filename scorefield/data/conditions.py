"""Numbers that examples come with, c ∈ ℝᵏ: what a model of p(x | c) is conditioned on.

They are columns of a table, entries of a .npz file, or an array beside any data: one row an example, (n, k) float64, with
one name a number. They are kept in their own units, in which a date is a large number and a day little of it; a model standardises them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.errors import UsageError

MOST_CONDITIONS = 4096


def named_columns(condition: Any) -> tuple[str, ...]:
    """The columns or keys that a setting names, in its order; none where it is an array, a .npy file or absent.

    Raises:
        UsageError: An empty name.
    """
    if not isinstance(condition, str) or is_file(condition):
        return ()
    names = tuple(dict.fromkeys(part.strip() for part in condition.split(",")))
    if not all(names):
        raise UsageError(
            f"data.condition='{condition}' has an empty name; give columns with commas between them, such as age,height"
        )
    return names


def is_file(condition: Any) -> bool:
    """Whether a condition is the path of a .npy file."""
    return isinstance(condition, (str, os.PathLike)) and os.fspath(condition).lower().endswith(".npy")


def no_columns(name: str, columns: Sequence[str]) -> UsageError:
    """The error for columns of data that have none."""
    return UsageError(
        f"{name}: these data have no columns or keys such as '{columns[0]}'; give data.condition the path of a .npy file with one row an example"
    )


def checked_conditions(raw: Any, names: Sequence[str], count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Conditions as they are kept: ((n, k) float64, k names); a name of several numbers gets theirs in brackets.

    Raises:
        UsageError: No numbers, not one row an example, too many of them, or a value that is not finite.
    """
    raw = np.asarray(raw)
    what = f"the condition '{', '.join(names)}'"
    if raw.dtype.kind not in "iufb":
        raise UsageError(f"{what} must be numbers, got {raw.dtype}; convert it, or use it as labels")
    rows = raw[:, None] if raw.ndim == 1 else raw
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] == 0:
        raise UsageError(
            f"{what} needs one row an example, shape ({count},) or ({count}, k); got {raw.shape}: give the rows of these data, in their order"
        )
    if rows.shape[1] > MOST_CONDITIONS:
        raise UsageError(f"{what} has {rows.shape[1]} numbers an example; at most {MOST_CONDITIONS} are possible")
    kept = np.ascontiguousarray(rows, dtype=np.float64)
    with np.errstate(over="ignore"):
        finite = np.isfinite(kept.astype(np.float32))
    if not finite.all():
        row, column = (int(place) for place in np.argwhere(~finite)[0])
        raise UsageError(
            f"{what}: the value of row {row} is {rows[row, column]}, which is not finite in 32 bits; remove or replace it"
        )
    own = tuple(names) if len(names) == rows.shape[1] else _numbered(names, rows.shape[1])
    if len(set(own)) < len(own):
        raise UsageError(f"{what} has two numbers of one name; rename a column")
    return kept, own


def _numbered(names: Sequence[str], count: int) -> tuple[str, ...]:
    name = names[0] if len(names) == 1 else "condition"
    return tuple(f"{name}[{number}]" for number in range(count))


def joined(columns: Sequence[np.ndarray], names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns (n,) or (n, k) side by side, with a name for each number.

    Raises:
        UsageError: Columns that are no numbers, or whose lengths differ.
    """
    parts = [checked_conditions(column, (name,), len(columns[0])) for column, name in zip(columns, names, strict=True)]
    return np.concatenate([rows for rows, _ in parts], axis=1), tuple(name for _, own in parts for name in own)


def read_conditions(condition: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Conditions and their name from a .npy file or an array.

    Raises:
        UsageError: No such file, or not an intact one.
    """
    from scorefield.data.arrays import read_npy

    if not isinstance(condition, (str, os.PathLike)):
        return np.asarray(condition), ("condition",)
    path = Path(condition).expanduser()
    if not path.is_file():
        raise UsageError(f"data.condition: no file {path}; give a .npy file with one row of numbers an example")
    return read_npy(path, any_values=True), (path.stem,)
