"""`--condition` of the commands that draw: numbers with commas between them, or the .npy file of a row a sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.model import Model


def conditions_of(model: Model, text: str | None, count: int) -> np.ndarray | None:
    """The rows (count, k) that `--condition` asks for, in the data's own units; None without it.

    Raises:
        UsageError: what are no such numbers, or a model without conditions.
    """
    if text is None:
        return None
    return model.wanted(count, condition=_read(text) if text.startswith("@") else _parsed(text))


def _read(text: str) -> Any:
    from scorefield.data.arrays import read_npy

    path = Path(text[1:]).expanduser()
    if not path.is_file():
        raise UsageError(f"--condition {text}: no file '{path}'; give a .npy file with one row of numbers a sample")
    return read_npy(path, any_values=True)


def _parsed(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--condition takes numbers with commas between them, such as 0.3,1.2, or @FILE.npy; got '{text[:60]}'"
        ) from None
