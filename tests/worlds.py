"""Closed-form worlds: paths, data and references whose every quantity is known, shared by the tests of the mathematics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mpmath import mp, mpf
from torch import Tensor

from scorefield.arithmetic import along_batch
from scorefield.denoisers import Denoiser, GaussianMixture, NetworkDenoiser, Noise, Prediction
from scorefield.paths import EDM, PATHS, VE, VP, Discrete, Path, Rectified, SubVP, VPCosine

mp.dps = 50

EVERY_PATH: dict[str, Path] = {cls.__name__: cls() for cls in PATHS} | {
    "VE-pure": VE(pure=True),
    "Discrete-cosine": Discrete(schedule="cosine"),
}
"""One of each public path, and the variants with formulas of their own."""

RANKS: dict[str, tuple[int, ...]] = {"points": (3,), "series": (2, 5), "images": (1, 4, 3), "volumes": (2, 3, 2, 2)}
"""The shape of one sample of each kind of data."""

# ── references at 50 digits ──────────────────────────────────────────────────────────────────────────────────────────


def reference_marginal(path: Path, t: float) -> tuple[Any, Any]:
    """(α, σ²) at 50 digits, written down from the papers and not from the package."""
    return _REFERENCES[type(path)](path, mpf(t))


def _vp(path: Any, t: Any) -> tuple[Any, Any]:
    alpha = mp.exp(-(t**2) * (mpf(path.beta_max) - mpf(path.beta_min)) / 4 - t * mpf(path.beta_min) / 2)
    return alpha, 1 - alpha**2


def _sub_vp(path: Any, t: Any) -> tuple[Any, Any]:
    alpha, variance = _vp(path, t)
    return alpha, variance**2


def _cosine(path: Any, t: Any) -> tuple[Any, Any]:
    offset = mpf(path.offset)
    alpha = mp.cos(mp.pi / 2 * (t + offset) / (1 + offset)) / mp.cos(mp.pi / 2 * offset / (1 + offset))
    return alpha, 1 - alpha**2


def _discrete(path: Any, t: Any) -> tuple[Any, Any]:
    """ᾱ is the product of 1 − β over whole steps, and a power of the last factor for what is left of a step."""
    whole = min(int(mp.floor(t * path.steps + mpf(10) ** -9)), path.steps - 1)
    alpha_bar = mpf(1)
    for beta in path.table[:whole]:
        alpha_bar *= 1 - mpf(beta)
    alpha_bar *= (1 - mpf(path.table[whole])) ** (t * path.steps - whole)
    return mp.sqrt(alpha_bar), 1 - alpha_bar


def _ve(path: Any, t: Any) -> tuple[Any, Any]:
    low, high = mpf(path.sigma_min), mpf(path.sigma_max)
    return mpf(1), low**2 * (high / low) ** (2 * t) - (low**2 if path.pure else 0)


def _edm(path: Any, t: Any) -> tuple[Any, Any]:
    return mpf(1), t**2


def _rectified(path: Any, t: Any) -> tuple[Any, Any]:
    return 1 - t, t**2


_REFERENCES: dict[type[Path], Callable[[Any, Any], tuple[Any, Any]]] = {
    VP: _vp,
    SubVP: _sub_vp,
    VPCosine: _cosine,
    Discrete: _discrete,
    VE: _ve,
    EDM: _edm,
    Rectified: _rectified,
}


def inner_times(path: Path) -> Iterator[float]:
    """Times from next to data to next to noise."""
    for part in (1e-6, 1e-5, 3.3e-4, 0.0127, 0.1503, 0.5001, 0.9003, 0.9987, 1.0 - 1e-6):
        yield part * path.t_max


def relative_error(got: Any, wanted: Any) -> float:
    """|got − wanted| / |wanted|, with 0 where both are 0."""
    return float(abs(mpf(float(got)) - wanted) / abs(wanted)) if wanted != 0 else abs(float(got))


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def float64(numbers: Any) -> Tensor:
    """Numbers as a float64 tensor, without a stop at float32."""
    return torch.tensor(numbers, dtype=torch.float64)


def mixture(path: Path) -> GaussianMixture:
    """Three unequal components in the plane, with full covariances: nothing about it is symmetric."""
    means = [[1.2, -0.4], [-1.0, 0.9], [0.1, -1.3]]
    roots = [[[0.4, 0.1], [0.0, 0.3]], [[0.3, 0.0], [-0.15, 0.5]], [[0.35, -0.1], [0.1, 0.25]]]
    return GaussianMixture(path, float64([0.5, 0.3, 0.2]), float64(means), float64(roots) @ float64(roots).mT)


def line_mixture(path: Path) -> GaussianMixture:
    """Two components on the line, where integrals are sums."""
    means, variances = float64([[-1.0], [0.8]]), float64([[[0.2]], [[0.4]]])
    return GaussianMixture(path, float64([0.3, 0.7]), means, variances)


def gaussian(
    path: Path, mean: tuple[float, ...] = (0.3, -0.7), variances: tuple[float, ...] = (0.8, 0.05)
) -> GaussianMixture:
    """One Gaussian with a diagonal covariance: its flow is a formula."""
    return GaussianMixture(path, float64([1.0]), float64([mean]), torch.diag(float64(variances))[None])


def gaussian_flow(world: GaussianMixture, x: Tensor, t: float, s: float) -> Tensor:
    """The probability flow of one Gaussian from t to s: the point keeps its distance from the mean in deviations."""
    mean, variances = world.means[0], torch.diagonal(world.covariances[0])

    def deviation(time: float) -> Tensor:
        return (world.path.alpha(time) ** 2 * variances + world.path.sigma(time) ** 2).sqrt()

    return world.path.alpha(s) * mean + deviation(s) / deviation(t) * (x - world.path.alpha(t) * mean)


def exact_flow(world: GaussianMixture, x: Tensor, t: float, s: float) -> Tensor:
    """The probability flow of a mixture from t to s, by an eighth-order solver at 1e-10.

    In the angle θ = arctan(σ/α) and z = x/√(α²+σ²) the flow of every path is dz/dθ = cos θ ε̂ − sin θ D, regular at both
    ends; D is asked on the straight-line path, whose coefficients leave nothing to get wrong.
    """
    from scipy.integrate import solve_ivp

    straight = GaussianMixture(Rectified(), world.weights, world.means, world.covariances)

    def slope(angle: float, flat: np.ndarray) -> np.ndarray:
        cos, sin = np.cos(angle), np.sin(angle)
        z = torch.from_numpy(flat).view(x.shape)
        x_0 = straight(z / (cos + sin), float(sin / (cos + sin))).x0
        return (cos * (z - cos * x_0) / sin - sin * x_0).numpy().ravel()

    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((world.path.alpha(u), world.path.sigma(u)) for u in (t, s))
    ends = (np.arctan2(sigma_t, alpha_t), np.arctan2(sigma_s, alpha_s))
    solved = solve_ivp(slope, ends, (x / np.hypot(alpha_t, sigma_t)).numpy().ravel(), "DOP853", rtol=1e-10, atol=1e-12)
    return torch.from_numpy(solved.y[:, -1].copy()).view(x.shape) * float(np.hypot(alpha_s, sigma_s))


# ── denoisers to test with ───────────────────────────────────────────────────────────────────────────────────────────


def dummy_network(x: Tensor, label: Tensor) -> Tensor:
    """A deterministic stand-in for a network: bounded, not linear, different at every place and noise level."""
    places = torch.arange(x[0].numel(), dtype=x.dtype).view(x.shape[1:])
    return torch.sin(1.3 * x + 0.7 * places) + 0.1 * torch.cos(label.view(-1, *(1,) * (x.ndim - 1)))


def dummy_denoiser(path: Path) -> NetworkDenoiser:
    """The dummy network read as noise and told the step's index, as DDPM's."""
    return NetworkDenoiser(dummy_network, path, Noise(label="time"))


@dataclass(frozen=True, eq=False)
class Shrinking(Denoiser):
    """D = x_t/(1 + t) at any rank: the cheapest denoiser that depends on everything; it keeps what it is asked, the largest of a batch's times."""

    path: Path
    asked: list[float] = field(default_factory=list)
    conditions: list[Any] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """Predict, and remember the question."""
        self.asked.append(float(t.max()) if isinstance(t, Tensor) else t)
        self.conditions.append(condition)
        return Prediction(x_t / (1.0 + along_batch(t, x_t)), x_t, t, self.path)


# ── statistics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def seeded(seed: int = 0) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def assert_mean(samples: Tensor, wanted: Tensor | float, errors: float = 4.0) -> None:
    """The mean over the first axis is within so many of its standard errors of what it should be."""
    standard_error = samples.std(0) / len(samples) ** 0.5
    off = ((samples.mean(0) - wanted).abs() / standard_error).max()
    assert off < errors, f"{float(off):.1f} standard errors off"


def assert_moments(samples: Tensor, mean: Tensor, covariance: Tensor, errors: float = 4.0) -> None:
    """Mean and covariance of (n, D) samples are within so many standard errors of what they should be."""
    assert_mean(samples, mean, errors)
    centred = samples - mean
    assert_mean(centred[:, :, None] * centred[:, None, :], covariance, errors)


def mixture_moments(world: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the data."""
    weights = world.weights / world.weights.sum()
    mean = weights @ world.means
    offsets = world.means - mean
    within = torch.einsum("k,kde->de", weights, world.covariances)
    return mean, within + torch.einsum("k,kd,ke->de", weights, offsets, offsets)


def sliced_wasserstein(one: Tensor, other: Tensor, directions: int = 32) -> float:
    """The mean over directions of the Wasserstein-1 distance of the two projections, for equally many points."""
    angles = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
    onto = torch.stack([angles.cos(), angles.sin()])
    return float(((one @ onto).sort(0).values - (other @ onto).sort(0).values).abs().mean())
