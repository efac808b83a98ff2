"""Weightings: each is the loss its paper writes, brought to w(t) ‖x₀ − D‖²."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Preconditioned, Prediction
from scorefield.errors import UsageError
from scorefield.objectives import (
    WEIGHTINGS,
    EDMWeighting,
    FlowWeighting,
    Likelihood,
    MinSNR,
    Simple,
    TruncatedSNR,
    Weighting,
)
from scorefield.paths import Discrete, Path, Rectified
from tests.worlds import EVERY_PATH, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


def wrong_prediction(path: Path) -> tuple[Prediction, Tensor, Tensor]:
    """A prediction that is off by something, with the data and the noise that it should have found; one dimension."""
    t = torch.tensor([1e-3, 0.0303, 0.2505, 0.5005, 0.7505, 0.98], dtype=torch.float64) * path.t_max
    x_0, noise = normal(6, 1), normal(6, 1, seed=1)
    return Prediction(x_0 + 0.3 * normal(6, 1, seed=2), path.perturb(x_0, t, noise), t, path), x_0, noise


def weighted(weighting: Weighting, path: Path) -> tuple[Tensor, Prediction, Tensor, Tensor]:
    """w ‖x₀ − D‖² of such a prediction, and what it was made of."""
    prediction, x_0, noise = wrong_prediction(path)
    error = (x_0 - prediction.x0).square()[:, 0]
    return weighting.weight(path, prediction.t) * error, prediction, x_0, noise


@every_path
def test_simple_is_the_error_of_the_noise(path: Path) -> None:
    """w ‖x₀ − D‖² = ‖ε − ε̂‖²: DDPM's L_simple, and NCSN's σ² ‖ŝ − s‖² over all levels (M17, M31)."""
    loss, prediction, _, noise = weighted(Simple(), path)
    sigma = path.sigma(prediction.t)
    assert torch.allclose(loss, (noise - prediction.noise).square()[:, 0], rtol=1e-7, atol=1e-9)
    score_error = (prediction.score + noise / sigma[:, None]).square()[:, 0]
    assert torch.allclose(loss, sigma**2 * score_error, rtol=1e-7, atol=1e-9)


def test_simple_is_the_variational_bound_without_its_factor() -> None:
    """KL of the reverse step = β_t²/(2σ_t² α_t (1−ᾱ_t)) ‖ε − ε̂‖², from the two means' distance over 2σ_t² (M17)."""
    path = Discrete()
    x_0, x_hat, noise = normal(1, 1), normal(1, 1, seed=1), normal(1, 1, seed=2)
    for i in (2, 100, 1000):
        t, beta = i / 1000, path.table[i - 1]
        posterior = path.posterior((i - 1) / 1000, t)
        kl = (posterior.from_x_0 * (x_0 - x_hat)).square() / (2.0 * beta)
        prediction = Prediction(x_hat, path.perturb(x_0, t, noise), t, path)
        factor = beta**2 / (2.0 * beta * (1.0 - beta) * path.sigma(t) ** 2)
        assert torch.allclose(kl, factor * (noise - prediction.noise).square(), rtol=1e-8)
        assert torch.allclose(kl, factor * Simple().weight(path, t) * (x_0 - x_hat).square(), rtol=1e-8)


@every_path
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_the_error_of_its_network(path: Path, sigma_data: float) -> None:
    """w ‖x₀ − D‖² = ‖F − F*‖², so every level counts the same at the start (EDM, eq. 8) (M9)."""
    loss, prediction, x_0, _ = weighted(EDMWeighting(sigma_data=sigma_data), path)
    out = Preconditioned(sigma_data=sigma_data).coefficients(path, prediction.t).out
    assert isinstance(out, Tensor)
    assert torch.allclose(loss, ((x_0 - prediction.x0)[:, 0] / out).square(), rtol=1e-9)


@every_path
def test_truncated_is_the_larger_of_two_errors(path: Path) -> None:
    """max(‖x₀ − D‖², ‖ε − ε̂‖²): a minimum in its place forgets noise at both ends (Salimans & Ho 2022, eq. 11)."""
    loss, prediction, x_0, noise = weighted(TruncatedSNR(), path)
    of_data, of_noise = (x_0 - prediction.x0).square()[:, 0], (noise - prediction.noise).square()[:, 0]
    assert torch.allclose(loss, torch.maximum(of_data, of_noise), rtol=1e-7, atol=1e-9)


@every_path
@pytest.mark.parametrize("gamma", [5.0, 0.7])
def test_min_snr_is_the_smaller_of_two_errors(path: Path, gamma: float) -> None:
    """min(‖ε − ε̂‖², γ ‖x₀ − D‖²): nearly clean times do not dominate (Hang et al. 2023)."""
    loss, prediction, x_0, noise = weighted(MinSNR(gamma=gamma), path)
    of_data, of_noise = gamma * (x_0 - prediction.x0).square()[:, 0], (noise - prediction.noise).square()[:, 0]
    assert torch.allclose(loss, torch.minimum(of_data, of_noise), rtol=1e-7, atol=1e-9)


@every_path
def test_likelihood_is_the_slope_of_the_snr(path: Path) -> None:
    """w = −½ dSNR/dt by autograd, and the same in score form ½ g² ‖ŝ − s‖² (MLE, eq. 7) (M3)."""
    loss, prediction, _, noise = weighted(Likelihood(), path)
    t = torch.as_tensor(prediction.t).clone().requires_grad_()
    (slope,) = torch.autograd.grad((path.alpha(t) / path.sigma(t)).square().sum(), t)
    assert torch.allclose(Likelihood().weight(path, t.detach()), -0.5 * slope, rtol=1e-7)
    score_error = (prediction.score + noise / path.sigma(t.detach())[:, None]).square()[:, 0]
    assert torch.allclose(loss, 0.5 * path.diffusion(t.detach()) ** 2 * score_error, rtol=1e-6, atol=1e-9)


@every_path
def test_flow_is_the_error_of_the_velocity(path: Path) -> None:
    """w ‖x₀ − D‖² = ‖u − û‖², u = α' x₀ + σ' ε; on the straight line w = 1/t² (Lipman et al. 2022, eq. 9) (M8)."""
    loss, prediction, x_0, noise = weighted(FlowWeighting(), path)
    t = torch.as_tensor(prediction.t)
    wanted = path.alpha_rate(t)[:, None] * x_0 + path.sigma_rate(t)[:, None] * noise
    assert torch.allclose(loss, (wanted - prediction.rectified_velocity).square()[:, 0], rtol=1e-6, atol=1e-9)
    assert FlowWeighting().weight(Rectified(), 0.4) == pytest.approx(1.0 / 0.16, rel=1e-12)


@every_path
@pytest.mark.parametrize("cls", WEIGHTINGS, ids=lambda cls: cls.__name__)
def test_weights_are_positive_and_the_same_for_floats(path: Path, cls: type[Weighting]) -> None:
    """A weight of zero or below would leave a level untrained, or train it backwards."""
    times = [path.t_min, 0.3 * path.t_max, 0.97 * path.t_max]
    together = cls().weight(path, torch.tensor(times, dtype=torch.float64))
    assert together.tolist() == pytest.approx([cls().weight(path, t) for t in times], rel=1e-9)
    assert bool((together > 0.0).all())


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("build", "said"), [(lambda v: MinSNR(gamma=v), "gamma"), (lambda v: EDMWeighting(sigma_data=v), "sigma_data")]
)
def test_impossible_settings_are_refused(build: Callable[[float], Weighting], said: str, value: float) -> None:
    """γ = 0 is a loss that is always zero."""
    with pytest.raises(UsageError, match=f"positive, finite {said}"):
        build(value)
