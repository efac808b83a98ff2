r"""A denoiser of x₀ given x_t *and* a measurement: E[x₀ | x_t, y], as each method takes it to be  (M42).

    E[x₀ | x_t, y] = D + (σ_t²/α_t) ∇_{x_t} log p(y | x_t)

Nobody knows p(y | x_t) = ∫ p(y | x₀) p(x₀ | x_t) dx₀ but in closed-form worlds; a `Method` is an approximation of it. As a wrapper it
works with every sampler, and around every other wrapper: a guided model is inpainted by wrapping it twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from scorefield.denoisers import Denoiser, Prediction
from scorefield.denoisers.wrappers import require_rows
from scorefield.editing.measurement import Measurement
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers import Sampler
from scorefield.shapes import Float, Tensor


@dataclass(frozen=True)
class Method(ABC):
    """How E[x₀ | x_t, y] is approximated. A subclass is final, with defaults for all of its fields.

    Attributes:
        is_exact: whether its samples tend to the posterior's law, as its particles and steps grow.
        differentiates: whether the denoiser is differentiated.
    """

    is_exact: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    @abstractmethod
    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """E[x₀ | x_t, y]."""

    def sampler(self, inner: Sampler) -> Sampler:
        """What walks: the sampler that was asked for, or one of the method's own on the same grid."""
        return inner


@final
@dataclass(frozen=True, eq=False)
class Posterior(Denoiser):
    """The wrapper: a denoiser, a measurement, and the method that joins them.

    `posterior.method.sampler(sampler).sample(posterior, x_T, generator=…)` draws.

    Attributes:
        denoiser: of the prior.
        measurement: what is known.
        method: how the two are joined.

    Raises:
        UsageError: asked for another number of samples than were measured.
    """

    denoiser: Denoiser
    measurement: Measurement
    method: Method

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The wrapped denoiser's path."""
        return self.denoiser.path

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """E[x₀ | x_t, y] as the method has it  (M42)."""
        require_rows("Posterior", len(self.measurement.y), len(x_t))
        return replace(self.method.answer(self.denoiser, self.measurement, x_t, t, condition), x_t=x_t)


def measured(denoiser: Denoiser, sampler: str) -> Posterior:
    """The denoiser as the `Posterior` that it must be for a sampler of a method's own. Raises UsageError for another."""
    if not isinstance(denoiser, Posterior):
        raise UsageError(
            f"{sampler} takes the measurement from the denoiser, and {type(denoiser).__name__} carries none; wrap it: Posterior(denoiser, measurement, method), outermost"
        )
    return denoiser
