"""Tune a calibration for small budgets: search longer for the nodes, and keep what is better on noise that nobody has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from scorefield.samplers.base import Sampler
from scorefield.samplers.calibrated import Calibrated
from scorefield.samplers.calibration.calibrate import Workshop, fine_nodes, prepare, search
from scorefield.samplers.calibration.pilots import Problem, solve
from scorefield.samplers.calibration.planning import Spectrum
from scorefield.samplers.plans import Calibration, Plan


@final
@dataclass(frozen=True)
class Gain:
    """What tuning was worth at one budget: root mean squares to the model's own flow on fresh noise.

    Attributes:
        evaluations: the budget.
        uncalibrated: of the uncalibrated sampler.
        before: of the plan that there was; the uncalibrated sampler's where there was none.
        after: of the plan that is kept.
        kept: whether that is the new one.
    """

    evaluations: int
    uncalibrated: float
    before: float
    after: float
    kept: bool


def tune(
    pilots: Problem,
    fresh: Problem,
    known: Calibration,
    *,
    budgets: Sequence[int],
    rounds: int = 8,
    spectrum: Spectrum | None = None,
    progress: Callable[[Gain], None] | None = None,
) -> tuple[Calibration, list[Gain]]:
    """Search for better nodes, fit their steps, and compare with what there was on fresh noise.

    Args:
        pilots: the denoiser, and noise to learn from.
        fresh: the same denoiser, and other noise to judge by.
        known: the calibration that there is; it may be without plans.
        budgets: numbers of evaluations.
        rounds: of the search.
        spectrum: of the data; measured on the pilots where None.
        progress: told of every budget.

    Returns:
        The calibration with the plans that are better on fresh noise, and what each budget gained.

    Raises:
        UsageError: too few pilots, or a denoiser whose answers are not finite.
    """
    shop = prepare(
        pilots.denoiser,
        pilots.noise,
        uncalibrated=lambda budget: Calibrated(steps=budget),
        condition=pilots.condition,
        spectrum=spectrum,
        budgets=budgets,
    )
    exact = solve(fresh, fine_nodes(fresh.noise)).end.double()
    gains, better = [], {}
    for budget in sorted(set(budgets)):
        plan = _searched(shop, known, budget, rounds)
        gain = _compared(fresh, exact, known, budget, plan)
        if gain.kept and plan is not None:
            better[budget] = replace(plan, error=gain.after, uncalibrated=gain.uncalibrated)
        gains.append(gain)
        if progress is not None:
            progress(gain)
    return known.with_plans(better), gains


def _searched(shop: Workshop, known: Calibration, budget: int, rounds: int) -> Plan | None:
    """What a search finds from the best start: the planned nodes, or those of the known plan."""
    there = known.plan(budget)
    starts = shop.candidates(budget)
    if there is not None and there.evaluations == budget:
        starts.append(there.times)
    tried = [shop.fit(times) for times in dict.fromkeys(starts)]
    return search(shop, min(tried, key=lambda fitted: fitted.seen), rounds).plan if tried else None


def _compared(fresh: Problem, exact: Tensor, known: Calibration, budget: int, plan: Plan | None) -> Gain:
    """Draw from the fresh noise in every way."""
    plain = _distance(fresh, Calibrated(steps=budget), exact)
    there = known.plan(budget)
    before = plain if there is None else _distance(fresh, Calibrated(steps=budget, calibration=known), exact)
    if plan is None:
        return Gain(budget, plain, before, before, kept=False)
    tuned = _distance(fresh, Calibrated(steps=budget, calibration=replace(known, plans=(plan,))), exact)
    return Gain(budget, plain, before, min(before, tuned), kept=tuned < before)


def _distance(problem: Problem, sampler: Sampler, exact: Tensor) -> float:
    with torch.no_grad():
        end = sampler.sample(problem.denoiser, problem.noise, condition=problem.condition)
    return float((end.flatten(1).double() - exact).square().mean().sqrt())
