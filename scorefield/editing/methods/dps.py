r"""DPS: against the gradient of how far the prediction is from the measurement  (Chung, Kim, Mccann, Klasky & Ye 2023).

    D' = D + ζ (√m/s) V Aᵀ (y − A D)/‖y − A D‖,   s² = r² + σ_y²,   r² = σ² σ_d²/(α² σ_d² + σ²),   V = (σ²/α) Jᵀ

that is −ζ (√m/s) (σ²/α) ∇_{x_t} ‖y − A D(x_t)‖, m being how many numbers are measured: ‖y − A D‖ is about √m s, so that ζ = 1 is as
strong as a Gaussian p̃(y | x_t) of variance s². The paper takes x_s ← x_s − ζ' ∇‖y − A D‖ after each of 1000 ancestral steps. An
ancestral step carries D with the factor b = α_s (1 − σ̄_s²/σ̄_t²), σ̄ = σ/α, and b σ_t²/α_t = (α_s/α_t) σ²_{t|s}  (M5), so that this *is* the
paper's update with

    ζ'_t = ζ (√m/s) (α_s/α_t) σ²_{t|s},

which keeps its strength when steps, noise levels or the number of measurements change, where a constant ζ' is tuned anew. Where values
are seen one by one in units of their own, each counts in its own s² = r² w² + σ_y²: in raw units the widest would decide alone. Its bias:
A's other singular values do not count, and the residual's length says nothing, only its direction.

With `repeats` each part of the way is walked again after going up it by fresh noise, the measurement met in x_t itself each time, as
RePaint does: what was decided at high noise before the measurement could be told is decided again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods.linearised import Linearised, spread
from scorefield.editing.methods.pigdm import check_data_std
from scorefield.editing.methods.repaint import Resampled
from scorefield.editing.posterior import Method
from scorefield.errors import UsageError
from scorefield.samplers import Sampler
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling: one evaluation and one vector-Jacobian product a question  (M42; Chung et al. 2023, algorithm 1).

    Attributes:
        zeta: ζ, how strongly the measurement pulls.
        data_std: σ_d, the data's standard deviation in model space.
        jump: how many steps are walked before going up again.
        repeats: how often each part is walked; 1 is the paper's.

    Raises:
        UsageError: ζ or σ_d is not positive, or no jump or repeat.
    """

    differentiates: ClassVar[bool] = True
    zeta: float = 1.5
    data_std: float = 0.5
    jump: int = 5
    repeats: int = 1

    def __post_init__(self) -> None:
        check_data_std("DPS", self.data_std)
        if self.jump < 1 or self.repeats < 1:
            raise UsageError(f"DPS needs jump ≥ 1 and repeats ≥ 1, got {self.jump} and {self.repeats}")
        if not 0.0 < self.zeta < math.inf:
            raise UsageError(f"DPS needs a positive zeta (1 to 2 is usual), got {self.zeta}")

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D − ζ √m (σ²/α) ∇‖(y − A D)/s‖."""
        at = Linearised.at(denoiser, x_t, t, condition)
        residual = measurement.residual(at.x0)
        s = measurement.deviation(spread(denoiser.path, t, self.data_std), residual)
        white = residual / s
        direction = measurement.operator.adjoint(white / s / _length(white))
        return replace(at.prediction, x0=at.x0 + self.zeta * math.sqrt(measurement.rank) * at.covariance(direction))

    def sampler(self, inner: Sampler) -> Sampler:
        """The inner sampler, its way walked in parts where they are repeated."""
        if self.repeats == 1:
            return inner
        return Resampled(inner.steps, inner.grid, inner, self.jump, self.repeats)


def _length(x: Tensor) -> Tensor:
    """‖x‖ of each sample, kept above nothing."""
    return along_batch(per_sample_sum(x * x).clamp(min=1e-36).sqrt(), x)
