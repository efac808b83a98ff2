r"""Replacement: what is measured is put in the place of what was predicted  (Song et al. 2021, appendix I; Wang et al. 2023, DDNM).

    D' = D + A⁺ (y − A D)

On the part that is measured D' is the measurement, so that any sampler moves that part of x_t exactly as q(x_s | x_t, x₀) does: it
*is* a noised measurement at every time, drawn anew by a stochastic sampler at every step. The other part is the prior's own:
it never learns what y says of it but through x_t, which is the method's bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.posterior import Method
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class Replacement(Method):
    """D' = D + A⁺ (y − A D): colours after an orthogonal change of basis, pixels as they are  (M42)."""

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D + A⁺ (y − A D)."""
        prediction = denoiser(x_t, t, condition)
        return replace(prediction, x0=prediction.x0 + measurement.correction(prediction.x0))
