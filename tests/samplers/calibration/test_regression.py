"""Fitting the steps: what is exact on a Gaussian, and that a plan walked by the sampler is the plan that was fitted."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from scorefield.paths import VP, Path, Rectified
from scorefield.samplers import Calibrated, LogSNR
from scorefield.samplers.calibration.pilots import Problem, Trajectories, solve
from scorefield.samplers.calibration.regression import Fitted, Method, fit
from tests.samplers.planned import only, ratio, rms
from tests.worlds import EVERY_PATH, gaussian, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
FITTED, PILOTS = 48, 64
LONG = Method(history=6, ridge=1e-8)


@cache
def world(path: Path) -> tuple[Problem, Trajectories]:
    """Pilots of the mixture."""
    problem = Problem(mixture(path), path.prior_std * normal(PILOTS, 2))
    return problem, solve(problem, 193)


def places(path: Path, count: int) -> tuple[float, ...]:
    """Times uniform in log-SNR below the first, from where signal begins to σ/α = 0.01."""
    low = path.time_of(-math.log(0.01))
    return tuple(dict.fromkeys((path.t_max, *(path.snap(t) for t in LogSNR().times(path, count, end=low)[1:count]))))


def on_pilots(path: Path, count: int, method: Method, fitted: int = FITTED) -> Fitted:
    """A plan of so many evaluations."""
    problem, found = world(path)
    return fit(problem, found, places(path, count), method, fitted)


# ── one thing from two sides ─────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("count", [2, 5, 9])
@pytest.mark.parametrize("method", [Method(), LONG], ids=["short", "long"])
def test_the_plan_walked_is_the_plan_fitted(path: Path, count: int, method: Method) -> None:
    """From the same noise the sampler must reach the error that the fit reports: numbers in y, tables in x, one method (M26)."""
    problem, found = world(path)
    fitted = on_pilots(path, count, method)
    sampler = Calibrated(steps=fitted.plan.evaluations, calibration=only(path, fitted.plan))
    end = sampler.sample(problem.denoiser, problem.noise)
    assert rms((end - found.end)[:FITTED]) == pytest.approx(fitted.seen, rel=1e-9, abs=1e-9)
    assert rms((end - found.end)[FITTED:]) == pytest.approx(fitted.plan.error, rel=1e-9, abs=1e-9)


def test_a_plan_fitted_in_single_precision_is_walked_in_single_precision() -> None:
    """A network's own precision: rounding is far below the error."""
    path = VP()
    problem = Problem(mixture(path), normal(PILOTS, 2).float())
    found = solve(problem, 193)
    fitted = fit(problem, found, places(path, 6), Method(), FITTED)
    end = Calibrated(steps=6, calibration=only(path, fitted.plan)).sample(problem.denoiser, problem.noise)
    assert end.dtype == torch.float32
    assert rms((end - found.end)[:FITTED]) == pytest.approx(fitted.seen, rel=1e-2)


def test_without_pilots_to_judge_by_the_error_is_that_of_the_fit() -> None:
    """All used up: an empty mean would be NaN."""
    fitted = on_pilots(VP(), 4, Method(), fitted=PILOTS)
    assert fitted.plan.error == fitted.seen > 0.0


# ── what is exact ────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_round_gaussian_is_drawn_exactly_by_three_evaluations(path: Path, count: int) -> None:
    """Its flow is a line through the mean: y and two answers are enough freedom, and the penalty is gone after three steps (M26)."""
    problem = Problem(gaussian(path, variances=(0.5, 0.5)), path.prior_std * normal(PILOTS, 2))
    fitted = fit(problem, solve(problem, 193), places(path, count), Method(), FITTED)
    assert fitted.seen < 1e-6
    assert fitted.plan.error < 1e-6


def test_two_directions_need_more_numbers() -> None:
    """Variances of 0.8 and 0.05: exact where the history has a number for each, and no matter how they are turned."""
    errors = []
    for count in (2, 8):
        problem = Problem(gaussian(VP()), normal(PILOTS, 2))
        errors.append(fit(problem, solve(problem, 193), places(VP(), count), Method(), FITTED).plan.error)
    assert errors[-1] < 1e-9 < 1e-8 < errors[0], errors


def test_a_data_set_of_one_point_is_kept_by_every_step() -> None:
    """What is learned must not move it: the sum of every step's numbers is one to rounding, whatever the pilots were."""
    path = VP()
    plan = on_pilots(path, 7, LONG).plan
    starts = [ratio(path, t) for t in plan.times]
    for r, step in zip(starts, plan.steps, strict=True):
        assert step.carry * r + sum(step.weights) == pytest.approx(1.0, abs=1e-9)
    for r, step in zip(starts, plan.corrections, strict=False):
        assert step.carry * r + sum(step.weights) == pytest.approx(1.0, abs=1e-9)


# ── what is learned ──────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_fitted_steps_beat_those_that_learn_nothing(path: Path) -> None:
    """A penalty without end leaves Adams' own steps: least squares must better them, on pilots that it has not seen too."""
    plain = on_pilots(path, 6, Method(ridge=1e12))
    learned = on_pilots(path, 6, Method())
    assert learned.seen < 0.7 * plain.seen
    assert learned.plan.error < plain.plan.error


@pytest.mark.parametrize("path", [VP(), Rectified()], ids=["VP", "Rectified"])
def test_steps_that_learn_nothing_converge_at_adams_order(path: Path) -> None:
    """With a penalty without end the error falls at third order or better, until the last step's own O(s²) (M26)."""
    errors = [on_pilots(path, count, Method(ridge=1e12)).seen for count in (30, 60)]
    assert errors[0] / errors[1] > 2.0**2.7, errors


def test_a_correction_starts_from_one_order_more_than_a_step() -> None:
    """Where nothing is learned a step has three numbers and a correction four: the answer that comes for free is an order (M26)."""
    plan = on_pilots(VP(), 8, Method(ridge=1e12)).plan
    assert abs(plan.steps[5].weights[3]) < 1e-8 < 1e-4 < abs(plan.steps[5].weights[2])
    assert abs(plan.corrections[5].weights[3]) > 1e-4


@pytest.mark.parametrize("history", [1, 2, 3, 6])
def test_no_step_looks_further_back_than_it_may(history: int) -> None:
    """Nor further than there are answers; the correction has the new one too."""
    plan = on_pilots(VP(), 8, Method(history=history)).plan
    assert [len(step.weights) for step in plan.steps] == [min(n + 1, history) for n in range(8)]
    assert [len(step.weights) for step in plan.corrections] == [min(n + 2, history) for n in range(7)]
