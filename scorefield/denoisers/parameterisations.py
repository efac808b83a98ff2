r"""What a network may predict, and the one border where it becomes the denoised mean.

Every parameterisation is linear in the input and in the network's output F:

    D(x_t, t) = skip(t) · x_t + out(t) · F(in(t) · x_t, label(t)),

so each is a row of four coefficients, made from α, σ of any path:

    noise ε̂       D = (x_t − σ ε̂)/α                                          (M6; DDPM)
    score ŝ       D = (x_t + σ² ŝ)/α                                         (M6; score SDE)
    velocity v̂    D = (α x_t − σ v̂)/(α² + σ²)                                (M7; Salimans & Ho 2022)
    rectified û   D = (σ û − σ' x_t)/(σ α' − σ' α)                           (M8; flow matching)
    EDM's F       c_skip x̄ + c_out F(c_in x̄, ¼ log s),  x̄ = x_t/α, s = σ/α   (M9; Karras et al. 2022, eq. 7)
    energy        the same, with F = ∇G the gradient of a scalar               (M10)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from scorefield.arithmetic import Time, clip, is_number, sqrt
from scorefield.errors import UsageError
from scorefield.paths import Discrete, Path
from scorefield.shapes import Tensor

_LABELS = ("log-sigma", "time")
_LARGEST_LOG_SIGMA = 10.0
_LEAST_ALPHA = 1e-6


@dataclass(frozen=True)
class Coefficients:
    """One row of the table: D = skip · x_t + out · F(input · x_t, label)."""

    skip: float | Tensor
    out: float | Tensor
    input: float | Tensor
    label: float | Tensor


@dataclass(frozen=True)
class Parameterisation(ABC):
    """How a network's output is read.

    Attributes:
        label: what the network is told of the time: `log-sigma`, ¼ log(σ/α) as EDM, the same for every path; or `time`,
            the step's index 0 … T−1 for a discrete path and 999 t for a continuous one, as the networks of DDPM and of the score
            SDE want it; those of this package are made for `log-sigma`.
        learned_variance: whether the network has as many channels again, for the variance of the reverse step  (M14).
    """

    label: str = "log-sigma"
    learned_variance: bool = False

    def __post_init__(self) -> None:
        if self.label not in _LABELS:
            raise UsageError(f"{type(self).__name__} needs a label of {', '.join(_LABELS)}, got '{self.label}'")

    @abstractmethod
    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """The row for time t, a float or a (b,) float64 tensor."""

    def out_channels(self, channels: int) -> int | None:
        """How many channels the network answers with for so many of the data; None for as many."""
        return 2 * channels if self.learned_variance else None

    def noise_label(self, path: Path, t: Time) -> Time:
        """What the network is told of the time."""
        if self.label == "log-sigma":
            return -0.25 * clip(path.log_snr(t), -_LARGEST_LOG_SIGMA, math.inf)
        if isinstance(path, Discrete):
            return t * path.steps - 1.0
        return 999.0 * t / path.t_max


def _inverse(alpha: Time, predicted: str) -> Time:
    """1/α, or an error where nothing of the data is left and the prediction says nothing about them."""
    if is_number(alpha) and alpha < _LEAST_ALPHA:
        raise UsageError(
            f"a network that predicts the {predicted} says nothing of the data at α = 0, where this path ends; "
            "start below t_max, or predict with Velocity, RectifiedVelocity, Data or Preconditioned"
        )
    return 1.0 / alpha


@final
@dataclass(frozen=True)
class Noise(Parameterisation):
    """The network predicts ε  (M6; Ho et al. 2020, eq. 11)."""

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = (x_t − σ ε̂)/α  (M6, M20)."""
        inverse, sigma = _inverse(path.alpha(t), "noise"), path.sigma(t)
        return Coefficients(inverse, -sigma * inverse, 1.0, self.noise_label(path, t))


@final
@dataclass(frozen=True)
class Data(Parameterisation):
    """The network predicts x₀ itself."""

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = F  (M6)."""
        return Coefficients(0.0, 1.0, 1.0, self.noise_label(path, t))


@final
@dataclass(frozen=True)
class Score(Parameterisation):
    """The network predicts the score ∇ log p_t(x_t)  (M6; Song et al. 2021)."""

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = (x_t + σ² ŝ)/α  (M6)."""
        inverse, sigma = _inverse(path.alpha(t), "score"), path.sigma(t)
        return Coefficients(inverse, sigma**2 * inverse, 1.0, self.noise_label(path, t))


@final
@dataclass(frozen=True)
class Velocity(Parameterisation):
    """The network predicts v = α ε − σ x₀  (M7; Salimans & Ho 2022)."""

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = (α x_t − σ v̂)/(α² + σ²)  (M7)."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        total = alpha**2 + sigma**2
        return Coefficients(alpha / total, -sigma / total, 1.0, self.noise_label(path, t))


@final
@dataclass(frozen=True)
class RectifiedVelocity(Parameterisation):
    """The network predicts u = dα/dt x₀ + dσ/dt ε  (M8; Lipman et al. 2022)."""

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = (σ û − σ' x_t)/(σ α' − σ' α), with a dash for the rate  (M8)."""
        sigma, sigma_rate = path.sigma(t), path.sigma_rate(t)
        determinant = sigma * path.alpha_rate(t) - sigma_rate * path.alpha(t)
        return Coefficients(-sigma_rate / determinant, sigma / determinant, 1.0, self.noise_label(path, t))


def _preconditioning(path: Path, t: Time, sigma_data: float, label: Time) -> Coefficients:
    """c_skip, c_out, c_in in x̄ = x_t/α, s = σ/α, multiplied out so that α = 0 is no exception  (M9; EDM table 1)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    total = sigma**2 + (alpha * sigma_data) ** 2
    scale = 1.0 / sqrt(total)
    return Coefficients(alpha * sigma_data**2 / total, sigma * sigma_data * scale, scale, label)


def _require_sigma_data(name: str, sigma_data: float) -> None:
    if not 0.0 < sigma_data < math.inf:
        raise UsageError(f"{name} needs a positive, finite sigma_data, got {sigma_data}")


@final
@dataclass(frozen=True)
class Preconditioned(Parameterisation):
    """EDM's F: input and target have unit variance at every noise level, and F = 0 is the best linear denoiser of white data.

    Attributes:
        sigma_data: σ_d, the standard deviation of the (centred) data in model space.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_sigma_data("Preconditioned", self.sigma_data)

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = c_skip x̄ + c_out F(c_in x̄)  (M9)."""
        return _preconditioning(path, t, self.sigma_data, self.noise_label(path, t))


@final
@dataclass(frozen=True)
class Energy(Parameterisation):
    """The network gives a scalar: F = ∇G is the gradient of G(x̂) = ⟨x̂, network(x̂)⟩, and so the score that of an energy.

    E(x_t, t) = ½‖x̂‖² − (α σ_d/σ) G(x̂, t) with x̂ = x_t/√(α² σ_d² + σ²), whose −∇E is the score of EDM's D with that F
    (M9, M10): a network that answers zero has the energy of Gaussian data, and F's target has unit variance at every level.

    Attributes:
        sigma_data: σ_d, the standard deviation of the (centred) data in model space.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_sigma_data("Energy", self.sigma_data)
        if self.learned_variance:
            raise UsageError(
                "an energy is one number and learns no variance; set parameterisation.learned_variance=false"
            )

    def coefficients(self, path: Path, t: Time) -> Coefficients:
        """D = c_skip x̄ + c_out ∇G(c_in x̄)  (M9, M10)."""
        return _preconditioning(path, t, self.sigma_data, self.noise_label(path, t))

    def gain(self, path: Path, t: Time) -> Time:
        """α σ_d/σ, the factor of −G in the energy  (M10)."""
        return self.sigma_data * path.alpha(t) / path.sigma(t)


PARAMETERISATIONS: tuple[type[Parameterisation], ...] = (
    Noise,
    Data,
    Score,
    Velocity,
    RectifiedVelocity,
    Preconditioned,
    Energy,
)
"""Every public parameterisation; the contract tests run over this list."""
