r"""Denoising score matching: predict the data from noised data.

    L = E_t E_{x₀, ε} [ w(t) ‖x₀ − D(x_t, t)‖² ] / dim,   x_t = α(t) x₀ + σ(t) ε

The minimiser is E[x₀ | x_t] for every w > 0, since the mean is the best guess in the square; by Tweedie's formula its score
is that of the noised data, and in score form the same loss is ½ E ‖ŝ(x̃) + (x̃ − x)/σ²‖², which equals explicit score
matching on the smoothed density up to a constant (M30; Vincent 2011, eq. 9–11), summed over many levels (M31).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from scorefield.arithmetic import per_sample_sum
from scorefield.denoisers.base import Denoiser
from scorefield.objectives.times import LossHistory, TimeSampling, Uniform
from scorefield.objectives.weightings import Simple, Weighting
from scorefield.shapes import Float, Generator, Tensor


@final
@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch: u for the times, and the noise. A slice is the same batch's slice."""

    u: Float[Tensor, " b"]
    noise: Float[Tensor, "b *d"]

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.u[part], self.noise[part])


@final
@dataclass(frozen=True, eq=False)
class Losses:
    """A batch's losses, and what is worth logging of them.

    Attributes:
        per_sample: (b,) weighted, per dimension; their mean is what is minimised.
        t: (b,) the times.
        log_sigma: (b,) log(σ/α) at these times.
        unweighted_by_importance: (b,) the losses without the time sampling's importance weights; detached.
    """

    per_sample: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    log_sigma: Float[Tensor, " b"]
    unweighted_by_importance: Float[Tensor, " b"]


@final
@dataclass(frozen=True)
class Denoising:
    """Denoising score matching over all noise levels  (M30, M31, M17).

    Attributes:
        weighting: w(t).
        times: the law of training times.
    """

    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=Uniform)

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀."""
        import torch

        u = torch.rand(len(x_0), generator=generator, dtype=torch.float64, device=x_0.device)
        noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype, device=x_0.device)
        return Draws(self.times.spread(u), noise)

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
        weighted = self.weighting.weight(path, t).to(error) * error
        return Losses(weighted * importance.to(error), t, -path.log_snr(t), weighted.detach())

    def __call__(
        self, denoiser: Denoiser, x_0: Float[Tensor, "b *d"], condition: Any = None, generator: Generator | None = None
    ) -> Float[Tensor, " b"]:
        """The per-sample losses of a batch, its random numbers drawn from the generator."""
        return self.losses(denoiser, x_0, self.draw(x_0, generator), condition).per_sample
