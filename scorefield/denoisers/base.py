r"""What a denoiser is, and what follows from its answer.

    (M6)  ε̂ = (x_t − α D)/σ,   ŝ = −ε̂/σ = (α D − x_t)/σ²        (Tweedie)
    (M7)  v̂ = α ε̂ − σ D
    (M8)  û = dα/dt · D + dσ/dt · ε̂
    (M10) ŝ = −∇_x E, where p = e^{−E}/Z has a known energy

with D(x_t, t) ≈ E[x₀ | x_t]. These are one function in four dresses; whatever asks a denoiser sees D and derives the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from scorefield.arithmetic import along_batch
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """A denoiser's answer at (x_t, t).

    Attributes:
        x0: D(x_t, t) ≈ E[x₀ | x_t], of x_t's shape and dtype.
        x_t: the question.
        t: its time: one float, or a (b,) tensor.
        path: the path that relates them.
        variance_mix: v of a learned variance Σ = exp(v log β + (1−v) log β̃)  (M14), whose β and β̃ are those of the step that
            is taken; near [0, 1], and not held there; None where the variance is not learned.
    """

    x0: Float[Tensor, "b *d"]
    x_t: Float[Tensor, "b *d"]
    t: float | Float[Tensor, " b"]
    path: Path
    variance_mix: Float[Tensor, "b *d"] | None = None

    @property
    def noise(self) -> Float[Tensor, "b *d"]:
        """ε̂ = (x_t − α D)/σ  (M6)."""
        alpha, sigma = self._coefficients()
        return (self.x_t - alpha * self.x0) / sigma

    @property
    def score(self) -> Float[Tensor, "b *d"]:
        """ŝ = −ε̂/σ = (α D − x_t)/σ² ≈ ∇ log p_t(x_t)  (M6; Tweedie's formula)."""
        alpha, sigma = self._coefficients()
        return (alpha * self.x0 - self.x_t) / sigma**2

    @property
    def velocity(self) -> Float[Tensor, "b *d"]:
        """v̂ = α ε̂ − σ D  (M7; Salimans & Ho 2022)."""
        alpha, sigma = self._coefficients()
        return alpha * self.noise - sigma * self.x0

    @property
    def rectified_velocity(self) -> Float[Tensor, "b *d"]:
        """û = dα/dt · D + dσ/dt · ε̂, the derivative of x_t along the line through D and ε̂  (M8)."""
        alpha_rate = along_batch(self.path.alpha_rate(self.t), self.x_t)
        sigma_rate = along_batch(self.path.sigma_rate(self.t), self.x_t)
        return alpha_rate * self.x0 + sigma_rate * self.noise

    def _coefficients(self) -> tuple[float | Tensor, float | Tensor]:
        return along_batch(self.path.alpha(self.t), self.x_t), along_batch(self.path.sigma(self.t), self.x_t)


class Denoiser(ABC):
    """E[x₀ | x_t] for a path. A subclass is final: variation is a denoiser that wraps a denoiser.

    Attributes:
        path: the path whose x_t this denoiser understands.
    """

    path: Path

    @abstractmethod
    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀.

        Args:
            x_t: a batch of noised data in model space.
            t: its time, 0 < t ≤ t_max: one float for all, or one a sample.
            condition: what the prediction is conditioned on, such as class labels (b,); None for nothing.
        """


class EnergyDenoiser(Denoiser, ABC):
    """A denoiser whose score is the negative gradient of an energy it knows: ŝ = −∇_x E, p_t = e^{−E}/Z  (M10)."""

    @abstractmethod
    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E(x_t, t) in nats, up to a constant of each t (and condition): only differences at one time mean something.

        Args:
            x_t: a batch of noised data in model space.
            t: its time, 0 < t ≤ t_max: one float for all, or one a sample.
            condition: what the energy is conditioned on; None for nothing.
        """
