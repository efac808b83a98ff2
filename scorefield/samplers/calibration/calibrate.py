"""Find the plans of a denoiser: store its trajectories, plan the nodes, fit the steps, search a little, confirm on other noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.samplers.base import Sampler
from scorefield.samplers.calibrated import Calibrated
from scorefield.samplers.calibration.pilots import Problem, Trajectories, levels, solve
from scorefield.samplers.calibration.planning import Errors, Spectrum, best_nodes, local_errors, scaled
from scorefield.samplers.calibration.regression import Fitted, Method, fit
from scorefield.samplers.plans import Calibration, Plan

BUDGETS = (4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 35, 50)
"""The numbers of evaluations that have a plan of their own; another takes the next smaller one's."""

SEARCHED_UP_TO = 10
"""Budgets whose nodes are searched for one by one; the greater ones are as dense as the greatest of these."""

SHORT, LONG = Method(), Method(history=6, ridge=1e-8)
"""How many answers a step looks back on: four, or six where the evaluations are many."""

_NODES = 193
_NODES_OF_NETWORKS = 129
_PLANNED_NODES = 72
_PLANNED_UP_TO = 24
_DENSITY_OF = 20
_FITTED_SHARE = 0.75
_LEAST_PILOTS = 4
_MOST = 50
_VALUES = 1 << 13
_MEMORY = 1 << 29
_LEAST_GAIN = 1e-3


def require_budgets(budgets: Sequence[int]) -> None:
    """Refuse budgets that no plan can be made for. Raises UsageError."""
    if not budgets or not all(2 <= budget <= _MOST for budget in budgets):
        raise UsageError(f"plans are made for 2 to {_MOST} evaluations, got {', '.join(map(str, budgets)) or 'none'}")


def require_rounds(rounds: int) -> None:
    """Refuse a search of no length at all. Raises UsageError."""
    if not 0 <= rounds <= 1000:
        raise UsageError(f"the search takes between 0 (none) and 1000 rounds, got {rounds}")


def fine_nodes(noise: Tensor) -> int:
    """How finely the flow is solved: a network's single precision asks for less."""
    return _NODES if noise.dtype == torch.float64 else _NODES_OF_NETWORKS


def pilot_count(shape: Sequence[int]) -> int:
    """How many trajectories to store for samples of a shape: enough for the fit, and within half a gigabyte."""
    size = int(np.prod(shape))
    return max(_LEAST_PILOTS, min(2048, max(32, _VALUES // size), _MEMORY // (size * _NODES * 8)))


@final
class _Counted(Denoiser):
    """Counts how many samples a denoiser has been asked about."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.path, self.asked = denoiser, denoiser.path, 0

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        self.asked += len(x_t)
        return self.denoiser(x_t, t, condition)


@final
@dataclass(frozen=True, eq=False)
class Workshop:
    """Everything that a plan is made with.

    Attributes:
        problem: denoiser and noise.
        found: its stored flow.
        errors: local errors between nodes.
        planned: nodes by the dynamic programme, for each power and budget.
        uncalibrated: the sampler to beat, for a budget.
        thorough: whether greater budgets try every candidate, or two of them.
    """

    problem: Problem
    found: Trajectories
    errors: Errors
    planned: dict[float, dict[int, tuple[float, ...]]]
    uncalibrated: Callable[[int], Sampler]
    thorough: bool = True

    @property
    def fitted(self) -> int:
        """How many pilots the steps are fitted to."""
        return max(1, int(_FITTED_SHARE * len(self.problem.noise)))

    def candidates(self, budget: int, guide: Sequence[float] | None = None) -> list[tuple[float, ...]]:
        """Times worth trying: those planned, and as dense as a guide's levels or as a plan's, down to t_min or not."""
        ways = [self.planned[power][budget] for power in (2.0, 1.0) if budget in self.planned[power]]
        dense = self.planned[2.0].get(_DENSITY_OF)
        if budget > _PLANNED_UP_TO and dense is not None:
            ways += self._as_dense(levels(self.problem.path, dense)[0], budget)
        if guide is not None and budget > len(guide):
            ways += self._as_dense(guide, budget)
        return list(dict.fromkeys(ways))

    def _as_dense(self, tau: Sequence[float] | np.ndarray, budget: int) -> list[tuple[float, ...]]:
        low = float(self.errors.tau[-1])
        way = [float(level) for level in tau]
        ways = [way, [*way, low]] if way[-1] > low + 0.1 else [way]
        return [times for way in ways if (times := self.times_at(scaled(way, budget))) is not None]

    def times_at(self, tau: Sequence[float]) -> tuple[float, ...] | None:
        """Levels as times of the path, a chain's own where it has steps; None where two fall together."""
        path = self.problem.path
        bounded = [max(level, float(self.errors.tau[-1])) for level in tau[1:]]
        times = (path.t_max, *(path.snap(path.time_of(-level)) for level in bounded))
        apart = all(later < earlier for earlier, later in pairwise(times))
        return times if apart and times[-1] > 0.0 else None

    def fit(self, times: tuple[float, ...], method: Method = SHORT) -> Fitted:
        """Fit a plan at these times."""
        return fit(self.problem, self.found, times, method, self.fitted)

    def best(self, budget: int, *, rounds: int, guide: Sequence[float] | None = None) -> Fitted | None:
        """The best of the candidates, searched on for some rounds where the budget is small; None where there is none."""
        if budget <= SEARCHED_UP_TO:
            tried = [self.fit(times) for times in self.candidates(budget)]
            best = min(tried, key=lambda fitted: fitted.seen, default=None)
            return best if best is None else search(self, best, rounds)
        times = self.candidates(budget, guide)
        methods = (LONG, SHORT) if self.thorough else (LONG,)
        tried = [self.fit(one, method) for one in (times if self.thorough else times[:2]) for method in methods]
        return min(tried, key=lambda fitted: max(fitted.seen, fitted.plan.error), default=None)

    def confirmed(self, fitted: Fitted) -> Plan | None:
        """The plan with what it gains over the uncalibrated sampler on pilots that it was not fitted to; None for no gain."""
        sampler = self.uncalibrated(fitted.plan.evaluations)
        rest = slice(self.fitted if self.fitted < len(self.problem.noise) else 0, None)
        condition = None if self.problem.condition is None else self.problem.condition[rest]
        with torch.no_grad():
            end = sampler.sample(self.problem.denoiser, self.problem.noise[rest], condition=condition)
        gap = (end.flatten(1).double() - self.found.end[rest]).square().mean().sqrt()
        plan = replace(fitted.plan, uncalibrated=float(gap))
        return plan if plan.error <= plan.uncalibrated else None


def prepare(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    uncalibrated: Callable[[int], Sampler],
    condition: Any = None,
    spectrum: Spectrum | None = None,
    budgets: Sequence[int] = BUDGETS,
    thorough: bool = True,
) -> Workshop:
    """Solve the pilots' flow finely and plan every budget's nodes.

    Raises:
        UsageError: too few pilots, or a denoiser whose answers are not finite.
    """
    if len(x_T) < _LEAST_PILOTS:
        raise UsageError(f"a calibration needs at least {_LEAST_PILOTS} pilots, got {len(x_T)}; draw more noise")
    problem = Problem(denoiser, x_T, condition)
    found = solve(problem, fine_nodes(x_T))
    errors = local_errors(found, spectrum or Spectrum.of_samples(found.end), _PLANNED_NODES)
    wanted = sorted({*(budget for budget in budgets if budget <= _PLANNED_UP_TO), _DENSITY_OF})
    planned = {power: best_nodes(errors, wanted, power) for power in (1.0, 2.0)}
    return Workshop(problem, found, errors, planned, uncalibrated, thorough)


def calibrate(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    uncalibrated: Callable[[int], Sampler] | None = None,
    condition: Any = None,
    spectrum: Spectrum | None = None,
    budgets: Sequence[int] = BUDGETS,
    rounds: int = 4,
    thorough: bool = True,
    guidance: float = 1.0,
    model: str = "",
    progress: Callable[[Plan], None] | None = None,
) -> Calibration:
    r"""Measure a denoiser's own flow, and make a plan for each budget of evaluations  (M26).

    Args:
        denoiser: any; what is calibrated is its own probability flow.
        x_T: (b, *d) noise from the path's prior; `pilot_count` says how much.
        uncalibrated: the sampler to beat for a budget; `Calibrated` without a calibration where None.
        condition: of each sample.
        spectrum: of the data in model space; measured on the pilots where None.
        budgets: numbers of evaluations, 2 to 50.
        rounds: of the search for better nodes, for budgets up to 10.
        thorough: whether every candidate is tried for the greater budgets; False takes half the time.
        guidance: what the denoiser's scale of guidance is, to be kept with the plans.
        model: what identifies the weights, to be kept with the plans.
        progress: told of every plan.

    Returns:
        The plans that beat the uncalibrated sampler on the quarter of the pilots that they were not fitted to.

    Raises:
        UsageError: impossible budgets, too few pilots, a denoiser whose answers are not finite.
    """
    require_budgets(budgets)
    require_rounds(rounds)
    counted = _Counted(denoiser)
    beaten = uncalibrated or (lambda budget: Calibrated(steps=budget))
    shop = prepare(
        counted,
        x_T,
        uncalibrated=beaten,
        condition=condition,
        spectrum=spectrum,
        budgets=budgets,
        thorough=thorough,
    )
    plans: dict[int, Plan] = {}
    guide = None
    for budget in sorted(set(budgets)):
        fitted = shop.best(budget, rounds=rounds, guide=guide)
        plan = None if fitted is None else shop.confirmed(fitted)
        if plan is not None:
            plans[plan.evaluations] = plan
            if budget <= SEARCHED_UP_TO:
                guide = [float(level) for level in levels(denoiser.path, plan.times)[0]]
            if progress is not None:
                progress(plan)
    kept = tuple(plans[budget] for budget in sorted(plans))
    return Calibration(denoiser.path, kept, guidance, len(x_T), counted.asked, model)


def search(shop: Workshop, start: Fitted, rounds: int) -> Fitted:
    """Move one node, or one and all after it, as long as that helps; halve the moves when none does."""
    best, reach = start, 0.5
    for _ in range(rounds):
        improved = _sweep(shop, best, reach)
        if improved is None:
            reach *= 0.5
        else:
            best = improved
    return best


def _sweep(shop: Workshop, best: Fitted, reach: float) -> Fitted | None:
    """Try every node's moves once and keep what helps; None where nothing did."""
    start = best
    for node in range(1, len(best.plan.times)):
        tau = levels(shop.problem.path, best.plan.times)[0]
        for moved in _moves(tau, node, reach):
            times = shop.times_at(moved)
            if times is None or times == best.plan.times:
                continue
            tried = shop.fit(times)
            if tried.seen < best.seen * (1.0 - _LEAST_GAIN):
                best = tried
                break
    return None if best is start else best


def _moves(tau: np.ndarray, node: int, reach: float) -> list[list[float]]:
    """Node `node` alone, or with all after it, moved down and up by a share of the narrower gap beside it."""
    gap = float(tau[node - 1] - tau[node])
    if node + 1 < len(tau):
        gap = min(gap, float(tau[node] - tau[node + 1]))
    moved = []
    for size in (reach * max(gap, 0.05), -reach * max(gap, 0.05)):
        for after in (node + 1, len(tau)):
            levels_ = tau.copy()
            levels_[node:after] += size
            if bool((np.diff(levels_) < -1e-3).all()):
                moved.append([float(level) for level in levels_])
    return moved
