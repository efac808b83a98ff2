"""One-step samplers against diffusers' schedulers, state by state, and where diffusers' steps are not its own grid's.

A peer keeps its levels in float32. They are replaced by the same levels in float64, so that arithmetic is compared; the last
test says how far float32 alone is.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import NetworkDenoiser, Noise, Preconditioned
from scorefield.paths import EDM, Discrete
from scorefield.samplers import DDIM, DPMSolver, Heun, Karras
from scorefield.samplers.base import Memoryless
from tests.worlds import dummy_denoiser, dummy_network, normal

pytestmark = [pytest.mark.needs("diffusers"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

PATH = Discrete()
every_count = pytest.mark.parametrize("steps", [4, 12, 30])


def network(x: Tensor, label: Any = None) -> Tensor:
    """A stand-in that is told no time: a peer's float32 labels do not matter."""
    return torch.sin(1.3 * x) + 0.2 * x


def scheduler(name: str, **settings: Any) -> Any:
    """A scheduler of diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        return getattr(diffusers, name)(**settings)


def their_states(peer: Any, x: Tensor) -> list[Tensor]:
    """x after every call of a peer's `step`."""
    states = []
    for t in peer.timesteps:
        x = peer.step(network(peer.scale_model_input(x, t)), t, x).prev_sample
        states.append(x)
    return states


def our_states(sampler: Memoryless, levels: Sequence[float], x_bar: Tensor) -> list[Tensor]:
    """x̄ = x/α after every step along levels σ/α, on DDPM's path."""
    denoiser = NetworkDenoiser(network, PATH, Noise())
    times = [0.0 if level == 0.0 else PATH.time_of(-math.log(level)) for level in levels]
    states = sampler.walk(denoiser, PATH.alpha(times[0]) * x_bar, times, torch.zeros_like)
    return [state.x if state.t == 0.0 else state.x / PATH.alpha(state.t) for state in states]


def farthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference at any state."""
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


# ── steps that agree ─────────────────────────────────────────────────────────────────────────────────────────────────


@every_count
@pytest.mark.parametrize("karras", [False, True])
def test_heun_is_diffusers_heun(steps: int, karras: bool) -> None:
    """HeunDiscreteScheduler, two calls a step, on its own levels and on Karras': every state, the one at data included (M26)."""
    peer = scheduler("HeunDiscreteScheduler", num_train_timesteps=1000, use_karras_sigmas=karras)
    peer.set_timesteps(steps)
    peer.sigmas = peer.sigmas.double()
    levels = [*peer.sigmas.tolist()[:-1:2], 0.0]
    x_bar = levels[0] * normal(2, 3, 4)
    theirs = their_states(peer, x_bar)
    assert farthest(our_states(Heun(), levels, x_bar), [*theirs[1:-1:2], theirs[-1]]) < 1e-5


@every_count
@pytest.mark.parametrize("karras", [False, True])
def test_ddim_is_diffusers_euler(steps: int, karras: bool) -> None:
    """EulerDiscreteScheduler in x̄ = x/α: Euler's step in σ/α is DDIM's (M23, M26).

    It casts x to float32 at every step, so that the difference counts in units of the largest x̄, some hundreds.
    """
    peer = scheduler("EulerDiscreteScheduler", num_train_timesteps=1000, use_karras_sigmas=karras)
    peer.set_timesteps(steps)
    peer.sigmas = peer.sigmas.double()
    levels = peer.sigmas.tolist()
    x_bar = levels[0] * normal(2, 3, 4)
    states = their_states(peer, x_bar)
    assert farthest(our_states(DDIM(), levels, x_bar), states) < 1e-6 * float(x_bar.abs().max())


@every_count
def test_ddim_on_edms_path_is_diffusers_edm_euler(steps: int) -> None:
    """EDMEulerScheduler with its own preconditioning, on Karras' grid, from σ = 80 to data (M10, M26)."""
    path = EDM()
    peer = scheduler("EDMEulerScheduler", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, num_train_timesteps=1000)
    peer.set_timesteps(steps)
    times = Karras().times(path, steps)
    assert torch.allclose(peer.sigmas.double(), torch.tensor(times).double(), rtol=1e-5, atol=0.0)
    peer.sigmas = torch.tensor(times, dtype=torch.float64)
    denoiser = NetworkDenoiser(network, path, Preconditioned(sigma_data=0.5))
    x_T = 80.0 * normal(2, 3, 4)
    ours = [state.x for state in DDIM(steps=steps).walk(denoiser, x_T, times, torch.zeros_like)]
    assert farthest(ours, their_states(peer, x_T)) < 1e-5


@pytest.mark.parametrize(("prediction", "algorithm"), [("data", "dpmsolver++"), ("noise", "dpmsolver")])
@pytest.mark.parametrize("steps", [4, 12])
def test_second_order_is_diffusers_singlestep(steps: int, prediction: str, algorithm: str) -> None:
    """DPMSolverSinglestepScheduler of order 2 where its levels are uniform in λ: every second one is a stage half-way, the paper's r₁ = ½ (M26)."""
    peer = scheduler(
        "DPMSolverSinglestepScheduler",
        num_train_timesteps=1000,
        algorithm_type=algorithm,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
    )
    peer.set_timesteps(steps)
    assert peer.order_list[:steps] == [1, 2] * (steps // 2)
    levels = torch.logspace(1.5, -1.5, steps + 1, dtype=torch.float64).tolist()
    peer.sigmas = torch.tensor(levels, dtype=torch.float64)
    x_bar = levels[0] * normal(2, 3, 4)
    x, theirs = x_bar / math.hypot(1.0, levels[0]), []
    for t, below in zip(peer.timesteps, levels[1:], strict=True):
        x = peer.step(network(x), t, x).prev_sample
        theirs.append(x * math.hypot(1.0, below))
    assert farthest(our_states(DPMSolver(order=2, prediction=prediction), levels[::2], x_bar), theirs[1::2]) < 1e-5


# ── where diffusers' DDIM leaves its grid ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spacing", "steps", "chains"),
    [
        ("leading", 10, True),
        ("leading", 7, True),
        ("trailing", 10, True),
        ("trailing", 7, False),
        ("linspace", 10, False),
    ],
)
def test_diffusers_ddim_steps_by_a_whole_part_whatever_its_spacing(spacing: str, steps: int, chains: bool) -> None:
    """DDIMScheduler goes to t − ⌊T/n⌋ and asks the network next at its list's t: with linspace, and trailing where n does
    not divide T, the noise that x has is not the noise that the network is told of (M23)."""
    peer = scheduler("DDIMScheduler", num_train_timesteps=1000, clip_sample=False, timestep_spacing=spacing)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    peer.alphas_cumprod = (1.0 - betas).cumprod(0)
    peer.set_timesteps(steps)
    asked = peer.timesteps.tolist()
    reached = [t - 1000 // steps for t in asked]
    x = normal(2, 3, 4)
    noise = dummy_network(x, torch.full((2,), float(asked[0])).double())
    theirs = peer.step(noise, asked[0], x).prev_sample
    ours = DDIM().step(dummy_denoiser(PATH), x, (asked[0] + 1) / 1000, (reached[0] + 1) / 1000).x
    assert float((theirs - ours).abs().max()) < 1e-8
    assert all(end == start for end, start in pairwise_ends(reached, asked)) is chains


def pairwise_ends(reached: list[int], asked: list[int]) -> list[tuple[int, int]]:
    """Where each step ends, beside where the next begins."""
    return [(end, after) for end, (_, after) in zip(reached, pairwise(asked), strict=False)]


def test_float32_tables_alone_are_within_a_thousandth() -> None:
    """Stock Heun with its float32 levels against ours on the exact ones: what the float64 tables above leave out of the comparison."""
    peer = scheduler("HeunDiscreteScheduler", num_train_timesteps=1000)
    peer.set_timesteps(12)
    levels = [*peer.sigmas.double().tolist()[:-1:2], 0.0]
    x_bar = levels[0] * normal(2, 3, 4)
    theirs = their_states(peer, x_bar.float())
    assert farthest(our_states(Heun(), levels, x_bar), [*theirs[1:-1:2], theirs[-1]]) < 1e-3 * levels[0]
