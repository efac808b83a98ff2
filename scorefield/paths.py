r"""The noise path: how data become noise, and all that follows from it.

    (M1)  x_t = α(t) x₀ + σ(t) ε,   ε ~ N(0, I)
    (M2)  λ(t) = ½ log SNR = log(α/σ),   strictly decreasing in t
    (M3)  dx = f(t) x dt + g(t) dw,   f = d log α/dt,   g² = dσ²/dt − 2 f σ²
    (M4)  p(x_t | x_s) = N(α_{t|s} x_s, σ²_{t|s} I)
    (M5)  q(x_s | x_t, x₀)

t = 0 is data and t = t_max is noise for every path. A time is a Python float or a float64 tensor; the answer is of the
same kind. Whatever is a difference of nearly equal numbers (1 − ᾱ near data, σ²_{t|s} of neighbours) is computed from
logarithms with `expm1`, so that it keeps its digits. Nothing outside this module knows β.

Sources: Song et al. 2021 (score SDE), Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (iDDPM), Karras et al. 2022 (EDM),
Kingma et al. 2021 (VDM, for λ as the clock).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import final

from scorefield.arithmetic import (
    Time,
    along_batch,
    asinh,
    atan2,
    clip,
    divide,
    exp,
    expm1,
    is_number,
    log,
    log1p,
    sin,
    softplus,
    sqrt,
)
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

_CHECKED_TIMES = 64
_LARGEST_BELOW_ONE = 1.0 - 2.0**-53


@dataclass(frozen=True)
class Bridge:
    """p(x_t | x_s) = N(scale · x_s, std² I), for s < t (M4). Floats, or (b,) tensors for one pair of times a sample."""

    scale: Time
    std: Time


@dataclass(frozen=True)
class Posterior:
    """q(x_s | x_t, x₀) = N(from_x_t · x_t + from_x_0 · x₀, std² I), for s < t (M5)."""

    from_x_t: Time
    from_x_0: Time
    std: Time


@dataclass(frozen=True)
class Path(ABC):
    """A Gaussian noise path; a subclass gives α, σ, their rates, and log-SNR with its inverse.

    `t_min` is the smallest time at which a network is asked: at t = 0 there is nothing to denoise.

    Raises:
        UsageError: at construction, where log-SNR does not fall strictly, so that some σ²_{t|s} would be negative.
    """

    def __post_init__(self) -> None:
        self._check_parameters()
        times = [self.t_min + (self.t_max - self.t_min) * k / _CHECKED_TIMES for k in range(_CHECKED_TIMES + 1)]
        values = [self.log_snr(t) for t in times]
        if not all(later < earlier for earlier, later in pairwise(values)):
            raise UsageError(
                f"{self}: the signal-to-noise ratio must fall strictly with t; change the parameters so that it does"
            )

    @abstractmethod
    def _check_parameters(self) -> None:
        """Refuse impossible parameters, by UsageError."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """The time of pure noise."""

    @property
    @abstractmethod
    def t_min(self) -> float:
        """The smallest time at which a denoiser is asked."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std² I) that sampling starts from."""

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """α(t), the coefficient of x₀ (M1)."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """σ(t), the coefficient of the noise (M1)."""

    @abstractmethod
    def alpha_rate(self, t: Time) -> Time:
        """dα/dt."""

    @abstractmethod
    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt."""

    @abstractmethod
    def log_snr(self, t: Time) -> Time:
        """λ(t) = log(α/σ), half the logarithm of the signal-to-noise ratio (M2)."""

    @abstractmethod
    def time_of(self, log_snr: Time) -> Time:
        """The time at which λ(t) has the given value: the inverse of `log_snr` (M2)."""

    def sigma_rate(self, t: Time) -> Time:
        """dσ/dt = (dσ²/dt) / 2σ."""
        return divide(self.variance_rate(t), 2.0 * self.sigma(t))

    def drift(self, t: Time) -> Time:
        """f(t) = d log α/dt of the forward SDE (M3)."""
        return divide(self.alpha_rate(t), self.alpha(t))

    def diffusion(self, t: Time) -> Time:
        """g(t) = √(dσ²/dt − 2 f σ²) of the forward SDE (M3)."""
        return sqrt(self.variance_rate(t) - 2.0 * self.drift(t) * self.sigma(t) ** 2)

    def bridge(self, s: Time, t: Time) -> Bridge:
        """p(x_t | x_s) for s < t: α_{t|s} = α_t/α_s, σ²_{t|s} = σ_t² − α²_{t|s} σ_s² = σ_t² (1 − e^{2(λ_t − λ_s)}) (M4)."""
        return Bridge(self.alpha(t) / self.alpha(s), self.sigma(t) * sqrt(self._lost_information(s, t)))

    def posterior(self, s: Time, t: Time) -> Posterior:
        """q(x_s | x_t, x₀) for s < t: the mean's two coefficients and the standard deviation (M5; DDPM eq. 7 for any path)."""
        lost = self._lost_information(s, t)
        shrink = divide(self.sigma(s), self.sigma(t)) ** 2
        from_x_t = divide(self.alpha(t), self.alpha(s)) * shrink
        return Posterior(from_x_t, self.alpha(s) * lost, self.sigma(s) * sqrt(lost))

    def _lost_information(self, s: Time, t: Time) -> Time:
        """1 − SNR(t)/SNR(s), the share of what x_s knew of x₀ that x_t no longer does."""
        return -expm1(2.0 * (self.log_snr(t) - self.log_snr(s)))

    def perturb(
        self, x_0: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], noise: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """Noise data to time t:  x_t = α(t) x₀ + σ(t) ε  (M1; Song et al. 2021, eq. 29)."""
        return along_batch(self.alpha(t), x_0) * x_0 + along_batch(self.sigma(t), x_0) * noise

    def snap(self, t: float) -> float:
        """The nearest time that this path was made for: t itself, but for paths of finitely many steps."""
        return t


@dataclass(frozen=True)
class _VariancePreserving(Path, ABC):
    """α² + σ² = 1, told by the integrated rate B(t) = ∫₀ᵗ β:  α = e^{−B/2}, σ² = 1 − e^{−B}.

    Its forward SDE has f = −½ β and g = √β (M3, M37; score SDE, eq. 32).
    """

    @abstractmethod
    def rate(self, t: Time) -> Time:
        """β(t) = dB/dt."""

    @abstractmethod
    def integrated_rate(self, t: Time) -> Time:
        """B(t) = ∫₀ᵗ β(u) du = −log ᾱ."""

    @abstractmethod
    def time_of_integrated_rate(self, integrated: Time) -> Time:
        """The time at which B(t) has the given value."""

    @property
    def prior_std(self) -> float:
        """1: the prior is the standard normal (DDPM, eq. 1)."""
        return 1.0

    def alpha(self, t: Time) -> Time:
        """α = e^{−B/2} = √ᾱ."""
        return exp(-0.5 * self.integrated_rate(t))

    def sigma(self, t: Time) -> Time:
        """σ = √(1 − ᾱ), by `expm1`."""
        return sqrt(-expm1(-self.integrated_rate(t)))

    def alpha_rate(self, t: Time) -> Time:
        """dα/dt = −½ β α."""
        return -0.5 * self.rate(t) * self.alpha(t)

    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt = β e^{−B}."""
        return self.rate(t) * exp(-self.integrated_rate(t))

    def log_snr(self, t: Time) -> Time:
        """λ = −½ log(e^B − 1), written so that neither end overflows."""
        integrated = self.integrated_rate(t)
        return -0.5 * (integrated + log(-expm1(-integrated)))

    def time_of(self, log_snr: Time) -> Time:
        """From B = log(1 + e^{−2λ})."""
        return self.time_of_integrated_rate(softplus(-2.0 * log_snr))


def _require(holds: bool, path: str, wants: str, got: object) -> None:
    if not holds:
        raise UsageError(f"{path} needs {wants}, got {got}")


def _linear_integral(beta_min: float, beta_max: float, t: Time) -> Time:
    """B(t) for β(t) = β₀ + (β₁ − β₀) t."""
    return t * (beta_min + 0.5 * (beta_max - beta_min) * t)


def _linear_integral_inverse(beta_min: float, beta_max: float, integrated: Time) -> Time:
    """The root of B(t) = B by the form of the quadratic formula that does not cancel."""
    return 2.0 * integrated / (beta_min + sqrt(beta_min**2 + 2.0 * (beta_max - beta_min) * integrated))


def _check_rates(path: str, beta_min: float, beta_max: float) -> None:
    holds = 0.0 < beta_min <= beta_max < math.inf
    _require(holds, path, "0 < beta_min ≤ beta_max, both finite", f"beta_min={beta_min}, beta_max={beta_max}")


@final
@dataclass(frozen=True)
class VP(_VariancePreserving):
    """Variance preserving with a linear rate:  log α = −¼ t² (β₁ − β₀) − ½ t β₀,  t ∈ [0, 1]  (score SDE, eq. 32–33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_max: float = 1.0
    t_min: float = 1e-5

    def _check_parameters(self) -> None:
        _check_rates("VP", self.beta_min, self.beta_max)

    def rate(self, t: Time) -> Time:
        """β(t) = β₀ + (β₁ − β₀) t."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integrated_rate(self, t: Time) -> Time:
        """B(t) = β₀ t + ½ (β₁ − β₀) t²."""
        return _linear_integral(self.beta_min, self.beta_max, t)

    def time_of_integrated_rate(self, integrated: Time) -> Time:
        """The positive root of B(t) = B."""
        return _linear_integral_inverse(self.beta_min, self.beta_max, integrated)


@final
@dataclass(frozen=True)
class VPCosine(_VariancePreserving):
    """α(t) = cos(a + θ)/cos a,  θ = (π/2) t/(1+s),  a = (π/2) s/(1+s),  t ∈ [0, 1]  (iDDPM, eq. 17, in continuous time)."""

    offset: float = 0.008
    t_max: float = 1.0
    t_min: float = 1e-5

    def _check_parameters(self) -> None:
        _require(0.0 < self.offset < math.inf, "VPCosine", "a positive offset", self.offset)

    @property
    def _start(self) -> float:
        return 0.5 * math.pi * self.offset / (1.0 + self.offset)

    def rate(self, t: Time) -> Time:
        """β(t) = π/(1+s) · tan(a + θ), with cos(a + θ) from α itself: at t = 1 their product dα/dt is then finite and right."""
        angle = 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)
        return math.pi / (1.0 + self.offset) * sin(angle) / (math.cos(self._start) * self.alpha(t))

    def integrated_rate(self, t: Time) -> Time:
        """B = −2 log α, from 1 − α = 2 sin²(θ/2) + tan a sin θ, a sum of positive terms."""
        theta = 0.5 * math.pi * t / (1.0 + self.offset)
        lost = 2.0 * sin(0.5 * theta) ** 2 + math.tan(self._start) * sin(theta)
        return -2.0 * log1p(-clip(lost, 0.0, _LARGEST_BELOW_ONE))

    def time_of_integrated_rate(self, integrated: Time) -> Time:
        """From sin θ = σ² cos a / (√(sin²a + σ² cos²a) + α sin a), which keeps its digits near data."""
        sin_a, cos_a = math.sin(self._start), math.cos(self._start)
        alpha, variance = exp(-0.5 * integrated), -expm1(-integrated)
        sin_end = sqrt(sin_a**2 + variance * cos_a**2)
        theta = atan2(variance * cos_a / (sin_end + alpha * sin_a), alpha * cos_a**2 + sin_end * sin_a)
        return theta * (1.0 + self.offset) / (0.5 * math.pi)


@final
@dataclass(frozen=True)
class Discrete(_VariancePreserving):
    """DDPM's chain of T steps: ᾱ_i = Π_{j≤i} (1 − β_j) at t = i/T; log ᾱ is linear in between  (Ho et al. 2020, eq. 4).

    Attributes:
        steps: T.
        schedule: `linear` (β from beta_start to beta_end), `cosine` (iDDPM, β ≤ 0.999) or `table`.
        betas: β₁ … β_T of the schedule `table`.
    """

    steps: int = 1000
    schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    betas: tuple[float, ...] = ()

    @property
    def t_max(self) -> float:
        """1, the time of step T."""
        return 1.0

    @property
    def t_min(self) -> float:
        """1/T, the time of step 1."""
        return 1.0 / self.steps

    def _check_parameters(self) -> None:
        _require(self.schedule in _SCHEDULES, "Discrete", f"a schedule of {', '.join(_SCHEDULES)}", repr(self.schedule))
        _require(2 <= self.steps <= 1_000_000, "Discrete", "between 2 and 1,000,000 steps", self.steps)
        table = self.table
        _require(len(table) == self.steps, "Discrete", f"{self.steps} betas, one a step", len(table))
        _require(
            all(0.0 < beta < 1.0 for beta in table),
            "Discrete",
            "every beta strictly between 0 and 1",
            f"{min(table)} … {max(table)}",
        )

    @classmethod
    def from_betas(cls, betas: tuple[float, ...]) -> Discrete:
        """The path of any table of β."""
        return cls(steps=len(betas), schedule="table", betas=tuple(float(beta) for beta in betas))

    @cached_property
    def table(self) -> tuple[float, ...]:
        """β₁ … β_T (M11)."""
        if self.schedule == "table":
            return self.betas
        if self.schedule == "cosine":
            return _cosine_betas(self.steps)
        width = self.beta_end - self.beta_start
        return tuple(self.beta_start + width * i / (self.steps - 1) for i in range(self.steps))

    @cached_property
    def _increments(self) -> tuple[float, ...]:
        """−log(1 − β_i), and a last one for what lies beyond T."""
        increments = tuple(-math.log1p(-beta) for beta in self.table)
        return (*increments, increments[-1])

    @cached_property
    def _integrals(self) -> tuple[float, ...]:
        """B at the nodes 0 … T."""
        return (0.0, *accumulate(self._increments[:-1]))

    def _interpolated(self, t: Time) -> tuple[Time, Time, Time]:
        """(B at the node below t, −log(1−β) of the step that holds t, how far t is in it)."""
        if is_number(t):
            node = min(max(int(t * self.steps + 1e-9), 0), self.steps)
            return self._integrals[node], self._increments[node], t * self.steps - node
        position = t * self.steps
        nodes = (position + 1e-9).floor().clamp(0, self.steps).long()
        return t.new_tensor(self._integrals)[nodes], t.new_tensor(self._increments)[nodes], position - nodes

    def rate(self, t: Time) -> Time:
        """β(t) of the chain in continuous time: −T log(1 − β_i) in step i."""
        _, increment, _ = self._interpolated(t)
        return self.steps * increment

    def integrated_rate(self, t: Time) -> Time:
        """B(t) = −log ᾱ, linear between the nodes."""
        base, increment, fraction = self._interpolated(t)
        return base + increment * fraction

    def time_of_integrated_rate(self, integrated: Time) -> Time:
        """The inverse of the piecewise linear B."""
        if is_number(integrated):
            node = min(bisect_right(self._integrals, integrated) - 1, self.steps - 1)
            return (node + (integrated - self._integrals[node]) / self._increments[node]) / self.steps
        import torch

        integrals, increments = integrated.new_tensor(self._integrals), integrated.new_tensor(self._increments)
        nodes = (torch.searchsorted(integrals, integrated.detach(), right=True) - 1).clamp(0, self.steps - 1)
        return (nodes + (integrated - integrals[nodes]) / increments[nodes]) / self.steps

    def snap(self, t: float) -> float:
        """The time of the nearest step."""
        return round(t * self.steps) / self.steps


def _cosine_betas(steps: int) -> tuple[float, ...]:
    """β_i = min(1 − ᾱ_i/ᾱ_{i−1}, 0.999) of the cosine path (iDDPM, eq. 17)."""
    path = VPCosine()
    integrals = [path.integrated_rate(i / steps) for i in range(steps + 1)]
    return tuple(min(-math.expm1(before - after), 0.999) for before, after in pairwise(integrals))


_SCHEDULES = ("linear", "cosine", "table")


@final
@dataclass(frozen=True)
class SubVP(Path):
    """α as VP, σ = 1 − α²: less noise than VP at every time but the ends  (score SDE, eq. 29)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_max: float = 1.0
    t_min: float = 1e-5

    def _check_parameters(self) -> None:
        _check_rates("SubVP", self.beta_min, self.beta_max)

    @property
    def prior_std(self) -> float:
        """1, as VP."""
        return 1.0

    def _integrated_rate(self, t: Time) -> Time:
        return _linear_integral(self.beta_min, self.beta_max, t)

    def _rate(self, t: Time) -> Time:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha(self, t: Time) -> Time:
        """α = e^{−B/2}."""
        return exp(-0.5 * self._integrated_rate(t))

    def sigma(self, t: Time) -> Time:
        """σ = 1 − e^{−B}."""
        return -expm1(-self._integrated_rate(t))

    def alpha_rate(self, t: Time) -> Time:
        """dα/dt = −½ β α."""
        return -0.5 * self._rate(t) * self.alpha(t)

    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt = 2 σ β e^{−B}."""
        return 2.0 * self.sigma(t) * self._rate(t) * exp(-self._integrated_rate(t))

    def log_snr(self, t: Time) -> Time:
        """λ = −½ B − log(1 − e^{−B})."""
        return -0.5 * self._integrated_rate(t) - log(self.sigma(t))

    def time_of(self, log_snr: Time) -> Time:
        """From 2 sinh(B/2) = σ/α:  B = 2 arsinh(½ e^{−λ})."""
        return _linear_integral_inverse(self.beta_min, self.beta_max, 2.0 * asinh(0.5 * exp(-log_snr)))


@dataclass(frozen=True)
class _Unscaled(Path, ABC):
    """α = 1: noise is added and the data are never shrunk, so that λ = −log σ.

    Attributes:
        sigma_min, sigma_max: the least and the largest noise.
    """

    sigma_min: float
    sigma_max: float

    def _check_parameters(self) -> None:
        holds = 0.0 < self.sigma_min < self.sigma_max < math.inf
        got = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
        _require(holds, type(self).__name__, "0 < sigma_min < sigma_max, both finite", got)

    @property
    def prior_std(self) -> float:
        """σ_max."""
        return self.sigma_max

    def alpha(self, t: Time) -> Time:
        """1."""
        return 0.0 * t + 1.0

    def alpha_rate(self, t: Time) -> Time:
        """0."""
        return 0.0 * t

    def log_snr(self, t: Time) -> Time:
        """λ = −log σ."""
        return -log(self.sigma(t))


@final
@dataclass(frozen=True)
class VE(_Unscaled):
    """Variance exploding: α = 1, σ = σ_min (σ_max/σ_min)^t, t ∈ [0, 1]  (NCSN; score SDE, eq. 30–31).

    `pure` subtracts σ_min², so that σ(0) = 0, as the SDE itself says; the code of its authors does not, nor does the default.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    pure: bool = False
    t_max: float = 1.0
    t_min: float = 1e-5

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Time) -> Time:
        """σ_min r^t, or σ_min √(r^{2t} − 1) if pure, r = σ_max/σ_min."""
        if self.pure:
            return self.sigma_min * sqrt(expm1(2.0 * self._log_ratio * t))
        return self.sigma_min * exp(self._log_ratio * t)

    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt = 2 log r σ_min² r^{2t}, pure or not (M36)."""
        return 2.0 * self._log_ratio * self.sigma_min**2 * exp(2.0 * self._log_ratio * t)

    def time_of(self, log_snr: Time) -> Time:
        """The inverse of −log σ."""
        if self.pure:
            return log1p((exp(-log_snr) / self.sigma_min) ** 2) / (2.0 * self._log_ratio)
        return (-log_snr - math.log(self.sigma_min)) / self._log_ratio


@final
@dataclass(frozen=True)
class EDM(_Unscaled):
    """α = 1, σ = t: time is the noise level  (Karras et al. 2022, table 1)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def t_max(self) -> float:
        """σ_max."""
        return self.sigma_max

    @property
    def t_min(self) -> float:
        """σ_min."""
        return self.sigma_min

    def sigma(self, t: Time) -> Time:
        """t."""
        return 1.0 * t

    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt = 2 t."""
        return 2.0 * t

    def time_of(self, log_snr: Time) -> Time:
        """t = e^{−λ}."""
        return exp(-log_snr)


@final
@dataclass(frozen=True)
class Rectified(Path):
    """α = 1 − t, σ = t: the straight line from data to noise  (Liu et al. 2022; Lipman et al. 2022, flow matching)."""

    t_max: float = 1.0
    t_min: float = 1e-5

    def _check_parameters(self) -> None:
        _require(0.0 < self.t_min < self.t_max <= 1.0, "Rectified", "0 < t_min < t_max ≤ 1", (self.t_min, self.t_max))

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0

    def alpha(self, t: Time) -> Time:
        """1 − t."""
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        """t."""
        return 1.0 * t

    def alpha_rate(self, t: Time) -> Time:
        """−1."""
        return 0.0 * t - 1.0

    def variance_rate(self, t: Time) -> Time:
        """dσ²/dt = 2 t."""
        return 2.0 * t

    def log_snr(self, t: Time) -> Time:
        """λ = log((1 − t)/t)."""
        return log1p(-t) - log(t)

    def time_of(self, log_snr: Time) -> Time:
        """t = 1/(1 + e^λ)."""
        return exp(-softplus(log_snr))


PATHS: tuple[type[Path], ...] = (VP, VPCosine, SubVP, VE, EDM, Rectified, Discrete)
"""Every public path; the contract tests run over this list."""
