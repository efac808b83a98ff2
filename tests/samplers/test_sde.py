"""Solvers of the reverse SDE and predictor–corrector samplers: order in law and along one path of noise, the paper, a peer."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import NetworkDenoiser, Score
from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified, SubVP, VPCosine
from scorefield.samplers import (
    Ancestral,
    EulerMaruyama,
    Linear,
    LogSNR,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    Trailing,
)
from scorefield.streams import BrownianPath, SampleStreams
from tests.samplers.impulses import Line, end_law, law_error, true_law
from tests.worlds import (
    EVERY_PATH,
    Shrinking,
    mixture,
    normal,
    seeded,
    sliced_wasserstein,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
CONTINUOUS = {name: path for name, path in EVERY_PATH.items() if not isinstance(path, Discrete)}
SOLVERS: dict[str, Sampler] = {
    "flow": EulerMaruyama(ell=0.0),
    "half": EulerMaruyama(ell=0.5),
    "reverse SDE": EulerMaruyama(),
    "more noise": EulerMaruyama(ell=1.5),
    "reverse diffusion": ReverseDiffusion(),
    "predictor alone": PredictorCorrector(corrector="none"),
}


def level(path: Path, s: float) -> float:
    """The time at which σ/α = s, of those that the path knows."""
    return path.snap(path.time_of(-math.log(s)))


def orders(found: list[float]) -> list[float]:
    """The orders seen between runs of doubled steps."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(found)]


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", CONTINUOUS.values(), ids=CONTINUOUS)
@pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)
def test_law_converges_at_the_declared_order(path: Path, sampler: Sampler) -> None:
    """Every member of the family has the marginals of the path: a wrong factor of g² or ℓ² leaves an error that stays (M35)."""
    t, s = level(path, 2.0), level(path, 0.4)
    found = [law_error(replace(sampler, steps=steps, grid=Linear()), path, t, s) for steps in (32, 64, 128)]
    assert all(abs(order - sampler.order) < 0.25 for order in orders(found)), (found, orders(found))
    assert found[-1] < 0.05 * true_law(path, s)[1]


@pytest.mark.parametrize("path", [VP(), SubVP(), EDM(), Rectified()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("sampler", [EulerMaruyama(), ReverseDiffusion()], ids=repr)
def test_single_paths_converge_at_first_order(path: Path, sampler: Sampler) -> None:
    """With one Brownian path's increments: the noise is additive, so Euler–Maruyama's strong order is 1, not ½ (M35)."""
    t, s, finest = level(path, 2.0), level(path, 0.4), 1024
    x_t, increments = true_law(path, t)[1] * normal(64, 1, seed=2), normal(finest, 64, 1, seed=3)

    def end(steps: int) -> Tensor:
        source = BrownianPath(increments, finest // steps)
        return replace(sampler, steps=steps, grid=Linear()).sample(Line(path), x_t, generator=source, start=t, end=s)

    exact = end(finest)
    found = [float((end(steps) - exact).square().mean().sqrt()) for steps in (16, 32, 64)]
    assert all(abs(order - sampler.order) < 0.25 for order in orders(found)), (found, orders(found))


@every_path
@pytest.mark.parametrize("ell", [0.0, 1.0])
def test_the_whole_way_ends_at_the_data(path: Path, ell: float) -> None:
    """From t_max, where f and g² may have no bound, to t = 0: the law's error is that of a first-order method (M35, M38)."""
    t = level(path, 3.0) if isinstance(path, (VE, EDM)) else path.t_max
    coarse, fine = (law_error(EulerMaruyama(steps, LogSNR(), ell), path, t, 0.0) for steps in (100, 400))
    assert fine < 0.05
    assert fine < max(0.4 * coarse, 1e-3)


@pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=repr)
@pytest.mark.parametrize("sampler", [EulerMaruyama(), ReverseDiffusion(), PredictorCorrector()], ids=repr)
def test_where_the_signal_ends_nothing_explodes(path: Path, sampler: Sampler) -> None:
    """At α = 0 the reverse SDE's coefficients are infinite; samples stay as large as data and noise are, however few steps."""
    x = normal(500, 2)
    for steps in (2, 5, 50):
        for state in replace(sampler, steps=steps).trajectory(mixture(path), x, generator=seeded(1)):
            assert float(state.x.square().mean()) < 8.0


# ── the paper's formulas, written from the paper ─────────────────────────────────────────────────────────────────────


def score_of(world: Any, x: Tensor, t: float) -> Tensor:
    """∇ log p_t by autograd."""
    x = x.detach().requires_grad_()
    gradient: Tensor = torch.autograd.grad(world.log_density(x, t).sum(), x)[0]
    return gradient


def assert_close(got: Tensor, wanted: Tensor) -> None:
    """Equal to 1e-10 of the larger numbers."""
    assert float((got - wanted).abs().max()) < 1e-10 * max(1.0, float(wanted.abs().max()))


@every_path
@pytest.mark.parametrize("ell", [0.0, 0.6, 1.0])
def test_euler_maruyama_is_the_papers(path: Path, ell: float) -> None:
    """x − h [f x − ½(1+ℓ²) g² ŝ] + ℓ g √h z with the score by autograd, in the letters of the paper (M35, M38)."""
    world, t = mixture(path), path.snap(0.6 * path.t_max)
    s = path.snap(0.59 * path.t_max)
    x_t, z = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2), normal(4, 2, seed=1)
    h, f, g = t - s, path.drift(t), path.diffusion(t)
    drift = f * x_t - 0.5 * (1 + ell**2) * g**2 * score_of(world, x_t, t)
    wanted = x_t - h * drift + ell * g * math.sqrt(h) * z
    assert_close(EulerMaruyama(ell=ell).step(world, x_t, t, s, z if ell else None).x, wanted)


def test_predictors_of_ve_are_the_papers() -> None:
    """Equations 46–47 and SMLD's ancestral step: x + (σ_i² − σ_{i−1}²) ŝ + √(…) z for neighbouring levels (M36, M38)."""
    path = VE()
    t, s = 0.62, 0.6
    one, other = 0.01 * 5000.0**0.62, 0.01 * 5000.0**0.6
    world, x, z = mixture(path), 3.0 * normal(4, 2), normal(4, 2, seed=1)
    mean = x + (one**2 - other**2) * score_of(world, x, t)
    assert_close(ReverseDiffusion().step(world, x, t, s, z).x, mean + math.sqrt(one**2 - other**2) * z)
    std = math.sqrt(other**2 * (one**2 - other**2) / one**2)
    assert_close(ancestral_step(world, x, t, s, z), mean + std * z)


def test_predictors_of_vp_are_the_papers() -> None:
    """(2 − √(1−β_i)) x + β_i ŝ + √β_i z, and DDPM's (x + β_i ŝ)/√(1−β_i) + √β_i z, at steps of the chain (M37, M38)."""
    path = Discrete()
    world, x, z = mixture(path), normal(4, 2), normal(4, 2, seed=1)
    for i in (2, 300, 1000):
        beta, t, s = path.table[i - 1], i / 1000, (i - 1) / 1000
        score = score_of(world, x, t)
        wanted = (2.0 - math.sqrt(1.0 - beta)) * x + beta * score + math.sqrt(beta) * z
        assert_close(ReverseDiffusion().step(world, x, t, s, z).x, wanted)
        wanted = (x + beta * score) / math.sqrt(1.0 - beta) + math.sqrt(beta) * z
        assert_close(ancestral_step(world, x, t, s, z), wanted)


def ancestral_step(world: Any, x: Tensor, t: float, s: float, z: Tensor) -> Tensor:
    """The first state of the ancestral predictor between two times."""
    sampler = PredictorCorrector(steps=1, grid=Linear(), predictor="ancestral", corrector="none")
    return sampler.sample(world, x, generator=Given([z]), start=t, end=s)


class Given:
    """A source of noise with these draws."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = draws

    def normal(self, like: Tensor, draw: int) -> Tensor:
        return self.draws[draw - 1]


@pytest.mark.parametrize("corrector", ["langevin", "annealed-langevin"])
@pytest.mark.parametrize("path", [VE(), VP(), SubVP(), Discrete(), Rectified()], ids=lambda path: type(path).__name__)
def test_corrector_is_the_papers(path: Path, corrector: str) -> None:
    """ϵ = 2 c (r ‖z‖/‖ŝ‖)² or 2 c (r σ)², x + ϵ ŝ + √(2ϵ) z, twice, then the predictor; one sample, so that means are it (M39)."""
    world = mixture(path)
    t, s, r = path.snap(0.6 * path.t_max), path.snap(0.59 * path.t_max), 0.16
    x, draws = (
        math.hypot(path.alpha(t), path.sigma(t)) * normal(1, 2, seed=4),
        [normal(1, 2, seed=k) for k in (1, 2, 3)],
    )
    sampler = PredictorCorrector(1, Linear(), corrector=corrector, snr=r, corrector_steps=2)
    got = sampler.sample(world, x, generator=Given(draws), start=t, end=s)
    c = (path.alpha(t) / path.alpha(s)) ** 2
    for z in draws[:2]:
        score = score_of(world, x, t)
        size = 2 * c * ((r * z.norm() / score.norm()) ** 2 if corrector == "langevin" else (r * path.sigma(t)) ** 2)
        assert float(size) < path.sigma(t) ** 2  # otherwise it would have been held
        x = x + size * score + (2 * size) ** 0.5 * z
    assert_close(got, ReverseDiffusion().step(world, x, t, s, draws[2]).x)


def test_factor_of_the_corrector_is_one_less_beta() -> None:
    """c_α = α_i = 1 − β_i of the chain's own step, as algorithm 5 has it: the square of α_{t|s} (M39)."""
    path, z = Discrete(), normal(1, 2, seed=1)
    sampler = PredictorCorrector(1, Linear(), predictor="none", corrector="annealed-langevin", snr=0.5)
    x, t = torch.zeros(1, 2, dtype=torch.float64), 0.7
    got = sampler.sample(Shrinking(path), x, generator=Given([z]), start=t, end=t - 1e-3)
    assert_close(got, math.sqrt(2 * 2 * (1 - path.table[699])) * 0.5 * path.sigma(t) * z)


def test_corrector_is_held_where_the_score_vanishes() -> None:
    """At a mode ‖ŝ‖ = 0 and the formula asks for an infinite step; σ² is what it gets (M39)."""
    path, z = VE(), normal(1, 2, seed=1)
    flat = NetworkDenoiser(lambda x, label: torch.zeros_like(x), path, Score())
    sampler = PredictorCorrector(1, Linear(), predictor="none")
    got = sampler.sample(flat, normal(1, 2), generator=Given([z]), start=0.5, end=0.4)
    assert_close(got, normal(1, 2) + math.sqrt(2.0) * path.sigma(0.5) * z)


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

DRAWERS: dict[str, Sampler] = {
    "reverse SDE": EulerMaruyama(200, LogSNR()),
    "flow": EulerMaruyama(200, LogSNR(), ell=0.0),
    "reverse diffusion": ReverseDiffusion(200, LogSNR()),
    "ancestral": PredictorCorrector(200, LogSNR(), predictor="ancestral", corrector="none"),
    "annealed corrector": PredictorCorrector(100, LogSNR(), corrector="annealed-langevin"),
    "corrector alone": PredictorCorrector(
        50, LogSNR(), predictor="none", corrector="annealed-langevin", snr=0.25, corrector_steps=6
    ),
}


@pytest.mark.parametrize("sampler", DRAWERS.values(), ids=DRAWERS)
@pytest.mark.parametrize("path", [VP(), VE(sigma_max=10.0)], ids=lambda path: type(path).__name__)
def test_samplers_draw_the_mixture(path: Path, sampler: Sampler) -> None:
    """From the prior to data, within the noise floor of exact draws in sliced Wasserstein distance (M35–M39)."""
    world, count = mixture(path), 1_000
    floor = torch.tensor(
        [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    )
    x_T = path.perturb(world.draw(count, seeded(5)), path.t_max, normal(count, 2, seed=7))
    drawn = sampler.sample(world, x_T, generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    assert found < float(floor.mean() + 2.5 * floor.std()), (found, floor)


@every_path
def test_a_corrector_alone_keeps_the_law_up_to_its_step(path: Path) -> None:
    """Langevin steps at one level leave p_t alone but for O(ϵ) = O(r²): halving r divides the error by four (M39)."""
    t = level(path, 1.0)
    s = path.snap(t - 1e-3 * path.t_max)

    def spread(r: float) -> float:
        sampler = PredictorCorrector(
            1, Linear(), predictor="none", corrector="annealed-langevin", snr=r, corrector_steps=round(30 / r**2)
        )
        return abs(end_law(sampler, path, t, s)[1] / true_law(path, t)[1] - 1.0)

    coarse, fine = spread(0.4), spread(0.2)
    assert abs(math.log2(coarse / fine) - 2.0) < 0.25, (coarse, fine)


def test_norms_of_one_sample_do_in_many_dimensions_and_not_in_two() -> None:
    """A step that depends on x bends the law: by a part in D, so that pictures do not feel it and points do (M39)."""
    path = VP()
    t = path.time_of(0.0)
    mean, std = true_law(path, t)
    off = {}
    for dimension in (2, 768):
        x = mean + std * normal(3_000 // dimension + 4, dimension, seed=1)
        sampler = PredictorCorrector(1, Linear(), predictor="none", corrector_steps=150)
        end = sampler.sample(Line(path), x, generator=seeded(2), start=t, end=0.999 * t)
        off[dimension] = float((end - mean).square().mean().sqrt()) / std - 1.0
    assert abs(off[768]) < 0.03, off
    assert abs(off[2]) > 0.1, off


def test_sample_does_not_depend_on_its_neighbours() -> None:
    """The authors' norms are means over the batch; ours are each sample's own, so that a picture is its seed's alone (M39)."""
    x = SampleStreams.numbered(9, 0, 5).normal(torch.zeros(5, 12, dtype=torch.float64), 0)
    sampler = PredictorCorrector(8)
    together = sampler.sample(Shrinking(VP()), x, generator=SampleStreams.numbered(9, 0, 5))
    alone = sampler.sample(Shrinking(VP()), x[3:4], generator=SampleStreams.numbered(9, 3, 1))
    assert torch.equal(together[3:4], alone)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [SubVP(), Rectified()], ids=lambda path: type(path).__name__)
def test_ancestral_predictor_is_refused_where_there_is_none(path: Path) -> None:
    """SMLD's and DDPM's formulas on another path would draw from another law (M38)."""
    sampler = PredictorCorrector(5, predictor="ancestral")
    with pytest.raises(UsageError, match=r"use predictor='reverse-diffusion'.*or the sampler Ancestral"):
        sampler.sample(Shrinking(path), normal(2, 3), generator=seeded())


@pytest.mark.parametrize("path", [VE(), EDM(), VP(), VPCosine(), Discrete()], ids=lambda path: type(path).__name__)
def test_ancestral_predictor_is_the_ancestral_sampler(path: Path) -> None:
    """β̃ where variance explodes and β where it is preserved: one formula in two places (M36, M37)."""
    variance = "small" if isinstance(path, (VE, EDM)) else "large"
    x = path.prior_std * normal(3, 2)
    sampler = PredictorCorrector(6, Trailing(), predictor="ancestral", corrector="none")
    wanted = Ancestral(6, Trailing(), variance).sample(mixture(path), x, generator=seeded(2))
    assert torch.equal(sampler.sample(mixture(path), x, generator=seeded(2)), wanted)


# ── diffusers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(x: Tensor, sigma: float | Tensor) -> Tensor:
    """A stand-in for a trained score."""
    return (torch.tanh(x) - x) / sigma**2 - torch.sin(x) / sigma


def score_network(x: Tensor, label: Tensor) -> Tensor:
    """The same, told ¼ log σ."""
    return score(x, (4.0 * label[0]).exp())


def peer(steps: int) -> Any:
    """diffusers' VE scheduler with its levels in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        found: Any = diffusers.ScoreSdeVeScheduler(num_train_timesteps=steps, snr=0.16, sigma_min=0.01, sigma_max=5.0)
    found.set_timesteps(steps)
    found.set_sigmas(steps)
    found.discrete_sigmas = torch.linspace(math.log(0.01), math.log(5.0), steps, dtype=torch.float64).exp()
    return found


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize("steps", [2, 20, 150])
def test_ve_predictor_corrector_is_diffusers(steps: int) -> None:
    """Reverse diffusion and Langevin, correct and then predict, with the same noise; the last step to its mean (M38, M39)."""
    scheduler, path = peer(steps), VE(0.01, 5.0, t_min=1e-12)
    denoiser = NetworkDenoiser(score_network, path, Score())
    x_T, generator = 5.0 * normal(1, 3, 4), seeded(5)
    x, theirs = x_T, list[Tensor]()
    for t, sigma in zip(scheduler.timesteps, scheduler.discrete_sigmas.flip(0), strict=True):
        x = scheduler.step_correct(score(x, sigma), x, generator=generator).prev_sample
        result = scheduler.step_pred(score(x, sigma), t, x, generator=generator)
        x = result.prev_sample
        theirs.append(x if len(theirs) < steps - 1 else result.prev_sample_mean)
    ours = PredictorCorrector(steps, LogSNR()).trajectory(denoiser, x_T, generator=seeded(5))
    worst = max(float((state.x - wanted).abs().max()) for state, wanted in zip(ours, theirs, strict=True))
    assert worst < 1e-5, worst  # their step sizes are float32


@pytest.mark.needs("diffusers")
def test_diffusers_corrector_depends_on_the_batch() -> None:
    """Theirs takes the means of the norms, as the paper: one sample's step is then longer or shorter with its neighbours (M39)."""
    scheduler, x = peer(20), torch.cat([normal(1, 12), 9.0 * normal(1, 12, seed=1)])
    noise = normal(2, 12, seed=2)
    both = corrected_by(scheduler, x, noise)[:1]
    alone = corrected_by(scheduler, x[:1], noise[:1])
    assert float((both - alone).abs().max()) > 0.01


def corrected_by(scheduler: Any, x: Tensor, noise: Tensor) -> Tensor:
    """One step of the peer's corrector, with this noise."""
    import diffusers.schedulers.scheduling_sde_ve as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *args, **options: noise)
        result: Tensor = scheduler.step_correct(score(x, 1.0), x).prev_sample
    return result
