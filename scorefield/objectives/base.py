"""What an objective is: from a batch and its random numbers to one loss a sample, whose mean is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.denoisers.parameterisations import Parameterisation
from scorefield.errors import UsageError
from scorefield.objectives.times import LossHistory, TimeSampling
from scorefield.paths import Discrete, Path
from scorefield.shapes import Float, Generator, Tensor

if TYPE_CHECKING:
    import torch


@final
@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch. A slice is the same batch's slice.

    Attributes:
        u: (b,) uniform numbers that the times come from.
        noise: ε.
        slices: the n directions v of each sample, for objectives that project.
    """

    u: Float[Tensor, " b"]
    noise: Float[Tensor, "b *d"]
    slices: Float[Tensor, "b n *d"] | None = None

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.u[part], self.noise[part], None if self.slices is None else self.slices[part])

    def to(self, device: torch.device) -> Draws:
        """The draws on a device."""
        slices = None if self.slices is None else self.slices.to(device, non_blocking=True)
        return Draws(self.u.to(device, non_blocking=True), self.noise.to(device, non_blocking=True), slices)


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


class Objective(ABC):
    """What is minimised to fit a denoiser. A subclass is final and frozen; all that is random is drawn first.

    Attributes:
        times: the law of training times.
    """

    differentiates: ClassVar[bool]
    """Whether it looks at the denoiser's derivative in x, which needs all digits of float32 and a network that is not compiled."""

    is_of_a_chain: ClassVar[bool]
    """Whether it is about the steps of a chain, and so needs a discrete path."""

    needs_learned_variance: ClassVar[bool]
    """Whether it has nothing to teach without a learned variance."""

    times: TimeSampling

    @abstractmethod
    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀."""

    @abstractmethod
    def losses(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "b *d"],
        draws: Draws,
        condition: Any = None,
        history: LossHistory | None = None,
    ) -> Losses:
        """The loss of each sample by given random numbers.

        Args:
            denoiser: what is fitted.
            x_0: a batch of data in model space.
            draws: what `draw` gave for it.
            condition: handed to the denoiser.
            history: what importance sampling has met so far.
        """

    def __call__(
        self, denoiser: Denoiser, x_0: Float[Tensor, "b *d"], condition: Any = None, generator: Generator | None = None
    ) -> Float[Tensor, " b"]:
        """The per-sample losses of a batch, its random numbers drawn from the generator."""
        return self.losses(denoiser, x_0, self.draw(x_0, generator), condition).per_sample

    def require_fit(self, path: Path, parameterisation: Parameterisation) -> None:
        """Refuse a model that this objective cannot fit. Raises UsageError."""
        name = type(self).__name__
        if self.is_of_a_chain:
            require_chain(name, path)
        if self.needs_learned_variance and not parameterisation.learned_variance:
            raise UsageError(
                f"{name} fits a learned variance, and the parameterisation has none; set parameterisation.learned_variance=true or objective=denoising"
            )


def require_chain(name: str, path: Path) -> Discrete:
    """The path as one of steps, or the error that says how to get one."""
    if not isinstance(path, Discrete):
        raise UsageError(
            f"{name} bounds the likelihood of a chain of steps, and the path {type(path).__name__} has none; set path=discrete or objective=denoising"
        )
    return path


def levels_and_noise(times: TimeSampling, x_0: Float[Tensor, "b *d"], generator: Generator | None) -> Draws:
    """The random numbers that every objective needs: those of the times, and ε."""
    import torch

    u = torch.rand(len(x_0), generator=generator, dtype=torch.float64, device=x_0.device)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype, device=x_0.device)
    return Draws(times.spread(u), noise)


def losses_of(path: Path, t: Tensor, loss: Tensor, importance: Tensor) -> Losses:
    """The losses with their importance, and what is logged of them."""
    return Losses(loss * importance.to(loss), t, -path.log_snr(t), loss.detach())
