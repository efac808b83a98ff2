r"""The two ways to measure a likelihood, as records: what is asked for, made ready on a few samples, and then measured.

`VariationalBound` bounds −log p of the model that draws by the reverse chain (or SDE) from above. `FlowLikelihood` is the density
of another model with the same denoiser, the one that draws by the probability flow; neither bounds the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import torch

from scorefield.errors import UsageError, unknown_name
from scorefield.likelihood.bound import (
    LastStep,
    Profile,
    Variance,
    Walk,
    bound,
    chain,
    integral,
    ladder,
)
from scorefield.likelihood.decoders import Decoder
from scorefield.likelihood.dequantisation import DEQUANTISATIONS, Dequantisation
from scorefield.likelihood.ends import best_decoder, chosen_end, end_times
from scorefield.likelihood.flow import Flow, chosen_probing
from scorefield.likelihood.subject import PILOT, Batch, Subject, last_time
from scorefield.paths import Discrete, Path
from scorefield.shapes import Float, Tensor

_TERMS = 32
_FLOW_ENDS = (1.0 / 6.0, 1.0 / 3.0, 0.5, 1.0)
_FLOW_PILOT_VALUES = 1024


@final
@dataclass(frozen=True, eq=False)
class Estimate:
    """One repeat for a batch.

    Attributes:
        nats: (b,) −log p, or its bound, in model space.
        evaluations: (b, …) of the denoiser, for each solution of the flow, or for the bound.
        parts: what nats is the sum of, by name, where it is a sum.
        profile: how the bound is spread over the noise.
    """

    nats: Float[Tensor, " b"]
    evaluations: Tensor
    parts: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    profile: Profile | None = None


class Ready(ABC):
    """A method with everything chosen, so that what it measures is one model's likelihood."""

    settings: Mapping[str, Any]
    is_random: bool = True

    @abstractmethod
    def estimate(self, subject: Subject, batch: Batch, repeat: int) -> Estimate:
        """Measure a batch by this repeat's noise."""


class Method(ABC):
    """How a likelihood is measured."""

    name: ClassVar[str]

    @abstractmethod
    def ready(self, subject: Subject, pilot: Batch) -> Ready:
        """Choose what is left open on a few samples, with noise of their own.

        Raises:
            UsageError: what is asked for does not fit the path, the denoiser or the data.
        """


# ── the bound ────────────────────────────────────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class VariationalBound(Method):
    """The variational bound: a discrete path's own chain, or continuous time, or T steps of a continuous path  (M15, M21).

    Attributes:
        terms: at how many steps, or λ, a sample is asked; all of a chain, and 32 in continuous time, where None.
        steps: T of a chain on a continuous path; continuous time where None.
        variance: Σ_θ of a chain; learned where it is, and else small, where None.
        end: λ₀ = log(α/σ) where the decoder takes over on a continuous path; judged on a few samples where None.
    """

    name: ClassVar[str] = "bound"

    terms: int | None = None
    steps: int | None = None
    variance: Variance | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.variance not in (None, "small", "large", "learned"):
            raise unknown_name("variance", self.variance, ("small", "large", "learned"))
        for name in ("terms", "steps"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1_000_000:
                raise UsageError(f"the bound needs {name} between 1 and 1,000,000, got {value}")
        if self.terms is not None and self.steps is not None:
            raise UsageError("a bound of so many steps is found whole; give terms or steps")

    def ready(self, subject: Subject, pilot: Batch) -> Ready:
        """The chain or the integral, its end point and its decoder."""
        if isinstance(subject.path, Discrete):
            return self._of_chain(subject, subject.path, pilot)
        if self.steps is None and self.variance is not None:
            raise UsageError("in continuous time every variance is the same; leave it out, or ask for a chain of steps")
        times = end_times(subject) if self.end is None else [time_of_end(subject.path, self.end)]
        end, control = chosen_end(subject, pilot, times)
        frame = subject.frame(pilot.x_0)
        settings = {"end": end.log_snr, "decoder": describe(end.decoder)}
        if self.steps is None:
            terms = self.terms or _TERMS
            walk: Walk = integral(subject.path, end.t, terms, frame, control)
            return _ReadyBound(walk, end.decoder, {"time": "continuous", "terms": terms} | settings)
        variance = self.variance or "small"
        walk = ladder(subject.path, end.t, self.steps, frame, variance)
        return _ReadyBound(walk, end.decoder, {"time": f"{self.steps} steps", "variance": variance} | settings)

    def _of_chain(self, subject: Subject, path: Discrete, pilot: Batch) -> Ready:
        if self.steps is not None or self.end is not None:
            raise UsageError(
                f"this model is a chain of {path.steps} steps, whose bound has no other steps and no end point; leave them out"
            )
        variance = self.variance or _own_variance(subject, pilot)
        terms = None if self.terms is None or self.terms >= path.steps - 1 else self.terms
        settings = {"time": f"{path.steps} steps", "terms": terms or path.steps - 1, "variance": variance}
        return _ReadyBound(chain(path, variance, terms), LastStep(subject.levels, variance), settings)


@dataclass(frozen=True, eq=False)
class _ReadyBound(Ready):
    walk: Walk
    decoder: Decoder
    settings: Mapping[str, Any]

    def estimate(self, subject: Subject, batch: Batch, repeat: int) -> Estimate:
        """L_T, the steps, L₀."""
        found = bound(subject, self.walk, self.decoder, batch, repeat)
        parts = {"prior": found.prior, "steps": found.steps, "decoder": found.decoder}
        asked = torch.full_like(found.prior, found.evaluations)
        return Estimate(found.nats, asked, parts, found.profile)


def _own_variance(subject: Subject, pilot: Batch) -> Variance:
    answer = pilot.prediction(subject.denoiser, subject.path.t_max, 0, PILOT)
    return "small" if answer.variance_mix is None else "learned"


# ── the flow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class FlowLikelihood(Method):
    """The probability flow's density, or the probability of integers by it  (M40, M41).

    Attributes:
        tolerance: of a step, see `Flow`.
        probes: K of the trace's estimate; 0 for the exact trace; exact up to 256 dimensions where None.
        dequantisation: uniform, truncated-normal, variational, or none for data that are no integers; truncated-normal for
            integers where None.
        importance: how many points stand for a sample; more come nearer to the likelihood.
        end: λ₀ = log(α/σ) at which the data enter the flow; judged on a few samples where None.
    """

    name: ClassVar[str] = "flow"

    tolerance: float = 1e-4
    probes: int | None = None
    dequantisation: str | None = None
    importance: int = 1
    end: float | None = None

    def __post_init__(self) -> None:
        Flow(self.tolerance, self.probes)
        if self.dequantisation is not None and self.dequantisation not in DEQUANTISATIONS:
            raise unknown_name("dequantisation", self.dequantisation, DEQUANTISATIONS)
        if not 1 <= self.importance <= 10_000:
            raise UsageError(f"importance weighting needs between 1 and 10,000 points, got {self.importance}")

    def ready(self, subject: Subject, pilot: Batch) -> Ready:
        """The way to dequantise, and the end point."""
        name = self.dequantisation or ("none" if subject.levels is None else "truncated-normal")
        way = DEQUANTISATIONS[name]
        self._check(way, name, subject)
        flow = Flow(self.tolerance, self.probes)
        if flow.probe_count(pilot.dimension):
            flow = replace(flow, probing=chosen_probing(subject, _few(pilot)))
        if not way.needs_levels and self.importance > 1:
            raise UsageError(
                "importance weighting is for integers: the density of other data needs no noise; leave it out"
            )
        if self.end is not None:
            times = [time_of_end(subject.path, self.end)]
        else:
            times = end_times(subject, _FLOW_ENDS) if way.needs_levels else [subject.path.t_min]
        tried = [self._at(subject, pilot, flow, way, name, t) for t in times]
        if len(tried) == 1:
            return tried[0]
        few = _few(pilot)
        loose = replace(flow, tolerance=max(self.tolerance, 2e-3), probes=min(flow.probe_count(pilot.dimension), 1))
        costs = [float(replace(ready, flow=loose).estimate(subject, few, PILOT).nats.mean()) for ready in tried]
        return tried[costs.index(min(costs))]

    def _at(self, subject: Subject, pilot: Batch, flow: Flow, way: Dequantisation, name: str, t: float) -> _ReadyFlow:
        decoder = best_decoder(subject, pilot, t)[0] if way.needs_decoder else None
        probes = flow.probe_count(pilot.dimension)
        settings: dict[str, Any] = {"dequantisation": name, "end": subject.path.log_snr(t)}
        settings |= {"trace": f"{probes} probes" if probes else "exact", "tolerance": self.tolerance}
        settings |= {"importance": self.importance} if way.needs_levels else {}
        settings |= {"decoder": describe(decoder)} if decoder else {}
        return _ReadyFlow(flow, way, decoder, t, self.importance, settings, way.needs_levels or probes > 0)

    @staticmethod
    def _check(way: Dequantisation, name: str, subject: Subject) -> None:
        if way.needs_levels and subject.levels is None:
            raise UsageError(
                f"these data are no integers, so nothing is to be dequantised ({name}); use the dequantisation none"
            )
        if not way.needs_levels and subject.levels is not None:
            raise UsageError(
                f"a density at integers of {subject.levels} levels says nothing about them; use the dequantisation uniform, truncated-normal or variational"
            )


@dataclass(frozen=True, eq=False)
class _ReadyFlow(Ready):
    flow: Flow
    way: Dequantisation
    decoder: Decoder | None
    t: float
    importance: int
    settings: Mapping[str, Any]
    is_random: bool = True

    def estimate(self, subject: Subject, batch: Batch, repeat: int) -> Estimate:
        """−log (1/K) Σ_k w_k."""
        weights, asked = [], []
        for k in range(self.importance):
            points = self.way.points(batch, subject.path, self.t, subject.bin_width, repeat, k)
            density = self.flow.log_density(
                subject.denoiser,
                points.z,
                self.t,
                reference=subject.frame(batch.x_0),
                condition=batch.condition,
                streams=batch.streams,
                draw=repeat * 16_384 + k,
                dtype=batch.x_0.dtype,
            )
            weights.append(density.log_density - points.log_q + self._decoded(subject, batch, points.z))
            asked.append(density.evaluations)
        nats = math.log(self.importance) - torch.stack(weights).logsumexp(0)
        return Estimate(nats, torch.stack(asked, 1))

    def _decoded(self, subject: Subject, batch: Batch, z: Tensor) -> Tensor | float:
        if self.decoder is None:
            return 0.0
        return self.decoder.log_probability(batch.precise, batch.asked_at(subject.denoiser, z, self.t))


def _few(pilot: Batch) -> Batch:
    """So few samples that flows can be tried on them."""
    return pilot.part(slice(0, max(4, min(16, _FLOW_PILOT_VALUES // pilot.dimension))))


def time_of_end(path: Path, log_snr: float) -> float:
    """The time of an end point λ₀. Raises UsageError outside the path."""
    low, high = path.log_snr(last_time(path)), path.log_snr(path.t_min)
    if not low < log_snr <= high + 1e-9:
        raise UsageError(
            f"the end point must be a log(α/σ) between {low:.3g} and {high:.3g} on this path, got {log_snr:g}"
        )
    return min(max(path.time_of(log_snr), path.t_min), path.t_max)


def describe(decoder: Decoder) -> str:
    """A decoder as people read it: discretised(ratio=0.5)."""
    options = [f"{name}={value:.3g}" if isinstance(value, float) else "" for name, value in vars(decoder).items()]
    about = "" if getattr(decoder, "about_denoised", True) else ", about z/α"
    return f"{type(decoder).__name__.lower()}({', '.join(option for option in options if option)}{about})"
