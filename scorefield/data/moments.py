r"""First and second moments of the data in model space: for a sampler's Gaussian part and a path's σ_max.

The covariance is kept as C ≈ Vᵀ diag(λ) V + r (I − Vᵀ V) with at most 64 directions, the rows of V, and the mean r of
the variances beyond them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scorefield.data.dataset import Dataset
from scorefield.data.representation import Representation

MAX_RANK = 64
MAX_EXAMPLES = 10_000
MAX_PAIRED = 2_000
_MAX_VALUES = 1 << 24
_CHUNK_VALUES = 1 << 20
_FULL_SPECTRUM = 1024
_OVERSAMPLING = 16
_POWER_ITERATIONS = 2


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments in model space of examples of D values.

    Attributes:
        mean: m, (D,) float64.
        eigenvalues: λ₁ ≥ λ₂ ≥ …, (k,) float64, k ≤ 64.
        eigenvectors: V, rows of unit length, (k, D) float32.
        residual_variance: r, the mean of the D − k variances beyond the k directions.
        variance: The mean of all D variances about m: the isotropic λ.
        largest_distance: The largest distance between two of at most 2,000 examples.
        examples: How many examples the covariance was measured on.
    """

    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    residual_variance: float
    variance: float
    largest_distance: float
    examples: int


def moments(dataset: Dataset, representation: Representation, mean: np.ndarray) -> Moments:
    """Measure the moments of a dataset in model space on at most 10,000 examples.

    Args:
        dataset: The data.
        representation: Their way to model space.
        mean: The mean of all examples in the data's own units, (D,), from the pass that has read them all.
    """
    size = representation.size
    chosen = _spread(len(dataset), min(MAX_EXAMPLES, max(256, _MAX_VALUES // size)))
    z = _read(dataset, representation, chosen)
    paired = z[_spread(len(z), min(MAX_PAIRED, len(z)))]
    distance = _largest_distance(paired)
    z -= z.mean(axis=0)
    variances = np.einsum("nd,nd->d", z, z, dtype=np.float64) / max(1, len(z) - 1)
    eigenvalues, eigenvectors = _principal(z)
    beyond = size - len(eigenvalues)
    return Moments(
        mean=_model_space(mean.reshape(1, *representation.shape), representation).reshape(size),
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        residual_variance=max(0.0, float(variances.sum() - eigenvalues.sum())) / beyond if beyond else 0.0,
        variance=float(variances.mean()),
        largest_distance=distance,
        examples=len(z),
    )


def _spread(count: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` examples drawn without repetition by a fixed seed, in order; all where there are no more."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, size=wanted, replace=False))


def _read(dataset: Dataset, representation: Representation, chosen: np.ndarray) -> np.ndarray:
    """Some examples in model space, (n, D) float32, with no more than a few at a time in 64 bits."""
    z = np.empty((len(chosen), representation.size), np.float32)
    step = max(1, _CHUNK_VALUES // representation.size)
    for start in range(0, len(chosen), step):
        batch = dataset.batch(chosen[start : start + step])
        z[start : start + step] = _model_space(batch, representation).reshape(len(batch), -1)
    return z


def _model_space(batch: np.ndarray, representation: Representation) -> np.ndarray:
    """z = (x − shift)/scale in 64 bits and without torch, so that a data report needs none."""
    along = (-1, *(1,) * (len(representation.shape) - 1))
    shift, scale = (np.array(values).reshape(along) for values in (representation.shift, representation.scale))
    z = batch.astype(np.float64)
    z -= shift
    z /= scale
    return z


def _largest_distance(z: np.ndarray) -> float:
    """max ‖zᵢ − zⱼ‖ from ‖zᵢ‖² + ‖zⱼ‖² − 2 zᵢ·zⱼ: (n, D) → a number (Song & Ermon 2020, technique 1)."""
    norms = np.einsum("nd,nd->n", z, z)
    squares = np.add.outer(norms, norms) - 2.0 * (z @ z.T)
    return math.sqrt(max(0.0, float(squares.max())))


def _principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues (k,) and their vectors (k, D) of the covariance of centred examples (n, D)."""
    n, size = z.shape
    rank = min(MAX_RANK, size, max(1, n - 1))
    if size <= _FULL_SPECTRUM:
        values, vectors = np.linalg.eigh((z.T @ z).astype(np.float64) / max(1, n - 1))
        return np.maximum(values[::-1][:rank], 0.0), vectors.T[::-1][:rank].astype(np.float32)
    return _principal_by_examples(z, rank) if n <= _FULL_SPECTRUM else _principal_by_iteration(z, rank)


def _principal_by_examples(z: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for few examples of large D: eigenvectors of ZᵀZ are Zᵀu/‖Zᵀu‖ for eigenvectors u of ZZᵀ."""
    values, vectors = np.linalg.eigh((z @ z.T).astype(np.float64))
    directions = vectors.T[::-1][:rank].astype(np.float32) @ z
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.maximum(values[::-1][:rank], 0.0) / max(1, len(z) - 1), directions / np.maximum(lengths, 1e-12)


def _principal_by_iteration(z: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for large D, by randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4)."""
    n, size = z.shape
    start = np.random.default_rng(0).standard_normal((size, rank + _OVERSAMPLING)).astype(np.float32)
    basis = np.linalg.qr(z.T @ (z @ start))[0]
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(z.T @ (z @ basis))[0]
    _, singular, vectors = np.linalg.svd(z @ basis, full_matrices=False)
    return singular[:rank].astype(np.float64) ** 2 / max(1, n - 1), vectors[:rank] @ basis.T
