"""Samplers of one evaluation a step: DDPM's and DDIM's formulas, their laws, and diffusers' schedulers step by step."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Clipped, NetworkDenoiser, Noise
from scorefield.errors import UsageError
from scorefield.paths import VP, Discrete, Path, Rectified
from scorefield.samplers import DDIM, Ancestral, Leading, LogSNR, Sampler
from scorefield.samplers.base import Memoryless
from tests.worlds import (
    EVERY_PATH,
    Shrinking,
    assert_mean,
    assert_moments,
    dummy_denoiser,
    dummy_network,
    float64,
    gaussian,
    mixture,
    normal,
    seeded,
    sliced_wasserstein,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


# ── one step ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_step_is_ddpms(variance: str) -> None:
    """(1/√α_t)(x_t − β_t/√(1−ᾱ_t) ε_θ) + σ_t z with σ_t² = β̃_t or β_t, in the letters of the paper (M13, M20)."""
    path, alpha_bar, betas = Discrete(), 1.0, Discrete().table
    x_t, z = normal(2, 3), normal(2, 3, seed=1)
    for i, beta in enumerate(betas, start=1):
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        if i not in (2, 17, 500, 1000):
            continue
        noise = dummy_network(x_t, torch.full((2,), i - 1.0).double())
        spread = beta if variance == "large" else (1 - before) / (1 - alpha_bar) * beta
        wanted = (x_t - beta / math.sqrt(1 - alpha_bar) * noise) / math.sqrt(1 - beta) + math.sqrt(spread) * z
        got = Ancestral(variance=variance).step(dummy_denoiser(path), x_t, i / 1000, (i - 1) / 1000, z)
        assert torch.allclose(got.x, wanted, rtol=1e-9, atol=1e-11)
        assert torch.allclose(got.x0, (x_t - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar), rtol=1e-9)


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_is_the_papers_equation(path: Path, eta: float) -> None:
    """x_s = α_s D + √(σ_s² − κ²) ε̂ + κ z, κ² = η² (σ_s²/σ_t²)(σ_t² − α²_{t|s} σ_s²), between any two times (M23)."""
    world, z, x_t = mixture(path), normal(4, 2, seed=1), normal(4, 2)
    t, s = 0.71 * path.t_max, 0.42 * path.t_max
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((path.alpha(u), path.sigma(u)) for u in (t, s))
    kappa = eta * math.sqrt((sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2) * sigma_s**2 / sigma_t**2)
    x_0 = world(x_t, t).x0
    wanted = alpha_s * x_0 + math.sqrt(sigma_s**2 - kappa**2) * (x_t - alpha_t * x_0) / sigma_t + kappa * z
    state = DDIM(eta=eta).step(world, x_t, t, s, z if eta else None)
    assert torch.allclose(state.x, wanted, rtol=1e-11, atol=1e-12)
    assert torch.equal(state.x0, x_0)


@every_path
def test_from_ddim_to_ddpm(path: Path) -> None:
    """η = 1 is the ancestral step with β̃; the same mean with κ² = σ²_{t|s} is the one with β, for any pair of times (M24)."""
    world, x_t, z = mixture(path), normal(4, 2), normal(4, 2, seed=1)
    t, s = 0.8 * path.t_max, 0.35 * path.t_max
    one = DDIM(eta=1.0).step(world, x_t, t, s, z).x
    small = Ancestral().step(world, x_t, t, s, z).x
    assert torch.allclose(one, small, rtol=1e-10, atol=1e-12)
    large = Ancestral(variance="large").step(world, x_t, t, s, z).x
    assert torch.allclose(large - small, (path.bridge(s, t).std - path.posterior(s, t).std) * z, rtol=1e-9, atol=1e-12)


def test_whole_runs_of_eta_one_and_ancestral_agree() -> None:
    """With the same streams they are one sampler, on a sub-sequence too (M24)."""
    path, x_T = Discrete(), normal(5, 2)
    runs = [
        sampler.sample(mixture(path), x_T, generator=seeded(1))
        for sampler in (DDIM(steps=37, eta=1.0), Ancestral(steps=37))
    ]
    assert torch.allclose(runs[0], runs[1], rtol=1e-8, atol=1e-9)


@every_path
@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=1.0), Ancestral(), Ancestral(variance="large")], ids=repr)
def test_last_step_is_the_denoisers_answer(path: Path, sampler: Memoryless) -> None:
    """s = 0 ⇒ x = D, without noise, on paths that stop at a small σ too (M25)."""
    x_t = normal(2, 3)
    state = sampler.step(Shrinking(path), x_t, path.t_min, 0.0, None)
    assert torch.equal(state.x, Shrinking(path)(x_t, path.t_min).x0)
    assert not sampler.needs_noise(path, path.t_min, 0.0)


def with_variance(x: Tensor, label: Tensor) -> Tensor:
    """The dummy network with as many channels again, which it reads as 2v − 1."""
    return torch.cat([dummy_network(x, label), torch.cos(2.1 * x)], dim=1)


@every_path
def test_learned_variance_lies_between_the_two(path: Path) -> None:
    """Σ = exp(v log β + (1−v) log β̃), each element its own: v = 0 is small, v = 1 large, ½ their geometric mean (M14)."""
    x_t, z = normal(4, 2, 3), normal(4, 2, 3, seed=1)
    t, s = path.snap(0.8 * path.t_max), path.snap(0.35 * path.t_max)

    def ended(v: float, variance: str = "learned") -> Tensor:
        both = torch.full_like(x_t, 2.0 * v - 1.0)
        network = NetworkDenoiser(
            lambda x, label: torch.cat([torch.sin(x), both], 1), path, Noise(learned_variance=True)
        )
        return Ancestral(variance=variance).step(network, x_t, t, s, z).x

    assert torch.allclose(ended(0.0), ended(0.0, "small"), rtol=1e-10)
    assert torch.allclose(ended(1.0), ended(0.0, "large"), rtol=1e-10)
    mean = ended(0.0) - path.posterior(s, t).std * z
    middle = math.sqrt(path.posterior(s, t).std * path.bridge(s, t).std)
    assert torch.allclose(ended(0.5), mean + middle * z, rtol=1e-10)


def test_learned_variance_of_a_model_that_has_none_is_refused() -> None:
    """Falling back to another variance without a word would be another sampler than was asked for (M14)."""
    with pytest.raises(UsageError, match=r"use variance='small' or 'large'.*learned_variance=true"):
        Ancestral(steps=3, variance="learned").sample(Shrinking(VP()), normal(2, 3), generator=seeded())


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_every_eta_keeps_the_marginals(path: Path, eta: float) -> None:
    """With x₀ itself for D, x_t ~ p(x_t | x₀) becomes x_s ~ p(x_s | x₀) for every η: one network serves all (M22)."""
    t, s, x_0 = 0.8 * path.t_max, 0.3 * path.t_max, torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    known = gaussian(path, (0.7, -1.1), (0.0, 0.0))
    x_t = path.perturb(x_0.expand(100_000, 2), t, normal(100_000, 2))
    x_s = DDIM(eta=eta).step(known, x_t, t, s, normal(100_000, 2, seed=1) if eta else None).x
    assert_moments(x_s, path.alpha(s) * x_0[0], path.sigma(s) ** 2 * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "sampler", [Ancestral(steps=150, grid=LogSNR()), DDIM(steps=150, grid=LogSNR(), eta=1.0)], ids=repr
)
@pytest.mark.parametrize("path", [Rectified()], ids=repr)
def test_stochastic_samplers_draw_a_gaussian(path: Path, sampler: Sampler) -> None:
    """From exact x_t at σ/α = 3 down to data: the variance within the first-order error of 150 steps, the mean exact (M12)."""
    world, t = gaussian(path, variances=(0.8, 0.3)), path.time_of(-math.log(3.0))
    x_t = path.perturb(world.draw(10_000, seeded(1)), t, normal(10_000, 2, seed=2))
    drawn = sampler.sample(world, x_t, generator=seeded(3), start=t)
    assert_mean(drawn, world.means[0])
    assert torch.allclose(drawn.var(0), float64([0.8, 0.3]), rtol=0.12)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_draws_the_mixture(variance: str) -> None:
    """T = 1000 steps from N(0, I) are within the noise floor of exact draws in sliced Wasserstein distance (M11, M13)."""
    world, count = mixture(Discrete()), 1_000
    floor = [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    drawn = Ancestral(variance=variance).sample(world, normal(count, 2, seed=7), generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    spread = torch.tensor(floor)
    assert found < float(spread.mean() + 2.0 * spread.std()), (found, floor)


def test_law_of_the_error_is_first_order() -> None:
    """The declared order of a stochastic sampler is of its law: the variance's error halves when the steps double."""
    path = VP()
    world, t, s = gaussian(path, (0.0,), (0.5,)), path.time_of(-math.log(3.0)), path.time_of(-math.log(0.3))

    def variance_error(steps: int) -> float:
        times = LogSNR().times(path, steps, t, s)
        variance = path.alpha(t) ** 2 * 0.5 + path.sigma(t) ** 2
        for one, other in zip(times, times[1:], strict=False):
            states = [
                Ancestral().step(world, torch.tensor([[x]]).double(), one, other, torch.tensor([[z]]).double()).x
                for x, z in ((1.0, 0.0), (0.0, 1.0))
            ]
            variance = float(states[0]) ** 2 * variance + float(states[1]) ** 2
        return abs(variance - (path.alpha(s) ** 2 * 0.5 + path.sigma(s) ** 2))

    found = [variance_error(steps) for steps in (40, 80, 160)]
    assert all(
        abs(math.log2(coarse / fine) - Ancestral.order) < 0.2 for coarse, fine in zip(found, found[1:], strict=False)
    ), found


# ── diffusers, step by step ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Recorded:
    """A source of noise that a peer's scheduler can be given too: draw k is made from k alone."""

    def normal(self, like: Tensor, draw: int) -> Tensor:
        return normal(*like.shape, seed=1000 + draw)


def scheduler(name: str, **settings: Any) -> Any:
    """A scheduler of diffusers; its betas in float64, so that what is compared is arithmetic and not float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        peer = getattr(diffusers, name)(num_train_timesteps=1000, clip_sample=False, **settings)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    peer.alphas_cumprod = (1.0 - betas).cumprod(0)
    peer.one = torch.ones((), dtype=torch.float64)
    peer.final_alpha_cumprod = peer.one
    return peer


def peer_states(peer: Any, steps: int, x: Tensor, **options: Any) -> list[Tensor]:
    """x after every step of a peer's loop with the dummy network."""
    peer.set_timesteps(steps)
    states = []
    for t in peer.timesteps.tolist():
        noise = dummy_network(x, torch.full((len(x),), float(t)).double())
        x = peer.step(noise, t, x, **options).prev_sample
        states.append(x)
    return states


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize(("variance", "name"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_ddpm_is_diffusers_ddpm_at_every_step(variance: str, name: str) -> None:
    """All 1000 states equal diffusers' DDPMScheduler's, with the same network and the same generator (M13)."""
    x_T = normal(2, 3, 4)
    peer = scheduler("DDPMScheduler", variance_type=name)
    theirs = peer_states(peer, 1000, x_T, generator=seeded(5))
    ours = Ancestral(variance=variance).trajectory(dummy_denoiser(Discrete()), x_T, generator=seeded(5))
    worst = max(float((state.x - wanted).abs().max()) for state, wanted in zip(ours, theirs, strict=True))
    assert worst < 1e-8


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize("steps", [1, 3, 50, 150])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers_ddim_at_every_step(steps: int, eta: float) -> None:
    """With leading spacing, where theirs is right, for K that divides T and K that does not, with the same noise (M23)."""
    x_T = normal(2, 3, 4)
    peer = scheduler("DDIMScheduler", timestep_spacing="leading", set_alpha_to_one=True)
    ours = list(
        DDIM(steps=steps, grid=Leading(), eta=eta).trajectory(dummy_denoiser(Discrete()), x_T, generator=Recorded())
    )
    peer.set_timesteps(steps)
    x = x_T
    for k, (t, state) in enumerate(zip(peer.timesteps.tolist(), ours, strict=True)):
        noise = dummy_network(x, torch.full((2,), float(t)).double())
        x = peer.step(noise, t, x, eta=eta, variance_noise=normal(*x.shape, seed=1001 + k)).prev_sample
        if k + 1 < steps:
            assert float((state.x - x).abs().max()) < 1e-8
    assert float((ours[-1].x - x).abs().max()) < 1e-8


@pytest.mark.needs("diffusers")
def test_clipping_is_diffusers_clipping() -> None:
    """DDPM as it is used, with x̂₀ clipped to [−1, 1], is the wrapped denoiser: clipping does not live in the sampler (M20)."""
    x_T = normal(2, 3, 4)
    peer = scheduler("DDPMScheduler")
    peer.config["clip_sample"] = True
    peer.register_to_config(clip_sample=True, clip_sample_range=1.0)
    theirs = peer_states(peer, 100, x_T, generator=seeded(5))
    ours = Ancestral(steps=100, grid=Leading()).sample(Clipped(dummy_denoiser(Discrete())), x_T, generator=seeded(5))
    assert float((ours - theirs[-1]).abs().max()) < 1e-8


@pytest.mark.needs("diffusers")
def test_learned_variance_is_diffusers_learned_range() -> None:
    """Their `learned_range` with the same network of twice the channels, at all 1000 steps (M14)."""
    x_T = normal(2, 3, 4)
    theirs, x = scheduler("DDPMScheduler", variance_type="learned_range"), x_T
    theirs.set_timesteps(1000)
    generator, states = seeded(5), []
    for t in theirs.timesteps.tolist():
        x = theirs.step(with_variance(x, torch.full((2,), float(t)).double()), t, x, generator=generator).prev_sample
        states.append(x)
    denoiser = NetworkDenoiser(with_variance, Discrete(), Noise(label="time", learned_variance=True))
    ours = Ancestral(variance="learned").trajectory(denoiser, x_T, generator=seeded(5))
    worst = max(float((state.x - wanted).abs().max()) for state, wanted in zip(ours, states, strict=True))
    assert worst < 1e-5, worst
