r"""A Gaussian as the frame of the flow: what it explains is done by formulas, and only the rest is left to solve.

With x̄ = x/α, s = σ/α = e^{−λ}, data N(m, C) have p(x̄) = N(m, C + s² I), the linear denoiser D_G and the whitened point y

    D_G = m + C (C + s² I)⁻¹ (x̄ − m),   y = (C + s² I)^{−½} (x̄ − m).

C = Vᵀ diag(v) V + r (I − Vᵀ V) with at most 64 directions, so that every function of it costs two thin products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

_LEAST_VARIANCE = 1e-8


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """A Gaussian N(m, C) in D dimensions; float64.

    Attributes:
        mean: m, (D,).
        variances: v, (k,) the variances along the directions.
        directions: V, (k, D) of orthonormal rows; k may be 0.
        residual: r, the variance along all other directions.
    """

    mean: Float[Tensor, " dim"]
    variances: Float[Tensor, " k"]
    directions: Float[Tensor, "k dim"]
    residual: float

    def __post_init__(self) -> None:
        if not (self.residual >= 0.0 and bool((self.variances >= 0.0).all())):
            raise UsageError("a reference needs variances ≥ 0; give those of a covariance")

    @classmethod
    def isotropic(cls, dimension: int, variance: float = 1.0, device: str | torch.device = "cpu") -> Reference:
        """N(0, variance · I), where nothing is known of the data."""
        empty = torch.zeros(0, dimension, dtype=torch.float64, device=device)
        return cls(torch.zeros(dimension, dtype=torch.float64, device=device), empty[:, 0], empty, variance)

    @classmethod
    def of(cls, mean: Float[Tensor, " dim"], covariance: Float[Tensor, "dim dim"]) -> Reference:
        """N(m, C) of a whole covariance."""
        values, vectors = torch.linalg.eigh(covariance.double())
        return cls(mean.double(), values.clamp(min=0.0), vectors.mT.contiguous(), 0.0)

    @classmethod
    def of_moments(cls, moments: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Reference:
        """The Gaussian of a model's stored moments: mean, eigenvalues, eigenvectors, residual_variance."""
        directions = moments["eigenvectors"].to(device).double()
        if len(directions):
            # stored in 32 bits: made orthonormal to the last digit, so that the way there and back is the identity
            orthonormal, triangle = torch.linalg.qr(directions.mT)
            directions = (orthonormal * triangle.diagonal().sign()).mT.contiguous()
        values = moments["eigenvalues"].to(device).double().clamp(min=0.0)
        residual = max(float(moments["residual_variance"]), _LEAST_VARIANCE)
        return cls(moments["mean"].to(device).double(), values, directions, residual)

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def spectrum(self) -> Float[Tensor, " dim"]:
        """All D variances, the residual as often as it counts."""
        rest = self.variances.new_full((self.dimension - len(self.variances),), self.residual)
        return torch.cat([self.variances, rest])

    def whiten(self, points: Float[Tensor, "b dim"], s: Float[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        """(C + s² I)^{−½} points."""
        return self._scaled(points, *(value.rsqrt() for value in self._totals(s)))

    def colour(self, points: Float[Tensor, "b dim"], s: Float[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        """(C + s² I)^{½} points, the inverse of `whiten`."""
        return self._scaled(points, *(value.sqrt() for value in self._totals(s)))

    def kept(self, points: Float[Tensor, "b dim"], s: Float[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        """C (C + s² I)⁻¹ points: D_G − m of points x̄ − m, and the Jacobian of D_G times a vector."""
        along, beyond = self._totals(s)
        return self._scaled(points, self.variances / along, self.residual / beyond)

    def trace(self, s: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """tr ∂D_G/∂x̄ = Σ v/(v + s²)."""
        along, beyond = self._totals(s)
        return (self.variances / along).sum(1) + self._rest * (self.residual / beyond)[:, 0]

    def log_volume(self, s: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """½ log det(C + s² I)."""
        along, beyond = self._totals(s)
        return 0.5 * (along.log().sum(1) + self._rest * beyond.log()[:, 0])

    def information(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """I(λ) = ½ Σ log(1 + v e^{2λ}) in nats: what x_t tells of such data, the shape of every model's bound over λ."""
        return 0.5 * (self.spectrum * (2.0 * log_snr).exp()[:, None]).log1p().sum(1)

    @property
    def _rest(self) -> int:
        return self.dimension - len(self.variances)

    def _totals(self, s: Tensor) -> tuple[Tensor, Tensor]:
        square = s.square()[:, None]
        return self.variances + square, self.residual + square

    def _scaled(self, points: Tensor, along: Tensor, beyond: Tensor) -> Tensor:
        if self._rest == 0:
            return ((points @ self.directions.mT) * along) @ self.directions
        return beyond * points + ((points @ self.directions.mT) * (along - beyond)) @ self.directions


def log_normal(points: Float[Tensor, "b dim"], std: float) -> Float[Tensor, " b"]:
    """log N(points; 0, std² I) in nats."""
    constant = math.log(2.0 * math.pi * std**2)
    return -0.5 * ((points / std).square() + constant).sum(1)
