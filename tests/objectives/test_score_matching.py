"""Explicit, implicit, sliced and denoising score matching are one loss up to a constant, by sampling closed-form densities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Denoiser, GaussianMixture, NetworkDenoiser, Prediction, Score
from scorefield.errors import UsageError
from scorefield.objectives import (
    WEIGHTINGS,
    Denoising,
    Draws,
    Explicit,
    FiniteDifferenceSliced,
    Implicit,
    LogUniform,
    Objective,
    Simple,
    Sliced,
    Uniform,
    Weighting,
)
from scorefield.paths import VP, Discrete, Path, Rectified
from tests.worlds import assert_mean, float64, mixture, normal, seeded

PATHS = [VP(t_min=0.02), Rectified(t_min=0.05), Discrete(steps=50)]
some_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
PROJECTIONS = ["rademacher", "gaussian", "sphere"]
MODELS = ([0.7, 0.3], [1.4, -0.5], [0.0, 0.2])
COUNT = 20_000


def model(theta: Any, path: Path) -> NetworkDenoiser:
    """A score in the plane, linear in two parameters and wrong for the mixture at any value; its Jacobian is not symmetric."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        return -theta[0] * x + theta[1] * torch.sin(2.0 * x + x.flip(1))

    return NetworkDenoiser(network, path, Score())


def kinds(path: Path, times: Any = None) -> dict[str, Objective]:
    """Every form, with the same weighting and the same times."""
    law = times or LogUniform()
    return {
        "explicit": Explicit(mixture(path), times=law),
        "implicit": Implicit(times=law),
        "sliced": Sliced(variance_reduced=False, times=law),
        "reduced": Sliced(times=law),
        "differences": FiniteDifferenceSliced(step=0.01, times=law),
        "denoising": Denoising(times=law),
    }


def losses(objective: Objective, denoiser: Denoiser, path: Path) -> Tensor:
    """Per-sample losses of many samples; the same data, times and noise whatever the objective."""
    x_0 = mixture(path).draw(COUNT, seeded(1))
    common = Denoising(times=objective.times).draw(x_0, seeded(2))
    drawn = objective.draw(x_0, seeded(3))
    found = objective.losses(denoiser, x_0, Draws(common.u, common.noise, drawn.slices)).per_sample.detach()
    return found / 2.0 if isinstance(objective, Denoising) else found  # which has no ½


# ── one loss up to a constant ────────────────────────────────────────────────────────────────────────────────────────


@some_paths
@pytest.mark.parametrize("kind", ["implicit", "sliced", "reduced", "differences", "denoising"])
def test_differs_from_explicit_by_a_constant(path: Path, kind: str) -> None:
    """Any form minus the explicit one has the same mean for every model: integration by parts (M27, M28, M29, M30)."""
    forms = kinds(path)
    gaps = [losses(forms[kind], model(m, path), path) - losses(forms["explicit"], model(m, path), path) for m in MODELS]
    for gap in gaps[1:]:
        assert_mean(gap - gaps[0], 0.0)
    assert float(losses(forms["explicit"], model(MODELS[0], path), path).mean()) > 0.02


@some_paths
@pytest.mark.parametrize("kind", ["implicit", "sliced", "reduced", "differences"])
def test_constant_is_half_the_fisher_information(path: Path, kind: str) -> None:
    """Explicit − implicit = ½ E λ‖∇log p_t‖² over the dimension, λ = σ²: the constant itself, in closed form (M27, M28, M31)."""
    form, explicit, world = kinds(path)[kind], kinds(path)["explicit"], mixture(path)
    x_0 = world.draw(COUNT, seeded(1))
    t, _ = form.times.times(path, Denoising(times=form.times).draw(x_0, seeded(2)).u)
    x_t = path.perturb(x_0, t, Denoising(times=form.times).draw(x_0, seeded(2)).noise)
    constant = 0.5 * path.sigma(t) ** 2 * world(x_t, t).score.square().sum(1) / 2.0
    denoiser = model(MODELS[0], path)
    assert_mean(losses(explicit, denoiser, path) - losses(form, denoiser, path) - constant, 0.0)


@some_paths
@pytest.mark.parametrize("kind", ["implicit", "sliced", "reduced", "differences", "denoising"])
def test_gradient_is_the_explicit_ones(path: Path, kind: str) -> None:
    """The slope of any form along any parameter is the explicit form's, so they train the same (M28, M29, M30)."""
    forms = kinds(path)
    for along in ([0.5, 0.0], [0.0, 0.5]):  # a square's central difference is its slope, whatever the width
        ahead, behind = (float64([0.7, 0.3]) + sign * float64(along) for sign in (1.0, -1.0))
        slope, wanted = (
            losses(forms[name], model(ahead, path), path) - losses(forms[name], model(behind, path), path)
            for name in (kind, "explicit")
        )
        assert_mean(slope - wanted, 0.0)
        assert float(wanted.mean().abs()) > 0.005


def test_the_exact_score_has_the_least_implicit_loss() -> None:
    """With the same random numbers the exact denoiser beats shifted and scaled ones, without a target (M28)."""

    @dataclass(frozen=True, eq=False)
    class Off(Denoiser):
        world: GaussianMixture
        scale: float
        path: Path

        def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
            prediction = self.world(x_t, t)
            return replace(prediction, x0=self.scale * prediction.x0)

    path = VP(t_min=0.02)
    world = mixture(path)
    exact = losses(Implicit(), world, path)
    for scale in (0.8, 1.2):
        assert float((losses(Implicit(), Off(world, scale, path), path) - exact).mean()) > 0.0


# ── each by itself ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cls", WEIGHTINGS, ids=lambda cls: cls.__name__)
@some_paths
def test_weighting_is_that_of_the_denoised_data(path: Path, cls: type[Weighting]) -> None:
    """Explicit = ½ w ‖D* − D‖² over the dimension for any w: the score's factor is w σ²/SNR (M6, M27, M31)."""
    objective, world, denoiser = Explicit(mixture(path), weighting=cls()), mixture(path), model(MODELS[0], path)
    x_0 = world.draw(50, seeded(1))
    draws = objective.draw(x_0, seeded(2))
    found = objective.losses(denoiser, x_0, draws)
    x_t = path.perturb(x_0, found.t, draws.noise)
    error = (world(x_t, found.t).x0 - denoiser(x_t, found.t).x0).square().sum(1)
    assert torch.allclose(found.per_sample, 0.25 * cls().weight(path, found.t) * error, rtol=1e-6)


def test_implicit_is_trace_and_square() -> None:
    """λ(tr ∇s + ½‖s‖²)/D of three coordinates, the Jacobian by autograd's own tool, λ = σ² (M28, M31)."""
    path, x_0 = VP(), normal(4, 3)
    objective, denoiser = Implicit(), model([0.7, 0.3], path)
    draws = objective.draw(x_0, seeded())
    found = objective.losses(denoiser, x_0, draws)
    x_t = path.perturb(x_0, found.t, draws.noise)
    for k in range(4):
        t = found.t[k : k + 1]

        def score(x: Tensor, t: Tensor = t) -> Tensor:
            return denoiser(x[None], t).score[0]

        jacobian = torch.autograd.functional.jacobian(score, x_t[k])
        wanted = float(path.sigma(t)) ** 2 * (jacobian.trace() + 0.5 * score(x_t[k]).square().sum()) / 3.0
        assert torch.allclose(found.per_sample[k], wanted, rtol=1e-8)


@pytest.mark.parametrize("projections", PROJECTIONS)
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_slices_mean_is_the_trace(projections: str, variance_reduced: bool) -> None:
    """E_v of the sliced integrand is the implicit one at the same points, for each law of directions (M29)."""
    path = VP()
    x_0 = normal(3, 2).repeat_interleave(4000, 0)
    common = Implicit().draw(x_0[::4000], seeded())
    u, noise = common.u.repeat_interleave(4000, 0), common.noise.repeat_interleave(4000, 0)
    objective = Sliced(variance_reduced, projections=projections)
    v = objective.draw(x_0, seeded(4)).slices
    denoiser = model(MODELS[0], path)
    sliced = objective.losses(denoiser, x_0, Draws(u, noise, v)).per_sample.detach()
    exact = Implicit().losses(denoiser, x_0, Draws(u, noise)).per_sample.detach()
    for point in range(3):
        assert_mean((sliced - exact)[point * 4000 : (point + 1) * 4000], 0.0)


@pytest.mark.parametrize("projections", PROJECTIONS)
def test_directions_are_white(projections: str) -> None:
    """E v vᵀ = I, or the trace would be scaled; fixed lengths where the law has one (M29)."""
    v = Sliced(slices=2, projections=projections).draw(torch.zeros(20_000, 3, dtype=torch.float64), seeded()).slices
    assert v is not None
    assert v.shape == (20_000, 2, 3)
    outer = (v[:, :, :, None] * v[:, :, None, :]).mean(0)
    assert torch.allclose(outer, torch.eye(3, dtype=torch.float64).expand(2, 3, 3), atol=0.05)  # 5 standard errors
    lengths = v.norm(dim=2)
    assert (float(lengths.std()) < 1e-9) == (projections != "gaussian")
    assert float((v[:, 0] * v[:, 1]).mean().abs()) < 0.03


def test_more_slices_and_the_reduced_form_have_less_variance() -> None:
    """At one point the loss varies less over the directions; ½‖s‖² helps where s is large beside its slope (M29)."""
    path, x_0 = VP(), 4.0 * normal(1, 2).expand(4000, 2)
    u, noise = float64([0.5]).expand(4000), 4.0 * normal(1, 2, seed=1).expand(4000, 2)

    def spread(objective: Sliced) -> float:
        draws = Draws(u, noise, objective.draw(x_0, seeded(5)).slices)
        return float(objective.losses(model(MODELS[0], path), x_0, draws).per_sample.detach().std())

    plain = Sliced(variance_reduced=False, projections="gaussian")
    assert spread(replace(plain, slices=4)) == pytest.approx(0.5 * spread(plain), rel=0.1)
    assert spread(replace(plain, variance_reduced=True)) < 0.5 * spread(plain)


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_differences_converge_to_slices(variance_reduced: bool) -> None:
    """With the same directions the error falls as h²: a factor of 100 for a tenth of the step (M29; Pang et al. 2020)."""
    path, x_0 = VP(t_min=0.1), normal(200, 2)
    exact = Sliced(variance_reduced, slices=2)
    draws, denoiser = exact.draw(x_0, seeded(2)), model(MODELS[0], path)
    wanted = exact.losses(denoiser, x_0, draws).per_sample
    errors = [
        FiniteDifferenceSliced(step, variance_reduced, 2).losses(denoiser, x_0, draws).per_sample - wanted
        for step in (0.2, 0.02)
    ]
    coarse, fine = (float(error.detach().abs().mean()) for error in errors)
    assert 80.0 < coarse / fine < 120.0
    assert fine < 1e-3


def test_levels_are_geometric() -> None:
    """The default law of times is even in log σ/α, as NCSN's σ₁ … σ_L (M31)."""
    for objective in (Implicit(), Sliced(), FiniteDifferenceSliced(), Explicit(mixture(VP()))):
        assert objective.times == LogUniform()
        assert objective.weighting == Simple()


def test_reference_on_another_path_is_refused() -> None:
    """Its score at t is that of another noise level."""
    with pytest.raises(UsageError, match="on the denoiser's path"):
        Explicit(mixture(VP()))(model(MODELS[0], Rectified()), normal(2, 2), generator=seeded())


@pytest.mark.parametrize("cls", [Sliced, FiniteDifferenceSliced], ids=lambda cls: cls.__name__)
def test_impossible_values_are_refused(cls: Any) -> None:
    """No direction is no loss; a misspelt law would be another one; a step of zero divides by it."""
    with pytest.raises(UsageError, match="between 1 and 1024 slices, got 0"):
        cls(slices=0)
    with pytest.raises(UsageError, match="rademacher, gaussian, sphere, got 'normal'"):
        cls(projections="normal")
    for step in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="step in"):
            FiniteDifferenceSliced(step=step)
    with pytest.raises(UsageError, match="no directions"):
        cls().losses(model(MODELS[0], VP()), normal(2, 2), Denoising(times=Uniform()).draw(normal(2, 2), seeded()))
