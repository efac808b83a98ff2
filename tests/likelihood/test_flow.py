"""The probability flow's density: exact on closed-form worlds, on every path and rank, and each sample by itself."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.denoisers import GaussianMixture
from scorefield.errors import UsageError
from scorefield.likelihood.flow import Flow
from scorefield.likelihood.reference import Reference
from scorefield.likelihood.subject import last_time
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.streams import SampleStreams
from tests.likelihood.worlds import BITS, frame_of, toy
from tests.worlds import EVERY_PATH, float64, gaussian, gaussian_flow, mixture, normal, seeded


@pytest.mark.parametrize(("name", "count"), [("mixture-2d", 400), ("mixture-64d", 40)])
def test_density_of_the_built_in_mixtures(name: str, count: int) -> None:
    """Mean error below 0.001 and none above 0.005 bits/dim, at fewer than 100 evaluations (M40)."""
    world = toy(name, EDM())
    x = world.draw(count, seeded(1))
    found = Flow().log_density(world, x, 0.002, reference=frame_of(world))
    errors = (found.log_density - world.log_density(x, 0.002)) / x.shape[1] * BITS
    assert abs(float(errors.mean())) < 0.001 and float(errors.abs().max()) < 0.005
    assert float(found.evaluations.mean()) < 100.0


@pytest.mark.parametrize("name", ["mixture-2d", "mixture-64d"])
def test_sixty_evaluations_give_the_mean_to_fifteen_ten_thousandths(name: str) -> None:
    """A loose tolerance has errors of both signs and hardly any in the mean."""
    world = toy(name, EDM())
    x = world.draw(300 if name == "mixture-2d" else 60, seeded(1))
    found = Flow(tolerance=6e-4).log_density(world, x, 0.002, reference=frame_of(world))
    errors = (found.log_density - world.log_density(x, 0.002)) / x.shape[1] * BITS
    assert float(found.evaluations.mean()) <= 60.0
    assert abs(float(errors.mean())) < 0.0015


@pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
def test_density_on_every_path_is_the_mixtures(path: Path) -> None:
    """α may vary, fall to nothing, or be 1: the change of variables must hold for each (M40).

    The path's end is not quite the prior; what that changes is taken out by the exact densities there.
    """
    world = mixture(path)
    t, end = path.t_min, last_time(path)
    x = path.perturb(world.draw(20, seeded(1)), t, normal(20, 2))
    found = Flow(1e-6).log_density(world, x, t, reference=frame_of(world))
    prior = torch.distributions.Normal(0.0, path.prior_std).log_prob(found.latent).sum(1)
    wanted = world.log_density(x, t) + prior - world.log_density(found.latent, end)
    assert torch.allclose(found.log_density, wanted, rtol=0.0, atol=2e-4)


def test_a_gaussian_is_solved_by_its_frame_alone() -> None:
    """Nothing is left to integrate: the flow's end is the formula's, at seven evaluations an attempt or two."""
    world = gaussian(VP())
    x = 0.9 * normal(5, 2)
    found = Flow().log_density(world, x, 1e-3, reference=frame_of(world))
    assert torch.allclose(found.latent, gaussian_flow(world, x, 1e-3, 1.0), atol=1e-9)
    assert float(found.evaluations.max()) <= 19.0


def test_the_frame_changes_the_price_and_not_the_answer() -> None:
    """A frame is a choice of variables: any must give the same density (M40)."""
    world = mixture(EDM())
    x = world.draw(20, seeded(1))
    frames = [frame_of(world), None, Reference(float64([1.0, -2.0]), float64([3.0]), float64([[0.6, 0.8]]), 0.3)]
    found = [Flow(1e-7).log_density(world, x, 0.01, reference=frame).log_density for frame in frames]
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=0.0, atol=2e-5)


def test_pictures_are_as_good_as_vectors() -> None:
    """Rank is the denoiser's business alone."""
    flat = mixture(EDM())
    x = flat.draw(6, seeded(1))
    one = Flow().log_density(flat, x, 0.01)
    other = Flow().log_density(flat, x.view(6, 1, 2, 1), 0.01)
    assert torch.equal(one.log_density, other.log_density) and other.latent.shape == (6, 1, 2, 1)


def test_a_sample_is_measured_alone_as_in_a_batch() -> None:
    """Steps and probes of its own: what a batch mixes would make a ranking depend on who is beside whom."""
    world = toy("mixture-64d", EDM())
    x = world.draw(6, seeded(1))
    flow = Flow(1e-3, probes=2)
    whole = flow.log_density(world, x, 0.002, reference=frame_of(world), streams=SampleStreams.numbered(5, 0, 6))
    alone = flow.log_density(world, x[4:5], 0.002, reference=frame_of(world), streams=SampleStreams.numbered(5, 4, 1))
    assert torch.allclose(whole.log_density[4:5], alone.log_density, atol=1e-8)
    assert float(whole.evaluations[4]) == float(alone.evaluations[0])


def test_probes_have_no_bias() -> None:
    """The mean over many draws of the probes is the exact trace's density (M40)."""
    world, count = mixture(EDM()), 400
    x = world.draw(1, seeded(1)).repeat(count, 1)
    exact = Flow().log_density(world, x[:1], 0.01, reference=frame_of(world)).log_density
    streams = SampleStreams.numbered(0, 0, count)
    found = Flow(probes=1).log_density(world, x, 0.01, reference=frame_of(world), streams=streams).log_density
    assert abs(float(found.mean() - exact)) < 4.0 * float(found.std()) / count**0.5


def test_single_precision_costs_a_few_digits_and_no_more() -> None:
    """Only the denoiser is asked in float32; the state and the density stay in float64."""

    class Single(GaussianMixture):  # type: ignore[misc]  # a dtype check around a final class
        def __call__(self, x_t, t, condition=None):
            assert x_t.dtype == torch.float32
            return super().__call__(x_t, t, condition)

    world = mixture(EDM())
    x = world.draw(20, seeded(1))
    single = Single(world.path, world.weights, world.means, world.covariances)
    one = Flow().log_density(world, x, 0.01).log_density
    other = Flow().log_density(single, x, 0.01, dtype=torch.float32).log_density
    assert torch.allclose(one, other, atol=2e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Flow(tolerance=0.0), "tolerance"),
        (lambda: Flow(probes=-1), "probes"),
        (lambda: Flow(probes=1).log_density(mixture(EDM()), normal(2, 2), 0.01), "streams"),
        (lambda: Flow().log_density(mixture(EDM()), normal(2, 2), 90.0), "between 0.002 and 80"),
        (lambda: Flow().log_density(mixture(Rectified()), normal(2, 2), 0.0), "between 1e-05"),
    ],
)
def test_wrong_use_is_refused(make, said: str) -> None:
    """A time that is not on the path would give the density of something else."""
    with pytest.raises(UsageError, match=said):
        make()


def test_the_flow_and_its_density_agree() -> None:
    """∫ p = 1 on the line, by the flow's own density at a grid of points (M40)."""
    world = gaussian(EDM(), (0.3,), (0.2,))
    points = torch.linspace(-3.0, 3.5, 300, dtype=torch.float64)[:, None]
    density = Flow().log_density(world, points, 0.01).log_density.exp()
    assert math.isclose(float(torch.trapezoid(density, points[:, 0])), 1.0, abs_tol=2e-3)
