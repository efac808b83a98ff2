"""Tuning: what is kept is better on noise that nobody has seen, and what it gained is measured there."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.paths import VP
from scorefield.samplers import Calibrated, Calibration
from scorefield.samplers.calibration.calibrate import calibrate
from scorefield.samplers.calibration.pilots import Problem, solve
from scorefield.samplers.calibration.tuning import Gain, tune
from tests.samplers.planned import grid, held, only, rms
from tests.worlds import mixture, normal

BUDGETS = [4, 6]


def problem(count: int, seed: int) -> Problem:
    """The mixture with noise of its own."""
    return Problem(mixture(VP()), normal(count, 2, seed=seed))


@cache
def fresh_end() -> Tensor:
    """Where the fresh noise ends."""
    return solve(problem(128, 9), 193).end


def error(calibration: Calibration | None, budget: int) -> float:
    """On the fresh noise."""
    fresh = problem(128, 9)
    return rms(Calibrated(steps=budget, calibration=calibration).sample(fresh.denoiser, fresh.noise) - fresh_end())


@cache
def rough() -> Calibration:
    """Plans made without a search."""
    return calibrate(mixture(VP()), normal(128, 2, seed=2), budgets=BUDGETS, rounds=0)


@cache
def tuned() -> tuple[Calibration, list[Gain]]:
    """They, tuned."""
    return tune(problem(128, 1), problem(128, 9), rough(), budgets=BUDGETS, rounds=3)


def test_what_is_kept_is_better_on_fresh_noise() -> None:
    """A gain on the pilots alone is no gain: each kept plan has the smaller error where nothing was fitted."""
    found, gains = tuned()
    assert [gain.evaluations for gain in gains] == BUDGETS
    for gain in gains:
        assert gain.kept
        assert error(found, gain.evaluations) < error(rough(), gain.evaluations)


@pytest.mark.parametrize("budget", BUDGETS)
def test_gains_are_what_the_samplers_do(budget: int) -> None:
    """Every figure that is told can be measured again with the sampler itself, and stands in the plan."""
    found, gains = tuned()
    gain = gains[BUDGETS.index(budget)]
    assert gain.uncalibrated == pytest.approx(error(None, budget), rel=1e-9)
    assert gain.before == pytest.approx(error(rough(), budget), rel=1e-9)
    assert gain.after == pytest.approx(error(found, budget), rel=1e-9)
    plan = found.plan(budget)
    assert plan is not None
    assert (plan.error, plan.uncalibrated) == (gain.after, gain.uncalibrated)


def test_a_plan_that_is_best_already_is_left_alone() -> None:
    """The known plans were made on the very noise they are judged by, the new ones on eight other pilots: none is kept."""
    best = calibrate(mixture(VP()), problem(128, 9).noise, budgets=BUDGETS, rounds=4)
    found, gains = tune(problem(8, 1), problem(128, 9), best, budgets=BUDGETS, rounds=1)
    assert found == best
    for gain in gains:
        assert not gain.kept
        assert gain.after == gain.before < gain.uncalibrated


def test_where_there_was_no_plan_the_uncalibrated_sampler_is_what_was() -> None:
    """A first plan for a budget is compared with what a user had until then."""
    known = only(VP())
    told: list[Gain] = []
    found, gains = tune(problem(128, 1), problem(128, 9), known, budgets=[6, 4], rounds=0, progress=told.append)
    assert told == gains
    assert [plan.evaluations for plan in found.plans] == BUDGETS
    for gain in gains:
        assert gain.before == gain.uncalibrated > gain.after


def test_other_budgets_keep_their_plans() -> None:
    """Tuning four evaluations must not lose the plans of ten."""
    path = VP()
    known = only(path, held(path, grid(path, 4)), held(path, grid(path, 10)))
    found, _ = tune(problem(64, 1), problem(64, 9), known, budgets=[4], rounds=0)
    assert found.plans[1] == known.plans[1]
    assert found.plans[0] != known.plans[0]


def test_the_known_plans_nodes_are_a_start_of_the_search() -> None:
    """A tuned plan can be tuned on: with the same pilots and no search it is not lost to the planned nodes."""
    found, _ = tuned()
    _, gains = tune(problem(128, 1), problem(128, 9), found, budgets=BUDGETS, rounds=0)
    for gain in gains:
        assert gain.after == gain.before == pytest.approx(error(found, gain.evaluations), rel=1e-9)


def test_too_few_pilots_are_refused() -> None:
    """As in a calibration."""
    with pytest.raises(UsageError, match="at least 4 pilots"):
        tune(problem(3, 1), problem(16, 9), rough(), budgets=BUDGETS)
