"""Multistep samplers against diffusers' schedulers, state by state, and where diffusers' third order is not one."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.paths import EDM, Discrete
from scorefield.samplers import DEIS, LMS, PNDM, DPMSolverMultistep, LogSNR, Sampler, UniPC
from scorefield.samplers.schemes import DataForm, Scheme, table
from scorefield.samplers.tables import Row, interpolating, quadrature, verified, walk_table
from tests.worlds import dummy_denoiser, dummy_network, exact_flow, mixture, normal

pytestmark = pytest.mark.needs("diffusers")

PATH = Discrete()


def scheduler(name: str, **settings: Any) -> Any:
    """A scheduler of diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        return getattr(diffusers, name)(num_train_timesteps=1000, **settings)


def prepared(peer: Any, steps: int, last: float | None = 0.0) -> list[int]:
    """Set its timesteps, with levels in float64 so that arithmetic is compared; `last` is σ/α at the end (its own where None)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.set_timesteps(steps)
    indices = [round(float(t)) for t in peer.timesteps.tolist()]
    levels = [math.exp(-PATH.log_snr((index + 1) / 1000)) for index in indices]
    end = math.exp(-PATH.log_snr(1 / 1000)) if last is None else last
    peer.sigmas = torch.tensor([*levels, end], dtype=torch.float64)
    return indices


def peer_states(peer: Any, indices: list[int], x: Tensor, **options: Any) -> list[Tensor]:
    """x after every step of a peer's loop with the dummy network."""
    states = []
    for index in indices:
        noise = dummy_network(x, torch.full((len(x),), float(index)).double())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = peer.step(noise, index, x, **options).prev_sample.double()
        states.append(x)
    return states


def our_states(sampler: Sampler, indices: list[int], x: Tensor, end: float = 0.0) -> list[Tensor]:
    """x after every step along the same times."""
    times = [*((index + 1) / 1000 for index in indices), end]
    return [state.x for state in sampler.walk(dummy_denoiser(PATH), x, times, torch.zeros_like)]


def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference at any state, relative to what the state holds."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1.0)) for one, other in pairs)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize(("prediction", "algorithm"), [("data", "dpmsolver++"), ("noise", "dpmsolver")])
def test_dpm_solver_is_diffusers(steps: int, spacing: str, solver: str, prediction: str, algorithm: str) -> None:
    """DPM-Solver++ 2M and DPM-Solver-2, both kinds of second order, with easing out below 15 steps and without (M26)."""
    last = {"final_sigmas_type": "zero"} if prediction == "data" else {"final_sigmas_type": "sigma_min"}
    peer = scheduler(
        "DPMSolverMultistepScheduler",
        algorithm_type=algorithm,
        solver_type=solver,
        timestep_spacing=spacing,
        **last,
    )
    indices, x = prepared(peer, steps, 0.0 if prediction == "data" else 1e-3), normal(2, 3, 4)
    ours = our_states(DPMSolverMultistep(prediction=prediction, solver=solver), indices, x)
    theirs = peer_states(peer, indices, x)
    kept = steps if prediction == "data" else steps - 1  # theirs stops short of data where the noise is predicted
    assert worst(ours[:kept], theirs[:kept]) < 1e-5


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_sde_dpm_solver_is_diffusers(solver: str) -> None:
    """SDE-DPM-Solver++ 2M with the same noise at every step (M35)."""
    peer = scheduler("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", solver_type=solver)
    indices, x = prepared(peer, 20), normal(2, 3, 4)
    times = [*((index + 1) / 1000 for index in indices), 0.0]
    noises = iter([normal(2, 3, 4, seed=k) for k in range(20)])
    sampler = DPMSolverMultistep(solver=solver, stochastic=True)
    ours = [state.x for state in sampler.walk(dummy_denoiser(PATH), x, times, lambda like: next(noises))]
    theirs, x_t = [], x
    for k, index in enumerate(indices):
        noise = dummy_network(x_t, torch.full((2,), float(index)).double())
        x_t = peer.step(noise, index, x_t, variance_noise=normal(2, 3, 4, seed=k)).prev_sample.double()
        theirs.append(x_t)
    assert worst(ours, theirs) < 1e-5


@pytest.mark.parametrize("steps", [6, 14])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_unipc_is_diffusers(steps: int, order: int, variant: str, prediction: str) -> None:
    """UniPC with its corrector, both B(h), both predictions, easing out below 15 steps (M26)."""
    peer = scheduler(
        "UniPCMultistepScheduler",
        solver_order=order,
        solver_type=variant,
        predict_x0=prediction == "data",
        timestep_spacing="trailing",
    )
    indices, x = prepared(peer, steps, 0.0 if prediction == "data" else 1e-3), normal(2, 3, 4)
    ours = our_states(UniPC(order=order, variant=variant, prediction=prediction), indices, x)
    theirs = peer_states(peer, indices, x)
    kept = steps if prediction == "data" else steps - 1
    assert worst(ours[:kept], theirs[:kept]) < 1e-5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_is_diffusers(order: int) -> None:
    """DEIS with polynomials in log ρ, which theirs calls logrho, down to its last time 1/T (M26)."""
    peer = scheduler("DEISMultistepScheduler", solver_order=order, lower_order_final=False)
    indices, x = prepared(peer, 12, None), normal(2, 3, 4)
    ours = our_states(DEIS(order=order, variable="log-snr"), indices, x, end=1 / 1000)
    assert worst(ours, peer_states(peer, indices, x)) < 1e-5


@pytest.mark.parametrize("order", [1, 2, 4])
def test_lms_is_diffusers(order: int) -> None:
    """LMSDiscrete in x̄ = x/α and s = σ/α up to the last step, where theirs extrapolates to s = 0 and ours takes D (M26)."""
    peer = scheduler("LMSDiscreteScheduler")
    indices, x = prepared(peer, 12), normal(2, 3, 4)
    ours = our_states(LMS(order=order), indices, x)
    x_bar = x / PATH.alpha((indices[0] + 1) / 1000)
    theirs = []
    peer.is_scale_input_called = True
    for t, (index, after) in zip(peer.timesteps.tolist(), pairwise([*indices, -1]), strict=True):
        scaled = PATH.alpha((index + 1) / 1000) * x_bar
        noise = dummy_network(scaled, torch.full((2,), float(index)).double())
        x_bar = peer.step(noise, t, x_bar, order=order).prev_sample
        theirs.append(x_bar * (PATH.alpha((after + 1) / 1000) if after >= 0 else 1.0))
    assert worst(ours[:-1], theirs[:-1]) < 1e-5


def test_pndm_is_diffusers() -> None:
    """PNDM with its Runge–Kutta start, stage by stage, then the linear multistep part (M26)."""
    peer = scheduler("PNDMScheduler", skip_prk_steps=False, set_alpha_to_one=True)
    peer.alphas_cumprod = torch.tensor([PATH.alpha(k / 1000) ** 2 for k in range(1, 1001)], dtype=torch.float64)
    peer.set_timesteps(10)
    indices, x = [round(float(t)) for t in peer.timesteps.tolist()], normal(2, 3, 4)
    steps = indices[0:12:4] + indices[12:]
    assert worst(our_states(PNDM(), steps, x)[:-1], peer_states(peer, indices, x)[:-1]) < 1e-5


# ── where diffusers is wrong ─────────────────────────────────────────────────────────────────────────────────────────


def peer_third(h: float, h_0: float, h_1: float) -> tuple[float, ...]:
    """Its third-order DPM-Solver++ step as weights of the three answers, per α_s: written down from its own formula."""
    r_0, r_1 = h_0 / h, h_1 / h
    phi_1 = -math.expm1(-h)
    phi_2 = math.expm1(-h) / h + 1.0
    phi_3 = (math.expm1(-h) + h) / h**2 - 0.5
    # D1_0 = (m0 − m1)/r_0, D1_1 = (m1 − m2)/r_1, D1 = D1_0 + r_0 D2, D2 = (D1_0 − D1_1)/(r_0 + r_1)
    first, second = (1 / r_0, -1 / r_0, 0.0), (0.0, 1 / r_1, -1 / r_1)
    bend = [(one - other) / (r_0 + r_1) for one, other in zip(first, second, strict=True)]
    slope = [one + r_0 * two for one, two in zip(first, bend, strict=True)]
    return tuple(phi_1 * (j == 0) + phi_2 * slope[j] - phi_3 * bend[j] for j in range(3))


def test_diffusers_third_order_step_is_these_weights() -> None:
    """What is shown wrong below is what its scheduler does: one third-order step, fed with answers for D."""
    peer = scheduler("DPMSolverMultistepScheduler", solver_order=3, prediction_type="sample", lower_order_final=False)
    indices = prepared(peer, 10)
    lambdas = [PATH.log_snr((index + 1) / 1000) for index in indices]
    answers, before = [normal(2, 3, seed=k) for k in range(4)], normal(2, 3, seed=9)
    x = before
    for answer, index in zip(answers, indices, strict=False):
        before, x = x, peer.step(answer, index, x).prev_sample.double()
    alpha, shrink = PATH.alpha((indices[4] + 1) / 1000), PATH.sigma((indices[4] + 1) / 1000)
    weights = peer_third(lambdas[4] - lambdas[3], lambdas[3] - lambdas[2], lambdas[2] - lambdas[1])
    wanted = shrink / PATH.sigma((indices[3] + 1) / 1000) * before
    wanted = wanted + alpha * sum(weight * answers[3 - j] for j, weight in enumerate(weights))
    assert float((x - wanted).abs().max()) < 1e-5


def test_diffusers_third_order_integrates_half_a_parabola() -> None:
    """Its D2 is the divided difference, used as if it were the second derivative: lines are exact, λ² is integrated to half its bend.

    Such weights cannot be built here; those of the third order here meet all three conditions.
    """
    h, nodes = 0.3, (0.0, -0.3, -0.6)
    points, masses = quadrature(0.0, h)
    kernel = quadrature(0.0, h)._replace(
        masses=tuple(mass * math.exp(u - h) for u, mass in zip(points, masses, strict=True))
    )
    theirs, ours = peer_third(h, 0.3, 0.3), interpolating(nodes, kernel)
    assert verified(theirs, nodes, kernel, degree=1) == theirs
    with pytest.raises(UsageError, match="conditions up to degree 2"):
        verified(theirs, nodes, kernel)

    def bend(weights: tuple[float, ...]) -> float:
        """What is given to the second divided difference of λ², over a line's."""
        parabola = sum(weight * u**2 for weight, u in zip(weights, nodes, strict=True))
        line = sum(weight * u for weight, u in zip(weights, nodes, strict=True))
        return parabola + 0.3 * line - 0.3 * line  # the part of τ(τ + 0.3) that is not a line

    exact = kernel.of_power(2, 0.0, 1.0)
    assert bend(ours) == pytest.approx(exact, rel=1e-12)
    assert bend(theirs) == pytest.approx(0.5 * exact, rel=1e-12)


def test_diffusers_third_order_converges_at_second() -> None:
    """Its weights along a table, against the exact flow: the error falls by four where ours falls by eight."""
    path, high, low = EDM(sigma_max=500.0), 200.0, 1.0
    world, x = mixture(path), math.hypot(1.0, high) * normal(4, 2)
    exact = exact_flow(world, x, high, low)

    def halved(row: Row, n: int, lambdas: list[float]) -> Row:
        if len(row.weights) < 3:
            return row
        weights = peer_third(*(lambdas[n + 1 - k] - lambdas[n - k] for k in range(3)))
        return row._replace(weights=weights)  # α = 1

    def error(steps: int, theirs: bool) -> float:
        times = LogSNR().times(path, steps, high, low)
        rows = table(Scheme(DataForm(), "log-snr", 3, second="total"), path, times)
        lambdas = [path.log_snr(t) for t in times]
        if theirs:
            rows = tuple(halved(row, n, lambdas) for n, row in enumerate(rows))
        *_, last = walk_table(rows, world, x, times, torch.zeros_like)
        return float((last.x - exact).square().mean().sqrt())

    def order(theirs: bool) -> float:
        return math.log2(error(128, theirs) / error(256, theirs))

    assert order(theirs=False) == pytest.approx(3.0, abs=0.25)
    assert order(theirs=True) == pytest.approx(2.0, abs=0.25)
