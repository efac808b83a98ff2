"""Restored data as strips and files, and how near they come to what they were made from.

PSNR = 10 log₁₀(peak²/MSE) with peak = levels − 1; of data without levels the root of the mean squared error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from scorefield.cli.common import as_file, npy_bytes, numbered_files
from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.data.representation import Representation
    from scorefield.editing.operators import LinearOperator
    from scorefield.model import Model
    from scorefield.model_restoration import Restored

_WHITE_AT = 0.25
"""The standard deviation that is white in a strip, as a share of the data's range."""


@final
@dataclass(frozen=True, eq=False)
class Restoration:
    """One measurement with its samples, and what it was made from where that is known."""

    measurement: np.ndarray
    restored: Restored
    original: np.ndarray | None = None


def psnr_rows(representation: Representation, rows: Sequence[Restoration]) -> dict[str, tuple[float, float]]:
    """The samples' PSNR and the mean's, each with its standard error over the pictures (NaN of one): or their RMSE."""
    import numpy as np

    each: dict[str, list[float]] = {}
    name = "psnr" if representation.levels is not None else "rmse"
    for row in rows:
        if row.original is None:
            continue
        original = row.original.astype(np.float64)
        samples = row.restored.samples.astype(np.float64)
        of_samples = [_nearness(representation, sample, original) for sample in samples]
        each.setdefault(f"{name}_of_a_sample", []).append(float(np.mean(of_samples)))
        each.setdefault(f"{name}_of_the_mean", []).append(_nearness(representation, row.restored.mean, original))
    spread = math.sqrt(len(rows))
    return {
        figure: (float(np.mean(all_)), float(np.std(all_, ddof=1)) / spread if len(all_) > 1 else math.nan)
        for figure, all_ in each.items()
    }


def _nearness(representation: Representation, x: np.ndarray, original: np.ndarray) -> float:
    """PSNR in dB, or the RMSE of data without levels."""
    error = float(((x - original) ** 2).mean())
    if representation.levels is None:
        return math.sqrt(error)
    return math.inf if error == 0.0 else 10.0 * math.log10((representation.levels - 1) ** 2 / error)


def strip(model: Model, operator: LinearOperator, rows: Sequence[Restoration]) -> bytes:
    """A PNG with a row for each measurement: measurement, samples, mean, standard deviation, and the original where it is known.

    Raises:
        UsageError: data that are no pictures.
    """
    import numpy as np

    from scorefield.fitting import picture_of

    representation = model.config.representation
    if len(representation.shape) != 3:
        raise UsageError("a strip is made of pictures, and these data are none; use --out X.npz or a folder")
    low, high = _range(representation, rows)
    tiles = []
    for row in rows:
        deviation = low + np.clip(row.restored.std / (_WHITE_AT * (high - low)), 0.0, 1.0) * (high - low)
        tiles += [_shown(representation, operator, row.measurement, (low, high)), *row.restored.samples]
        tiles += [row.restored.mean, deviation, *([] if row.original is None else [row.original])]
    array = np.clip(np.stack([tile.astype(np.float64) for tile in tiles]), low, high)
    whole = np.rint(array).astype(representation.dtype) if representation.levels is not None else array
    return picture_of(model, whole, columns=len(tiles) // len(rows))


def _range(representation: Representation, rows: Sequence[Restoration]) -> tuple[float, float]:
    """What black and white stand for: the range of integers, or of the samples."""
    if representation.levels is not None:
        return float(representation.low), float(representation.low + representation.levels - 1)
    low = min(float(row.restored.samples.min()) for row in rows)
    return low, max(*(float(row.restored.samples.max()) for row in rows), low + 1e-12)


def _shown(
    representation: Representation, operator: LinearOperator, y: np.ndarray, within: tuple[float, float]
) -> np.ndarray:
    """A measurement in the shape of the data: small pictures enlarged, grey in all channels, what is hidden half bright, vectors by A⁺."""
    import numpy as np
    import torch

    from scorefield.editing.operators import Decomposed, Mask
    from scorefield.model_restoration import as_handed_over, channels_first

    shape = operator.measured_shape
    own = channels_first(representation, y[None].astype(np.float64), shape)
    if isinstance(operator, Mask):
        own = np.where(operator.keep.numpy(), own, sum(within) / 2.0)
    elif len(shape) == len(representation.shape):
        for axis, (side, wanted) in enumerate(zip(shape, representation.shape, strict=True), start=1):
            own = np.take(own, np.arange(wanted) * side // wanted, axis=axis)
    elif isinstance(operator, Decomposed):
        own = operator.pseudo_inverse(torch.from_numpy(own)).numpy()
    return as_handed_over(representation, own, representation.shape)[0]


def folder_files(representation: Representation, rows: Sequence[Restoration]) -> Iterator[tuple[str, bytes]]:
    """Files by name: 000000.png … of the samples, mean, measurement (.png where exact, else .npy), std.npy; a folder for each of several."""
    for number, row in enumerate(rows):
        within = f"{number:06d}/" if len(rows) > 1 else ""
        for name, data in numbered_files(row.restored.samples, representation):
            yield f"{within}{name}", data
        yield f"{within}mean{_suffix(representation)}", _rounded(representation, row.restored.mean)
        yield f"{within}std.npy", npy_bytes(row.restored.std)
        yield _measurement_file(representation, within, row.measurement)
        if row.original is not None:
            suffix, data = as_file(row.original, representation)
            yield f"{within}original{suffix}", data


def _suffix(representation: Representation) -> str:
    import numpy as np

    return as_file(
        np.zeros(representation.own_layout(np.empty((1, *representation.shape))).shape[1:], representation.dtype),
        representation,
    )[0]


def _rounded(representation: Representation, mean: np.ndarray) -> bytes:
    """The mean as a file of the data's kind."""
    import numpy as np

    whole = np.rint(mean) if representation.levels is not None else mean
    return as_file(whole.astype(representation.dtype), representation)[1]


def _measurement_file(representation: Representation, within: str, y: np.ndarray) -> tuple[str, bytes]:
    """A picture where the measurement is one whose values its format holds; the array else."""
    import numpy as np

    is_picture = representation.layout == "image" and representation.dtype == "uint8" and y.dtype.kind in "iu"
    channels = 1 if y.ndim == 2 else y.shape[-1]
    if is_picture and y.ndim in (2, 3) and channels in (1, 3, 4) and 0 <= y.min() <= y.max() <= 255:
        kind = replace(
            representation,
            shape=(channels, *y.shape[:2]),
            shift=representation.shift[:1],
            scale=representation.scale[:1],
        )
        suffix, data = as_file(y.astype(np.uint8), kind)
        return f"{within}measurement{suffix}", data
    return f"{within}measurement.npy", npy_bytes(y)
