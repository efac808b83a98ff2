"""One pass over the data in their own units: range, means, variances, what repeats and what never changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from scorefield.data.dataset import Dataset

_CHUNK_VALUES = 1 << 20


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one pass over n examples of D values found; arrays are (D,) float64, flattened from the examples' shape."""

    count: int
    mean: np.ndarray
    variance: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    duplicates: int

    @property
    def constant(self) -> int:
        """How many of the D values are the same in every example."""
        return int(np.count_nonzero(self.minimum == self.maximum))

    def by_channel(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over examples and places: (C,), (C,).

        By the law of total variance: Var = E[variance of a place] + Var[mean of a place].
        """
        means, variances = self.mean.reshape(channels, -1), self.variance.reshape(channels, -1)
        return means.mean(axis=1), np.sqrt(variances.mean(axis=1) + means.var(axis=1))

    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation over everything."""
        mean, deviation = self.by_channel(1)
        return float(mean[0]), float(deviation[0])


def statistics(dataset: Dataset) -> Statistics:
    """Read every example once and sum it up; variances by the pairwise update of Chan, Golub and LeVeque (1983)."""
    size = int(np.prod(dataset.shape))
    mean, squares = np.zeros(size), np.zeros(size)
    minimum, maximum = np.full(size, np.inf), np.full(size, -np.inf)
    seen: set[bytes] = set()
    count, step = 0, max(1, _CHUNK_VALUES // size)
    for start in range(0, len(dataset), step):
        rows = dataset.batch(np.arange(start, min(start + step, len(dataset)))).reshape(-1, size)
        seen.update(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
        minimum, maximum = np.minimum(minimum, rows.min(axis=0)), np.maximum(maximum, rows.max(axis=0))
        values = rows.astype(np.float64)
        chunk_mean = values.mean(axis=0)
        values -= chunk_mean
        total, delta = count + len(rows), chunk_mean - mean
        squares += np.einsum("nd,nd->d", values, values) + delta**2 * (count * len(rows) / total)
        mean += delta * (len(rows) / total)
        count = total
    return Statistics(count, mean, squares / count, minimum, maximum, duplicates=count - len(seen))
