r"""What a sampler is: a walk along a grid of times, from noise to data, that asks a denoiser on the way.

Coefficients are Python floats computed once for a path and its times, so that a step's own work is a few fused tensor
operations. What a walk must remember (the answers a multistep method looks back on) lives in the walk, never in the sampler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, TypeAlias, cast

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.grids import Grid
from scorefield.shapes import Float, Generator, Tensor
from scorefield.streams import NoiseSource, noise_source

Draw: TypeAlias = "Callable[[Tensor], Tensor]"
"""The next standard normal noise, like the tensor it is given."""


@dataclass(frozen=True, eq=False)
class State:
    """Where a trajectory is.

    Attributes:
        t: the time that has been reached.
        x: x_t, in model space.
        x0: the denoiser's last answer, E[x₀ | x] at the time the step came from.
        evaluations: how often the denoiser has been asked so far.
        info: what a sampler has to tell beyond this, by name; None for nothing.
    """

    t: float
    x: Float[Tensor, "b *d"]
    x0: Float[Tensor, "b *d"]
    evaluations: int
    info: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sampler(ABC):
    """From x at one time to x at another, asking a denoiser on the way; it never changes after construction.

    Attributes:
        steps: K, how many steps the whole way from noise to data is divided into.
        grid: where the steps are.
    """

    steps: int
    grid: Grid

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000:
            raise UsageError(f"{type(self).__name__} takes at least 1 step and at most 1,000,000, got {self.steps}")

    @property
    @abstractmethod
    def order(self) -> int:
        """The order of its error against the exact probability flow (deterministic), or of its law (stochastic)."""

    @property
    @abstractmethod
    def is_deterministic(self) -> bool:
        """Whether the same start always gives the same end."""

    @property
    def decides_by_noise(self) -> bool:
        """Whether noise is made into chances too (a Metropolis test, resampling), which noise of another temperature would bias."""
        return False

    @abstractmethod
    def evaluations(self) -> int | None:
        """How often the denoiser is asked on the whole way from noise to data; None where the answers decide that."""

    @abstractmethod
    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Yield the state after every step along `times`, whose first is x's; the arguments have been checked."""

    def times(self, path: Path, start: float | None = None, end: float = 0.0) -> tuple[float, ...]:
        """The grid's times from start to end; upwards in time (from data to noise) where end is the greater.

        At t = 0 there is no noise to tell apart, so a way upwards begins at the path's t_min.
        """
        if start is None or end < start:
            return self.grid.times(path, self.steps, start, end)
        if not self.is_deterministic:
            raise UsageError(
                f"{type(self).__name__} draws noise, so it cannot run from data to noise; use a deterministic sampler (DDIM with eta=0, Heun)"
            )
        upwards = sorted({max(t, path.t_min) for t in self.grid.times(path, self.steps, end, start)})
        return tuple(upwards)

    def trajectory(
        self,
        denoiser: Denoiser,
        x_T: Float[Tensor, "b *d"],
        *,
        generator: NoiseSource | Generator | None = None,
        start: float | None = None,
        end: float = 0.0,
        condition: Any = None,
    ) -> Iterator[State]:
        """Yield the state after every step from x_T at time `start` (t_max where None) to time `end` (data).

        Args:
            denoiser: whom to ask; its path gives the coefficients.
            x_T: the start, in model space, any rank.
            generator: the source of noise; needed by samplers that are not deterministic.
            start: the time of x_T; t_max where None. A start in the middle is how editing begins.
            end: where to stop; an end above the start runs a deterministic sampler from data to noise.
            condition: handed to the denoiser.

        Raises:
            UsageError: a stochastic sampler without generator, or times that do not fit the path.
        """
        source = noise_source(generator)
        if source is None and not self.is_deterministic:
            raise UsageError(f"{type(self).__name__} draws noise; pass generator= (a torch.Generator or SampleStreams)")
        numbers = count(1)  # number 0 is the start itself
        yield from self.walk(
            denoiser,
            x_T,
            self.times(denoiser.path, start, end),
            lambda like: cast("NoiseSource", source).normal(like, next(numbers)),
            condition,
        )

    def sample(self, denoiser: Denoiser, x_T: Float[Tensor, "b *d"], **options: Any) -> Float[Tensor, "b *d"]:
        """The end of `trajectory` (which documents the options)."""
        x = x_T
        for state in self.trajectory(denoiser, x_T, **options):
            x = state.x
        return x


@dataclass(frozen=True)
class Memoryless(Sampler, ABC):
    """A sampler whose step needs nothing but x_t: at most one draw of noise a step."""

    @abstractmethod
    def needs_noise(self, path: Path, t: float, s: float) -> bool:
        """Whether the step from t to s draws noise."""

    @abstractmethod
    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "b *d"],
        t: float,
        s: float,
        noise: Float[Tensor, "b *d"] | None = None,
        condition: Any = None,
    ) -> State:
        """One step from time t to time s; `noise` is the step's z, None for a step without noise.

        `State.evaluations` counts this step alone.
        """

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """One `step` after the other."""
        evaluations = 0
        for t, s in pairwise(times):
            noise = draw(x) if self.needs_noise(denoiser.path, t, s) else None
            state = self.step(denoiser, x, t, s, noise, condition)
            x, evaluations = state.x, evaluations + state.evaluations
            yield State(s, x, state.x0, evaluations)


def marginal(path: Path, t: float) -> tuple[float, float]:
    """(α, σ) at time t; (1, 0) at t = 0, where a sampler returns data even if the path stops at a small σ_min  (M25)."""
    return (1.0, 0.0) if t == 0.0 else (path.alpha(t), path.sigma(t))
