"""DPM-Solver and DPM-Solver++, single-step: the papers' algorithms written out, measured orders, diffusers' DPM2."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import NetworkDenoiser, Noise
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path, Rectified, VPCosine
from scorefield.samplers import DDIM, DPMSolver, LogSNR, Trailing
from tests.samplers.flows import errors, flow_between, level, orders
from tests.worlds import EVERY_PATH, exact_flow, gaussian, gaussian_flow, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_order = pytest.mark.parametrize("order", [1, 2, 3])
every_prediction = pytest.mark.parametrize("prediction", ["noise", "data"])
STEPS = {1: (64, 128), 2: (48, 96), 3: (32, 64)}


DOWN, UP = (3.0, 0.3), (0.3, 3.0)


@pytest.mark.parametrize(
    ("path", "order", "way"),
    [
        *((EDM(), order, way) for order in (1, 2, 3) for way in (DOWN, UP)),
        *((path, 3, DOWN) for path in EVERY_PATH.values()),
    ],
)
@every_prediction
def test_error_falls_at_the_declared_order(path: Path, order: int, way: tuple[float, float], prediction: str) -> None:
    """A third-order step with half of its moment is of second order: every order down and up, the highest on every path (M26)."""
    x_bar, exact = flow_between(way)
    t, s = level(path, way[0]), level(path, way[1])
    sampler, steps = DPMSolver(order=order, prediction=prediction), STEPS[order]
    found = errors(sampler, mixture(path), path.alpha(t) * x_bar, (t, s), path.alpha(s) * exact, steps)
    assert all(abs(got - order) < 0.25 for got in orders(found)), (found, orders(found))


@pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=repr)
@every_prediction
def test_a_step_from_where_there_is_no_log_snr(path: Path, prediction: str) -> None:
    """At α = 0 the step's own Runge–Kutta limit is taken in the angle, not a step to or from λ = −∞ (M26)."""
    world, s, x = mixture(path), level(path, 1.0), normal(6, 2)
    exact = exact_flow(world, x, path.t_max, s)
    sampler = DPMSolver(prediction=prediction, grid=Trailing())
    coarse, fine = errors(sampler, world, x, (path.t_max, s), exact, (8, 32))
    assert fine < coarse / 4.0
    assert fine < 2e-3


@every_path
@every_order
@every_prediction
def test_the_whole_way_from_noise_to_data(path: Path, order: int, prediction: str) -> None:
    """From t_max to t = 0 on a Gaussian (M22, M26)."""
    world = gaussian(path, variances=(0.8, 0.3))
    x_T = path.prior_std * normal(8, 2)
    exact = gaussian_flow(world, x_T, path.t_max, path.t_min)
    (found,) = errors(DPMSolver(order=order, prediction=prediction), world, x_T, (path.t_max, 0.0), exact, (30,))
    assert found < {1: 0.2, 2: 0.05, 3: 0.03}[order] + 2.0 * (path.sigma(path.t_min) / path.alpha(path.t_min)) ** 2


# ── the papers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Marks:
    """α, σ, λ at t, at s and at a part r of the way in λ, as the papers write them."""

    def __init__(self, path: Path, t: float, s: float) -> None:
        self.path, self.begin, self.h = path, path.log_snr(t), path.log_snr(s) - path.log_snr(t)

    def at(self, r: float) -> tuple[float, float, float]:
        """(time, α, σ)."""
        t = self.path.time_of(self.begin + r * self.h)
        return t, self.path.alpha(t), self.path.sigma(t)


@every_path
def test_dpm_solver_is_its_algorithms(path: Path) -> None:
    """DPM-Solver-2 (algorithm 1, r₁ = ½) and DPM-Solver-3 (algorithm 2, r₁ = ⅓, r₂ = ⅔) in the letters of the paper (M26)."""
    world, t, s = mixture(path), level(path, 2.0), level(path, 0.7)
    x, marks = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2), Marks(path, t, s)
    h, alpha_t, (_, alpha_s, sigma_s) = marks.h, path.alpha(t), marks.at(1.0)
    e = world(x, t).noise

    def first(r: float) -> tuple[float, Tensor]:
        there, alpha, sigma = marks.at(r)
        return there, alpha / alpha_t * x - sigma * math.expm1(r * h) * e

    there, u = first(0.5)
    second = alpha_s / alpha_t * x - sigma_s * math.expm1(h) * world(u, there).noise
    assert torch.allclose(DPMSolver(order=2).step(world, x, t, s).x, second, rtol=1e-9, atol=1e-10)
    there, u = first(1 / 3)
    d_1 = world(u, there).noise - e
    there, u = first(2 / 3)
    u = u - marks.at(2 / 3)[2] * 2.0 * (math.expm1(2 / 3 * h) / (2 / 3 * h) - 1.0) * d_1
    d_2 = world(u, there).noise - e
    third = alpha_s / alpha_t * x - sigma_s * math.expm1(h) * e - sigma_s * 1.5 * (math.expm1(h) / h - 1.0) * d_2
    assert torch.allclose(DPMSolver(order=3).step(world, x, t, s).x, third, rtol=1e-9, atol=1e-10)


@every_path
def test_dpm_solver_plus_plus_is_its_algorithm(path: Path) -> None:
    """DPM-Solver++(2S), algorithm 1 with r₁ = ½, and its third-order analogue (M26)."""
    world, t, s = mixture(path), level(path, 2.0), level(path, 0.7)
    x, marks = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2), Marks(path, t, s)
    h, sigma_t, (_, alpha_s, sigma_s) = marks.h, path.sigma(t), marks.at(1.0)
    d = world(x, t).x0

    def first(r: float) -> tuple[float, Tensor]:
        there, alpha, sigma = marks.at(r)
        return there, sigma / sigma_t * x - alpha * math.expm1(-r * h) * d

    there, u = first(0.5)
    second = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * world(u, there).x0
    assert torch.allclose(DPMSolver(order=2, prediction="data").step(world, x, t, s).x, second, rtol=1e-9, atol=1e-10)
    there, u = first(1 / 3)
    d_1 = world(u, there).x0 - d
    there, u = first(2 / 3)
    u = u + marks.at(2 / 3)[1] * 2.0 * (math.expm1(-2 / 3 * h) / (2 / 3 * h) + 1.0) * d_1
    d_2 = world(u, there).x0 - d
    third = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * d + alpha_s * 1.5 * (math.expm1(-h) / h + 1.0) * d_2
    assert torch.allclose(DPMSolver(order=3, prediction="data").step(world, x, t, s).x, third, rtol=1e-9, atol=1e-10)


@every_path
@every_prediction
def test_order_one_is_ddim(path: Path, prediction: str) -> None:
    """DPM-Solver-1 and DPM-Solver++-1 are DDIM, whichever way the exponent is written (M23, M26)."""
    world, t, s = mixture(path), level(path, 2.0), level(path, 0.7)
    x = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2)
    ours = DPMSolver(order=1, prediction=prediction).step(world, x, t, s).x
    assert torch.allclose(ours, DDIM().step(world, x, t, s).x, rtol=1e-9, atol=1e-10)


def test_short_steps_keep_their_digits() -> None:
    """(e^h − 1)/h − 1 loses eight digits at h = 1e-8; the integral does not (M26)."""
    path = EDM()
    world, t = mixture(path), 1.0
    s = t * math.exp(-1e-7)
    x = 2.0 * normal(4, 2)
    moved = (DPMSolver(order=3).step(world, x, t, s).x - x) / (s - t)
    assert torch.allclose(moved, world(x, t).noise, rtol=1e-5, atol=1e-6)


@pytest.mark.needs("diffusers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [3, 10, 25])
def test_second_order_is_diffusers_dpm2(steps: int) -> None:
    """KDPM2DiscreteScheduler on its own levels, its float32 tables made float64: ε̂ at the geometric mean (M26)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        peer: Any = diffusers.KDPM2DiscreteScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    peer.set_timesteps(steps)
    path, network = Discrete(), lambda x, label: torch.sin(1.3 * x)
    grid = [float(sigma) for sigma in peer.sigmas.double()[::2]][:steps]
    peer.sigmas, peer.sigmas_interpol = (_in_float64(grid, interpolated) for interpolated in (False, True))
    denoiser = NetworkDenoiser(network, path, Noise())
    x_bar = grid[0] * normal(2, 3)
    times = [path.time_of(-math.log(sigma)) for sigma in grid]
    x = path.alpha(times[0]) * x_bar
    for t, s in zip(times, times[1:], strict=False):
        for _ in range(2):
            now = peer.timesteps[0 if peer.step_index is None else peer.step_index]
            x_bar = peer.step(network(peer.scale_model_input(x_bar, now), None), now, x_bar).prev_sample
        x = DPMSolver(order=2).step(denoiser, x, t, s).x
        assert float((x / path.alpha(s) - x_bar).abs().max()) < 1e-5


def _in_float64(grid: list[float], interpolated: bool) -> Tensor:
    """The peer's two tables: each level twice, or the geometric means between them."""
    levels = torch.tensor([*grid, 0.0], dtype=torch.float64)
    if not interpolated:
        return torch.cat([levels[:1], levels[1:].repeat_interleave(2), levels[-1:]])
    means = (levels.log().lerp(levels.roll(1).log(), 0.5)).exp()
    return torch.cat([means[:1], means[1:].repeat_interleave(2), means[-1:]])


@every_order
def test_evaluations_are_the_order_but_for_the_last_step(order: int) -> None:
    """3K − 2 for the third order."""
    assert DPMSolver(steps=7, order=order).evaluations() == 6 * order + 1


@pytest.mark.parametrize(("settings", "said"), [({"order": 4}, "from 1 to 3"), ({"prediction": "score"}, "'noise'")])
def test_what_there_is_not_is_refused(settings: dict[str, Any], said: str) -> None:
    """A fourth order would be the third without a word."""
    with pytest.raises(UsageError, match=said):
        DPMSolver(**settings)


def test_defaults_are_the_papers() -> None:
    """Third order in ε̂, uniform in log-SNR; finite where the network is not exact."""
    assert (DPMSolver().order, DPMSolver().prediction, DPMSolver().grid) == (3, "noise", LogSNR())
    assert DPMSolver().sample(mixture(VP()), normal(3, 2)).isfinite().all()
