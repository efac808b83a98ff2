"""The exact law of a sampler on one Gaussian: every step is affine in x and in its noise, and so is the whole way.

With x_s = A x_t + B + Σ_k C_k z_k, a batch of which sample 0 has neither start nor noise, sample 1 starts at 1, and sample
k + 1 has the noise of draw k alone shows B, A + B and C_k + B: mean and variance follow without any sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoisers import Denoiser, Prediction
from scorefield.paths import Path
from scorefield.samplers import Sampler

MEAN, VARIANCE = 0.4, 0.5
"""Of the data, on the line."""


@dataclass(frozen=True)
class Impulses:
    """A source of noise in which draw k is 1 for sample k + 1 of the batch and 0 for all others."""

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """Draw k."""
        impulse = torch.zeros_like(like)
        impulse[draw + 1] = 1.0
        return impulse


@dataclass(frozen=True, eq=False)
class Line(Denoiser):
    """The exact denoiser of N(MEAN, VARIANCE) on the line, in two numbers a time: cheap enough for thousands of steps."""

    path: Path

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """E[x₀ | x_t] = m + α v/(α² v + σ²) (x_t − α m)."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return Prediction(gain * x_t + (MEAN - gain * alpha * MEAN), x_t, t, self.path)


def true_law(path: Path, t: float) -> tuple[float, float]:
    """Mean and standard deviation of x_t; those of the data at t = 0."""
    alpha, sigma = (1.0, 0.0) if t == 0.0 else (path.alpha(t), path.sigma(t))
    return alpha * MEAN, math.sqrt(alpha**2 * VARIANCE + sigma**2)


def end_law(sampler: Sampler, path: Path, t: float, s: float) -> tuple[float, float]:
    """Mean and standard deviation at s of what has the true law at t."""
    draws = 2 * (sampler.evaluations() or 0)
    x = torch.zeros(draws + 2, 1, dtype=torch.float64)
    x[1] = 1.0
    end = sampler.sample(Line(path), x, generator=Impulses(), start=t, end=s)[:, 0]
    offset, gains = float(end[0]), end[1:] - end[0]
    mean, std = true_law(path, t)
    return float(gains[0]) * mean + offset, math.hypot(float(gains[0]) * std, float(gains[1:].norm()))


def law_error(sampler: Sampler, path: Path, t: float, s: float) -> float:
    """The Wasserstein-2 distance between the law reached at s and the true one."""
    (mean, std), (true_mean, true_std) = end_law(sampler, path, t, s), true_law(path, s)
    return math.hypot(mean - true_mean, std - true_std)
