r"""ΠGDM: the data given x_t are taken to be N(D, r² I)  (Song, Vahdat, Mardani & Kautz 2023).

    p̃(y | x_t) = N(y; A D, r² A Aᵀ + σ_y² I),   r² = σ² σ_d²/(α² σ_d² + σ²)
    D' = D + V Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A D),   V = (σ²/α) Jᵀ

r² is what a white Gaussian of the data's deviation σ_d has left; the paper's own σ²/(1 + σ²) and 1 − ᾱ are its values at σ_d = 1. The
derivative is of D alone, r² being the same for every x_t. Here the gradient of log p̃ enters as Bayes' rule has it, so that any sampler
can take it; the paper's DDIM adds √ᾱ_t r² times it to x_s whatever the step. Exact for white Gaussian data of deviation σ_d; else
directions that x_t has already settled are moved too much, and those that it has not too little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from scorefield.arithmetic import along_batch
from scorefield.denoisers import Denoiser
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods.linearised import Linearised, spread
from scorefield.editing.methods.twisting import Twist, Twisting
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class PiGDM(Twisting):
    """Pseudo-inverse guidance: one evaluation and one vector-Jacobian product a question  (M42; Song et al. 2023, eq. 7–8).

    Attributes:
        data_std: σ_d, the data's standard deviation in model space.

    Raises:
        UsageError: σ_d is not positive.
    """

    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_data_std("PiGDM", self.data_std)

    def twist(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Twist:
        """D, D + V Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A D), log N(y; A D, r² A Aᵀ + σ_y² I)."""
        at = Linearised.at(denoiser, x_t, t, condition)
        r2 = spread(denoiser.path, t, self.data_std)
        moved = at.covariance(measurement.correction(at.x0, r2)) / along_batch(r2, x_t)
        return Twist(at.prediction, at.x0 + moved, measurement.log_likelihood(at.x0, r2))


def check_data_std(name: str, data_std: float) -> None:
    """Refuse an impossible σ_d, by UsageError."""
    if not 0.0 < data_std < float("inf"):
        raise UsageError(f"{name} needs a positive data_std (that of the data in model space), got {data_std}")
