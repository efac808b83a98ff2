r"""The probability flow with steps that fit its curve: Dormand & Prince's 5(4), every sample with an error and steps of its own.

    dz/dθ = v = cos θ ε̂ − sin θ D,   z = x/√(α²+σ²),   θ = arctan(σ/α)   (M26; M7)

In the angle the flow of every path is one equation without singular ends, smooth where the data's own scale is about 1. A step
is taken where its error, the difference of the fifth-order and the fourth-order result, is below the tolerance:

    e² = mean over the elements of [(z⁵ − z⁴)/(atol + rtol max(|z_t|, |z_s|))]² ≤ 1

and the next is 0.9 e^{−0.14} e_before^{0.08} as long (Gustafsson's PI controller). Samples that have arrived are asked no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, final

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Draw, Sampler, State, marginal
from scorefield.samplers.grids import Grid, Karras
from scorefield.samplers.runge_kutta import Tableau
from scorefield.shapes import Bool, Float, Tensor

FIFTH = Tableau(
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    5,
)
"""Dormand and Prince's fifth-order formula, whose last stage is the next step's first."""

_FOURTH = Tableau(FIFTH.matrix, (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40), 4)
FIFTH_LESS_FOURTH = tuple(fifth - fourth for fifth, fourth in zip(FIFTH.weights, _FOURTH.weights, strict=True))
"""What the embedded formula of order 4 weighs otherwise: an estimate of the error."""

_SAFETY, _PROPORTIONAL, _INTEGRAL = 0.9, 0.14, 0.08
_LEAST, _MOST = 0.2, 5.0
_TINY = 1e-10


@final
@dataclass(frozen=True)
class Adaptive(Sampler):
    """Dormand–Prince 5(4) in the angle arctan(σ/α), one error and one step a sample  (M26, M35 with ℓ = 0).

    The score-SDE paper's black-box solver (appendix D.4) has one step for the whole batch, so that a sample depends on its
    neighbours; here it does not. `State.info["evaluations"]` has each sample's own count, `State.t` the last one's time.

    Attributes:
        steps: K; the first step that is tried is that of a grid of K.
        grid: that grid.
        rtol, atol: the error that a step may have, relative to z and absolute.
        attempts: how many steps, taken or refused, before it gives up.
        compact: whether to ask for those under way alone; False for a denoiser that holds something for each sample. A
            condition that is no tensor with one entry a sample has the same effect.

    Raises:
        UsageError: tolerances that are not positive; at sampling, steps that do not suffice.
    """

    steps: int = 10
    grid: Grid = field(default_factory=Karras)
    rtol: float = 1e-3
    atol: float = 1e-3
    attempts: int = 1000
    compact: bool = True
    order: ClassVar[int] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0.0 < self.rtol < 1.0 and 0.0 < self.atol < math.inf):
            raise UsageError(
                f"Adaptive needs rtol between 0 and 1 and a positive atol, got rtol={self.rtol}, atol={self.atol}"
            )
        if self.attempts < 1:
            raise UsageError(f"Adaptive needs at least 1 attempt, got {self.attempts}")

    @property
    def is_deterministic(self) -> bool:
        """True."""
        return True

    def evaluations(self) -> None:
        """None: the errors decide."""
        return

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """A state after every attempt; a sample that has arrived is D itself where the end is data  (M25)."""
        flow = _Flow(denoiser, times, condition, self.compact)
        crowd = _Crowd.at_start(flow, x)
        for _ in range(self.attempts):
            crowd = crowd.attempted(self.rtol, self.atol)
            yield crowd.state()
            if crowd.all_arrived:
                return
        raise UsageError(
            f"Adaptive did not arrive within {self.attempts} attempts at rtol={self.rtol:g}, atol={self.atol:g}; loosen the tolerances, raise attempts, or ask the network in float64"
        )


def in_whole_batches(sampler: Sampler) -> Sampler:
    """The sampler, and any that it walks by, asking for whole batches: for a denoiser that holds something for each sample."""
    if isinstance(sampler, Adaptive):
        return replace(sampler, compact=False)
    inner = getattr(sampler, "inner", None)
    return replace(sampler, inner=in_whole_batches(inner)) if isinstance(inner, Sampler) else sampler  # type: ignore[call-arg]


class _Place(NamedTuple):
    """Where on the way each sample is: t, √(α²+σ²), cos θ and sin θ."""

    t: Float[Tensor, " b"]
    length: Float[Tensor, " b"]
    cos: Float[Tensor, " b"]
    sin: Float[Tensor, " b"]


class _Flow:
    """dz/dθ for some of the samples, and how θ, t and x are found from each other."""

    def __init__(self, denoiser: Denoiser, times: Sequence[float], condition: Any, compact: bool) -> None:
        self.denoiser, self.path, self.condition = denoiser, denoiser.path, condition
        self.start, self.to_data = times[0], times[-1] == 0.0
        self.stop = self.path.t_min if self.to_data else times[-1]
        self.first_angle, self.last_angle = _angle(self.path, self.start), _angle(self.path, self.stop)
        self.first_width = _angle(self.path, times[1] or self.stop) - self.first_angle
        self.compact = compact and (condition is None or hasattr(condition, "index_select"))
        self.calls = 0

    def time(self, angle: Tensor) -> Tensor:
        """t, the two ends exactly."""
        t = self.path.time_of(angle.cos().log() - angle.sin().log())
        t = t.clamp(min(self.start, self.stop), max(self.start, self.stop))
        t = t.where(angle != self.first_angle, t.new_tensor(self.start))
        return t.where(angle != self.last_angle, t.new_tensor(self.stop))

    def length(self, angle: Tensor) -> Tensor:
        """√(α²+σ²)."""
        return self._length(self.time(angle))

    def places(self, angles: Tensor) -> list[_Place]:
        """A place for each row of angles: found for all the stages of a step at once, as they do not depend on z."""
        t = self.time(angles.flatten())
        found = (t, self._length(t), angles.cos(), angles.sin())
        return [_Place(*row) for row in zip(*(values.view_as(angles).unbind() for values in found), strict=True)]

    def slope(self, z: Tensor, place: _Place, condition: Any) -> tuple[Tensor, Tensor]:
        """(dz/dθ, D), dz/dθ = (cos θ z − D)/sin θ  (M26)."""
        self.calls += 1
        x_0 = self.denoiser(z * along_batch(place.length, z), place.t, condition).x0
        return (z * along_batch(place.cos, z)).sub_(x_0).div_(along_batch(place.sin, z)), x_0

    def _length(self, t: Tensor) -> Tensor:
        return (self.path.alpha(t) ** 2 + self.path.sigma(t) ** 2).sqrt()


def _angle(path: Path, t: float) -> float:
    alpha, sigma = marginal(path, t)
    return math.atan2(sigma, alpha)


@dataclass(frozen=True, eq=False)
class _Crowd:
    """Where all samples are: each at an angle of its own, with the step it tries next."""

    flow: _Flow
    z: Float[Tensor, "b *d"]
    slope: Float[Tensor, "b *d"]
    x_0: Float[Tensor, "b *d"]
    angle: Float[Tensor, " b"]
    width: Float[Tensor, " b"]
    error: Float[Tensor, " b"]
    asked: Float[Tensor, " b"]

    @staticmethod
    def at_start(flow: _Flow, x: Tensor) -> _Crowd:
        """All at the first angle, asked once."""
        import torch

        angle = torch.full((len(x),), flow.first_angle, dtype=torch.float64, device=x.device)
        (place,) = flow.places(angle[None])
        z = x / along_batch(place.length, x)
        slope, x_0 = flow.slope(z, place, flow.condition)
        ones = torch.ones_like(angle)
        return _Crowd(flow, z, slope, x_0, angle, flow.first_width * ones, ones, ones)

    @property
    def arrived(self) -> Bool[Tensor, " b"]:
        """Who is at the last angle."""
        return self.angle == self.flow.last_angle

    @property
    def all_arrived(self) -> bool:
        """Whether everybody is."""
        return bool(self.arrived.all())

    def attempted(self, rtol: float, atol: float) -> _Crowd:
        """One step tried by everyone who is under way."""
        if self.all_arrived:
            return self
        if not self.flow.compact or not bool(self.arrived.any()):
            return self._judged(rtol, atol, self.flow.condition)
        rows = (~self.arrived).nonzero()[:, 0]
        condition = None if self.flow.condition is None else self.flow.condition[rows]
        few = _Crowd(self.flow, *(values[rows] for values in self._values()))._judged(rtol, atol, condition)
        pairs = zip(self._values(), few._values(), strict=True)
        return _Crowd(self.flow, *(values.index_copy(0, rows, new) for values, new in pairs))

    def _values(self) -> tuple[Tensor, ...]:
        return (self.z, self.slope, self.x_0, self.angle, self.width, self.error, self.asked)

    def _judged(self, rtol: float, atol: float, condition: Any) -> _Crowd:
        """The step where its error is below the tolerance, and where it stays the same place with a shorter step."""
        left = self.flow.last_angle - self.angle
        ends = self.width.abs() >= (1.0 - 1e-9) * left.abs()
        h = left.where(ends, self.width)
        there = self.angle.new_tensor(self.flow.last_angle).where(ends, self.angle + h)
        z, slope, x_0, difference = self._dormand_prince(h, there, condition)
        error = _norm(difference, self.z, z, rtol, atol)
        taken = (error <= 1.0) & ~self.arrived
        factor = _SAFETY * error**-_PROPORTIONAL * self.error**_INTEGRAL
        factor = factor.where(taken, (_SAFETY * error ** (-1.0 / FIFTH.order)).clamp(max=1.0)).clamp(_LEAST, _MOST)
        new = (z, slope, x_0, there, h * factor, error, self.asked + 6.0)
        kept = (*self._values()[:4], h * factor, self.error, self.asked + 6.0)
        return _Crowd(self.flow, *(_chosen(taken, one, other) for one, other in zip(new, kept, strict=True)))

    def _dormand_prince(self, h: Tensor, there: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(z, dz/dθ, D, the difference of the two results) after a step of h; six questions, the last at its end."""
        wide = along_batch(h, self.z)
        found, z, x_0 = [self.slope], self.z, self.x_0
        for row, place in zip(FIFTH.matrix[1:], self.flow.places(self._stages(h, there)), strict=True):
            z = (wide * _sum(row, found)).add_(self.z)
            slope, x_0 = self.flow.slope(z, place, condition)
            found.append(slope)
        return z, found[-1], x_0, wide * _sum(FIFTH_LESS_FOURTH, found)

    def _stages(self, h: Tensor, there: Tensor) -> Tensor:
        """The angles of the six questions, one a row; the last two are at the step's end, exactly."""
        angles = self.angle + h * h.new_tensor(FIFTH.nodes[1:])[:, None]
        angles[-2:] = there
        return angles

    def state(self) -> State:
        """As a state in model space."""
        x = self.z * along_batch(self.flow.length(self.angle), self.z)
        t = float(self.flow.time(self.angle[(self.angle - self.flow.last_angle).abs().argmax()]))
        if self.flow.to_data:
            x = _chosen(self.arrived, self.x_0, x)
            t = 0.0 if self.all_arrived else t
        return State(t, x, self.x_0, self.flow.calls, {"evaluations": self.asked})


def _sum(weights: Sequence[float], quantities: Sequence[Tensor]) -> Tensor:
    """Σ_j weights[j] quantities[j]."""
    total = quantities[0] * weights[0]
    for weight, quantity in zip(weights[1:], quantities[1:], strict=True):
        if weight != 0.0:
            total.add_(quantity, alpha=weight)
    return total


def _norm(difference: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    """The error of each sample in units of its tolerance, in float64."""
    allowed = atol + rtol * before.abs().maximum(after.abs())
    mean = per_sample_sum((difference / allowed).double() ** 2) / max(1, difference[0].numel())
    return mean.sqrt().nan_to_num(nan=math.inf).clamp(_TINY, 1.0 / _TINY)


def _chosen(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """One where it is so, the other elsewhere, sample by sample."""
    return one.where(which.view(-1, *(1,) * (one.ndim - 1)), other)
