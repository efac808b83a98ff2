r"""Which times a batch is trained at: the image of uniform numbers u under a quantile function.

Where `stratified`, the batch's u are u₀ + i/b mod 1: each is uniform, together they cover (0, 1) evenly, and the loss has
less variance (Kingma et al. 2021, appendix I.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from scorefield.errors import UsageError
from scorefield.paths import Discrete, Path
from scorefield.shapes import Float, Int, Tensor


@final
@dataclass(frozen=True, eq=False)
class LossHistory:
    """The last losses met in each stratum of time: what importance sampling learns from.

    Attributes:
        losses: (strata, depth) rings, not weighted by importance.
        counts: (strata,) how many losses each ring has ever taken.
    """

    losses: Float[Tensor, "strata depth"]
    counts: Int[Tensor, " strata"]

    def updated(self, strata: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> LossHistory:
        """The history with a batch's losses added, in the batch's order."""
        depth, count = self.losses.shape[1], len(self.counts)
        order = strata.argsort(stable=True)
        strata, losses = strata[order], losses[order]
        taken = strata.bincount(minlength=count)
        rank = strata.new_tensor(range(len(strata))) - (taken.cumsum(0) - taken)[strata]
        last = rank >= taken[strata] - depth  # of more than a ring holds, the latest
        rings = self.losses.clone()
        places = (self.counts[strata] + rank) % depth
        rings[strata[last], places[last]] = losses[last].to(rings)
        return LossHistory(rings, self.counts + taken)

    def probabilities(self) -> Float[Tensor, " strata"]:
        """p ∝ √E[L²], 0.1 % of it uniform; all uniform until every stratum's history is full  (iDDPM, eq. 18)."""
        strata, depth = self.losses.shape
        if int(self.counts.min()) < depth:
            return self.losses.new_full((strata,), 1.0 / strata)
        root = self.losses.square().mean(1).sqrt()
        return 0.999 * root / root.sum() + 0.001 / strata


@dataclass(frozen=True)
class TimeSampling(ABC):
    """A law of training times.

    Attributes:
        stratified: whether a batch's uniform numbers cover (0, 1) evenly.
    """

    stratified: bool = True

    @abstractmethod
    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The times at u ∈ (0, 1), and their importance weights (1 where the law is part of the objective)."""

    def spread(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Independent uniform numbers as this law wants them: as they are, or the first one's even cover."""
        if not self.stratified:
            return u
        return (u[:1] + u.new_tensor(range(len(u))) / len(u)) % 1.0


def _uniform_times(path: Path, u: Tensor) -> Tensor:
    """Uniform on (t_min, t_max), or on the steps 1/T … 1 of a discrete path."""
    if isinstance(path, Discrete):
        return (u * path.steps).floor().clamp(0, path.steps - 1).add(1.0) / path.steps
    return path.t_min + (path.t_max - path.t_min) * u


def _normal_quantile(u: Tensor) -> Tensor:
    """Φ⁻¹(u), finite at both ends."""
    return (2.0 * u - 1.0).clamp(-1.0 + 1e-15, 1.0 - 1e-15).erfinv() * math.sqrt(2.0)


@final
@dataclass(frozen=True)
class Uniform(TimeSampling):
    """t uniform: DDPM's and the score SDE's."""

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """t = t_min + (t_max − t_min) u."""
        return _uniform_times(path, u), u.new_ones(len(u))


@final
@dataclass(frozen=True)
class LogNormal(TimeSampling):
    """log s ~ N(mean, std²), s = σ/α: most effort where there is most to learn  (Karras et al. 2022, table 1).

    Attributes:
        mean: P_mean.
        std: P_std.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not (0.0 < self.std < math.inf and math.isfinite(self.mean)):
            raise UsageError(
                f"LogNormal needs a finite mean and a positive, finite std, got mean={self.mean}, std={self.std}"
            )

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The time at which log(σ/α) = mean + std Φ⁻¹(u), held within the path."""
        log_s = self.mean + self.std * _normal_quantile(u)
        return path.time_of(-log_s).clamp(path.t_min, path.t_max), u.new_ones(len(u))


@final
@dataclass(frozen=True)
class LogitNormal(TimeSampling):
    """The logit of t's share of the path is N(mean, std²): most effort in the middle of a flow  (Esser et al. 2024, eq. 19).

    Attributes:
        mean: m; above 0 favours noise.
        std: s.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 < self.std < math.inf and math.isfinite(self.mean)):
            raise UsageError(
                f"LogitNormal needs a finite mean and a positive, finite std, got mean={self.mean}, std={self.std}"
            )

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The uniform law's time at the share 1/(1 + exp(−mean − std Φ⁻¹(u)))."""
        return _uniform_times(path, (self.mean + self.std * _normal_quantile(u)).sigmoid()), u.new_ones(len(u))


@final
@dataclass(frozen=True)
class LogUniform(TimeSampling):
    """λ uniform between its values at t_min and t_max (−10 where nothing of the data is left)."""

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """λ = λ_max + (λ_min − λ_max) u."""
        high, low = path.log_snr(path.t_min), max(path.log_snr(path.t_max), -10.0)
        return path.time_of(high + (low - high) * u), u.new_ones(len(u))


@final
@dataclass(frozen=True)
class NoiseLevels(TimeSampling):
    """One of L geometric noise levels, all equally often: NCSN's  (M31; Song & Ermon 2019, section 4.2).

    They are where a grid uniform in log-SNR of L questions puts its times, so that a ladder of as many steps asks at these.

    Attributes:
        count: L.
    """

    count: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.count <= 1_000_000:
            raise UsageError(f"NoiseLevels needs a count between 2 and 1,000,000, got {self.count}")

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """λ_k = λ_max + (λ_min − λ_max) k/(L − 1), k = ⌊L u⌋."""
        high, low = path.log_snr(path.t_min), max(path.log_snr(path.t_max), -10.0)
        rung = (u * self.count).floor().clamp(0, self.count - 1) / (self.count - 1)
        return path.time_of(high + (low - high) * rung).clamp(path.t_min, path.t_max), u.new_ones(len(u))


@final
@dataclass(frozen=True)
class ImportanceSampled(TimeSampling):
    """t with probability ∝ √E[L²] of its stratum, weighted so that the mean stays that of uniform t  (iDDPM, section 3.3).

    Attributes:
        strata: into how many equal parts time is divided; no more than a discrete path has steps.
        depth: how many losses are remembered in each.
    """

    strata: int = 100
    depth: int = 10

    def __post_init__(self) -> None:
        if self.strata < 2 or self.depth < 1:
            raise UsageError(
                f"ImportanceSampled needs strata ≥ 2 and depth ≥ 1, got strata={self.strata}, depth={self.depth}"
            )

    def empty_history(self) -> LossHistory:
        """A history with nothing in it."""
        import torch

        return LossHistory(
            torch.zeros(self.strata, self.depth, dtype=torch.float64), torch.zeros(self.strata, dtype=torch.int64)
        )

    def stratum(self, path: Path, t: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The stratum that holds time t."""
        share = (t - path.t_min) / (path.t_max - path.t_min)
        if isinstance(path, Discrete):
            share = (t * path.steps - 0.5) / path.steps
        return (share * self.strata).long().clamp(0, self.strata - 1)

    def times(
        self, path: Path, u: Float[Tensor, " b"], history: LossHistory | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The quantile of the piecewise uniform law; importance 1/(strata · p)."""
        p = (history or self.empty_history()).probabilities().to(u)
        ends = p.cumsum(0)
        strata = (u[:, None] >= ends).sum(1).clamp(max=self.strata - 1)
        inside = ((u - (ends - p)[strata]) / p[strata]).clamp(0.0, 1.0 - 1e-12)
        return _uniform_times(path, (strata + inside) / self.strata), 1.0 / (self.strata * p[strata])


TIME_SAMPLINGS: tuple[type[TimeSampling], ...] = (
    Uniform,
    LogNormal,
    LogitNormal,
    LogUniform,
    NoiseLevels,
    ImportanceSampled,
)
"""Every public law of training times; the contract tests run over this list."""
