r"""Moment matching: the data given x_t are taken to be N(D, V) with their own covariance  (Boys et al. 2023; Rozet et al. 2024).

    p̃(y | x_t) = N(y; A D, A V Aᵀ + σ_y² I),   V = (σ²/α) J = Cov[x₀ | x_t]
    D' = D + V Aᵀ (A V Aᵀ + σ_y² I)⁻¹ (y − A D)

The system is solved in a few steps of GMRES, for a network's J is not symmetric, preconditioned by ΠGDM's r² A Aᵀ + σ_y² I (which is it for
white data), each step one vector-Jacobian product; the products that built the system make the answer too. One step is a ΠGDM
whose length is right; as many as there are measurements are the whole solution. Exact for Gaussian data; else the bias is what
p(x₀ | x_t) has beyond its covariance, and that V's own dependence on x_t is not differentiated.

A guided D is no law's mean: its V may be nothing or negative along a measurement, and the solution there as far off as one likes. Under N(D, V) the
misfit ⟨y − A D, u⟩ is that of m standard normal numbers; a sample whose misfit is negative, or far beyond both those and what white data of r² would
have, takes ΠGDM's step, which the first product has made already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers import Denoiser
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods.krylov import gmres
from scorefield.editing.methods.linearised import Linearised, spread
from scorefield.editing.methods.pigdm import check_data_std
from scorefield.editing.methods.twisting import Twist, Twisting
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

_BELIEVED = 10.0
"""How many times the misfit that a Gaussian's numbers have, or white data's, is still taken for a covariance's."""


@final
@dataclass(frozen=True)
class MomentMatching(Twisting):
    """Tweedie's second moment: one evaluation and `iterations` vector-Jacobian products a question  (M42; Rozet et al. 2024, section 4.2).

    Attributes:
        iterations: of GMRES.
        data_std: σ_d, of the preconditioner alone: it changes how soon the solution is reached, not which.

    Raises:
        UsageError: no iterations, or σ_d is not positive.
    """

    iterations: int = 2
    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_data_std("MomentMatching", self.data_std)
        if self.iterations < 1:
            raise UsageError(f"MomentMatching needs at least 1 iteration, got {self.iterations}")

    def twist(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Twist:
        """D, D + V Aᵀ u and −½⟨y − A D, u⟩, (A V Aᵀ + σ_y² I) u = y − A D; the determinant is left out, as no proposal needs it."""
        at = Linearised.at(denoiser, x_t, t, condition)
        residual = measurement.reached(measurement.residual(at.x0))
        r2 = spread(denoiser.path, t, self.data_std)
        weighed: list[Tensor] = []
        moved: list[Tensor] = []

        def product(v: Tensor) -> Tensor:
            weighed.append(measurement.weighed(v, r2))
            moved.append(at.covariance(measurement.operator.adjoint(weighed[-1])))
            return measurement.operator(moved[-1]) + measurement.noise**2 * weighed[-1]

        shares = gmres(product, residual, self.iterations)
        misfit = per_sample_sum(residual * _combined(shares, weighed))
        white = per_sample_sum(residual * measurement.weighed(residual, r2))
        is_believed = (misfit > 0.0) & (misfit <= _BELIEVED * (white + residual[0].numel()))
        length = per_sample_sum(residual * residual).clamp(min=1e-36).sqrt()
        one = [torch.where(is_believed, shares[0], length), *(torch.where(is_believed, c, 0.0) for c in shares[1:])]
        return Twist(at.prediction, at.x0 + _combined(one, moved), -0.5 * torch.where(is_believed, misfit, white))


def _combined(shares: list[Tensor], vectors: list[Tensor]) -> Tensor:
    """Σ_j c_j v_j, each sample its own c."""
    first, *others = zip(shares, vectors, strict=True)
    total = along_batch(first[0], first[1]) * first[1]
    for share, vector in others:
        total = total + along_batch(share, vector) * vector
    return total
