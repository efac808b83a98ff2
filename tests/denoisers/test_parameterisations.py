"""Parameterisations: whatever a network predicts, the same denoiser comes out, and its input is what the paper says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scorefield.arithmetic import along_batch
from scorefield.denoisers import (
    PARAMETERISATIONS,
    Data,
    Energy,
    Noise,
    Parameterisation,
    Preconditioned,
    Prediction,
    RectifiedVelocity,
    Score,
    Velocity,
)
from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified, SubVP
from tests.worlds import EVERY_PATH, RANKS, assert_mean, mixture, normal, seeded

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_parameterisation = pytest.mark.parametrize("cls", PARAMETERISATIONS, ids=lambda cls: cls.__name__)


def wanted_output(parameterisation: Parameterisation, prediction: Prediction) -> Tensor:
    """What a perfect network would answer, from the prediction's own properties or the paper's formula."""
    path, t, x_t, x_0 = prediction.path, prediction.t, prediction.x_t, prediction.x0
    match parameterisation:
        case Noise():
            return prediction.noise
        case Data():
            return x_0
        case Score():
            return prediction.score
        case Velocity():
            return prediction.velocity
        case RectifiedVelocity():
            return prediction.rectified_velocity
        case Preconditioned() | Energy():
            s, total = (along_batch(value, x_t) for value in _levels(path, t, parameterisation.sigma_data))
            skip, out = parameterisation.sigma_data**2 / total**2, s * parameterisation.sigma_data / total
            return (x_0 - skip * x_t / along_batch(path.alpha(t), x_t)) / out
    raise NotImplementedError(parameterisation)


def _levels(path: Path, t: float | Tensor, sigma_data: float) -> tuple[float | Tensor, float | Tensor]:
    s = path.sigma(t) / path.alpha(t)
    return s, (s**2 + sigma_data**2) ** 0.5


def questions(path: Path, shape: tuple[int, ...] = (3,)) -> Prediction:
    """Six predictions at times from almost data to almost noise; the answers are any numbers."""
    times = torch.tensor([1e-3, 0.02, 0.2, 0.5, 0.8, 0.99], dtype=torch.float64) * path.t_max
    x_0, noise = normal(6, *shape), normal(6, *shape, seed=1)
    return Prediction(x_0, path.perturb(x_0, times, noise), times, path)


@every_path
@every_parameterisation
@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_prediction_to_output_and_back(path: Path, cls: type[Parameterisation], shape: tuple[int, ...]) -> None:
    """D → what the network should say → D is the identity to 1e-12: a sign or a swapped letter breaks it (M6–M9)."""
    prediction, parameterisation = questions(path, shape), cls()
    row = parameterisation.coefficients(path, prediction.t)
    output = wanted_output(parameterisation, prediction)
    terms = [along_batch(row.skip, output) * prediction.x_t, along_batch(row.out, output) * output]
    scale = torch.maximum(*(term.abs() for term in terms)) + 1.0
    assert bool(((terms[0] + terms[1] - prediction.x0).abs() <= 1e-12 * scale).all())


@every_path
def test_all_predictions_are_of_one_pair(path: Path) -> None:
    """Made from x₀ and ε, a prediction gives back that ε, −ε/σ, α ε − σ x₀ and α' x₀ + σ' ε (M6, M7, M8, M20)."""
    prediction = questions(path)
    t, x_0, noise = prediction.t, prediction.x0, normal(6, 3, seed=1)
    assert isinstance(t, Tensor)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    loss_of_digits = 1e-14 * (alpha / sigma).clamp(min=1.0) * 10.0

    def close(got: Tensor, wanted: Tensor, size: Tensor) -> bool:
        return bool(((got - wanted).abs() <= loss_of_digits * size * 10.0).all())

    one = torch.ones_like(sigma)
    assert close(prediction.noise, noise, one)
    assert close(prediction.score, -noise / sigma, 1.0 / sigma)
    assert close(prediction.velocity, alpha * noise - sigma * x_0, alpha + sigma)
    rates = path.alpha_rate(t)[:, None], path.sigma_rate(t)[:, None]
    assert close(prediction.rectified_velocity, rates[0] * x_0 + rates[1] * noise, rates[0].abs() + rates[1].abs())
    assert close((prediction.x_t - sigma * prediction.noise) / alpha, x_0, sigma / alpha + 1.0)


@every_path
def test_velocity_is_the_flow(path: Path) -> None:
    """û is the probability flow's dx/dt = f x − ½ g² ŝ for any denoiser, which holds on every path (M3, M8)."""
    prediction = questions(path)
    t = prediction.t
    assert isinstance(t, Tensor)
    flow = path.drift(t)[:, None] * prediction.x_t - 0.5 * path.diffusion(t)[:, None] ** 2 * prediction.score
    assert torch.allclose(prediction.rectified_velocity, flow, rtol=1e-8, atol=1e-8)


@every_path
@every_parameterisation
def test_floats_and_tensors_agree(path: Path, cls: type[Parameterisation]) -> None:
    """A sampler asks with a float and training with a tensor; both must read the network alike."""
    times = [1e-3 * path.t_max, 0.3 * path.t_max, 0.97 * path.t_max]
    together = cls().coefficients(path, torch.tensor(times, dtype=torch.float64))
    for name, value in vars(together).items():
        wanted = torch.tensor([getattr(cls().coefficients(path, t), name) for t in times], dtype=torch.float64)
        assert torch.allclose(torch.as_tensor(value, dtype=torch.float64).expand(3), wanted, rtol=1e-11, atol=1e-13), (
            name
        )


# ── EDM's preconditioning ────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
def test_preconditioning_is_edms_table(path: Path, sigma_data: float) -> None:
    """c_skip, c_out, c_in and c_noise as the paper has them, in x̄ = x_t/α and s = σ/α (M9)."""
    for t in (0.01 * path.t_max, 0.5 * path.t_max, 0.98 * path.t_max):
        s, total = _levels(path, t, sigma_data)
        row = Preconditioned(sigma_data=sigma_data).coefficients(path, t)
        assert row.skip * path.alpha(t) == pytest.approx(sigma_data**2 / total**2, rel=1e-12)
        assert row.out == pytest.approx(s * sigma_data / total, rel=1e-12)
        assert row.input * path.alpha(t) == pytest.approx(1.0 / total, rel=1e-12)
        assert row.label == pytest.approx(0.25 * math.log(s), rel=1e-12)


@every_path
def test_input_and_target_of_the_network_have_unit_variance(path: Path) -> None:
    """On N(0, σ_d²) data the input's and the target's variance is 1 at every level, by drawing (M9)."""
    sigma_data, count = 0.7, 200_000
    x_0, noise = sigma_data * normal(count, 1), normal(count, 1, seed=1)
    for t in (0.01 * path.t_max, 0.4 * path.t_max, 0.97 * path.t_max):
        parameterisation = Preconditioned(sigma_data=sigma_data)
        row = parameterisation.coefficients(path, t)
        x_t = path.perturb(x_0, t, noise)
        assert_mean((row.input * x_t) ** 2, 1.0)
        assert_mean(wanted_output(parameterisation, Prediction(x_0, x_t, t, path)) ** 2, 1.0)


@every_path
def test_zero_network_is_the_best_linear_denoiser(path: Path) -> None:
    """F = 0 answers E[x₀ | x_t] of N(0, σ_d² I): α σ_d² x_t/(α² σ_d² + σ²), and errors of D and F differ by c_out (M9)."""
    for t in (path.t_min, 0.4 * path.t_max, path.t_max):
        row = Preconditioned(sigma_data=0.7).coefficients(path, t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        assert row.skip == pytest.approx(alpha * 0.49 / (alpha**2 * 0.49 + sigma**2), rel=1e-9)
        assert row.out**2 == pytest.approx(sigma**2 * 0.49 / (alpha**2 * 0.49 + sigma**2), rel=1e-9)


@given(sigma_data=st.floats(1e-3, 1e3), t=st.floats(1e-6, 1.0))
def test_error_of_the_target_is_never_amplified(sigma_data: float, t: float) -> None:
    """c_out is the least that keeps the target's variance 1: c_out ≤ min(σ_d, s), for any data and level (M9)."""
    row = Preconditioned(sigma_data=sigma_data).coefficients(EDM(), t)
    assert 0.0 < row.out <= min(sigma_data, t) * (1 + 1e-12)


@pytest.mark.parametrize(
    "path", [Rectified(), *[path for name, path in EVERY_PATH.items() if "osine" in name]], ids=repr
)
@pytest.mark.parametrize("cls", [Data, Velocity, RectifiedVelocity, Preconditioned], ids=lambda cls: cls.__name__)
def test_pure_noise_is_no_exception(path: Path, cls: type[Parameterisation]) -> None:
    """Where α = 0, all that a sampler needs at its first step is finite: D = −v̂, or the mean."""
    row = cls().coefficients(path, path.t_max)
    assert all(math.isfinite(float(value)) for value in vars(row).values())
    as_tensor = cls().coefficients(path, torch.tensor([path.t_max], dtype=torch.float64))
    assert all(bool(torch.as_tensor(value).isfinite().all()) for value in vars(as_tensor).values())


# ── what the network is told of the time ─────────────────────────────────────────────────────────────────────────────


@every_path
def test_label_is_a_quarter_of_log_sigma(path: Path) -> None:
    """The same for every path at the same σ/α, so one network can serve them all; finite where σ/α is not (M9)."""
    for t in (path.t_min, 0.5 * path.t_max):
        s = path.sigma(t) / path.alpha(t)
        assert Noise().noise_label(path, t) == pytest.approx(0.25 * math.log(s), rel=1e-12)
    assert math.isfinite(Noise().noise_label(path, path.t_max))
    assert Noise().noise_label(Rectified(), 1.0) == 2.5


def test_time_label_is_ddpms_and_the_score_sdes() -> None:
    """Steps are counted 0 … T−1; a continuous time is 999 t, so that both see the same scale."""
    label = Noise(label="time").noise_label
    assert label(Discrete(), 1.0) == 999.0
    assert label(Discrete(), 0.001) == pytest.approx(0.0)
    assert label(Discrete(steps=50), 0.5) == 24.0
    assert label(VP(), 0.5) == label(SubVP(), 0.5) == label(VE(), 0.5) == label(EDM(), 40.0) == 499.5


@every_parameterisation
def test_unknown_label_is_refused(cls: type[Parameterisation]) -> None:
    """A misspelt label would silently be the other one."""
    with pytest.raises(UsageError, match="log-sigma, time, got 'steps'"):
        cls(label="steps")


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.inf, math.nan])
def test_impossible_sigma_data_is_refused(sigma_data: float) -> None:
    """σ_d = 0 makes every prediction zero, without an error."""
    with pytest.raises(UsageError, match="positive, finite sigma_data"):
        Preconditioned(sigma_data=sigma_data)


def test_score_of_the_exact_denoiser_in_every_dress() -> None:
    """Read back through each parameterisation, the exact denoiser of a mixture stays the exact denoiser (M6)."""
    path = VP()
    world = mixture(path)
    x_t = path.perturb(world.draw(9, seeded()), 0.4, normal(9, 2))
    exact = world(x_t, 0.4)
    for cls in PARAMETERISATIONS:
        row = cls().coefficients(path, 0.4)
        assert torch.allclose(row.skip * x_t + row.out * wanted_output(cls(), exact), exact.x0, rtol=1e-12, atol=1e-13)
