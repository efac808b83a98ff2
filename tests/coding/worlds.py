"""Pictures whose denoiser is known, and codecs for them that take a second to make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch

from scorefield.coding.codec import Codec
from scorefield.coding.profile_fit import Effort, make_profile
from scorefield.denoisers import Denoiser, GaussianMixture, Prediction
from scorefield.paths import EDM, Discrete, Path, Rectified

QUICK = Effort(curve=24, examples=200, steps=60, trial=20, group=50)
SHAPES = {
    "grey": (1, 6, 6),
    "eight": (1, 8, 8),
    "colour": (3, 5, 4),
    "points": (7,),
    "series": (2, 9),
    "one value": (1, 1, 1),
}


@final
@dataclass(frozen=True, eq=False)
class Shaped(Denoiser):
    """A denoiser of vectors, of pictures."""

    inner: GaussianMixture

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The inner one's."""
        return self.inner.path

    def __call__(self, x_t: torch.Tensor, t: Any, condition: Any = None) -> Prediction:
        """E[x₀ | x_t] of the flattened picture."""
        x0 = self.inner(x_t.flatten(1).double(), t).x0.reshape(x_t.shape).to(x_t.dtype)
        return Prediction(x0, x_t, t, self.path)


@final
@dataclass(frozen=True, eq=False)
class Still(Denoiser):
    """D = 0, whatever it is asked."""

    path: Path

    def __call__(self, x_t: torch.Tensor, t: Any, condition: Any = None) -> Prediction:
        """Nothing."""
        return Prediction(torch.zeros_like(x_t), x_t, t, self.path)


def mixture(shape: tuple[int, ...], path: Path, components: int = 3) -> Shaped:
    """Smooth pictures of a few kinds."""
    size, rng = int(np.prod(shape)), np.random.default_rng(5)
    places = np.arange(size) / max(1, size)
    means = np.stack([0.5 * np.sin(2 * np.pi * ((k + 1) * places + k / 3)) for k in range(components)])
    smooth = 0.15**2 * np.exp(-(((places[:, None] - places) * 6) ** 2)) + 0.05**2 * np.eye(size)
    weights = torch.from_numpy(rng.uniform(0.5, 1.5, components))
    covariances = torch.from_numpy(np.stack([smooth] * components))
    return Shaped(GaussianMixture(path, weights, torch.from_numpy(means), covariances))


def draws(shape: tuple[int, ...], levels: int, count: int, seed: int = 0) -> np.ndarray:
    """Pictures of the mixture in so many levels."""
    inner, rng = mixture(shape, EDM()).inner, np.random.default_rng(seed)
    weights = inner.weights.numpy() / inner.weights.numpy().sum()
    kinds = rng.choice(len(weights), count, p=weights)
    root = np.linalg.cholesky(inner.covariances[0].numpy())
    x = inner.means.numpy()[kinds] + rng.standard_normal((count, root.shape[0])) @ root.T
    return np.clip(np.rint((x + 1) * 0.5 * (levels - 1)), 0, levels - 1).astype(np.int64).reshape(count, *shape)


@cache
def codec(kind: str = "grey", levels: int = 17, name: str = "small", path: str = "edm") -> Codec:
    """A codec of such pictures."""
    shape = SHAPES[kind]
    chosen = {"edm": EDM(), "discrete": Discrete(steps=100), "rectified": Rectified()}[path]
    denoiser = mixture(shape, chosen)
    profile = make_profile(denoiser, draws(shape, levels, 240, seed=1), levels, name=name, effort=QUICK)
    return Codec(denoiser, profile)
