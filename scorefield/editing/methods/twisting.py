r"""Methods with a twist: those that have, beside E[x₀ | x_t, y], a p̃(y | x_t) whose values can be compared between x_t's.

What their approximation misses can be weighed afterwards, which is what twisted sequential Monte Carlo does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.posterior import Method
from scorefield.shapes import Float, Tensor


@dataclass(frozen=True, eq=False)
class Twist:
    """What a method takes the posterior at x_t to be.

    Attributes:
        prediction: of the prior, E[x₀ | x_t].
        x0: E[x₀ | x_t, y].
        log_density: log p̃(y | x_t) in nats, (b,), up to a constant of t.
    """

    prediction: Prediction
    x0: Float[Tensor, "b *d"]
    log_density: Float[Tensor, " b"]


@dataclass(frozen=True)
class Twisting(Method, ABC):
    """A method with a twist. A subclass is final, with defaults for all of its fields."""

    differentiates: ClassVar[bool] = True

    @abstractmethod
    def twist(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Twist:
        """Prior, posterior and p̃ at x_t, by one call of the denoiser."""

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """E[x₀ | x_t, y]."""
        found = self.twist(denoiser, measurement, x_t, t, condition)
        return replace(found.prediction, x0=found.x0)
