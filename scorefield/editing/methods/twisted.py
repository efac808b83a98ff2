r"""Twisted sequential Monte Carlo: what a method's approximation misses is weighed  (Wu, Trippe, Naesseth, Blei & Cunningham 2023).

K particles a sample walk the prior's own chain, p(x_s | x_t) = N(a x_t + b D, c² I)  (M5), by the proposal that a method's answer makes,

    q(x_s | x_t) = N(a x_t + b D', c² I),   w ← w · p(x_s | x_t) p̃(y | x_s) / (q(x_s | x_t) p̃(y | x_t)),

are drawn anew by their weights where these have become too unequal (effective number below K/2), and at the end, where p(y | x₀) is
known, one is taken by weight. Whatever p̃ is, it cancels but at the ends: with K → ∞ the law is p(x₀ | y) ∝ p(x₀) p(y | x₀) of the chain, and with
steps → ∞ the model's. Without noise p(y | x₀) is no function: weights end at the last noise level, and the measurement is put
in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, final

import torch

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers import Denoiser
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods.moment_matching import MomentMatching
from scorefield.editing.methods.pigdm import PiGDM
from scorefield.editing.methods.twisting import Twist, Twisting
from scorefield.editing.posterior import Posterior, measured
from scorefield.errors import UsageError, unknown_name
from scorefield.samplers import Grid, Sampler, State
from scorefield.samplers.base import Draw
from scorefield.samplers.grids import Native
from scorefield.samplers.single_step import Row, ancestral_row
from scorefield.shapes import Float, Int, Tensor

_PROPOSALS = ("pigdm", "momentmatching")


@final
@dataclass(frozen=True)
class TwistedSMC(Twisting):
    """Exact as particles and steps grow: K evaluations a step, each with the proposal's derivatives  (M42; Wu et al. 2023, algorithm 1).

    Attributes:
        particles: K, for each sample its own: a batch is asked K times as much.
        proposal: `momentmatching` or `pigdm`.
        iterations: of moment matching's solver.
        data_std: σ_d, the data's standard deviation in model space.
        at_once: how many particles a call of the denoiser has at most, which bounds memory.

    Raises:
        UsageError: settings that are no such numbers or names.
    """

    is_exact: ClassVar[bool] = True
    particles: int = 16
    proposal: str = "momentmatching"
    iterations: int = 2
    data_std: float = 0.5
    at_once: int = 1024

    def __post_init__(self) -> None:
        if self.proposal not in _PROPOSALS:
            raise unknown_name("proposal", self.proposal, _PROPOSALS)
        _check(self.particles, self.at_once)
        self._inner  # noqa: B018  # it checks the rest

    @property
    def _inner(self) -> Twisting:
        if self.proposal == "pigdm":
            return PiGDM(self.data_std)
        return MomentMatching(self.iterations, self.data_std)

    def twist(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Twist:
        """The proposal's, for samplers that know no particles too."""
        return self._inner.twist(denoiser, measurement, x_t, t, condition)

    def sampler(self, inner: Sampler) -> Sampler:
        """The particles' walk at the other's times."""
        return Particles(inner.steps, inner.grid, self.particles, self.at_once)


@final
@dataclass(frozen=True)
class Particles(Sampler):
    """The walk of K weighted particles a sample, for a `Posterior` whose method has a twist  (Wu et al. 2023, algorithm 1).

    Between the ends a state shows each sample's heaviest particle; `info` has all of them, (b, K, *d), and their log weights, (b, K).

    Attributes:
        steps: the chain's.
        grid: its times.
        particles: K.
        at_once: particles a call of the denoiser has at most.
    """

    steps: int = 100
    grid: Grid = field(default_factory=Native)
    particles: int = 16
    at_once: int = 1024
    order: ClassVar[int] = 1
    is_deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.particles, self.at_once)

    @property
    def decides_by_noise(self) -> bool:
        """True: particles are drawn by weight."""
        return True

    def evaluations(self) -> int:
        """K a step, for each sample."""
        return self.steps * self.particles

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Propose, weigh, draw anew; the last state is one particle a sample."""
        posterior, path = measured(denoiser, type(self).__name__), denoiser.path
        cloud = _Cloud.around(posterior, x, times[0], self, draw, condition)
        for t, s in pairwise(times):
            row = ancestral_row(path, t, s, "small")
            if s == 0.0:
                yield cloud.ended(draw)
                return
            cloud = cloud.moved(row, s, draw)
            yield cloud.shown(s) if s > times[-1] else cloud.one(cloud.drawn(draw), s)


@dataclass(frozen=True, eq=False)
class _Cloud:
    """b islands of K particles: x and its twist have b·K rows, the log weights are (b, K), float64."""

    asks: _Asks
    x: Tensor
    twist: Twist
    log_weights: Tensor
    evaluations: int

    @classmethod
    def around(
        cls, posterior: Posterior, x: Tensor, t: float, sampler: Particles, draw: Draw, condition: Any
    ) -> _Cloud:
        """K starts: draws of the prior, x's own first; from the middle of a path copies of x."""
        count, path = sampler.particles, posterior.path
        starts = x[:, None].expand(len(x), count, *x.shape[1:])
        if t == path.t_max and count > 1:
            others = path.prior_std * draw(starts[:, 1:].contiguous())
            starts = torch.cat([x[:, None], others], 1)
        asks = _Asks(posterior, count, sampler.at_once, _repeated(condition, len(x), count))
        everything = starts.flatten(0, 1)
        twist = asks(everything, t)
        return cls(asks, everything, twist, _islands(twist.log_density, count), count)

    def moved(self, row: Row, s: float, draw: Draw) -> _Cloud:
        """To time s by the proposal, from particles that were drawn anew where need is."""
        cloud = self.resampled(draw)
        proposal = _within_reach(row, cloud.twist)
        z = draw(_islands(cloud.x, self.asks.count)).flatten(0, 1)
        x = (row.a * cloud.x).add_(proposal.x0, alpha=row.b).add_(z, alpha=row.c)
        twist = self.asks(x, s)
        gained = twist.log_density - cloud.twist.log_density + _prior_over_proposal(row, proposal, z)
        weights = cloud.log_weights + _islands(gained, self.asks.count).double()
        return _Cloud(self.asks, x, twist, weights, self.evaluations + self.asks.count)

    def resampled(self, draw: Draw) -> _Cloud:
        """Systematically by weight where the effective number 1/Σ w² is below K/2; the islands that are well off stay as they are."""
        count = self.asks.count
        weights = self.log_weights.softmax(1)
        is_poor = 1.0 / (weights * weights).sum(1) < 0.5 * count
        places = torch.arange(count, device=weights.device)
        chosen = torch.where(is_poor[:, None], _systematic(weights, _uniform(draw, weights)), places)
        rows = (chosen + _first_rows(chosen, count)[:, None]).flatten()
        log_weights = torch.where(is_poor[:, None], 0.0, self.log_weights)
        return _Cloud(self.asks, self.x[rows], _rows(self.twist, rows), log_weights, self.evaluations)

    def ended(self, draw: Draw) -> State:
        """x₀ = D by weight, p(y | x₀) in the place of p̃; without noise A⁺ y in its place."""
        x_0, measurement = self.twist.prediction.x0, self.asks.measurement
        gained = torch.zeros_like(self.twist.log_density)
        if measurement.noise > 0.0:
            gained = measurement.log_likelihood(x_0) - self.twist.log_density
        else:
            x_0 = x_0 + measurement.correction(x_0)
        weights = self.log_weights + _islands(gained, self.asks.count).double()
        last = _Cloud(self.asks, x_0, self.twist, weights, self.evaluations)
        chosen = last.drawn(draw)
        shown = last.one(chosen, 0.0)
        return State(0.0, shown.x, shown.x, self.evaluations, shown.info)

    def drawn(self, draw: Draw) -> Int[Tensor, " b"]:
        """One particle an island, by weight."""
        weights = self.log_weights.softmax(1)
        return (weights.cumsum(1) < _uniform(draw, weights)).sum(1).clamp(max=self.asks.count - 1)

    def shown(self, t: float) -> State:
        """The heaviest of each island."""
        return self.one(self.log_weights.argmax(1), t)

    def one(self, chosen: Tensor, t: float) -> State:
        """These of each island, and all of them beside."""
        rows = chosen + _first_rows(chosen, self.asks.count)
        info = {"particles": _islands(self.x, self.asks.count), "log_weights": self.log_weights}
        return State(t, self.x[rows], self.twist.x0[rows], self.evaluations, info)


@dataclass(frozen=True, eq=False)
class _Asks:
    """Asks a method for its twist at all particles, a part at a time; `condition` has a row for each particle, or is the same for all."""

    posterior: Posterior
    count: int
    at_once: int
    condition: Any

    @property
    def measurement(self) -> Measurement:
        """That of every particle."""
        measurement = self.posterior.measurement
        y = measurement.y if len(measurement.y) == 1 else measurement.y.repeat_interleave(self.count, 0)
        return Measurement(measurement.operator, y, measurement.noise)

    def __call__(self, x: Tensor, t: float) -> Twist:
        """Prior, posterior and p̃ at the particles."""
        method, measurement = self.posterior.method, self.measurement
        if not isinstance(method, Twisting):
            raise UsageError(
                f"Particles weighs by a method's p̃(y | x_t), which {type(method).__name__} has not; use TwistedSMC, PiGDM or MomentMatching"
            )
        condition, parts = self.condition, []
        for first in range(0, len(x), self.at_once):
            rows = slice(first, first + self.at_once)
            y = measurement.y[rows] if len(measurement.y) == len(x) else measurement.y
            known = Measurement(measurement.operator, y, measurement.noise)
            told = condition[rows] if isinstance(condition, torch.Tensor) and len(condition) == len(x) else condition
            parts.append(method.twist(self.posterior.denoiser, known, x[rows], t, told))
        return parts[0] if len(parts) == 1 else _joined(parts)


def _within_reach(row: Row, twist: Twist) -> Twist:
    """The twist with D' no farther from D than ‖Δ‖ = √d: where a step leaves next to no noise, one particle's luck would outweigh all others.

    Any mean is a proposal that the weights make good, and among √d deviations of the prior's step it is still seen by it.
    """
    apart = twist.x0 - twist.prediction.x0
    length = (row.b / row.c) * per_sample_sum(apart * apart).sqrt()
    share = (math.sqrt(apart[0].numel()) / length.clamp(min=1e-30)).clamp(max=1.0)
    return replace(twist, x0=twist.prediction.x0 + along_batch(share, apart) * apart)


def _prior_over_proposal(row: Row, twist: Twist, z: Tensor) -> Tensor:
    """log p(x_s | x_t) − log q(x_s | x_t) = −⟨Δ, z⟩ − ½‖Δ‖², Δ = (b/c)(D' − D) and x_s = a x_t + b D' + c z."""
    apart = (row.b / row.c) * (twist.x0 - twist.prediction.x0)
    return -per_sample_sum(apart * z) - 0.5 * per_sample_sum(apart * apart)


def _systematic(weights: Float[Tensor, "b k"], u: Float[Tensor, "b 1"]) -> Int[Tensor, "b k"]:
    """Particle numbers at the places (u + 0 … K−1)/K of the cumulated weights  (Kitagawa 1996)."""
    count = weights.shape[1]
    places = (u + torch.arange(count, device=u.device)) / count
    return torch.searchsorted(weights.cumsum(1), places).clamp(max=count - 1)


def _first_rows(chosen: Tensor, count: int) -> Int[Tensor, " b"]:
    """The row of each island's first particle."""
    return count * torch.arange(len(chosen), device=chosen.device)


def _uniform(draw: Draw, like: Tensor) -> Float[Tensor, "b 1"]:
    """One uniform number a sample, from its own normal."""
    return 0.5 * (1.0 + torch.erf(draw(like[:, :1]) / math.sqrt(2.0)))


def _islands(x: Tensor, count: int) -> Tensor:
    """(b·K, …) as (b, K, …)."""
    return x.unflatten(0, (-1, count))


def _repeated(condition: Any, batch: int, count: int) -> Any:
    """One row a sample as K rows a sample; what is the same for all stays as it is."""
    is_rows = isinstance(condition, torch.Tensor) and condition.ndim > 0 and len(condition) == batch
    return condition.repeat_interleave(count, 0) if is_rows else condition


def _rows(twist: Twist, rows: Tensor) -> Twist:
    prediction = twist.prediction
    kept = type(prediction)(prediction.x0[rows], prediction.x_t[rows], prediction.t, prediction.path)
    return Twist(kept, twist.x0[rows], twist.log_density[rows])


def _joined(parts: list[Twist]) -> Twist:
    predictions = [part.prediction for part in parts]
    x0, x_t = (torch.cat([getattr(one, name) for one in predictions]) for name in ("x0", "x_t"))
    first = predictions[0]
    return Twist(
        type(first)(x0, x_t, first.t, first.path),
        torch.cat([part.x0 for part in parts]),
        torch.cat([part.log_density for part in parts]),
    )


def _check(particles: int, at_once: int) -> None:
    if particles < 1 or at_once < 1:
        raise UsageError(
            f"twisted sequential Monte Carlo needs particles ≥ 1 and at_once ≥ 1, got {particles} and {at_once}"
        )
