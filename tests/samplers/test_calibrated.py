"""The default sampler: along a plan where there is one for the way, else a robust method; and what noise put back does to its law."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scorefield.data.toys import MIXTURE_64D
from scorefield.denoisers import Denoiser, GaussianMixture
from scorefield.errors import UsageError
from scorefield.evaluation.distances import sliced_wasserstein
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import DDIM, Calibrated, DPMSolverMultistep, Karras, UniPC, VPTime
from scorefield.samplers.calibration.calibrate import calibrate
from scorefield.samplers.plans import Calibration, Step
from scorefield.streams import SampleStreams
from tests.samplers.impulses import Impulses, Line, law_error
from tests.samplers.planned import grid, held, mended, only
from tests.worlds import EVERY_PATH, Shrinking, gaussian, mixture, normal, seeded

PATHS: dict[str, Path] = {"VP": VP(), "EDM": EDM(), "Rectified": Rectified()}
every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
three_paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def planned(path: Path, *counts: int, eta: float = 0.0, steps: int | None = None) -> Calibrated:
    """A sampler with second-order plans of these budgets, which noise does not trouble."""
    plans = (mended(path, (path.t_max, *grid(path, count + 1)[2:])) for count in counts)
    return Calibrated(steps=steps or counts[-1], eta=eta, calibration=only(path, *plans))


# ── what is declared ─────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_facts_hold_along_a_plan(path: Path, eta: float) -> None:
    """The plan's times, its price and its noise are what is walked; the states are those of the plan (M25)."""
    sampler, denoiser = planned(path, 4, 6, eta=eta, steps=7), Shrinking(path)
    assert sampler.evaluations() == 6  # there is no plan of so many
    sampler = replace(sampler, steps=5)
    x_T = path.prior_std * normal(3, 2, 2)
    states = list(sampler.trajectory(denoiser, x_T, generator=seeded(1)))
    assert sampler.evaluations() == len(denoiser.asked) == states[-1].evaluations == 4
    assert tuple(denoiser.asked) == sampler.times(path)[:-1]
    assert tuple(state.t for state in states) == sampler.times(path)[1:]
    assert sampler.is_deterministic is (eta == 0.0)
    other = sampler.sample(denoiser, x_T, generator=seeded(2))
    assert torch.equal(other, states[-1].x) is sampler.is_deterministic


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_plan_keeps_what_the_contract_asks_for(eta: float) -> None:
    """Type and shape are kept, nothing is written into, a sample is the same in any batch, conditions pass on."""
    path = VP()
    sampler, labels = planned(path, 6, eta=eta), torch.arange(5)
    for dtype in (torch.float32, torch.float64):
        denoiser = Shrinking(path)
        x_T = SampleStreams.numbered(9, 0, 5).normal(torch.zeros(5, 2, 3, dtype=dtype), 0)
        before = x_T.clone()
        end = sampler.sample(denoiser, x_T, generator=SampleStreams.numbered(9, 0, 5), condition=labels)
        alone = sampler.sample(denoiser, x_T[3:4], generator=SampleStreams.numbered(9, 3, 1))
        assert torch.equal(x_T, before)
        assert (end.dtype, end.shape) == (dtype, x_T.shape)
        assert torch.equal(alone, end[3:4])
        assert all(condition is labels for condition in denoiser.conditions[:6])


# ── where no plan fits ───────────────────────────────────────────────────────────────────────────────────────────────


@three_paths
@pytest.mark.parametrize(("start", "end"), [(0.6, 0.0), (None, 0.2), (0.6, 0.2), (0.2, 0.6)])
def test_a_part_of_the_way_is_walked_uncalibrated(path: Path, start: float | None, end: float) -> None:
    """A plan's numbers are fitted to the whole way: taken for a part of it, they would move the points anywhere."""
    begin, stop = (None if start is None else start * path.t_max), end * path.t_max
    sampler, world, x = planned(path, 6), mixture(path), normal(4, 2)
    plain = UniPC(steps=6, grid=VPTime())
    assert sampler.times(path, begin, stop) == plain.times(path, begin, stop)
    got = sampler.sample(world, x, start=begin, end=stop)
    assert torch.equal(got, plain.sample(world, x, start=begin, end=stop))


def test_without_a_plan_the_robust_method_is_walked_on_the_samplers_grid() -> None:
    """The grid and the steps a user gives must count where no plan does: below the least budget."""
    world, x, path = mixture(VP()), normal(4, 2), VP()
    for steps in (2, 3):
        sampler = replace(planned(path, 4, 8, steps=steps), grid=Karras())
        wanted = UniPC(steps=steps, grid=Karras()).sample(world, x)
        assert torch.equal(sampler.sample(world, x), wanted)
        assert torch.equal(Calibrated(steps=steps, grid=Karras()).sample(world, x), wanted)
    noisy = Calibrated(steps=9, eta=0.3).sample(world, x, generator=seeded(5))
    plain = DPMSolverMultistep(steps=9, grid=VPTime(), stochastic=True).sample(world, x, generator=seeded(5))
    assert torch.equal(noisy, plain)


def test_the_start_named_as_t_max_is_the_whole_way() -> None:
    """Asked for by number or not, it is the same way."""
    sampler, world, x = planned(EDM(), 5), mixture(EDM()), 80.0 * normal(3, 2)
    assert torch.equal(sampler.sample(world, x), sampler.sample(world, x, start=80.0, end=0.0))


def test_another_path_is_refused_with_the_fix() -> None:
    """EDM's numbers on VP's path would draw noise."""
    sampler = planned(EDM(), 5)
    with pytest.raises(UsageError, match="another path; calibrate the model that it is used with"):
        sampler.sample(mixture(VP()), normal(3, 2))
    with pytest.raises(UsageError, match="another path"):
        sampler.times(VP())


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_impossible_eta_is_refused(eta: float) -> None:
    """Beyond 1, σ² − κ² can be negative."""
    with pytest.raises(UsageError, match="eta between 0"):
        Calibrated(eta=eta)


# ── noise put back ───────────────────────────────────────────────────────────────────────────────────────────────────


@three_paths
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_held_answers_with_noise_are_ddim(path: Path, eta: float) -> None:
    """A plan that holds its answers is DDIM: with the same noise the twin must be DDIM of the same η (M22, M23)."""
    times, world, x = grid(path, 6), mixture(path), path.prior_std * normal(5, 2)
    streams = SampleStreams.numbered(2, 0, 5)
    twin = Calibrated(steps=6, eta=eta, calibration=only(path, held(path, times)))
    states = list(twin.trajectory(world, x, generator=streams))
    for number, ((t, s), state) in enumerate(zip(pairwise((*times, 0.0)), states, strict=True), start=1):
        noise = streams.normal(x, number) if s else None
        x = DDIM(eta=eta).step(world, x, t, s, noise).x
        assert torch.allclose(state.x, x, rtol=1e-10, atol=1e-10)


@every_path
@pytest.mark.parametrize("eta", [0.25, 1.0])
def test_noise_keeps_the_law_of_a_data_set_of_one_point(path: Path, eta: float) -> None:
    """With D = m, x_t is N(α m, σ²) whatever η is: one symbol wrong in κ, direct or share, in a step or its correction, shows."""
    sampler = planned(path, 7, eta=eta)
    assert sampler.times(path) == replace(sampler, eta=0.0).times(path)
    point = gaussian(path, (0.4,), (0.0,))
    x = torch.zeros(10, 1, dtype=torch.float64)
    x[1] = 1.0
    for state in sampler.trajectory(point, x, generator=Impulses()):
        alpha, sigma = (path.alpha(state.t), path.sigma(state.t)) if state.t else (1.0, 0.0)
        offset, gains = float(state.x[0, 0]), state.x[1:, 0] - state.x[0, 0]
        mean = float(gains[0]) * path.alpha(path.t_max) * 0.4 + offset
        deviation = math.hypot(float(gains[0]) * path.sigma(path.t_max), float(gains[1:].norm()))
        assert mean == pytest.approx(alpha * 0.4, rel=1e-9, abs=1e-9 * max(1.0, sigma))
        assert deviation == pytest.approx(sigma, rel=1e-9, abs=1e-9)


@three_paths
@pytest.mark.parametrize("eta", [0.25, 1.0])
def test_noise_keeps_the_order_of_the_law(path: Path, eta: float) -> None:
    """On a Gaussian the law is known exactly: it converges at the steps' own second order; a wrong bridge stays off (M23)."""
    times = [(path.t_max, *grid(path, count + 1)[2:]) for count in (80, 160, 320)]
    samplers = [Calibrated(steps=len(t), eta=eta, calibration=only(path, mended(path, t))) for t in times]
    assert all(
        replace(sampler, steps=len(t)).times(path) == (*t, 0.0) for sampler, t in zip(samplers, times, strict=True)
    )
    errors = [law_error(sampler, path, path.t_max, 0.0) for sampler in samplers]
    assert errors[-1] < 0.002
    assert all(math.log2(coarse / fine) > 1.6 for coarse, fine in pairwise(errors))


@cache
def line_calibration(path: Path) -> Calibration:
    """Plans of a Gaussian on the line, whose answers are all multiples of each other."""
    return calibrate(Line(path), path.prior_std * normal(64, 1), budgets=[5, 10, 20, 40], rounds=0)


@pytest.mark.parametrize("path", [VP(), EDM()], ids=["VP", "EDM"])
@pytest.mark.parametrize("eta", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("budget", [5, 10, 20, 40])
def test_a_plan_that_cannot_bear_noise_is_not_walked_with_it(path: Path, eta: float, budget: int) -> None:
    """Numbers of hundreds that cancel without noise would make a law worthless: no worse than uncalibrated, or not walked."""
    sampler = Calibrated(steps=budget, eta=eta, calibration=line_calibration(path))
    plain = Calibrated(steps=budget, eta=eta)
    assert sampler.evaluations() == budget
    assert law_error(sampler, path, path.t_max, 0.0) <= 1.01 * law_error(plain, path, path.t_max, 0.0)
    without = Calibrated(steps=budget, calibration=line_calibration(path))
    assert without.times(path) != plain.times(path)


def test_wild_plans_are_for_no_noise_alone() -> None:
    """η times the amplification decides, for times, evaluations and walk alike."""
    path = VP()
    plan = held(path, grid(path, 6))
    wild = replace(plan, steps=(*plan.steps[:-1], Step(0.0, (5.0, -6.0, 2.0))))
    sampler = Calibrated(steps=8, calibration=only(path, wild, held(path, grid(path, 8))))
    sampler = replace(sampler, steps=7)
    assert sampler.times(path) == replace(sampler, eta=0.3).times(path) == (*wild.times, 0.0)
    assert replace(sampler, eta=0.31).times(path) == VPTime().times(path, 7)
    assert (sampler.evaluations(), replace(sampler, eta=0.31).evaluations()) == (6, 7)


# ── the law on a mixture ─────────────────────────────────────────────────────────────────────────────────────────────

COUNT = 2000


@cache
def image_like() -> GaussianMixture:
    """The built-in mixture in 64 dimensions, whose variances spread over nearly three decades."""
    parts = (MIXTURE_64D.weights, MIXTURE_64D.means, MIXTURE_64D.covariances)
    return GaussianMixture(VP(), *map(torch.from_numpy, parts))


@cache
def image_like_calibration() -> Calibration:
    """Its plan of 20 evaluations."""
    return calibrate(image_like(), normal(192, 64), budgets=[20], rounds=0)


@cache
def drawn(eta: float) -> Tensor:
    """Samples of it with 20 evaluations."""
    sampler = Calibrated(steps=20, eta=eta, calibration=image_like_calibration())
    return sampler.sample(image_like(), normal(COUNT, 64, seed=3), generator=seeded(4))


def standardised(samples: Tensor) -> Tensor:
    """Coordinates in which the data's covariance is the identity, finest directions first."""
    variances, directions = torch.linalg.eigh(torch.from_numpy(MIXTURE_64D.covariance))
    return (samples - torch.from_numpy(MIXTURE_64D.mean)) @ (directions / variances.sqrt())


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.25])
def test_the_law_of_a_mixture_is_reached_in_every_direction(eta: float) -> None:
    """20 evaluations: means and variances of all 64 directions, the finest too, within 4 standard errors; none is washed out."""
    z = standardised(drawn(eta))
    for values, wanted in ((z, 0.0), (z.square(), 1.0)):
        off = (values.mean(0) - wanted) / (values.std(0) / COUNT**0.5)
        assert float(off.abs().max()) < 4.0
        assert float(off.square().mean()) < 1.0 + 4.0 * (2.0 / 64) ** 0.5
    finest = z[:, :8].square().mean(1)
    assert abs(float(finest.mean()) - 1.0) < 4.0 * float(finest.std()) / COUNT**0.5


@pytest.mark.parametrize("eta", [0.25, 1.0])
def test_the_law_of_a_mixture_is_reached_within_the_sampling_floor(eta: float) -> None:
    """Sliced Wasserstein to fresh data, and each entry of the covariance, differ by no more than two draws of the data do."""
    data, other = (image_like().draw(COUNT, seeded(seed)) for seed in (7, 8))
    floor = sliced_wasserstein(other, data, generator=seeded(1))
    found = sliced_wasserstein(drawn(eta), data, generator=seeded(1))
    assert found.value < floor.value + 3.0 * math.hypot(floor.standard_error, found.standard_error)
    centred = drawn(eta) - torch.from_numpy(MIXTURE_64D.mean)
    products = centred[:, :, None] * centred[:, None, :]
    off = (products.mean(0) - torch.from_numpy(MIXTURE_64D.covariance)) / (products.std(0) / COUNT**0.5)
    assert float(off.abs().max()) < 5.0


def test_an_answer_is_asked_once_a_step() -> None:
    """The correction is free: an evaluation for it would halve what the plan is worth."""

    class Counted(Denoiser):
        path = VP()
        asked = 0

        def __call__(self, x_t: Tensor, t: float | Tensor, condition: object = None) -> object:  # type: ignore[override]
            Counted.asked += 1
            return mixture(VP())(x_t, t, condition)

    planned(VP(), 9).sample(Counted(), normal(2, 2))
    assert Counted.asked == 9
