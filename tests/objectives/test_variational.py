"""The bound as an objective: exact where the chain is, its terms those of the papers, the mean's gradient that of L_simple."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Data, Denoiser, NetworkDenoiser, Noise, Prediction
from scorefield.errors import UsageError
from scorefield.objectives import Denoising, Hybrid, ImportanceSampled, Uniform, Variational
from scorefield.objectives.variational import bound_term
from scorefield.paths import VP, Discrete, Path
from tests.worlds import assert_mean, float64, gaussian, normal, seeded

CHAIN = Discrete(steps=20, beta_start=0.01, beta_end=0.4)


@dataclass(frozen=True, eq=False)
class Known(Denoiser):
    """A closed-form D = c(t) x_t, with one v for all."""

    path: Path
    mix: float | None
    scale: float = 1.0

    def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
        """E[x₀ | x_t] of N(0, 1), scaled."""
        x_0 = self.scale * self.path.alpha(t)[:, None] * x_t
        return Prediction(x_0, x_t, t, self.path, None if self.mix is None else torch.full_like(x_t, self.mix))


def every_step(count: int) -> Tensor:
    """Each step's time, `count` times over."""
    return (torch.arange(20, dtype=torch.float64) + 1.0).repeat(count) / 20


def terms(denoiser: Denoiser, x_0: Tensor, levels: int | None = None) -> Tensor:
    """T L_t, one column a step, one row a sample."""
    t = every_step(len(x_0))
    x_0 = x_0.repeat_interleave(20, 0)
    x_t = CHAIN.perturb(x_0, t, normal(*x_0.shape, seed=7))
    return bound_term(denoiser(x_t, t), x_0, CHAIN, t, levels).view(-1, 20)


def test_bound_is_the_entropy_where_the_chain_is_exact() -> None:
    """For N(0, 1) the reverse chain is Gaussian with variance β: L_T + Σ L_t = ½ log 2πe, the least any code can do (M15, M16, M19).

    A wrong sign, a lost term, the wrong posterior, or the wrong base of the logarithm shows here.
    """
    x_0 = normal(4000, 1)
    alpha, variance = CHAIN.alpha(1.0), CHAIN.sigma(1.0) ** 2
    prior = 0.5 * ((alpha * x_0[:, 0]) ** 2 + variance - 1.0 - math.log(variance)) / math.log(2.0)
    bits = prior + terms(Known(CHAIN, mix=1.0), x_0).mean(1)
    assert_mean(bits, 0.5 * math.log2(2.0 * math.pi * math.e))


@pytest.mark.parametrize(("mix", "scale"), [(0.0, 1.0), (0.5, 1.0), (1.5, 1.0), (1.0, 0.9)])
def test_anything_else_costs_more(mix: float, scale: float) -> None:
    """Another variance or another mean has a longer code on the same draws (M14, M15)."""
    x_0 = normal(4000, 1)
    extra = (terms(Known(CHAIN, mix, scale), x_0) - terms(Known(CHAIN, 1.0), x_0)).mean(1)
    assert float(extra.mean()) > 4.0 * float(extra.std()) / math.sqrt(4000)


def test_fixed_variance_gives_ddpms_weight() -> None:
    """With β̃: L_{t−1} = β_t²/(2 β̃_t α_t (1−ᾱ_t)) ‖ε − ε̂‖², from the table of β (M16, M17)."""
    x_0, t = normal(5, 3), float64([2.0, 5.0, 10.0, 15.0, 20.0]) / 20
    noise, wrong = normal(5, 3, seed=1), normal(5, 3, seed=2)
    alpha, sigma = CHAIN.alpha(t)[:, None], CHAIN.sigma(t)[:, None]
    x_t = CHAIN.perturb(x_0, t, noise)
    got = bound_term(Prediction((x_t - sigma * wrong) / alpha, x_t, t, CHAIN), x_0, CHAIN, t, None)
    for k, i in enumerate((2, 5, 10, 15, 20)):
        beta = CHAIN.table[i - 1]
        before, now = (math.prod(1.0 - b for b in CHAIN.table[:j]) for j in (i - 1, i))
        small = (1.0 - before) / (1.0 - now) * beta
        factor = beta**2 / (2.0 * small * (1.0 - beta) * (1.0 - now))
        wanted = factor * float((noise - wrong)[k].square().sum()) * 20 / (3 * math.log(2.0))
        assert float(got[k]) == pytest.approx(wanted, rel=1e-8)


def test_last_term_decodes_the_values_of_the_data() -> None:
    """At t = 1 the cost is that of the bins: no more than log₂ 256 where D is useless, nearly none where it is sure (M18)."""
    values = torch.randint(0, 256, (2000, 1), generator=seeded()).double() / 127.5 - 1.0
    t = torch.full((2000,), 1 / 20, dtype=torch.float64)
    sure = bound_term(Prediction(values, values, t, CHAIN, torch.full_like(values, -3.0)), values, CHAIN, t, 256) / 20
    vague = bound_term(Prediction(0 * values, values, t, CHAIN, torch.ones_like(values)), values, CHAIN, t, 256) / 20
    density = bound_term(Prediction(0 * values, values, t, CHAIN, torch.ones_like(values)), values, CHAIN, t, None) / 20
    assert bool((sure > 0.0).all())
    assert float(sure.mean()) < 8.0 < float(vague.mean())
    inner = values[:, 0].abs() < 0.9  # where the bin is narrow and has neighbours, its mass is density × width
    assert torch.allclose(vague[inner], (density + math.log2(127.5))[inner], rtol=1e-3)


def test_uniform_times_estimate_the_bound() -> None:
    """The mean over drawn times of T L_t is the sum over all steps, and importance does not move it (M15, M31)."""
    x_0, denoiser = normal(20_000, 1), Known(CHAIN, 0.5)
    wanted = terms(denoiser, x_0[:4000]).mean(1)
    law = ImportanceSampled(strata=20, depth=1)
    history = law.empty_history().updated(torch.arange(20), torch.linspace(3.0, 0.5, 20, dtype=torch.float64))
    for objective in (Variational(times=Uniform()), Variational(times=law)):
        found = objective.losses(denoiser, x_0, objective.draw(x_0, seeded(3)), history=history).per_sample
        error = math.hypot(float(found.std()) / math.sqrt(20_000), float(wanted.std()) / math.sqrt(4000))
        assert abs(float(found.mean() - wanted.mean())) < 4.0 * error


def test_hybrid_teaches_the_mean_by_simple_and_the_variance_by_the_bound() -> None:
    """The gradient of what predicts ε is that of L_simple to the last digit; that of v is 0.001 of L_vlb's (M14)."""
    mean, variance = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.7, 0.2))

    def network(x: Tensor, label: Tensor) -> Tensor:
        return torch.cat([mean * x, variance * torch.cos(x)], dim=1)

    learned = NetworkDenoiser(network, CHAIN, Noise(learned_variance=True))
    plain = NetworkDenoiser(lambda x, label: mean * x, CHAIN, Noise())
    x_0 = normal(8, 2)
    hybrid = Hybrid()
    draws = hybrid.draw(x_0, seeded())
    of_hybrid = torch.autograd.grad(hybrid.losses(learned, x_0, draws).per_sample.mean(), [mean, variance])
    (of_simple,) = torch.autograd.grad(Denoising().losses(plain, x_0, draws).per_sample.mean(), [mean])
    bound = Variational(times=Uniform())
    of_bound = torch.autograd.grad(bound.losses(learned, x_0, draws).per_sample.mean(), [mean, variance])
    assert torch.allclose(of_hybrid[0], of_simple, rtol=1e-10)
    assert torch.allclose(of_hybrid[1], 0.001 * of_bound[1], rtol=1e-10)
    assert bool(of_bound[0] != 0.0)


def test_learned_variance_goes_to_the_exact_one() -> None:
    """Trained by the bound alone on a chain whose reverse variance is known, v finds it (M14, M15)."""
    world, path = gaussian(CHAIN, (0.0,), (1.0,)), CHAIN
    raw = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def network(x: Tensor, label: Tensor) -> Tensor:
        return torch.cat([exact(x, label), raw * torch.ones_like(x)], dim=1)

    def exact(x: Tensor, label: Tensor) -> Tensor:
        return path.alpha((label + 1.0) / path.steps)[:, None] * x

    assert torch.allclose(exact(normal(3, 1), float64([4.0])), world(normal(3, 1), 0.25).x0)
    denoiser = NetworkDenoiser(network, path, Data(label="time", learned_variance=True))
    optimiser, objective = torch.optim.Adam([raw], 0.2), Variational(times=Uniform())
    for step in range(60):
        optimiser.zero_grad()
        objective(denoiser, normal(256, 1, seed=step), generator=seeded(step)).mean().backward()
        optimiser.step()
    assert float(raw.detach()) == pytest.approx(1.0, abs=0.15)  # v = (raw + 1)/2 = 1, which is β


def test_what_cannot_be_fitted_is_refused() -> None:
    """A continuous path has no steps to bound; without a variance the hybrid's second half is a constant."""
    for objective in (Variational(), Hybrid()):
        with pytest.raises(UsageError, match="path=discrete"):
            objective(Known(VP(), 0.5), normal(2, 1), generator=seeded())
    with pytest.raises(UsageError, match="learned_variance=True"):
        Hybrid()(Known(CHAIN, None), normal(2, 1), generator=seeded())


@pytest.mark.parametrize("cls", [Variational, Hybrid], ids=lambda cls: cls.__name__)
def test_impossible_values_are_refused(cls: Any) -> None:
    """One value needs no code; a weight of zero or less teaches nothing or the wrong way."""
    with pytest.raises(UsageError, match="at least 2 levels"):
        cls(levels=1)
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="vlb_weight"):
            Hybrid(vlb_weight=weight)
