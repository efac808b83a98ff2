r"""What is known of x: y = A x + σ_y n, and the two questions that every restoration asks of it.

    correction:     Aᵀ (A Aᵀ + (σ_y²/r²) I)⁻¹ (y − A x)         where x should move, if it is known up to N(0, r² I)
    log likelihood: log N(y; A x, r² A Aᵀ + σ_y² I)

With r → ∞ (or σ_y = 0) the correction is A⁺(y − A x). Operators with a known decomposition answer exactly; others by conjugate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from scorefield.arithmetic import Time, along_batch, is_number, per_sample_sum, sqrt
from scorefield.editing.operators import NOTHING, Decomposed, Diagonal, LinearOperator
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

_CUTOFF = 1e-3

_ITERATIONS = 60


@final
@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x + σ_y n, n ~ N(0, I), in model space.

    Attributes:
        operator: A.
        y: (1, *m) for all samples of a batch, or (b, *m) one a sample.
        noise: σ_y ≥ 0.

    Raises:
        UsageError: y is not of the operator's measured shape, or the noise is impossible.
    """

    operator: LinearOperator
    y: Float[Tensor, "b *m"]
    noise: float = 0.0

    def __post_init__(self) -> None:
        if tuple(self.y.shape[1:]) != self.operator.measured_shape:
            raise UsageError(
                f"this operator measures {self.operator.measured_shape} of {self.operator.shape}, got measurements of {tuple(self.y.shape[1:])}"
            )
        if not 0.0 <= self.noise < math.inf:
            raise UsageError(f"a measurement needs noise ≥ 0, got {self.noise}")

    @property
    def cutoff(self) -> float:
        """Singular values below this share of the largest say nothing where no noise weighs them: rounding drowns them, but of values seen one by one."""
        return NOTHING if isinstance(self.operator, Diagonal) else _CUTOFF

    def residual(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """y − A x."""
        return self.y.to(x) - self.operator(x)

    def correction(self, x: Float[Tensor, "b *d"], variance: Time = math.inf) -> Float[Tensor, "b *d"]:
        """Aᵀ (A Aᵀ + (σ_y²/r²) I)⁻¹ (y − A x): where x moves, if it is known up to N(0, r² I).

        Args:
            x: (b, *d).
            variance: r² > 0: a float, or a (b,) tensor.
        """
        return self.corrected_by(x, self.noise**2 / variance)

    def corrected_by(self, x: Float[Tensor, "b *d"], ratio: Time) -> Float[Tensor, "b *d"]:
        """Aᵀ (A Aᵀ + ρ I)⁻¹ (y − A x), by ρ = σ_y²/r² itself: a float, or a (b,) tensor; 0 is A⁺ (y − A x)."""
        operator = self.operator
        if not isinstance(operator, Decomposed):
            return operator.adjoint(self._solved(self.residual(x), 1.0, ratio))
        z = operator.measured_spectrum(self.y.to(x)) - operator.singular_values.to(x) * operator.to_spectrum(x)
        return operator.from_spectrum(self._gain(along_batch(ratio, x), x) * z)

    @property
    def rank(self) -> int:
        """How many numbers are measured: singular values above 0; all of y where they are not known."""
        if isinstance(self.operator, Decomposed):
            return int((self.operator.singular_values > 0.0).sum())
        return math.prod(self.operator.measured_shape)

    def reached(self, v: Float[Tensor, "b *m"]) -> Float[Tensor, "b *m"]:
        """v without what A cannot reach: U Uᵀ v on singular values above 0; v itself where they are not known."""
        operator = self.operator
        if not isinstance(operator, Decomposed):
            return v
        values = operator.singular_values.to(v)
        cutoff = self.cutoff * values.max() if self.noise == 0.0 else 0.0
        return operator.from_measured_spectrum(torch.where(values > cutoff, operator.measured_spectrum(v), 0.0))

    def weighed(self, v: Float[Tensor, "b *m"], variance: Time) -> Float[Tensor, "b *m"]:
        """(r² A Aᵀ + σ_y² I)⁻¹ v on what A reaches."""
        operator = self.operator
        if not isinstance(operator, Decomposed):
            return self._solved(v, variance, self.noise**2)
        values = operator.singular_values.to(v)
        cutoff = self.cutoff * values.max() if self.noise == 0.0 else 0.0
        total = torch.where(values > cutoff, along_batch(variance, v) * values**2 + self.noise**2, math.inf)
        return operator.from_measured_spectrum(operator.measured_spectrum(v) / total)

    def deviation(self, variance: Time, like: Float[Tensor, "b *m"]) -> Time:
        """√(r² w² + σ_y²), that of y − A x number by number where values are seen one by one, each times its w; √(r² + σ_y²) elsewhere."""
        spread = along_batch(variance, like)
        if not isinstance(self.operator, Diagonal):
            return sqrt(spread + self.noise**2)
        weights = self.operator.weights.to(like)
        return torch.where(weights > 0.0, spread * weights**2 + self.noise**2, 1.0).sqrt()

    def log_likelihood(self, x: Float[Tensor, "b *d"], variance: Time = 0.0) -> Float[Tensor, " b"]:
        """log N(y; A x, r² A Aᵀ + σ_y² I) in nats, up to a constant of r²; what A cannot reach is left out.

        Raises:
            UsageError: neither spread nor noise: such a density is no function.
        """
        if self.noise == 0.0 and is_number(variance) and variance <= 0.0:
            raise UsageError("a measurement without noise has a density only with variance > 0")
        operator, apart = self.operator, self.residual(x)
        if not isinstance(operator, Decomposed):
            return -0.5 * per_sample_sum(apart * self._solved(apart, variance, self.noise**2))
        values, spread = operator.singular_values.to(x), along_batch(variance, x)
        seen = values > (self.cutoff * values.max() if self.noise == 0.0 else 0.0)
        total = torch.where(seen, spread * values**2 + self.noise**2, 1.0)
        return -0.5 * per_sample_sum(torch.where(seen, operator.measured_spectrum(apart) ** 2 / total, 0.0))

    def _gain(self, ratio: Time, x: Tensor) -> Tensor:
        """S/(S² + ratio), and 0 where nothing is measured."""
        values = self.operator.singular_values.to(x)  # type: ignore[attr-defined]  # asked of decomposed operators alone
        is_pseudo_inverse = self.noise == 0.0 or (is_number(ratio) and ratio == 0.0)
        cutoff = self.cutoff * values.max() if is_pseudo_inverse else 0.0
        return torch.where(values > cutoff, values / (values**2 + ratio).clamp(min=1e-30), 0.0)

    def _solved(self, y: Tensor, variance: Time, noise_variance: Time) -> Tensor:
        """(r² A Aᵀ + σ² I)⁻¹ y."""
        spread, floor = along_batch(variance, y), along_batch(noise_variance, y)
        return conjugate_gradients(lambda v: spread * self.operator(self.operator.adjoint(v)) + floor * v, y)


def conjugate_gradients(
    system: Callable[[Tensor], Tensor],
    wanted: Float[Tensor, "b *m"],
    iterations: int = _ITERATIONS,
    tolerance: float = 1e-6,
) -> Float[Tensor, "b *m"]:
    """Solve M v = y for symmetric positive semi-definite M, each sample by itself  (Hestenes & Stiefel 1952).

    Args:
        system: v ↦ M v on batches.
        wanted: y.
        iterations: at most so many products with M.
        tolerance: of the residual's norm, as a share of y's: a sample that has reached it stands still.
    """
    found, left = torch.zeros_like(wanted), wanted.clone()
    direction, size = left, per_sample_sum(left * left)
    best, least = found, size
    enough = tolerance**2 * size
    for _ in range(min(iterations, wanted[0].numel())):
        product = system(direction)
        curvature = per_sample_sum(direction * product)
        goes_on = (size > enough) & (curvature > 0.0)
        stride = along_batch(torch.where(goes_on, size / curvature.clamp(min=1e-30), 0.0), wanted)
        found, left = found + stride * direction, left - stride * product
        smaller = per_sample_sum(left * left)
        direction = left + along_batch(smaller / size.clamp(min=1e-30), wanted) * direction
        size = torch.where(goes_on, smaller, size)
        best = torch.where(along_batch(size < least, wanted) > 0, found, best)
        least = torch.minimum(size, least)
    return best
