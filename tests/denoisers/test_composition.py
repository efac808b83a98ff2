"""Combined models against mixtures, whose products and mixtures are mixtures again: energies, scores, and what is drawn from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import (
    Conditioned,
    Denoiser,
    GaussianMixture,
    Product,
    ProductEnergy,
    Union,
    conditioned,
    negation,
    product,
    tempered,
)
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import AnnealedLangevin, EulerMaruyama, PredictorCorrector
from scorefield.samplers.grids import LogSNR
from tests.worlds import (
    EVERY_PATH,
    RANKS,
    Shrinking,
    assert_moments,
    float64,
    gaussian,
    mixture,
    mixture_moments,
    normal,
    seeded,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


def two(path: Path) -> tuple[GaussianMixture, GaussianMixture]:
    """Two mixtures that overlap in part."""
    wide = torch.stack([float64([[0.5, 0.2], [0.2, 0.4]]), 0.3 * torch.eye(2, dtype=torch.float64)])
    return mixture(path), GaussianMixture(path, float64([0.6, 0.4]), float64([[0.6, 0.5], [-0.6, -0.6]]), wide)


def inner_time(path: Path) -> float:
    """A time that every path has."""
    return path.snap(0.4 * path.t_max)


def score_of(denoiser: Any, x: Tensor, t: float) -> Tensor:
    """−∇E by autograd."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser.energy(x, t).sum(), x)
    return -gradient


# ── energies and scores ──────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("weights", [None, (0.5, 0.5), (1.0, -0.3)])
def test_a_product_is_its_energys_denoiser(path: Path, weights: tuple[float, float] | None) -> None:
    """(M10) ŝ = −∇E at every path: the bridge from noise to product belongs to both, with the same factor."""
    composed, t = ProductEnergy(two(path), weights), inner_time(path)
    x_t = path.alpha(t) * normal(5, 2) + path.sigma(t) * normal(5, 2, seed=1)
    wanted = score_of(composed, x_t, t)
    assert (composed(x_t, t).score - wanted).abs().max() < 1e-7 * (1.0 + wanted.abs().max())


@every_path
def test_a_union_is_its_energys_denoiser(path: Path) -> None:
    """(M10) The mixture's D is the shares' mean of the parts': with shares that forget a weight it is not −∇E."""
    composed, t = Union(two(path), (1.0, 3.0)), inner_time(path)
    x_t = path.alpha(t) * normal(5, 2) + path.sigma(t) * normal(5, 2, seed=1)
    wanted = score_of(composed, x_t, t)
    assert (composed(x_t, t).score - wanted).abs().max() < 1e-7 * (1.0 + wanted.abs().max())


@every_path
def test_a_union_of_mixtures_is_the_mixture_of_all(path: Path) -> None:
    """A mixture of noised densities is the noised mixture, at every noise level."""
    one, other = two(path)
    weights = torch.cat([0.25 * one.weights / one.weights.sum(), 0.75 * other.weights / other.weights.sum()])
    means, covariances = torch.cat([one.means, other.means]), torch.cat([one.covariances, other.covariances])
    whole, t, x_t = GaussianMixture(path, weights, means, covariances), inner_time(path), normal(6, 2)
    assert torch.allclose(Union((one, other), (1.0, 3.0))(x_t, t).x0, whole(x_t, t).x0, atol=1e-9)


def test_next_to_data_a_product_is_the_product() -> None:
    """(M10) Where σ → 0 the scores add and nothing else: the bridge must be gone there."""
    for path in (VP(), EDM(), Rectified()):
        one, other = two(path)
        t, x = float(path.time_of(9.0)), one.draw(5, seeded())
        wanted = score_of(one.times(other), x, t)
        assert (product((one, other))(x, t).score - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("path", [VP(), Rectified(), EVERY_PATH["VPCosine"]], ids=["VP", "Rectified", "VPCosine"])
def test_at_the_end_of_a_path_nothing_is_divided_by_zero(path: Path) -> None:
    """Where α = 0 the product's law is the prior's, and D is finite."""
    composed = ProductEnergy(two(path))
    x_T = normal(4, 2)
    assert bool(composed(x_T, path.t_max).x0.isfinite().all())
    assert torch.allclose(score_of(composed, x_T, path.t_max), -x_T / path.sigma(path.t_max) ** 2, atol=0.1)


def test_the_closed_forms_product_is_the_product() -> None:
    """`times` against the densities themselves, up to one constant; a wrong precision or weight makes another function."""
    one, other = two(VP())
    both, x = one.times(other), normal(50, 2)
    gap = both.log_density(x, 0.0) - one.log_density(x, 0.0) - other.log_density(x, 0.0)
    assert (gap - gap.mean()).abs().max() < 1e-9
    narrow, wide = gaussian(VP()), gaussian(VP(), (0.0, 0.0), (2.0, 2.0))
    rest = narrow.times(wide, -0.5)
    gap = rest.log_density(x, 0.0) - narrow.log_density(x, 0.0) + 0.5 * wide.log_density(x, 0.0)
    assert (gap - gap.mean()).abs().max() < 1e-9
    with pytest.raises(UsageError, match="cannot be normalised"):
        wide.times(narrow, -1.0)


@every_path
def test_tempering_scales_the_energy(path: Path) -> None:
    """p^{1/T} at data: half the energy at T = 2."""
    world, x = gaussian(path), normal(4, 2)
    t = path.snap(max(path.t_min, 1e-3 * path.t_max))
    halved = score_of(world, x, t)
    assert torch.allclose(tempered(world, 2.0, spread=1e6)(x, t).score, 0.5 * halved, rtol=1e-2, atol=1e-2)


# ── what is drawn ────────────────────────────────────────────────────────────────────────────────────────────────────


def _walks(path: Path) -> dict[str, Any]:
    """A corrected walk of each kind; a move's length is .4 σ² at every level."""
    low = path.sigma(path.t_min)
    return {
        "MALA": AnnealedLangevin(40, inner_steps=20, epsilon=0.4 * low**2, metropolis=True),
        "corrector": PredictorCorrector(
            40, LogSNR(), predictor="euler-maruyama", corrector="metropolis", snr=0.45, corrector_steps=10
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("walk", ["MALA", "corrector"])
def test_a_metropolis_walk_draws_from_the_product(walk: str) -> None:
    """(M33, M39) Each level's law is left as it is, whatever the levels before were: moments of the exact product."""
    path = EDM(sigma_max=10.0)
    one, other = two(path)
    x_T = path.prior_std * normal(2000, 2, seed=4)
    drawn = _walks(path)[walk].sample(product((one, other)), x_T, generator=seeded(8))
    assert_moments(drawn, *mixture_moments(one.times(other)), errors=5.0)


def test_a_reverse_process_does_not_draw_from_a_product() -> None:
    """The product of noised densities is not the noised product: if plain sampling passed, the walk above would prove nothing."""
    path = EDM(sigma_max=10.0)
    one, other = two(path)
    drawn = EulerMaruyama(200, LogSNR()).sample(
        product((one, other)), path.prior_std * normal(2000, 2, seed=4), generator=seeded(8)
    )
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_moments(drawn, *mixture_moments(one.times(other)), errors=8.0)


@pytest.mark.slow
def test_a_metropolis_walk_draws_from_a_quotient() -> None:
    """p₁/p₂^w where it is a density: of two Gaussians it is one."""
    path = EDM(sigma_max=10.0)
    one, other = gaussian(path), gaussian(path, (0.0, 0.0), (2.0, 2.0))
    x_T = path.prior_std * normal(2000, 2, seed=5)
    drawn = _walks(path)["MALA"].sample(negation(one, other, 0.5), x_T, generator=seeded(9))
    assert_moments(drawn, *mixture_moments(one.times(other, -0.5)), errors=5.0)


# ── conditions, ranks, refusals ──────────────────────────────────────────────────────────────────────────────────────


def test_each_part_has_a_condition_of_its_own() -> None:
    """What a composition is asked with reaches only the parts that have none of their own."""
    fixed, free = Shrinking(VP()), Shrinking(VP())
    asked = torch.tensor([7, 7])
    Product((Conditioned(fixed, 3), free))(normal(2, 3), 0.5, asked)
    assert fixed.conditions[0].tolist() == [3, 3] and free.conditions[0] is asked
    assert isinstance(conditioned(fixed, None), Conditioned)


@every_path
@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_any_rank_goes_through(path: Path, shape: tuple[int, ...]) -> None:
    """One formula for points, series, pictures and volumes; the question is not changed."""
    x_t = normal(2, *shape)
    before, t = x_t.clone(), inner_time(path)
    answer = product((Shrinking(path), Shrinking(path)), (0.7, 0.3))(x_t, t)
    assert torch.allclose(answer.x0, Shrinking(path)(x_t, t).x0) and torch.equal(x_t, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product(()), "at least one"),
        (lambda: Product((mixture(VP()), mixture(EDM()))), "one path"),
        (lambda: Product(two(VP()), (1.0,)), "as many finite weights"),
        (lambda: Product(two(VP()), spread=0.0), "positive, finite spread"),
        (lambda: Union(two(VP()), (1.0, -1.0)), "positive weights"),
        (lambda: _build(Union, mixture(VP()), Shrinking(VP())), "draw from each part by itself"),
        (lambda: _build(ProductEnergy, mixture(VP()), Shrinking(VP())), "use Product"),
        (lambda: negation(*two(VP()), 0.0), "positive, finite weight"),
        (lambda: tempered(mixture(VP()), -1.0), "positive, finite temperature"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    """Each with the fix."""
    with pytest.raises(UsageError, match=message):
        make()


def _build(kind: type[Union | ProductEnergy], *parts: Denoiser) -> None:
    """Construct as a user does, where nobody but the class itself checks types."""
    composed = object.__new__(kind)
    object.__setattr__(composed, "denoisers", parts)
    composed.__post_init__()
