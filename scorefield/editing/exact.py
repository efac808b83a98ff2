r"""The posterior of a closed-form world: a mixture of Gaussians under a linear measurement is one again.

    y = A x + σ_y n,   x ~ Σ_k π_k N(m_k, C_k)
    p(x | y) = Σ_k π'_k N(m_k + G_k (y − A m_k), C_k − G_k A C_k),   G_k = C_k Aᵀ S_k⁻¹,   S_k = A C_k Aᵀ + σ_y² I
    π'_k ∝ π_k N(y; A m_k, S_k)

What every approximate method is measured against: its draws, its moments, and, as a denoiser, E[x₀ | x_t, y] itself.
"""

from __future__ import annotations

import torch

from scorefield.denoisers import GaussianMixture
from scorefield.editing.measurement import Measurement
from scorefield.editing.operators import matrix_of
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

_NOTHING = 1e-10


def conditioned(prior: GaussianMixture, measurement: Measurement) -> GaussianMixture:
    """p(x₀ | y) as a mixture, whose denoiser is E[x₀ | x_t, y] on the prior's path  (M42).

    Args:
        prior: of the data.
        measurement: of one y, (1, *m).

    Raises:
        UsageError: more than one y, or a measurement that no component can have made.
    """
    if len(measurement.y) != 1:
        raise UsageError(f"conditioned takes one y, (1, …), got {len(measurement.y)}; condition on each by itself")
    matrix, y = _rows(measurement)
    means, covariances = prior.means.double(), prior.covariances.double()
    spread = matrix @ covariances @ matrix.mT + measurement.noise**2 * torch.eye(len(matrix)).to(matrix)
    apart = y - means @ matrix.mT
    root, failed = torch.linalg.cholesky_ex(spread)
    if bool(failed.any()):
        raise UsageError(
            "without noise, a component that has no spread in what is measured gives no posterior; give the measurement noise above 0"
        )
    gain = torch.cholesky_solve(matrix @ covariances, root).mT
    whitened = torch.linalg.solve_triangular(root, apart[:, :, None], upper=False)[:, :, 0]
    log_weights = prior.weights.double().log() - 0.5 * (whitened**2).sum(1) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    weights = log_weights.softmax(0)
    kept = weights > 1e-300
    left = torch.eye(means.shape[1]).to(means) - gain @ matrix
    remaining = left @ covariances @ left.mT + measurement.noise**2 * gain @ gain.mT
    moved = means + (gain @ apart[:, :, None])[:, :, 0]
    return GaussianMixture(prior.path, weights[kept], moved[kept], remaining[kept])


def as_matrix(measurement: Measurement) -> Float[Tensor, "m n"]:
    """A, column by column."""
    return matrix_of(measurement.operator, measurement.y.device)


def _rows(measurement: Measurement) -> tuple[Tensor, Tensor]:
    """A and y in as many orthogonal directions as are measured: (r, D) and (r,)."""
    left, values, right = torch.linalg.svd(as_matrix(measurement), full_matrices=False)
    kept = values > _NOTHING * values.max()
    rotated = left[:, kept].mT
    return values[kept, None] * right[kept], rotated @ measurement.y.double().flatten()
