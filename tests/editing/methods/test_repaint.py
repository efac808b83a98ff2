"""RePaint where the measurement has noise: the path's own, so that nothing is approximated but what replacement is without."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.editing.exact import conditioned
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import RePaint
from scorefield.editing.methods.repaint import _pinned_until, _upwards
from scorefield.editing.operators import Dense, Mask, Matrixless
from scorefield.editing.posterior import Posterior
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import Ancestral, LogSNR
from scorefield.streams import SampleStreams
from tests.worlds import assert_moments, float64, gaussian, mixture, normal, seeded, sliced_wasserstein

PATHS = [VP(), EDM(), Rectified()]


def draws(world: GaussianMixture, measurement: Measurement, method: RePaint, count: int, steps: int) -> Tensor:
    """By RePaint's own sampler on a grid uniform in log-SNR."""
    streams = SampleStreams.numbered(3, 0, count)
    x_T = world.path.prior_std * streams.normal(torch.zeros(count, 2).double(), 0)
    sampler = method.sampler(Ancestral(steps=steps, grid=LogSNR()))
    return sampler.sample(Posterior(world, measurement, method), x_T, generator=streams)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(("jump", "repeats"), [(1, 1), (1, 3), (20, 2)])
def test_where_all_is_measured_the_draws_are_the_posteriors(path: Path, jump: int, repeats: int) -> None:
    """Of a mixture, known equally well in every coordinate: noise taken for data, ȳ forgotten on the way up, or let go steps before its τ, would be far off  (M5, M42)."""
    world = GaussianMixture(path, float64([0.6, 0.4]), float64([[1.0, 1.0], [-1.0, -1.0]]), float64([[0.1, 0.4], [0.3, 0.1]]).diag_embed())  # fmt: skip
    measurement = Measurement(Dense(float64([[0.8, 0.0], [0.0, 0.8]])), float64([[0.3, 0.2]]), 0.6)
    exact, count = conditioned(world, measurement), 1000
    floors = float64(
        [sliced_wasserstein(exact.draw(count, seeded(2 + k)), exact.draw(count, seeded(50 + k))) for k in range(8)]
    )
    found = draws(world, measurement, RePaint(jump, repeats), count, 150)
    assert sliced_wasserstein(found, exact.draw(count, seeded(1))) < floors.mean() + 5.0 * floors.std()


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_repeats_bring_noisy_measurements_nearer_too(noise: float) -> None:
    """Correlated data of which one half is seen with noise: the other half learns of it by repeats alone."""
    world = GaussianMixture(VP(), float64([1.0]), float64([[0.0, 0.0]]), float64([[[1.0, 0.9], [0.9, 1.0]]]))
    measurement = Measurement(Mask(torch.tensor([True, False])), float64([[1.5, 0.0]]), noise)
    exact = conditioned(world, measurement).draw(1000, seeded(1))
    plain, repeated = (
        sliced_wasserstein(draws(world, measurement, RePaint(repeats=repeats), 1000, 60), exact) for repeats in (1, 6)
    )
    assert repeated < 0.6 * plain


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_way_up_is_the_bridge_to_the_measurement(path: Path) -> None:
    """x̄_s, x̄_t and x̄_τ = ȳ have one path's covariances, where a way up by new noise alone would have forgotten ȳ  (M4)."""
    t, s = path.time_of(0.5), path.time_of(1.5)
    (at_s, at_t), tau, count = (path.sigma(s) / path.alpha(s), path.sigma(t) / path.alpha(t)), 1.3, 40_000
    x_0 = 0.7 * normal(count, 1, seed=1)
    x_s = x_0 + at_s * normal(count, 1, seed=2)
    x_t = x_s + math.sqrt(at_t**2 - at_s**2) * normal(count, 1, seed=3)
    y = x_t + math.sqrt(tau**2 - at_t**2) * normal(count, 1, seed=4)
    known = Measurement(Dense(float64([[0.5]])), 0.5 * y, 0.5 * tau)
    walked = _pinned_until(Posterior(gaussian(path, (0.0,), (0.7,)), known, RePaint()), s)
    found = _upwards(walked, path.alpha(s) * x_s, s, t, lambda like: normal(*like.shape, seed=5)) / path.alpha(t)
    wanted = torch.tensor([
        [0.49 + at_s**2, 0.49 + at_s**2, 0.49 + at_s**2],
        [0.49 + at_s**2, 0.49 + at_t**2, 0.49 + at_t**2],
        [0.49 + at_s**2, 0.49 + at_t**2, 0.49 + tau**2],
    ])  # fmt: skip
    assert_moments(torch.cat([x_s, found, y], 1), torch.zeros(3).double(), wanted.double(), errors=4.5)


def test_noise_without_a_decomposition_is_refused_with_the_fix() -> None:
    """Which coordinate is known up to which level nobody knows then; noise would be taken for data in silence."""
    dense = Dense(normal(1, 2))
    loose = Measurement(Matrixless(dense, dense.adjoint, (2,), (1,)), float64([[0.3]]), 0.2)
    with pytest.raises(UsageError, match="RePaint where there is noise, need the singular value decomposition"):
        draws(mixture(VP()), loose, RePaint(), 2, 3)
    exact = replace(loose, noise=0.0)
    assert exact.residual(draws(mixture(VP()), exact, RePaint(), 2, 3)).abs().max() < 1e-6
