r"""Data ↔ model space: z = (x − shift)/scale, and back in the data's own units, dtype and layout.

Integers of L values from `low` on are mapped onto [−1, 1]; floats to mean 0 and standard deviation 1, each channel by
itself where they differ much. A density of the model becomes one of the data by log p(x) = log p(z) + log|dz/dx|.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from scorefield.data.dataset import Dataset, Layout
from scorefield.data.statistics import Statistics
from scorefield.errors import DivergedError, UsageError

if TYPE_CHECKING:
    import torch

MAX_LEVELS = 1 << 16
MAX_VALUES = 1 << 31
_FEW_LEVELS = 32
_UNEQUAL = 3.0


@dataclass(frozen=True)
class Representation:
    """The affine map between data and model space; stored with the model, so that results come back as the data were.

    Attributes:
        shape: The shape of one example in model space: (C, *d) or (D,).
        dtype: NumPy's name of the data's dtype.
        layout: "image": results have channels last, or none where C = 1; "array": they are laid out as `shape`.
        shift: One number, or one a channel.
        scale: One number, or one a channel, all positive.
        low: The lowest value of integer data.
        levels: The number of values of integer data; None for floats.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    low: int = 0
    levels: int | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise UsageError(f"data representation: {problem}")

    @property
    def size(self) -> int:
        """D, the number of values of one example."""
        return math.prod(self.shape)

    @property
    def log_determinant(self) -> float:
        """log|dz/dx| of one example in nats: −Σ log scale over its values."""
        return -math.fsum(math.log(scale) for scale in self.scale) * (self.size // len(self.scale))

    def to_model(self, batch: np.ndarray) -> torch.Tensor:
        """Data (n, C, *d), as `Dataset.batch` gives them → model space (n, C, *d), float32.

        Raises:
            UsageError: Examples of another shape.
        """
        import torch

        if batch.shape[1:] != self.shape:
            raise UsageError(
                f"the model is of data of shape {self.shape}, got {batch.shape[1:]}; give data of the model's shape"
            )
        # 64-bit floats may carry an offset that 32 bits would drown in
        precise = torch.float64 if batch.dtype.itemsize > 4 else torch.float32
        shift, scale = (torch.tensor(values, dtype=precise).reshape(self._along) for values in (self.shift, self.scale))
        return (torch.from_numpy(np.require(batch, requirements=("C", "W"))).to(precise) - shift).div_(scale).float()

    def from_model(self, z: torch.Tensor) -> np.ndarray:
        """Model space (n, C, *d) → data in their own units, dtype and layout; integers rounded and in range.

        Raises:
            DivergedError: numbers that are not finite, which integers have no place for and nobody wants.
        """
        z_array = z.detach().cpu().double().numpy()
        if not np.isfinite(z_array).all():
            lost = int((~np.isfinite(z_array)).reshape(len(z_array), -1).any(1).sum())
            raise DivergedError(
                f"{lost} of {len(z_array)} samples diverged: they hold numbers that are not finite; take more steps, less guidance, or another sampler or method"
            )
        shift, scale = (np.array(values).reshape(self._along) for values in (self.shift, self.scale))
        x = z_array * scale + shift
        if self.levels is not None:
            x = np.clip(np.rint(x), self.low, self.low + self.levels - 1)
        return self.own_layout(x.astype(self.dtype))

    def own_layout(self, batch: np.ndarray) -> np.ndarray:
        """Channels first (n, C, *d) → the layout of results: for images (n, *d, C), or (n, *d) where C = 1."""
        if self.layout == "array":
            return batch
        return batch[:, 0] if self.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(batch, 1, -1))

    def channels_first(self, results: np.ndarray) -> np.ndarray:
        """The inverse of `own_layout`: results as they were handed out → (n, C, *d)."""
        if self.layout == "array":
            return results
        return results[:, None] if self.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(results, -1, 1))

    def require_values(self, array: np.ndarray) -> None:
        """Refuse values that the data cannot have, which would wrap around in their dtype or spread as NaN.

        Raises:
            UsageError: No numbers, not finite, or of integers fractions or values out of their range.
        """
        if array.dtype.kind not in "iubf" or not np.isfinite(array).all():
            raise UsageError(f"data are finite numbers, got {array.dtype} with others; replace what is not")
        if self.levels is None or array.size == 0:
            return
        low, high = self.low, self.low + self.levels - 1
        if array.min() < low or array.max() > high or (array != np.rint(array)).any():
            raise UsageError(
                f"the model's data are integers from {low} to {high}, got values from {array.min():g} to {array.max():g}; bring them to that range and round them"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        plain = asdict(self)
        return plain | {key: list(plain[key]) for key in ("shape", "shift", "scale")}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Representation:
        """The inverse of `to_dict`.

        Raises:
            UsageError: A key is missing or unknown, or a value cannot be.
        """
        try:
            return cls(**plain | {key: tuple(plain[key]) for key in ("shape", "shift", "scale")})
        except (TypeError, KeyError) as error:
            raise UsageError(f"data representation: not as `to_dict` writes it ({error})") from error

    @classmethod
    def of(cls, dataset: Dataset, found: Statistics) -> Representation:
        """Choose the map for a dataset from its statistics.

        Raises:
            UsageError: Integers of more than 65,536 values.
        """
        shape, dtype, layout = dataset.shape, dataset.dtype.name, dataset.layout
        if dataset.dtype.kind == "f":
            shift, scale = _standardisation(found, shape[0])
            return cls(shape, dtype, layout, shift, scale)
        low, levels = dataset.levels or _range_of_integers(found, dataset)
        half = max(1, levels - 1) / 2.0
        return cls(shape, dtype, layout, (low + half,), (half,), low, levels)

    @property
    def _along(self) -> tuple[int, ...]:
        return (-1, *(1,) * (len(self.shape) - 1))


def _standardisation(found: Statistics, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: of everything, or by channel where they differ by more than a factor of 3."""
    mean, deviation = found.overall()
    means, deviations = found.by_channel(channels)
    varying = deviations[deviations > 0.0]
    unequal = len(varying) > 0 and varying.max() > _UNEQUAL * varying.min()
    if unequal or np.abs(means - mean).max() > _UNEQUAL * (varying.mean() if len(varying) else np.inf):
        return tuple(means.tolist()), tuple(np.where(deviations > 0.0, deviations, 1.0).tolist())
    return (mean,), (deviation or 1.0,)


def _range_of_integers(found: Statistics, dataset: Dataset) -> tuple[int, int]:
    """(lowest value, number of values): of few values just those, else all of the bits in use (8, 10, 12, 14 or 16)."""
    lowest, highest = int(found.minimum.min()), int(found.maximum.max())
    if highest - lowest >= MAX_LEVELS:
        raise UsageError(
            f"{dataset.name}: integers from {lowest} to {highest} are over {MAX_LEVELS} values; convert them to float32"
        )
    if lowest >= 0 and highest < MAX_LEVELS:
        if highest < _FEW_LEVELS:
            return 0, highest + 1
        return 0, next(1 << bits for bits in (8, 10, 12, 14, 16) if highest < 1 << bits)
    symmetric = next((1 << bits for bits in (8, 10, 12, 14, 16) if max(-lowest, highest + 1) <= 1 << (bits - 1)), None)
    return (lowest, highest - lowest + 1) if symmetric is None else (-symmetric // 2, symmetric)


def _problem(r: Representation) -> str | None:
    """What is impossible about a representation, for one that was read from a file."""
    if not (
        1 <= len(r.shape) <= 8 and all(type(side) is int and side > 0 for side in r.shape) and r.size <= MAX_VALUES
    ):
        return f"shape must be positive whole numbers, got {r.shape}"
    if np.dtype(r.dtype).kind not in "iuf":
        return f"dtype must be one of integers or floats, got {r.dtype}"
    if r.layout not in get_args(Layout):
        return f"layout must be one of {get_args(Layout)}, got {r.layout!r}"
    if len(r.shift) != len(r.scale) or len(r.scale) not in (1, r.shape[0]):
        return f"shift and scale need 1 or {r.shape[0]} numbers, got {len(r.shift)} and {len(r.scale)}"
    if not all(math.isfinite(value) for value in (*r.shift, *r.scale)) or min(r.scale) <= 0.0:
        return "shift must be finite and scale positive"
    floating = np.dtype(r.dtype).kind == "f"
    if floating != (r.levels is None) or not (floating or 1 <= (r.levels or 0) <= MAX_LEVELS):
        return f"levels must be 1 to {MAX_LEVELS} for integers and null for floats, got {r.levels}"
    return None
