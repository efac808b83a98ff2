"""DDRM where its draws are known: from the posterior itself if coordinates are independent or measured equally well  (M42)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.editing.exact import conditioned
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import DDRM, DPS
from scorefield.editing.methods.ddrm import Spectrum
from scorefield.editing.operators import Dense
from scorefield.editing.posterior import Posterior
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import Ancestral, LogSNR
from scorefield.streams import SampleStreams
from tests.worlds import assert_moments, float64, mixture, mixture_moments, normal, seeded, sliced_wasserstein

PATHS = [VP(), EDM(), Rectified()]


def draws(world: GaussianMixture, measurement: Measurement, method: DDRM, count: int, steps: int = 250) -> Tensor:
    """By DDRM's own walk, uniform in log-SNR."""
    streams = SampleStreams.numbered(5, 0, count)
    x_T = world.path.prior_std * streams.normal(torch.zeros(count, world.means.shape[1]).double(), 0)
    walker = method.sampler(Ancestral(steps=steps, grid=LogSNR()))
    return walker.sample(Posterior(world, measurement, method), x_T, generator=streams)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_denoising_draws_from_the_posterior_of_any_data(path: Path) -> None:
    """All coordinates known equally well: a mixture's moments, and the distance of exact draws  (M5)."""
    world = mixture(path)
    measurement = Measurement(Dense(torch.eye(2).double()), float64([[0.1, 0.3]]), 0.8)
    exact, count = conditioned(world, measurement), 2000
    found = draws(world, measurement, DDRM(), count)
    assert_moments(found, *mixture_moments(exact), errors=4.5)
    reference = exact.draw(count, seeded(1))
    floors = [sliced_wasserstein(exact.draw(count, seeded(2 + k)), exact.draw(count, seeded(50 + k))) for k in range(8)]
    assert sliced_wasserstein(found, reference) < float64(floors).mean() + 4.0 * float64(floors).std()


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_coordinate_is_met_from_its_own_level_on(path: Path) -> None:
    """Where σ/α ≥ σ_y/S, whatever α is: τ of 1.2 and 2.5 about σ/α = 2, and one that is not measured  (M42)."""
    measurement = Measurement(Dense(float64([[0.5, 0.0, 0.0], [0.0, 0.24, 0.0]])), float64([[0.4, -0.3]]), 0.6)
    world, x_t, t = independent(path), normal(4, 3), path.time_of(-math.log(2.0))
    wanted = world(x_t, t).x0.clone()
    wanted[:, 0] = 0.8
    assert torch.allclose(Posterior(world, measurement, DDRM())(x_t, t).x0, wanted, atol=1e-10)


def independent(path: Path) -> GaussianMixture:
    """Three independent Gaussian coordinates."""
    return GaussianMixture(
        path, float64([1.0]), float64([[0.3, -0.5, 0.2]]), torch.diag(float64([1.0, 0.4, 0.7]))[None]
    )


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_independent_coordinates_are_drawn_exactly(path: Path) -> None:
    """Known well, badly and not at all: mean and covariance of Bayes' rule  (M5, M42)."""
    world = independent(path)
    operator = Dense(float64([[2.0, 0.0, 0.0], [0.0, 0.3, 0.0]]))
    measurement = Measurement(operator, float64([[1.5, 0.4]]), 0.4)
    found = draws(world, measurement, DDRM(eta=1.0, is_reverse=True), 1000, steps=600)
    assert_moments(found, *mixture_moments(conditioned(world, measurement)))


def test_a_measurement_met_again_has_the_noise_of_its_time() -> None:
    """α ȳ with what is missing to σ, where y is the sharper; other coordinates stay  (M1)."""
    x_0, x_t = float64([[0.3, -0.2, 0.5]]), normal(20_000, 3, seed=4)
    operator = Dense(float64([[2.0, 0.0, 0.0], [0.0, 0.1, 0.0]]))
    y = operator(x_0) + 0.2 * normal(20_000, 2, seed=1)
    alpha, sigma = 0.7, 0.6
    met = Spectrum.of(Measurement(operator, y, 0.2), x_t).met(x_t, alpha, sigma, 0.2, normal(20_000, 3, seed=2))
    assert torch.allclose(met[:, 1:], x_t[:, 1:], atol=1e-12)  # known up to 2, and not at all
    assert_moments(met[:, :1], alpha * x_0[0, :1], float64([[sigma**2]]))


def test_repeats_let_dps_decide_again() -> None:
    """Two modes that the measurement tells apart only where little noise is left: more repeats, more of the draws in the right one."""
    means = float64([[1.0, 0.12], [-1.0, -0.12]])
    world = GaussianMixture(VP(), float64([0.5, 0.5]), means, (0.0004 * torch.eye(2).double()).expand(2, 2, 2))
    measurement = Measurement(Dense(float64([[0.0, 1.0]])), float64([[0.12]]), 0.0)
    shares = []
    for repeats in (1, 4):
        method, count = DPS(zeta=0.3, data_std=0.7, repeats=repeats), 400
        streams = SampleStreams.numbered(5, 0, count)
        walker = method.sampler(Ancestral(steps=60, grid=LogSNR()))
        found = walker.sample(
            Posterior(world, measurement, method), streams.normal(torch.zeros(count, 2).double(), 0), generator=streams
        )
        shares.append(float((found[:, 0] > 0.5).double().mean()))
    assert shares[1] > shares[0] + 0.05, shares


def test_a_constant_share_of_new_noise_is_too_narrow_by_its_formula() -> None:
    """What is not measured keeps (1 + √(1−η²))/2 of a white Gaussian's variance as steps grow; the reverse process's share keeps all."""
    world, eta = independent(VP()), 0.85
    measurement = Measurement(Dense(float64([[1.0, 0.0, 0.0]])), float64([[0.5]]), 0.3)
    narrow = draws(world, measurement, DDRM(eta=eta), 1500, steps=700)[:, 2].var() / 0.7
    assert float(narrow) == pytest.approx((1.0 + math.sqrt(1.0 - eta**2)) / 2.0, abs=4.0 * math.sqrt(2.0 / 1500))
    right = draws(world, measurement, DDRM(eta=eta, is_reverse=True), 1500, steps=300)[:, 2].var() / 0.7
    assert float(right) == pytest.approx(1.0, abs=4.0 * math.sqrt(2.0 / 1500))
