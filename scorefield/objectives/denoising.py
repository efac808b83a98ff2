r"""Denoising score matching: predict the data from noised data.

    L = E_t E_{x₀, ε} [ w(t) ‖x₀ − D(x_t, t)‖² ] / dim,   x_t = α(t) x₀ + σ(t) ε

The minimiser is E[x₀ | x_t] for every w > 0, since the mean is the best guess in the square; by Tweedie's formula its score
is that of the noised data, and in score form the same loss is ½ E ‖ŝ(x̃) + (x̃ − x)/σ²‖², which equals explicit score
matching on the smoothed density up to a constant (M30; Vincent 2011, eq. 9–11), summed over many levels (M31).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from scorefield.arithmetic import per_sample_sum
from scorefield.denoisers.base import Denoiser
from scorefield.objectives.base import Draws, Losses, Objective, levels_and_noise, losses_of
from scorefield.objectives.times import LossHistory, TimeSampling, Uniform
from scorefield.objectives.weightings import Simple, Weighting
from scorefield.shapes import Float, Generator, Tensor


@final
@dataclass(frozen=True)
class Denoising(Objective):
    """Denoising score matching over all noise levels  (M30, M31, M17).

    Attributes:
        weighting: w(t).
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = False
    is_of_a_chain: ClassVar[bool] = False
    needs_learned_variance: ClassVar[bool] = False

    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=Uniform)

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀: times and noise."""
        return levels_and_noise(self.times, x_0, generator)

    def losses(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "b *d"],
        draws: Draws,
        condition: Any = None,
        history: LossHistory | None = None,
    ) -> Losses:
        """w(t) ‖x₀ − D(x_t, t)‖² / dim for each sample, by given random numbers  (M17, M30, M31)."""
        path = denoiser.path
        t, importance = self.times.times(path, draws.u, history)
        x_t = path.perturb(x_0, t, draws.noise)
        error = per_sample_sum((x_0 - denoiser(x_t, t, condition).x0).square()) / x_0[0].numel()
        return losses_of(path, t, self.weighting.weight(path, t).to(error) * error, importance)
