"""Denoising score matching: its minimiser, its minimum and its gradient are those of the exact score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Denoiser, GaussianMixture, NetworkDenoiser, Prediction, Score
from scorefield.objectives import (
    WEIGHTINGS,
    Denoising,
    ImportanceSampled,
    LogNormal,
    Simple,
    Uniform,
    Weighting,
)
from scorefield.paths import VP, Discrete, Path, Rectified
from tests.worlds import RANKS, Shrinking, assert_mean, float64, line_mixture, mixture, normal, seeded

every_weighting = pytest.mark.parametrize("cls", WEIGHTINGS, ids=lambda cls: cls.__name__)
PATHS = [VP(t_min=0.02), Rectified(t_min=0.05), Discrete(steps=50)]
some_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)


@dataclass(frozen=True, eq=False)
class Off(Denoiser):
    """The exact denoiser, scaled and shifted."""

    world: GaussianMixture
    scale: float
    shift: float

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The world's path."""
        return self.world.path

    def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
        """A slightly wrong answer."""
        prediction = self.world(x_t, t)
        return replace(prediction, x0=self.scale * prediction.x0 + self.shift)


def score_of(theta: Tensor, x: Tensor) -> Tensor:
    """A model of the score, linear in two parameters and wrong for the mixture at any value of them."""
    return -theta[0] * x + theta[1] * torch.sin(2.0 * x)


def losses_of(theta: Tensor, path: Path, x_0: Tensor) -> tuple[Tensor, Tensor]:
    """Denoising and explicit score matching of that model: per-sample losses at the same x_t, weighted by σ²."""
    objective = Denoising(weighting=Simple(), times=Uniform())
    draws = objective.draw(x_0, seeded(2))
    found = objective.losses(NetworkDenoiser(lambda x, label: score_of(theta, x), path, Score()), x_0, draws)
    x_t = path.perturb(x_0, found.t, draws.noise)
    error = score_of(theta, x_t) - line_mixture(path)(x_t, found.t).score
    return found.per_sample, path.sigma(found.t) ** 2 * error.square()[:, 0]


# ── what is minimised ────────────────────────────────────────────────────────────────────────────────────────────────


@some_paths
@every_weighting
def test_exact_denoiser_makes_the_loss_stationary(path: Path, cls: type[Weighting]) -> None:
    """E[w (x₀ − D) h(x_t, t)] = 0 for any h under every weighting: the minimiser is E[x₀ | x_t] (M30, M31)."""
    world, objective = line_mixture(path), Denoising()
    x_0 = world.draw(50_000, seeded(1))
    draws = objective.draw(x_0, seeded(2))
    t, _ = objective.times.times(path, draws.u)
    x_t = path.perturb(x_0, t, draws.noise)
    residual = cls().weight(path, t)[:, None] * (x_0 - world(x_t, t).x0)
    for h in (torch.ones_like(x_t), x_t, torch.sin(3.0 * x_t), t[:, None] * x_t):
        assert_mean(residual * h, 0.0)


@some_paths
@every_weighting
def test_any_other_denoiser_has_a_greater_loss(path: Path, cls: type[Weighting]) -> None:
    """With the same random numbers, the exact denoiser beats shifted and scaled ones under every weighting (M30)."""
    world, objective = line_mixture(path), Denoising(weighting=cls())
    x_0 = world.draw(50_000, seeded(1))
    draws = objective.draw(x_0, seeded(2))
    best = objective.losses(world, x_0, draws).per_sample.mean()
    for scale, shift in ((1.0, 0.1), (1.0, -0.1), (1.1, 0.0), (0.9, 0.0)):
        assert objective.losses(Off(world, scale, shift), x_0, draws).per_sample.mean() > best


@some_paths
def test_least_loss_is_the_posterior_variance(path: Path) -> None:
    """At the exact denoiser the loss is E tr Cov[x₀ | x_t] times w over the dimension: nothing can train below it (M17)."""
    world, objective = mixture(path), Denoising()
    x_0 = world.draw(50_000, seeded(1))
    draws = objective.draw(x_0, seeded(2))
    found = objective.losses(world, x_0, draws)
    covariance = world.covariance(path.perturb(x_0, found.t, draws.noise), found.t)
    least = Simple().weight(path, found.t) * covariance.diagonal(dim1=1, dim2=2).mean(1)
    assert_mean(found.per_sample - least, 0.0)


@some_paths
def test_gradient_is_explicit_score_matchings(path: Path) -> None:
    """∇ of ½E‖s(x̃) + (x̃ − x)/σ²‖² and of ½E‖s − ∇log p_t‖², weighted by σ² over all levels, agree (M30, M31)."""
    x_0, theta = line_mixture(path).draw(50_000, seeded(1)), float64([0.7, 0.3])
    for along in float64([[1.0, 0.0], [0.0, 1.0]]):  # a square's central difference is its slope, whatever the width
        ahead, behind = (torch.stack(losses_of(theta + step * along, path, x_0)) for step in (0.5, -0.5))
        denoising, explicit = ahead - behind
        assert_mean(denoising - explicit, 0.0)
        assert float(explicit.mean().abs()) > 0.005


@some_paths
def test_losses_differ_by_a_constant(path: Path) -> None:
    """Denoising minus explicit score matching is the same for every model, and is not zero (M30)."""
    x_0 = line_mixture(path).draw(50_000, seeded(1))
    gaps = [torch.subtract(*losses_of(float64(theta), path, x_0)) for theta in ([0.7, 0.3], [1.4, -0.5], [0.0, 0.0])]
    for gap in gaps[1:]:
        assert_mean(gap - gaps[0], 0.0)
    assert float(gaps[0].mean()) > 0.01


# ── one batch ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_loss_a_sample_at_every_rank(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """w(t) ‖x₀ − D‖² per dimension, in the batch's dtype, whatever its rank; the same bits from the same generator (M17)."""
    x_0, denoiser = normal(1, *shape).to(dtype), Shrinking(VP())
    draws = Denoising().draw(x_0, seeded(3))
    found = Denoising().losses(denoiser, x_0, draws)
    x_t = VP().perturb(x_0, found.t, draws.noise)
    wanted = float(VP().log_snr(float(found.t)) * 2.0)
    error = (x_0 - denoiser(x_t, found.t).x0).double().square().mean()
    assert (found.per_sample.shape, found.per_sample.dtype) == ((1,), dtype)
    assert float(found.per_sample) == pytest.approx(float(error * float64(wanted).exp()), rel=1e-5)
    assert torch.equal(Denoising()(denoiser, x_0, generator=seeded(3)), found.per_sample)


def test_a_slice_of_a_batch_has_the_slices_losses() -> None:
    """Gradient accumulation and many processes train on slices: the numbers must be those of the whole batch."""
    objective, world = Denoising(times=LogNormal()), mixture(VP())
    x_0 = world.draw(12, seeded(1))
    draws = objective.draw(x_0, seeded(2))
    whole = objective.losses(world, x_0, draws).per_sample
    parts = [objective.losses(world, x_0[part], draws[part]).per_sample for part in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12)


def test_draws_are_spread_over_the_whole_batch() -> None:
    """Stratified numbers cover the batch evenly before it is sliced, and the noise is of the data's dtype."""
    draws = Denoising().draw(torch.zeros(64, 3), seeded())
    assert (draws.u.dtype, draws.noise.dtype, draws.noise.shape) == (torch.float64, torch.float32, (64, 3))
    assert (draws.u * 64).floor().unique().numel() == 64
    assert torch.equal(Denoising().draw(torch.zeros(64, 3), seeded()).noise, draws.noise)


def test_condition_reaches_the_denoiser() -> None:
    """Labels that are dropped on the way train an unconditional model."""

    class Labelled(torch.nn.Module):
        given: Any = None

        def forward(self, x: Tensor, label: Tensor, condition: Any) -> Tensor:
            self.given = condition
            return x

    network, labels = Labelled(), torch.tensor([1, 0, 2])
    Denoising()(NetworkDenoiser(network, VP(), Score()), torch.randn(3, 2), labels, seeded())
    assert network.given is labels


def test_what_is_logged() -> None:
    """t and log σ/α belong together; the losses without importance are detached and are what importance divides out."""
    law = ImportanceSampled(strata=4, depth=1)
    history = law.empty_history().updated(torch.arange(4), float64([1.0, 2.0, 3.0, 4.0]))
    world = mixture(VP())
    x_0 = world.draw(64, seeded(1)).requires_grad_()
    objective = Denoising(times=law)
    found = objective.losses(world, x_0, objective.draw(x_0, seeded(2)), history=history)
    importance = 1.0 / (4 * history.probabilities()[law.stratum(VP(), found.t)])
    assert torch.allclose(found.log_sigma, (VP().sigma(found.t) / VP().alpha(found.t)).log(), rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.per_sample, found.unweighted_by_importance * importance, rtol=1e-9)
    assert found.per_sample.requires_grad
    assert not found.unweighted_by_importance.requires_grad


def test_importance_keeps_the_mean_loss_and_its_minimiser() -> None:
    """Whatever the history, the mean is the uniform law's within 4 standard errors (M31)."""
    law = ImportanceSampled(strata=4, depth=1)
    history = law.empty_history().updated(torch.arange(4), float64([1.0, 0.2, 0.3, 2.0]))
    world = line_mixture(VP(t_min=0.02))
    x_0 = world.draw(50_000, seeded(1))
    plain = Denoising()
    weighted = Denoising(times=law)
    one = plain.losses(world, x_0, plain.draw(x_0, seeded(2))).per_sample
    other = weighted.losses(world, x_0, weighted.draw(x_0, seeded(3)), history=history).per_sample
    assert_mean(one - other, 0.0)
