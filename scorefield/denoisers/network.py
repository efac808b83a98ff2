"""A denoiser made of any network, in any parameterisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from scorefield.arithmetic import Time, along_batch, is_number
from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.denoisers.parameterisations import Parameterisation
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True, eq=False)
class NetworkDenoiser(Denoiser):
    """D(x_t, t) = skip x_t + out F(in x_t, label)  (M9 for EDM's F; M6–M8 for the other parameterisations).

    Attributes:
        network: any callable `network(x, label)`, or `network(x, label, condition)` where there is a condition: a user's own
            `nn.Module`, in its own dtype. It is told of the time by a (b,) tensor and knows nothing of diffusion.
        path: the path it was (or will be) trained on.
        parameterisation: how its output is read; with a learned variance it has twice the channels, F first and then 2v − 1.
    """

    network: Callable[..., Tensor]
    path: Path
    parameterisation: Parameterisation

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀, and the variance's v where it is learned (M14), by one call of the network."""
        row = self.parameterisation.coefficients(self.path, t)
        scaled = x_t if is_number(row.input) and row.input == 1.0 else along_batch(row.input, x_t) * x_t
        label = per_sample(row.label, x_t)
        output = self.network(scaled, label) if condition is None else self.network(scaled, label, condition)
        mix = None
        if self.parameterisation.learned_variance:
            output, raw = output.chunk(2, dim=1)
            mix = 0.5 * (raw + 1.0)
        x_0 = along_batch(row.out, x_t) * output
        if not (is_number(row.skip) and row.skip == 0.0):
            x_0 = x_0 + along_batch(row.skip, x_t) * x_t
        return Prediction(x_0, x_t, t, self.path, mix)


def per_sample(value: Time, x: Tensor) -> Tensor:
    """One number for the whole batch, or one a sample, as a (b,) tensor of x's kind."""
    return x.new_full((len(x),), value) if is_number(value) else value.to(x)
