r"""How much an error at a noise level counts: factors w(t) of ‖x₀ − D(x_t, t)‖², the one form every loss is brought to.

‖ε − ε̂‖² = SNR ‖x₀ − D‖²                                 L_simple  (M17; Ho et al. 2020, eq. 14)
λ(σ) = σ²:  σ² ‖ŝ − s‖² = ‖ε − ε̂‖²                         the same for NCSN  (M31)
‖F − F*‖² = (s² + σ_d²)/(s σ_d)² ‖x₀ − D‖²,  s = σ/α      EDM  (Karras et al. 2022, eq. 8)
‖u − û‖² = (α dλ/dt)² ‖x₀ − D‖²                           flow matching  (M8; Lipman et al. 2022, eq. 9)
−½ dSNR/dt ‖x₀ − D‖²                                      the likelihood's bound  (M21; Kingma et al. 2021, eq. 18)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from scorefield.arithmetic import Time, clip, exp
from scorefield.errors import UsageError
from scorefield.paths import Path


@dataclass(frozen=True)
class Weighting(ABC):
    """A rule for w(t)."""

    @abstractmethod
    def weight(self, path: Path, t: Time) -> Time:
        """w(t), the factor of ‖x₀ − D(x_t, t)‖²."""


def _snr(path: Path, t: Time) -> Time:
    return exp(2.0 * path.log_snr(t))


@final
@dataclass(frozen=True)
class Simple(Weighting):
    """L_simple: the plain squared error of ε, w = SNR  (M17; Ho et al. 2020, eq. 14)."""

    def weight(self, path: Path, t: Time) -> Time:
        """SNR(t)  (M17, M31)."""
        return _snr(path, t)


@final
@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """The plain squared error of EDM's F: every level counts the same at the start  (Karras et al. 2022, eq. 8).

    Attributes:
        sigma_data: σ_d.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_data < math.inf:
            raise UsageError(f"EDMWeighting needs a positive, finite sigma_data, got {self.sigma_data}")

    def weight(self, path: Path, t: Time) -> Time:
        """(s² + σ_d²)/(s σ_d)² = SNR + 1/σ_d²."""
        return _snr(path, t) + self.sigma_data**-2


@final
@dataclass(frozen=True)
class TruncatedSNR(Weighting):
    """max(SNR, 1): the larger of the errors of x₀ and of ε  (Salimans & Ho 2022, eq. 11)."""

    def weight(self, path: Path, t: Time) -> Time:
        """max(SNR, 1)."""
        return clip(_snr(path, t), 1.0, math.inf)


@final
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ): nearly clean times do not dominate  (Hang et al. 2023).

    Attributes:
        gamma: γ.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < math.inf:
            raise UsageError(f"MinSNR needs a positive, finite gamma, got {self.gamma}")

    def weight(self, path: Path, t: Time) -> Time:
        """min(SNR, γ)."""
        return clip(_snr(path, t), 0.0, self.gamma)


@final
@dataclass(frozen=True)
class Likelihood(Weighting):
    """−½ dSNR/dt: with t uniform, the negative log-likelihood's bound up to a constant  (M21; Song et al. 2021, MLE)."""

    def weight(self, path: Path, t: Time) -> Time:
        """½ SNR g²/σ², since dλ/dt = −g²/2σ²."""
        return 0.5 * _snr(path, t) * (path.diffusion(t) / path.sigma(t)) ** 2


@final
@dataclass(frozen=True)
class FlowWeighting(Weighting):
    """The plain squared error of the velocity u = dα/dt x₀ + dσ/dt ε  (M8; Lipman et al. 2022, eq. 9)."""

    def weight(self, path: Path, t: Time) -> Time:
        """(α' − α σ'/σ)², which is 1/t² on the straight line."""
        return (path.alpha_rate(t) - path.alpha(t) * path.sigma_rate(t) / path.sigma(t)) ** 2


WEIGHTINGS: tuple[type[Weighting], ...] = (Simple, EDMWeighting, TruncatedSNR, MinSNR, Likelihood, FlowWeighting)
"""Every public weighting; the contract tests run over this list."""
