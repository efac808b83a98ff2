r"""Closed-form toys: seeded points whose distribution is known exactly.

Four are densities in the plane. The mixtures are Gaussian, p(x) = Σₖ wₖ N(x; μₖ, Σₖ), with public constants, so that
the score, the posterior mean and the best reachable loss are known to the last digit: `MIXTURE_2D` (eight modes on a
ring) and `MIXTURE_64D` (ten modes whose covariances have spectra over nearly three decades, as images have).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

POINTS = 50_000


@dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture: weights (K,), means (K, D), covariances (K, D, D), all float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """E x = Σₖ wₖ μₖ: (D,)."""
        return np.asarray(self.weights @ self.means)

    @property
    def covariance(self) -> np.ndarray:
        """Cov x = Σₖ wₖ (Σₖ + μₖ μₖᵀ) − E x E xᵀ: (D, D)."""
        second = np.einsum("k,kde->de", self.weights, self.covariances)
        second += np.einsum("k,kd,ke->de", self.weights, self.means, self.means)
        return np.asarray(second - np.outer(self.mean, self.mean))

    def standardised(self, shift: np.ndarray | float, scale: np.ndarray | float) -> Mixture:
        """The mixture of z = (x − shift)/scale, for numbers or vectors (D,): what a model of the points sees."""
        scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), self.means.shape[1:])
        return Mixture(self.weights, (self.means - shift) / scales, self.covariances / np.outer(scales, scales))

    def sample(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw points (n, D) float64 and the components (n,) int64 they are from."""
        components = generator.choice(len(self.weights), size=n, p=self.weights)
        noise = generator.standard_normal((n, self.means.shape[1]))
        roots = np.linalg.cholesky(self.covariances)
        points = np.empty_like(noise)
        for k, (mean, root) in enumerate(zip(self.means, roots, strict=True)):
            chosen = components == k
            points[chosen] = mean + noise[chosen] @ root.T
        return points, components


def _ring_of_modes() -> Mixture:
    """Eight modes on a ring of radius 4 with unequal weights, each twice as wide along the ring as across it."""
    angles = np.arange(8) * (np.pi / 4)
    across = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    covariances = 0.04 * np.einsum("kd,ke->kde", across, across) + 0.16 * np.einsum("kd,ke->kde", along, along)
    weights = np.array([3.0, 1.0, 2.0, 1.0, 3.0, 1.0, 2.0, 1.0])
    return Mixture(weights / weights.sum(), 4.0 * across, covariances)


def _image_like_modes() -> Mixture:
    """Ten modes in 64 dimensions: cosine means, covariances with variances 1/(1 + i)^1.5 along turned axes."""
    i, k = np.arange(64.0), np.arange(10.0)[:, None]
    means = 0.5 * np.cos(0.37 * (k + 1.0) * (i + 1.0)) + 0.5 * np.sin(0.11 * (k + 2.0) * i + k)
    axes = np.cos((0.2 + 0.13 * k) * i + k)
    covariances = np.stack([_turned_spectrum((1.0 + i) ** -1.5, axis) for axis in axes])
    weights = 1.0 + 0.2 * np.arange(10.0)
    return Mixture(weights / weights.sum(), means, covariances)


def _turned_spectrum(variances: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """H diag(λ) H with the reflection H = I − 2vvᵀ/vᵀv: a covariance of exactly these eigenvalues."""
    reflection = np.eye(len(axis)) - 2.0 * np.outer(axis, axis) / (axis @ axis)
    covariance = reflection * variances @ reflection
    return np.asarray((covariance + covariance.T) / 2.0)


MIXTURE_2D = _ring_of_modes()
MIXTURE_64D = _image_like_modes()
MIXTURES = {"mixture-2d": MIXTURE_2D, "mixture-64d": MIXTURE_64D}

MOONS_NOISE = 0.1
RINGS_NOISE = 0.08
SWISSROLL_NOISE = 0.3
RING_RADII = (1.0, 2.0, 3.0)
CHECKERBOARD_SIZE = 4.0


def moons(n: int, generator: np.random.Generator) -> np.ndarray:
    """Two half circles, (cos θ, sin θ) and (1 − cos θ, ½ − sin θ), θ uniform on [0, π], plus noise 0.1: (n, 2)."""
    theta, lower = np.pi * generator.random(n), generator.random(n) < 0.5
    x = np.where(lower, 1.0 - np.cos(theta), np.cos(theta))
    y = np.where(lower, 0.5 - np.sin(theta), np.sin(theta))
    return np.stack([x, y], axis=1) + MOONS_NOISE * generator.standard_normal((n, 2))


def checkerboard(n: int, generator: np.random.Generator) -> np.ndarray:
    """Uniform on the 8 of 16 squares, of side 2, of a board on [−4, 4]² where row + column is even: (n, 2)."""
    row = generator.integers(4, size=n)
    column = 2 * generator.integers(2, size=n) + row % 2
    corner = np.stack([column, row], axis=1).astype(np.float64)
    return (corner + generator.random((n, 2))) * (CHECKERBOARD_SIZE / 2.0) - CHECKERBOARD_SIZE


def swissroll(n: int, generator: np.random.Generator) -> np.ndarray:
    """A spiral (r cos r, r sin r), r uniform on [3π/2, 9π/2], plus noise 0.3: (n, 2)."""
    r = 1.5 * np.pi * (1.0 + 2.0 * generator.random(n))
    spiral = np.stack([r * np.cos(r), r * np.sin(r)], axis=1)
    return spiral + SWISSROLL_NOISE * generator.standard_normal((n, 2))


def rings(n: int, generator: np.random.Generator) -> np.ndarray:
    """Circles of radius 1, 2 and 3, drawn in proportion to their length, plus noise 0.08: (n, 2)."""
    radii = np.array(RING_RADII)
    radius = generator.choice(radii, size=n, p=radii / radii.sum())
    angle = 2.0 * np.pi * generator.random(n)
    circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return circle + RINGS_NOISE * generator.standard_normal((n, 2))


PLANE: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "moons": moons,
    "checkerboard": checkerboard,
    "swissroll": swissroll,
    "rings": rings,
}
NAMES = (*PLANE, *MIXTURES)


def points(name: str, n: int = POINTS, seed: int = 0) -> np.ndarray:
    """Draw n points of a toy by its name: (n, D) float32, the same for the same seed.

    Raises:
        KeyError: No toy of this name; see `NAMES`.
    """
    generator = np.random.default_rng(seed)
    if name in MIXTURES:
        return MIXTURES[name].sample(n, generator)[0].astype(np.float32)
    return PLANE[name](n, generator).astype(np.float32)
