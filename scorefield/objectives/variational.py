r"""The variational bound of a chain, as an objective, and the hybrid that teaches a variance beside L_simple.

    (M15) L_vlb = L_T + Σ_{t>1} KL(q(x_{t−1}|x_t,x₀) ‖ p_θ(x_{t−1}|x_t)) − log p_θ(x₀|x₁)
    (M14) L_hybrid = L_simple + 0.001 L_vlb, the mean detached in L_vlb      (Nichol & Dhariwal 2021, eq. 16)

A time t drawn uniformly from the T steps gives the unbiased T L_t; L_T has nothing to learn and is left out. All of it is in
bits per dimension (M19), as in the paper's code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from scorefield.arithmetic import per_sample_sum
from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.denoisers.reverse import (
    kl_divergence,
    log_density,
    log_probability,
    model_posterior,
    true_posterior,
)
from scorefield.errors import UsageError
from scorefield.objectives.base import Draws, Losses, Objective, levels_and_noise, losses_of, require_chain
from scorefield.objectives.times import ImportanceSampled, LossHistory, TimeSampling, Uniform
from scorefield.objectives.weightings import Simple
from scorefield.paths import Discrete
from scorefield.shapes import Float, Generator, Tensor


@final
@dataclass(frozen=True)
class Variational(Objective):
    """L_vlb alone, for the likelihood; with a variance that is not learned, β̃ is used  (M15–M18).

    Its terms differ by orders of magnitude, so its times are importance-sampled  (Nichol & Dhariwal 2021, section 3.3).

    Attributes:
        levels: how many values the data have between −1 and 1, for the discretised decoder: 256 for 8-bit data; None for
            continuous data, whose last term is a density. A run fills it in from its data.
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = False
    is_of_a_chain: ClassVar[bool] = True
    needs_learned_variance: ClassVar[bool] = False

    levels: int | None = None
    times: TimeSampling = field(default_factory=ImportanceSampled)

    def __post_init__(self) -> None:
        _require_levels("Variational", self.levels)

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
        """T L_t in bits per dimension for each sample, by given random numbers  (M15, M19)."""
        path = require_chain("Variational", denoiser.path)
        t, importance = self.times.times(path, draws.u, history)
        prediction = denoiser(path.perturb(x_0, t, draws.noise), t, condition)
        return losses_of(path, t, bound_term(prediction, x_0, path, t, self.levels), importance)


@final
@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple for the mean and a little of L_vlb for the variance  (M14; Nichol & Dhariwal 2021, eq. 16).

    Attributes:
        vlb_weight: the factor of L_vlb.
        levels: as for `Variational`.
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = False
    is_of_a_chain: ClassVar[bool] = True
    needs_learned_variance: ClassVar[bool] = True

    vlb_weight: float = 0.001
    levels: int | None = None
    times: TimeSampling = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        _require_levels("Hybrid", self.levels)
        if not 0.0 < self.vlb_weight < math.inf:
            raise UsageError(f"Hybrid needs a positive, finite vlb_weight, got {self.vlb_weight}")

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
        """‖ε − ε̂‖² over the dimension + 0.001 T L_t for each sample, by given random numbers  (M14, M17)."""
        path = require_chain("Hybrid", denoiser.path)
        t, importance = self.times.times(path, draws.u, history)
        prediction = denoiser(path.perturb(x_0, t, draws.noise), t, condition)
        if prediction.variance_mix is None:
            raise UsageError("Hybrid fits a learned variance, and this denoiser has none; use learned_variance=True")
        error = per_sample_sum((x_0 - prediction.x0).square()) / x_0[0].numel()
        simple = Simple().weight(path, t).to(error) * error
        bound = bound_term(replace(prediction, x0=prediction.x0.detach()), x_0, path, t, self.levels)
        return losses_of(path, t, simple + self.vlb_weight * bound, importance)


def bound_term(
    prediction: Prediction, x_0: Float[Tensor, "b *d"], path: Discrete, t: Float[Tensor, " b"], levels: int | None
) -> Float[Tensor, " b"]:
    """T L_t in bits per dimension: T times the divergence at step t > 1, T times −log p_θ(x₀|x₁) at t = 1  (M15–M19)."""
    s = ((t * path.steps).round() - 1.0) / path.steps
    law = model_posterior(prediction, s)
    divergence = kl_divergence(true_posterior(path, x_0, prediction.x_t, s, t), law)
    decoded = log_density(x_0, law) if levels is None else log_probability(x_0, law, levels)
    return divergence.where(s > 0.0, -decoded) * (path.steps / (x_0[0].numel() * math.log(2.0)))


def _require_levels(name: str, levels: int | None) -> None:
    if levels is not None and levels < 2:
        raise UsageError(
            f"{name} needs at least 2 levels of the data (256 for 8-bit), or none for continuous data, got {levels}"
        )
