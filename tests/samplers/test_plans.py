"""Plans: what may be one, what a step of it does on paths with and without signal at the start, and how they are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.model_config import KINDS
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.records import from_plain, to_plain
from scorefield.samplers import Calibrated
from scorefield.samplers.plans import Calibration, Plan, Step, rows
from tests.samplers.planned import grid, held, lines, only, ratio
from tests.worlds import EVERY_PATH, gaussian, mixture, normal

PATHS: dict[str, Path] = {"VP": VP(), "EDM": EDM(), "Rectified": Rectified()}
every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
three_paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


# ── what may be a plan ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["step", "correction", "last"])
@pytest.mark.parametrize("off", [1e-3, -1e-3, 0.5])
def test_a_step_that_moves_a_data_set_of_one_point_is_refused(which: str, off: float) -> None:
    """Without the sum's check, a damaged or badly fitted number would make every sample too large or too small."""
    path = VP()
    plan = held(path, grid(path, 4))
    spoilt = replace(plan.steps[1], weights=(plan.steps[1].weights[0] + off,))
    end = Step(0.0, (1.0 + off,))
    again = replace(plan.corrections[2], weights=(off, plan.corrections[2].weights[1]))
    broken = {
        "step": replace(plan, steps=(plan.steps[0], spoilt, *plan.steps[2:])),
        "correction": replace(plan, corrections=(*plan.corrections[:2], again)),
        "last": replace(plan, steps=(*plan.steps[:-1], end)),
    }[which]
    with pytest.raises(UsageError, match=r"their sum is 1\), got .*; calibrate again"):
        only(path, broken)


@every_path
def test_a_data_set_of_one_point_is_drawn_exactly(path: Path) -> None:
    """D = m everywhere must end at m and pass the flow's own points: a wrong α_end or σ in the table would not (M26)."""
    point = gaussian(path, (0.3, -0.7), (0.0, 0.0))
    x_T = path.prior_std * normal(5, 2)
    for make in (held, lines):
        times = grid(path, 6)
        if path.alpha(path.t_max) < 1e-9 and make is lines:
            times = (path.t_max, *grid(path, 7)[2:])
        plan = make(path, times)
        states = list(Calibrated(steps=6, calibration=only(path, plan)).trajectory(point, x_T))
        assert torch.allclose(states[-1].x, point.means.expand(5, 2), rtol=1e-12, atol=1e-12)
        noise = (x_T - path.alpha(path.t_max) * point.means) / path.sigma(path.t_max)
        for state in states[:-1]:
            wanted = path.alpha(state.t) * point.means + path.sigma(state.t) * noise
            assert torch.allclose(state.x, wanted, rtol=1e-9, atol=1e-9 * path.sigma(path.t_max))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda plan: {"times": ()}, "a step for each time"),
        (lambda plan: {"steps": plan.steps[:-1]}, "got 2 and 2 for 3"),
        (lambda plan: {"corrections": ()}, "got 3 and 0 for 3"),
        (lambda plan: {"times": (1.0, 0.2, 0.2)}, "must fall"),
        (lambda plan: {"times": (1.0, 0.2, 0.0)}, "be positive"),
        (lambda plan: {"steps": (Step(1.0, (0.5, 0.5)), *plan.steps[1:])}, "2 answers where 1 are known"),
        (lambda plan: {"steps": (Step(1.0, ()), *plan.steps[1:])}, "0 answers where 1 are known"),
        (lambda plan: {"corrections": (Step(1.0, (0.1, 0.1, 0.1)), plan.corrections[1])}, "3 answers where 2"),
        (lambda plan: {"steps": (*plan.steps[:-1], Step(0.0, (math.nan,)))}, "finite"),
        (lambda plan: {"steps": (*plan.steps[:-1], Step(math.inf, (1.0,)))}, "finite"),
    ],
)
def test_what_is_no_plan_is_refused(spoil: Callable[[Plan], dict[str, Any]], said: str) -> None:
    """A step may look back on what has been asked, no further; else the walk would fail long after the file was read."""
    plan = held(VP(), (1.0, 0.5, 0.1))
    with pytest.raises(UsageError, match=said):
        replace(plan, **spoil(plan))


def test_plans_in_disorder_or_from_elsewhere_are_refused() -> None:
    """Two plans of a budget, or a plan that begins below t_max, would be walked from noise that it does not fit."""
    path = VP()
    four, five = held(path, grid(path, 4)), held(path, grid(path, 5))
    assert only(path, four, five).plans == (four, five)
    for plans in ((five, four), (four, four)):
        with pytest.raises(UsageError, match="in the order of their evaluations"):
            only(path, *plans)
    with pytest.raises(UsageError, match=r"begin at the path's t_max=1, got 0\.9"):
        only(path, held(path, (0.9, 0.5)))


# ── what a step does ─────────────────────────────────────────────────────────────────────────────────────────────────


@three_paths
def test_rows_are_the_step_worked_out_by_hand(path: Path) -> None:
    """x' = α'(ã x/σ + Σ b_j D_{n−j}), the correction from the point before: an α or σ of the wrong end shows (M26)."""
    times = (path.t_max, 0.4 * path.t_max, 0.1 * path.t_max)
    (a0, s0), (a1, s1), (a2, s2) = ((path.alpha(t), path.sigma(t)) for t in times)
    r0, r1, r2 = a0 / s0, a1 / s1, a2 / s2
    first = Step(1.3, (1.0 - 1.3 * r0,))
    second = Step(0.9 / r2, (0.7, 0.3 - 0.9 * r1 / r2))
    last = Step(0.2, (1.5, -0.4, -0.1 - 0.2 * r2))
    again = Step(1.1, (0.25, 0.75 - 1.1 * r0))
    later = Step(0.5, (0.6, 0.5, -0.1 - 0.5 * r1))
    plan = Plan(times, (first, second, last), (again, later), 0.0, 0.0)
    world, x = mixture(path), path.prior_std * normal(4, 2)
    d0 = world(x, times[0]).x0
    x1 = a1 * (1.3 * x / s0 + first.weights[0] * d0)
    d1 = world(x1, times[1]).x0
    x1 = a1 * (1.1 * x / s0 + 0.25 * d1 + again.weights[1] * d0)
    x2 = a2 * (second.carry * x1 / s1 + 0.7 * d1 + second.weights[1] * d0)
    d2 = world(x2, times[2]).x0
    x2 = a2 * (0.5 * x1 / s1 + 0.6 * d2 + 0.5 * d1 + later.weights[2] * d0)
    end = 0.2 * x2 / s2 + 1.5 * d2 - 0.4 * d1 + last.weights[2] * d0
    got = Calibrated(steps=3, calibration=only(path, plan)).sample(world, x)
    assert torch.allclose(got, end, rtol=1e-12, atol=1e-12)


def test_a_table_is_made_once() -> None:
    """Made anew at every sample, it would cost more than a step."""
    plan = held(VP(), grid(VP(), 8))
    assert rows(plan, VP()) is rows(replace(plan), VP())


def test_amplification_is_the_largest_sum_of_sizes() -> None:
    """Signed, the numbers of any step sum to one at most: only their sizes tell what an error in the answers becomes."""
    plan = held(VP(), grid(VP(), 3))
    assert plan.amplification == pytest.approx(1.0)
    wild = Step(0.0, (5.0, -6.0, 2.0))
    assert replace(plan, steps=(*plan.steps[:-1], wild)).amplification == 13.0
    leaning = Step(plan.corrections[1].carry, (4.0, plan.corrections[1].weights[1] - 4.0))
    assert replace(plan, corrections=(plan.corrections[0], leaning)).amplification > 7.0


# ── which plan ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_plan_of_the_next_smaller_budget_is_chosen() -> None:
    """One budget too many would cost more than was asked for; below the least there is none."""
    path = VP()
    found = only(path, *(held(path, grid(path, count)) for count in (4, 6, 10)))
    chosen = {budget: found.plan(budget) for budget in range(1, 14)}
    budgets = {budget: plan.evaluations if plan else None for budget, plan in chosen.items()}
    assert budgets == {
        1: None,
        2: None,
        3: None,
        4: 4,
        5: 4,
        6: 6,
        7: 6,
        8: 6,
        9: 6,
        10: 10,
        11: 10,
        12: 10,
        13: 10,
    }
    assert only(path).plan(5) is None


def test_plans_are_added_in_order_and_replaced() -> None:
    """Appended instead of merged, a tuned plan would never be chosen."""
    path = VP()
    four, six, better = (held(path, grid(path, 4)), held(path, grid(path, 6)), lines(path, grid(path, 4)))
    known = replace(only(path, four), guidance=2.0, pilots=7, asked=9, model="m")
    found = known.with_plans({6: six, 4: better})
    assert found == Calibration(path, (better, six), 2.0, 7, 9, "m")
    assert known.with_plans({}) == known


@every_path
def test_a_calibration_comes_back_bit_for_bit(path: Path) -> None:
    """JSON with fewer digits than a float has would draw other samples after loading."""
    times = (path.t_max, *grid(path, 6)[2:])
    found = Calibration(path, (held(path, times[:3]), lines(path, times)), 1.5, 12, 345, "abc")
    again = from_plain(Calibration, json.loads(json.dumps(to_plain(found))), KINDS)
    assert again == found
    assert repr(again) == repr(found)
    assert ratio(again.path, times[1]) == ratio(path, times[1])
