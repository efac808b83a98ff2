r"""The closed-form world: data from a mixture of Gaussians, whose every quantity is known at every noise level.

With x₀ ~ Σ_k π_k N(m_k, C_k), the marginal at time t is x_t ~ Σ_k π_k N(α m_k, α² C_k + σ² I), and given the component

    E[x₀ | x_t, k] = m_k + α C_k (α² C_k + σ² I)⁻¹ (x_t − α m_k),
    Cov[x₀ | x_t, k] = σ² C_k (α² C_k + σ² I)⁻¹.

The eigenvectors of C_k diagonalise all of it at every time, so they are found once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch

from scorefield.arithmetic import is_number
from scorefield.denoisers.base import EnergyDenoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Float, Generator, Int, Tensor


@dataclass(frozen=True, eq=False)
class _Components:
    """The mixture seen from x_t: everything in the eigenvectors' coordinates of each component, (b, k, D) or (b, k)."""

    log_joint: Tensor
    responsibilities: Tensor
    means: Tensor
    spreads: Tensor


@final
@dataclass(frozen=True, eq=False)
class GaussianMixture(EnergyDenoiser):
    """Exact denoiser of x₀ ~ Σ_k π_k N(m_k, C_k) on any path, in float64 whatever it is asked in.

    Attributes:
        path: the noise path.
        weights: π, (k,), positive; scaled to sum to one.
        means: m, (k, D).
        covariances: C, (k, D, D), symmetric positive semi-definite.

    Raises:
        UsageError: where the shapes do not fit or a covariance has a negative eigenvalue.
    """

    path: Path
    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k dim"]
    covariances: Float[Tensor, "k dim dim"]

    def __post_init__(self) -> None:
        count, dimension = self.means.shape
        wanted, got = (count, dimension, dimension), tuple(self.covariances.shape)
        if got != wanted or self.weights.shape != (count,):
            raise UsageError(
                f"GaussianMixture of means ({count}, {dimension}) needs covariances {wanted} and weights ({count},), got {got} and {tuple(self.weights.shape)}"
            )
        if not bool((self.weights > 0).all()):
            raise UsageError("GaussianMixture needs positive weights; leave out the components of weight 0")
        if float(self._eigen[0].min()) < -1e-9:
            raise UsageError("GaussianMixture needs positive semi-definite covariances, got a negative eigenvalue")

    @cached_property
    def _log_weights(self) -> Tensor:
        weights = self.weights.double()
        return (weights / weights.sum()).log()

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (k, D) and eigenvectors (k, D, D) of the covariances."""
        return torch.linalg.eigh(self.covariances.double())

    def _components(self, x_t: Tensor, t: float | Tensor) -> _Components:
        """Weigh the components at x_t and find each one's posterior mean and variances, by its eigenvectors."""
        alpha, sigma = (
            value if is_number(value) else value[:, None, None] for value in (self.path.alpha(t), self.path.sigma(t))
        )
        values, vectors = self._eigen
        flat = x_t.flatten(1).double()
        centred = torch.einsum("bkd,kde->bke", flat[:, None, :] - alpha * self.means.double(), vectors)
        total = alpha**2 * values + sigma**2
        exponent = -0.5 * (centred**2 / total + (2.0 * math.pi * total).log()).sum(-1)
        log_joint = self._log_weights + exponent
        means = torch.einsum("kde,bke->bkd", vectors, alpha * values / total * centred) + self.means.double()
        return _Components(
            log_joint, log_joint.softmax(-1), means, (sigma**2 * values / total).expand(len(flat), -1, -1)
        )

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """E[x₀ | x_t] exactly: the responsibilities' mean of the components' posterior means  (M6)."""
        parts = self._components(x_t, t)
        x_0 = torch.einsum("bk,bkd->bd", parts.responsibilities, parts.means)
        return Prediction(x_0.view(x_t.shape).to(x_t.dtype), x_t, t, self.path)

    def covariance(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"]) -> Float[Tensor, "b dim dim"]:
        """Cov[x₀ | x_t] exactly, by the law of total covariance; float64."""
        parts = self._components(x_t, t)
        _, vectors = self._eigen
        mean = torch.einsum("bk,bkd->bd", parts.responsibilities, parts.means)
        within = torch.einsum("bk,kde,bke,kfe->bdf", parts.responsibilities, vectors, parts.spreads, vectors)
        offsets = parts.means - mean[:, None, :]
        return within + torch.einsum("bk,bkd,bkf->bdf", parts.responsibilities, offsets, offsets)

    def log_joint(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """log π_k N(x_t; α m_k, α² C_k + σ² I) exactly, in nats; float64."""
        return self._components(x_t, t).log_joint

    def given(self, components: Int[Tensor, " n"]) -> GaussianMixture:
        """The law of the data given that their component is one of these: the weights scaled anew."""
        return GaussianMixture(
            self.path, self.weights[components], self.means[components], self.covariances[components]
        )

    def log_density(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log p_t(x_t) exactly, in nats; float64. At t = 0 it is the density of the data."""
        return self._components(x_t, t).log_joint.logsumexp(-1)

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E = −log p_t(x_t), its constant included  (M10); float64."""
        return -self.log_density(x_t, t)

    def responsibilities(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """p(k | x_t) exactly; float64."""
        return self._components(x_t, t).responsibilities

    def draw(self, count: int, generator: Generator | None = None) -> Float[Tensor, "count dim"]:
        """Draw data x₀ from the mixture; float64."""
        chosen = self.draw_components(count, generator)
        values, vectors = self._eigen
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64).to(self.means.device)
        scaled = noise * values.clamp(min=0.0).sqrt()[chosen]
        return self.means.double()[chosen] + torch.einsum("nde,ne->nd", vectors[chosen], scaled)

    def draw_components(self, count: int, generator: Generator | None = None) -> Int[Tensor, " count"]:
        """Draw the components' indices by their weights."""
        return torch.multinomial(self._log_weights.exp(), count, replacement=True, generator=generator)

    def times(self, other: GaussianMixture, exponent: float = 1.0) -> GaussianMixture:
        """The normalised product p q^w of this law of the data and another's, again a mixture: one component for each pair.

        N(m, C) N(n, B)^w ∝ N(μ, P⁻¹) with P = C⁻¹ + w B⁻¹ and P μ = C⁻¹ m + w B⁻¹ n; only one Gaussian's power is a Gaussian.

        Args:
            other: q.
            exponent: w; negative to divide by q.

        Raises:
            UsageError: a power of several components, or a product that cannot be normalised.
        """
        if exponent != 1.0 and len(other.weights) > 1:
            raise UsageError(
                f"the power {exponent} of a mixture of {len(other.weights)} is no mixture; take a power of one Gaussian, or exponent=1"
            )
        (mine, at), (theirs, to) = (
            (world.covariances.double().inverse(), world.means.double()) for world in (self, other)
        )
        precision = mine[:, None] + exponent * theirs[None]
        if float(torch.linalg.eigvalsh(precision).min()) <= 0.0:
            raise UsageError(
                "this quotient cannot be normalised: it does not fall in every direction; divide by what is wider"
            )
        pulls = [(matrix @ place[:, :, None])[..., 0] for matrix, place in ((mine, at), (theirs, to))]
        pull = pulls[0][:, None] + exponent * pulls[1][None]
        means = torch.linalg.solve(precision, pull)
        own, others = (
            (pull * place).sum(-1) - matrix.logdet()
            for pull, place, matrix in zip(pulls, (at, to), (mine, theirs), strict=True)
        )
        exponents = -0.5 * (own[:, None] + exponent * others[None] + precision.logdet() - (means * pull).sum(-1))
        joint = (self._log_weights[:, None] + other._log_weights[None] + exponents).flatten()
        covariances = precision.inverse()
        kept = (joint - joint.logsumexp(0)).exp().clamp_min(1e-300)
        return GaussianMixture(
            self.path, kept, means.flatten(0, 1), (0.5 * (covariances + covariances.mT)).flatten(0, 1)
        )
