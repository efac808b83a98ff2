"""Langevin dynamics: exact laws of the unadjusted and the adjusted chain, NCSN's ladder, and NCSNv2's choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Energy, EnergyDenoiser, NetworkEnergy, Prediction
from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Discrete, Path
from scorefield.samplers import AnnealedLangevin, Langevin, LogSNR, State
from scorefield.samplers.noise_levels import (
    NCSN_RATIO,
    geometric_ratio,
    level_count,
    overlap,
    relative_step,
    variance_ratio,
)
from scorefield.streams import SampleStreams
from tests.samplers.impulses import Line, end_law, true_law
from tests.worlds import EVERY_PATH, RANKS, Shrinking, dummy_network, mixture, normal, seeded, sliced_wasserstein

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


def middle(path: Path) -> float:
    """The time at which signal and noise are equal, of those that the path knows."""
    return path.snap(path.time_of(0.0))


def chain(sampler: Langevin, world: Any, x: Tensor, t: float) -> list[State]:
    """The states of the chain itself, without the step to the end."""
    return list(sampler.trajectory(world, x, generator=seeded(3), start=t))[:-1]


# ── one level ────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_a_move_is_langevins(path: Path) -> None:
    """x + (ε/2) ŝ + √ε z, with ε in units of σ_t² and the score by autograd (M32)."""
    world, t = mixture(path), middle(path)
    x, size = normal(4, 2).requires_grad_(), 0.3 * path.sigma(t) ** 2
    score = torch.autograd.grad(world.log_density(x, t).sum(), x)[0]
    wanted = x.detach() + 0.5 * size * score + math.sqrt(size) * normal(4, 2, seed=3)
    (state,) = chain(Langevin(2, step_size=0.3), world, x.detach(), t)
    assert (state.t, state.evaluations) == (t, 1)
    assert torch.allclose(state.x, wanted, rtol=1e-10, atol=1e-12)


@every_path
def test_unadjusted_law_is_off_by_its_step(path: Path) -> None:
    """The chain's variance on a Gaussian is 1/(1 − ε/4v) of the true v, to 1e-6: first order in ε, and known (M32)."""
    t = middle(path)
    start = path.snap(1.05 * t)
    std, sigma = true_law(path, t)[1], path.sigma(t)
    for step_size in (0.4, 0.2):
        # One rung of the ladder, at the end of the way: a bare chain at that level.
        bare = AnnealedLangevin(1, LogSNR(), 400, 0.5 * step_size * path.sigma(path.t_min) ** 2)
        wanted = std / math.sqrt(1.0 - step_size * sigma**2 / (4.0 * std**2))
        assert end_law(bare, path, start, t)[1] == pytest.approx(wanted, rel=1e-6)


def test_start_or_field_says_the_time() -> None:
    """The chain stays where it is asked to, on a chain of steps at the nearest step, and ends in data (M32)."""
    path = Discrete()
    for sampler, start in ((Langevin(4), 0.3), (Langevin(4, time=0.30001), None)):
        denoiser = Shrinking(path)
        states = list(sampler.trajectory(denoiser, normal(2, 3), generator=seeded(), start=start))
        assert set(denoiser.asked) == {0.3}
        assert [state.t for state in states] == [0.3, 0.3, 0.3, 0.0]
    with pytest.raises(UsageError, match=r"must lie above the end t=0\.4"):
        Langevin(4, time=0.3).sample(Shrinking(path), normal(2, 3), generator=seeded(), end=0.4)
    with pytest.raises(UsageError, match=r"up to 1; got 2"):
        Langevin(4, time=2.0).sample(Shrinking(VP()), normal(2, 3), generator=seeded())


# ── Metropolis and Hastings ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Bell(EnergyDenoiser):
    """The exact denoiser of a Gaussian on the line, with its energy."""

    path: Path

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """As `Line`."""
        return Line(self.path)(x_t, t, condition)

    def energy(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """(x − m)²/2v, per sample."""
        mean, std = true_law(self.path, float(t))
        return ((x_t - mean).square() / (2.0 * std**2)).flatten(1).sum(1)


def pooled(states: list[State], skip: int) -> Tensor:
    """Every state after the first few, as one sample."""
    return torch.cat([state.x for state in states[skip:]])[:, 0]


@pytest.mark.parametrize("path", [VP(), EDM()], ids=lambda path: type(path).__name__)
def test_adjusted_law_is_exact_at_a_step_where_the_unadjusted_is_not(path: Path) -> None:
    """ε = 3.5 σ² at σ = 3 α: the unadjusted variance is eight times too large, the adjusted one right (M32)."""
    t = path.time_of(-math.log(3.0))
    mean, std = true_law(path, t)
    x = mean + std * normal(400, 1, seed=1)
    found = {
        metropolis: pooled(chain(Langevin(250, step_size=3.5, metropolis=metropolis), Bell(path), x, t), 20)
        for metropolis in (False, True)
    }
    assert float(found[False].std()) > 2.0 * std
    assert float(found[True].std()) == pytest.approx(std, rel=0.02)
    assert float(found[True].mean()) == pytest.approx(mean, abs=0.03 * std)
    tail = float((found[True] > mean + 1.5 * std).double().mean())
    assert tail == pytest.approx(0.0668, abs=0.006)


def test_adjusted_law_is_the_mixtures() -> None:
    """Exact draws stay exact draws, on a target with modes, saddles and a step so long that a third is refused (M32)."""
    path = VE()
    world, t, count = mixture(path), VE().time_of(-math.log(0.3)), 1_000
    before = path.perturb(world.draw(count, seeded(1)), t, normal(count, 2, seed=2))
    states = chain(Langevin(60, step_size=3.0, metropolis=True), world, before, t)
    others = [path.perturb(world.draw(count, seeded(20 + k)), t, normal(count, 2, seed=40 + k)) for k in range(6)]
    floor = torch.tensor([sliced_wasserstein(one, other) for one, other in zip(others, others[1:], strict=False)])
    found = sum(sliced_wasserstein(states[-1].x, other) for other in others) / 6
    assert found < float(floor.mean() + 3.0 * floor.std())
    assert states[-1].info is not None
    assert 0.3 < float(states[-1].info["acceptance"].mean()) < 0.9


def test_short_steps_are_all_accepted() -> None:
    """The acceptance rises to 1 as ε falls, faster than ε: 1 − A = O(ε^{3/2}) (M32; Roberts & Rosenthal 1998)."""
    path, t = VP(), 0.4
    x = path.perturb(mixture(path).draw(500, seeded(1)), t, normal(500, 2, seed=2))
    refused = []
    for step_size in (1.6, 0.4, 0.1):
        info = chain(Langevin(30, step_size=step_size, metropolis=True), mixture(path), x, t)[-1].info
        assert info is not None
        refused.append(1.0 - float(info["acceptance"].mean()))
    assert refused[0] > 4.0 * refused[1] > 16.0 * refused[2]
    assert refused[2] < 0.01


def test_what_a_chain_tells_is_true() -> None:
    """`accepted` is of the last move, `acceptance` of all so far; a refused sample stays where it was, D and all (M32)."""
    path, t = VE(), 0.6
    states = chain(Langevin(12, step_size=3.9, metropolis=True), mixture(path), 0.5 * normal(50, 2), t)
    taken = torch.zeros(50)
    for k, (before, state) in enumerate(zip(states, states[1:], strict=False), start=2):
        assert before.info is not None
        assert state.info is not None
        stayed = (state.x == before.x).all(1)
        assert torch.equal(stayed, ~state.info["accepted"])
        assert torch.allclose(state.x0, mixture(path)(state.x, t).x0, rtol=1e-10)
        taken = taken + before.info["accepted"]
        assert torch.allclose(state.info["acceptance"] * k, (taken + state.info["accepted"]).double())
    assert 0 < int(taken.sum()) < 50 * 10


def test_evaluations_of_the_adjusted_chain_are_counted() -> None:
    """Energies are questions too: 2K, of which the last step needs no more (M32)."""
    sampler = Langevin(7, metropolis=True)
    states = list(sampler.trajectory(mixture(VP()), normal(3, 2), generator=seeded(), start=0.5))
    assert states[-1].evaluations == sampler.evaluations() == 14
    assert len(states) == 7
    assert torch.equal(states[-1].x, states[-1].x0)


def test_an_adjusted_sample_does_not_depend_on_its_batch() -> None:
    """The acceptance of one sample is its own: its uniform number comes from its own stream (M32)."""
    x = normal(5, 2)
    sampler = Langevin(20, step_size=2.0, metropolis=True)
    together = sampler.sample(mixture(VP()), x, generator=SampleStreams.numbered(9, 0, 5), start=0.4)
    alone = sampler.sample(mixture(VP()), x[3:4], generator=SampleStreams.numbered(9, 3, 1), start=0.4)
    assert torch.allclose(together[3:4], alone, rtol=1e-12)


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_an_adjusted_chain_on_a_network_of_any_rank(shape: tuple[int, ...]) -> None:
    """In float32 under no_grad, as a trained model is asked: the energies are compared in float64, the samples keep their type."""
    denoiser = NetworkEnergy(dummy_network, EDM(), Energy())
    with torch.no_grad():
        states = chain(Langevin(12, step_size=0.2, metropolis=True), denoiser, normal(6, *shape).float(), 1.0)
    assert all((state.x.dtype, state.x.shape) == (torch.float32, (6, *shape)) for state in states)
    assert states[-1].info is not None
    assert 0.5 < float(states[-1].info["acceptance"].mean()) <= 1.0


def test_a_denoiser_without_an_energy_is_refused_with_the_fix() -> None:
    """Accepting everything instead would be the unadjusted chain under another name (M32)."""
    with pytest.raises(UsageError, match=r"Shrinking has none; set metropolis=false.*parameterisation=energy"):
        Langevin(5, metropolis=True).sample(Shrinking(VP()), normal(2, 3), generator=seeded())


# ── the ladder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_annealed_langevin_is_ncsns() -> None:
    """Geometric levels, a = ϵ σ²/σ_min², T moves x + a ŝ + √(2a) z at each, then x + σ_min² ŝ; written out (M33)."""
    path, levels, inner, epsilon = VE(0.01, 1.0, t_min=1e-12), 10, 3, 2e-5
    world, x = mixture(path), normal(3, 2)
    states = list(
        AnnealedLangevin(levels, inner_steps=inner, epsilon=epsilon).trajectory(world, x, generator=seeded(7))
    )
    generator, number = seeded(7), 0
    for i in range(levels):
        sigma = 100.0 ** (-i / (levels - 1))
        t = path.time_of(-math.log(sigma))
        a = epsilon * sigma**2 / 0.01**2
        for _ in range(inner):
            z = torch.randn(3, 2, generator=generator, dtype=torch.float64)
            x = x + a * world(x, t).score + math.sqrt(2 * a) * z
            assert torch.allclose(states[number].x, x, rtol=1e-8, atol=1e-10)
            number += 1
    assert torch.allclose(states[-1].x, x + 0.01**2 * world(x, path.t_min).score, rtol=1e-8)
    assert (len(states), states[-1].evaluations) == (31, 31)


def test_without_denoising_the_last_x_is_the_chains() -> None:
    """NCSN's own end has σ_min's noise in it still (M33)."""
    sampler, denoiser = AnnealedLangevin(4, inner_steps=2, denoise=False), Shrinking(VE())
    states = list(sampler.trajectory(denoiser, normal(2, 3), generator=seeded()))
    assert len(denoiser.asked) == sampler.evaluations() == 8
    assert states[-1].t == pytest.approx(VE().t_min)
    assert not torch.equal(states[-1].x, states[-1].x0)


@pytest.mark.parametrize("path", [VE(sigma_max=10.0), VP()], ids=lambda path: type(path).__name__)
def test_ladder_ends_in_the_law_of_its_last_rung(path: Path) -> None:
    """With the closed form's ϵ and enough rungs the law on a Gaussian is right to 5 %, from a start that is not (M33, M34)."""
    sampler = AnnealedLangevin(60, LogSNR(), inner_steps=8)
    low = path.time_of(-math.log(0.3))
    mean, std = end_law(sampler, path, path.t_max, low)
    assert mean == pytest.approx(true_law(path, low)[0], abs=0.05)
    assert std == pytest.approx(true_law(path, low)[1], rel=0.05)


@pytest.mark.parametrize("path", [VE(sigma_max=10.0), EDM(0.02, 10.0)], ids=lambda path: type(path).__name__)
def test_annealed_langevin_draws_the_mixture(path: Path) -> None:
    """From the prior alone to data, within the noise floor of exact draws (M33)."""
    world, count = mixture(path), 1_000
    floor = torch.tensor(
        [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    )
    drawn = AnnealedLangevin(40, inner_steps=10).sample(world, path.prior_std * normal(count, 2), generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    assert found < float(floor.mean() + 2.5 * floor.std()), (found, floor)


def test_a_step_that_diverges_is_refused_with_the_fix() -> None:
    """ϵ belongs to a σ_min: NCSN's on EDM's is ten times what is stable, and would end in NaN (M33)."""
    with pytest.raises(UsageError, match=r"below 2σ_min²=8e-06; lower it, or leave it out"):
        AnnealedLangevin(epsilon=2e-5).sample(Shrinking(EDM()), normal(2, 3), generator=seeded())


# ── NCSNv2 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_levels_overlap_by_half() -> None:
    """Technique 2 on 32 × 32 × 3 images: γ ≈ 1.04, so that about 220 levels lead from 50 to 0.01, where they took 232 (M34)."""
    ratio = geometric_ratio(3072)
    assert overlap(ratio, 3072) == pytest.approx(0.5, abs=1e-9)
    assert 210 < level_count(0.01, 50.0, 3072) < 240
    assert ratio == pytest.approx(1.0376, rel=3e-3)


def test_overlap_is_the_share_of_the_wider_shell() -> None:
    """Of N(0, γ²I) in D dimensions, so much has a radius within three deviations of N(0, I)'s: by drawing (M34)."""
    dimension, ratio = 3072, 1.04
    radii = ratio * (2.0 * torch.distributions.Gamma(0.5 * dimension, 1.0).sample((20_000,))).sqrt()
    inside = float(((radii - math.sqrt(dimension)).abs() < 3.0 * ratio * math.sqrt(0.5)).double().mean())
    assert inside == pytest.approx(overlap(ratio, dimension), abs=0.03)


@pytest.mark.parametrize("dimension", [1, 2, 4, 20])
def test_few_dimensions_get_ncsns_ratio(dimension: int) -> None:
    """In four dimensions or fewer the equation has no solution at all; the ladder is then never wider than NCSN's (M34)."""
    assert geometric_ratio(dimension) == NCSN_RATIO
    assert level_count(0.01, 1.0, dimension) == 10


def test_more_dimensions_need_more_levels() -> None:
    """√(2D)(γ − 1) is what must stay the same (M34)."""
    ratios = [geometric_ratio(dimension) for dimension in (50, 784, 3072, 12288)]
    assert ratios == sorted(ratios, reverse=True)
    assert (geometric_ratio(4 * 3072) - 1.0) == pytest.approx(0.5 * (geometric_ratio(3072) - 1.0), rel=0.05)


@pytest.mark.parametrize(("ratio", "inner_steps"), [(1.0376, 5), (NCSN_RATIO, 100), (1.3, 3)])
def test_closed_form_is_the_chains_variance(ratio: float, inner_steps: int) -> None:
    """Proposition 3 by iterating T steps on N(0, γ²σ²) towards N(0, σ²): w² v + 2u, u = ϵ/σ_min², w = 1 − u (M34)."""
    u, variance = 0.07, ratio**2
    for _ in range(inner_steps):
        variance = (1.0 - u) ** 2 * variance + 2.0 * u
    assert variance_ratio(u, ratio, inner_steps) == pytest.approx(variance, rel=1e-12)


def test_the_step_is_the_papers() -> None:
    """Technique 4 on CIFAR-10, T = 5 and 232 levels from 50 to 0.01: ϵ = 6.2e-6, and nowhere is the ratio nearer to 1 (M34)."""
    ratio = 5000.0 ** (1.0 / 231.0)
    u = relative_step(ratio, 5)
    assert u * 0.01**2 == pytest.approx(6.2e-6, rel=0.03)
    best = variance_ratio(u, ratio, 5)
    assert all(variance_ratio(k / 1000.0, ratio, 5) >= best > 1.0 for k in range(1, 1000))
