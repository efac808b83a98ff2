r"""The variational bound on −log p(x₀): of a chain of steps, term by term, and of continuous time.

    (M15) L = L_T + Σ L_{t−1} + L₀
    (M21) L_∞ = KL(q(x_T|x₀)‖p) + ½ ∫ (−dSNR) E‖x₀ − D‖² − E log p(x₀|x_τ) = … + ∫ E‖ε − ε̂‖² dλ + …

A ladder τ₀ < … < τ_N of times makes a chain of any path: the divergences of its N steps, and a decoder at τ₀. DDPM's has
τ_i = (i + 1)/T and its last reverse step as its decoder, so that it is the chain it was trained as; with Σ_θ = β̃ a step is
½ (SNR_s − SNR_t) ‖x₀ − D‖², and finer ladders tend to the integral from above.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import torch

from scorefield.arithmetic import along_batch
from scorefield.denoisers.base import Prediction
from scorefield.denoisers.reverse import (
    Normal,
    kl_divergence,
    log_density,
    log_probability,
    log_variances,
    model_posterior,
    true_posterior,
)
from scorefield.errors import UsageError
from scorefield.likelihood.decoders import Decoder
from scorefield.likelihood.reference import Reference
from scorefield.likelihood.strata import Cells, strata
from scorefield.likelihood.subject import Batch, Subject, last_time, squared_error
from scorefield.paths import Discrete, Path
from scorefield.shapes import Float, Int, Tensor

Variance = Literal["small", "large", "learned"]
"""Σ_θ of a step: β̃, β, or what the network says."""

_CELLS = 512
_BINS = 64
_GAINS = 24
_DECODING = 1 << 22


@final
@dataclass(frozen=True, eq=False)
class Profile:
    """How a bound is spread over the noise, summed over samples.

    Attributes:
        log_snr: (m,) λ of each rung, or of the middle of each bin; the noisiest last.
        nats: (m,) what they cost, summed over samples; the decoder is not in it.
        squared_error: (m,) Σ‖x₀ − D‖² there.
        asked: (m,) by how many questions.
    """

    log_snr: Float[Tensor, " m"]
    nats: Float[Tensor, " m"]
    squared_error: Float[Tensor, " m"]
    asked: Float[Tensor, " m"]

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            self.log_snr,
            self.nats + other.nats,
            self.squared_error + other.squared_error,
            self.asked + other.asked,
        )

    def with_first(self, squared_error: Float[Tensor, " b"]) -> Profile:
        """With what was found at the first rung, the decoder's."""
        errors, asked = self.squared_error.clone(), self.asked.clone()
        errors[0] += squared_error.sum()
        asked[0] += len(squared_error)
        return Profile(self.log_snr, self.nats, errors, asked)


@final
@dataclass(frozen=True, eq=False)
class Terms:
    """One estimate of a bound for a batch, in nats.

    Attributes:
        prior: (b,) L_T.
        steps: (b,) Σ L_{t−1}, or the integral.
        decoder: (b,) L₀.
        evaluations: of the denoiser, for each sample.
        profile: how `steps` is spread.
    """

    prior: Float[Tensor, " b"]
    steps: Float[Tensor, " b"]
    decoder: Float[Tensor, " b"]
    evaluations: int
    profile: Profile

    @property
    def nats(self) -> Float[Tensor, " b"]:
        """L, at least −log p(x₀)."""
        return self.prior + self.steps + self.decoder


class _Spread:
    """A profile in the making."""

    def __init__(self, log_snr: Tensor) -> None:
        self._log_snr = log_snr
        self._sums = torch.zeros(3, len(log_snr), dtype=torch.float64, device=log_snr.device)

    def add(self, places: Int[Tensor, " n"], nats: Float[Tensor, " n"], squared_error: Float[Tensor, " n"]) -> None:
        """Take in what some questions found."""
        self._sums.index_add_(1, places, torch.stack([nats, squared_error, torch.ones_like(nats)]))

    def profile(self) -> Profile:
        """What has been taken in."""
        return Profile(self._log_snr, *self._sums)


class Walk(ABC):
    """Between the decoder's time and the prior's: where a sample is asked, and what that costs."""

    start: float
    end: float

    @property
    @abstractmethod
    def decodings(self) -> int:
        """How often the decoder is asked, with noise of its own each time: about as much noise as the rest has."""

    @abstractmethod
    def measured(self, subject: Subject, batch: Batch, repeat: int) -> tuple[Tensor, Profile, int]:
        """An estimate of the cost in nats (b,), how it is spread, and how often each sample was asked."""


@final
@dataclass(frozen=True, eq=False)
class Ladder(Walk):
    """A chain of steps  (M15, M17).

    Attributes:
        times: (N + 1,) τ₀ < … < τ_N; float64.
        variance: Σ_θ.
        terms: how many of the steps a sample is asked at; all where None.
    """

    times: Float[Tensor, " rungs"]
    variance: Variance = "small"
    terms: int | None = None

    @property
    def start(self) -> float:  # type: ignore[override]  # read-only
        """τ₀."""
        return float(self.times[0])

    @property
    def end(self) -> float:  # type: ignore[override]  # read-only
        """τ_N."""
        return float(self.times[-1])

    @property
    def decodings(self) -> int:
        """One for sixteen steps."""
        asked = len(self.times) - 1
        return 1 + min(asked, self.terms or asked) // 16

    def measured(self, subject: Subject, batch: Batch, repeat: int) -> tuple[Tensor, Profile, int]:
        """Σ KL(q(x_s|x_t, x₀) ‖ p_θ(x_s|x_t)) over all steps, or over some of them, weighted."""
        times = self.times.to(batch.x_0.device)
        rungs, weights = self._chosen(subject, batch, repeat)
        total, spread = batch.zeros(), _Spread(subject.path.log_snr(times))
        for part, prediction in batch.predictions(subject.denoiser, times[rungs], repeat):
            x_0, rows = batch.repeated(len(rungs[part])), rungs[part].flatten()
            costs = weights[part] * self._divergences(prediction, x_0, times[rows - 1]).view_as(weights[part])
            total += costs.sum(0)
            spread.add(rows, costs.flatten(), squared_error(prediction, x_0))
        return total, spread.profile(), len(rungs)

    def _chosen(self, subject: Subject, batch: Batch, repeat: int) -> tuple[Tensor, Tensor]:
        """The upper rungs of the steps that are asked, (m, b), and each one's weight."""
        steps, count = len(self.times) - 1, len(batch.x_0)
        if self.terms is None or self.terms >= steps:
            rungs = torch.arange(1, steps + 1, device=batch.x_0.device)[:, None].expand(-1, count)
            return rungs, torch.ones_like(rungs, dtype=torch.float64)
        rising = subject.path.log_snr(self.times.to(batch.x_0.device)).flip(0)
        cells = Cells.between(rising, subject.frame(batch.x_0))
        numbers, _ = cells.places(strata(batch.uniform(repeat, 0, 1)[:, 0], self.terms))
        return steps - numbers, 1.0 / (self.terms * cells.probabilities[numbers])

    def _divergences(self, prediction: Prediction, x_0: Tensor, s: Tensor) -> Tensor:
        truth = true_posterior(prediction.path, x_0, prediction.x_t, s, prediction.t)
        return kl_divergence(truth, reverse_law(prediction, s, self.variance))


@final
@dataclass(frozen=True, eq=False)
class Control:
    """A control variate of the integrand ‖ε − ε̂‖²: c(λ) (‖ε‖² − D), whose mean is 0.

    Near data ε̂ knows little and ‖ε − ε̂‖² ≈ ‖ε‖², near noise it is nearly 0: with c(λ) = E‖ε − ε̂‖²/D, from samples of its own,
    most of the noise of the integrand's large part is gone.

    Attributes:
        low, high: of λ.
        gains: (m,) c in as many equal parts of that range.
    """

    low: float
    high: float
    gains: Float[Tensor, " m"]

    @classmethod
    def learned(cls, log_snr: Float[Tensor, "k b"], integrand: Float[Tensor, "k b"], dimension: int) -> Control:
        """From some samples' integrand at some λ."""
        low, high = float(log_snr.min()), float(log_snr.max()) + 1e-9
        empty = cls(low, high, log_snr.new_zeros(_GAINS))
        places = empty._places(log_snr).flatten()
        count = torch.bincount(places, minlength=_GAINS)
        total = torch.bincount(places, weights=integrand.flatten(), minlength=_GAINS)
        gains = (total / count.clamp(min=1) / dimension).clamp(0.0, 1.0)
        return cls(low, high, gains.where(count > 0, gains.new_zeros(())))

    def gain(self, log_snr: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        """c(λ)."""
        return self.gains[self._places(log_snr)]

    def _places(self, log_snr: Tensor) -> Tensor:
        share = (log_snr - self.low) / (self.high - self.low)
        return (share * len(self.gains)).long().clamp(0, len(self.gains) - 1)


@final
@dataclass(frozen=True, eq=False)
class Integral(Walk):
    """Continuous time: ∫ e^{2λ} E‖x₀ − D‖² dλ, at K stratified λ a sample  (M21; Kingma et al. 2021, eq. 11, 14).

    Attributes:
        cells: of λ, from the prior's to the decoder's.
        terms: K.
        start, end: the decoder's and the prior's time.
        control: takes out of the estimate what is known of its noise; its mean stays.
    """

    cells: Cells
    terms: int
    start: float
    end: float
    control: Control | None = None

    @property
    def decodings(self) -> int:
        """One for four questions."""
        return 1 + self.terms // 4

    def measured(self, subject: Subject, batch: Batch, repeat: int) -> tuple[Tensor, Profile, int]:
        """(1/K) Σ_k e^{2λ_k} ‖x₀ − D‖²/p(λ_k)."""
        low, high = (float(self.cells.edges[k]) for k in (0, -1))
        width = (high - low) / _BINS
        numbers = torch.arange(_BINS, dtype=torch.float64, device=batch.x_0.device)
        total, spread = batch.zeros(), _Spread(high - width * (numbers + 0.5))
        for log_snr, costs, errors in self.parts(subject, batch, repeat):
            bins = ((high - log_snr) / width).long().clamp(0, _BINS - 1)
            total += costs.sum(0)
            spread.add(bins.flatten(), costs.flatten(), errors.flatten())
        return total, spread.profile(), self.terms

    def parts(self, subject: Subject, batch: Batch, repeat: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """λ_k, its part of the estimate, and ‖x₀ − D‖², each (k′, b): some rows at a time."""
        log_snr, weights = self.cells.log_snrs(strata(batch.uniform(repeat, 0, 1)[:, 0], self.terms))
        weights = weights / self.terms
        times = subject.path.time_of(log_snr).clamp(self.start, self.end)
        for part, prediction in batch.predictions(subject.denoiser, times, repeat):
            x_0 = batch.repeated(len(times[part]))
            errors = squared_error(prediction, x_0).view_as(times[part])
            costs = (2.0 * log_snr[part]).exp() * errors
            if self.control is not None:
                noise = (prediction.x_t - along_batch(subject.path.alpha(prediction.t), x_0) * x_0).square().flatten(1)
                length = (noise.sum(1) / subject.path.sigma(prediction.t) ** 2).view_as(errors)
                costs = costs - self.control.gain(log_snr[part]) * (length - batch.dimension)
            yield log_snr[part], weights[part] * costs, errors


@final
@dataclass(frozen=True)
class LastStep(Decoder):
    """The chain's own last reverse step as its decoder: p_θ(x₀ | x₁)  (M18; Ho et al. 2020, eq. 13).

    Attributes:
        levels: how many values the data have; None for a density.
        variance: Σ_θ.
    """

    levels: int | None
    variance: Variance = "small"

    def log_probability(self, x_0: Float[Tensor, "b *d"], prediction: Prediction) -> Float[Tensor, " b"]:
        """log p_θ(x₀ | x_τ₀)."""
        law = reverse_law(prediction, 0.0, self.variance)
        return log_density(x_0, law) if self.levels is None else log_probability(x_0, law, self.levels)


def bound(subject: Subject, walk: Walk, decoder: Decoder, batch: Batch, repeat: int = 0) -> Terms:
    """One estimate of the bound for a batch: L_T, what lies between, and L₀  (M15, M21).

    Args:
        subject: the denoiser, and what is known of its data.
        walk: a `Ladder` or the `Integral`.
        decoder: at the walk's start.
        batch: the data.
        repeat: another one has other noise.
    """
    steps, profile, asked = walk.measured(subject, batch, repeat)
    prior = prior_divergence(subject.path, batch.precise, walk.end)
    decoded, draws = batch.zeros(), walk.decodings
    for number in range(draws):
        last = batch.prediction(subject.denoiser, walk.start, _DECODING + number, repeat)
        decoded -= decoder.log_probability(batch.precise, last) / draws
        if isinstance(walk, Ladder):
            profile = profile.with_first(squared_error(last, batch.precise))
    return Terms(prior, steps, decoded, asked + draws, profile)


def reverse_law(prediction: Prediction, s: Tensor | float, variance: Variance) -> Normal:
    """p_θ(x_s | x_t) with the variance that is asked for  (M13, M14).

    Raises:
        UsageError: a learned variance, where the denoiser has none.
    """
    if variance == "learned":
        if prediction.variance_mix is None:
            raise UsageError("this model has no learned variance; use the variance small or large")
        return model_posterior(prediction, s)
    law = true_posterior(prediction.path, prediction.x0, prediction.x_t, s, prediction.t)
    if variance == "small":
        return law
    large, _ = log_variances(prediction.path, s, prediction.t)
    return Normal(law.mean, along_batch(large, law.mean) + torch.zeros_like(law.log_variance))


def prior_divergence(path: Path, x_0: Float[Tensor, "b *d"], t: float) -> Float[Tensor, " b"]:
    """L_T = KL(q(x_t|x₀) ‖ N(0, prior_std² I)) in nats  (M15)."""
    mean, log_variance = path.alpha(t) * x_0, x_0.new_tensor(2.0 * math.log(path.sigma(t)))
    prior = Normal(torch.zeros_like(x_0), x_0.new_tensor(2.0 * math.log(path.prior_std)))
    return kl_divergence(Normal(mean, log_variance.expand_as(x_0)), prior)


def chain(path: Discrete, variance: Variance = "small", terms: int | None = None) -> Ladder:
    """The ladder of a discrete path: its own T steps, of which the first is the decoder's  (M15)."""
    rungs = torch.arange(1, path.steps + 1, dtype=torch.float64) / path.steps
    return Ladder(rungs, variance, terms)


def ladder(path: Path, start: float, steps: int, frame: Reference, variance: Variance = "small") -> Ladder:
    """A chain of so many steps on any path, of equal Gaussian information each; twice as many steps contain it."""
    cells = Cells.even(path.log_snr(last_time(path)), path.log_snr(start), _CELLS, frame)
    u = torch.arange(1, steps, dtype=torch.float64, device=cells.edges.device) / steps
    times = path.time_of(cells.log_snrs(u)[0].flip(0))
    ends = (times.new_tensor([time]) for time in (start, last_time(path)))
    first, last = ends
    return Ladder(torch.cat([first, times, last]), variance)


def integral(path: Path, start: float, terms: int, frame: Reference, control: Control | None = None) -> Integral:
    """Continuous time from the decoder at `start` to the prior, at so many λ a sample  (M21)."""
    low, high = path.log_snr(last_time(path)), path.log_snr(start)
    return Integral(Cells.even(low, high, _CELLS, frame), terms, start, last_time(path), control)
