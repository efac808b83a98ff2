"""Mixtures whose every likelihood is known: the built-in ones as a model sees them, and discretised ones with exact box probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefield.data.toys import MIXTURE_2D, MIXTURE_64D, Mixture
from scorefield.denoisers import GaussianMixture
from scorefield.denoisers.reverse import Normal, log_probability
from scorefield.likelihood import Reference, Subject
from scorefield.likelihood.subject import Batch
from scorefield.paths import Path
from scorefield.streams import SampleStreams
from tests.worlds import float64, mixture_moments, seeded

TOYS: dict[str, Mixture] = {"mixture-2d": MIXTURE_2D, "mixture-64d": MIXTURE_64D}
BITS = 1.0 / math.log(2.0)


def toy(name: str, path: Path) -> GaussianMixture:
    """A built-in mixture, standardised as a run's data are."""
    mixture = TOYS[name]
    size = mixture.means.shape[1]
    seen = mixture.standardised(mixture.mean.mean(), math.sqrt(np.trace(mixture.covariance) / size))
    return GaussianMixture(path, *(torch.from_numpy(x) for x in (seen.weights, seen.means, seen.covariances)))


def frame_of(world: GaussianMixture) -> Reference:
    """The Gaussian of a mixture's own moments."""
    return Reference.of(*mixture_moments(world))


def batch_of(x_0: Tensor, seed: int = 0, limit: int = 256, condition: Tensor | None = None) -> Batch:
    """Data with streams 0, 1, …."""
    return Batch(x_0, SampleStreams.numbered(seed, 0, len(x_0)), condition, limit)


@dataclass(frozen=True, eq=False)
class Discretised:
    """Integers from a mixture of Gaussians with diagonal covariances, and everything about them."""

    world: GaussianMixture
    levels: int

    @staticmethod
    def of(path: Path, levels: int, size: int = 4) -> Discretised:
        """Three components that are wider than a bin of 17 levels, and well inside [−1, 1]."""
        means = torch.rand(3, size, generator=seeded(0), dtype=torch.float64) - 0.5
        stds = 0.12 + 0.1 * torch.rand(3, size, generator=seeded(1), dtype=torch.float64)
        return Discretised(GaussianMixture(path, float64([0.5, 0.3, 0.2]), means, torch.diag_embed(stds**2)), levels)

    @property
    def subject(self) -> Subject:
        return Subject(self.world, self.levels, frame_of(self.world))

    def draw(self, count: int, seed: int = 1) -> Tensor:
        """Data at their levels in [−1, 1]."""
        half = (self.levels - 1) / 2.0
        drawn = self.world.draw(count, seeded(seed))
        return ((drawn + 1.0) * half).round().clamp(0, self.levels - 1) / half - 1.0

    def nats(self, x: Tensor) -> Tensor:
        """−log P(x) exactly, by box probabilities."""
        variances = torch.diagonal(self.world.covariances, dim1=1, dim2=2)
        pairs = zip(self.world.means, variances, strict=True)
        masses = [log_probability(x, Normal(m.expand_as(x), v.log().expand_as(x)), self.levels) for m, v in pairs]
        return -(torch.stack(masses, 1) + self.world.weights.log()).logsumexp(1)

    def bits(self, x: Tensor) -> float:
        """The exact bits per dimension of some data."""
        return float(self.nats(x).mean()) / x.shape[1] * BITS
