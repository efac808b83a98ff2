r"""How far a sampler's result is from what it should be: a row of figures for each problem, sampler and budget.

* `rmse`: the root mean square over coordinates and noises of the distance to the exact image of the same noise, with its
  standard error over noises; its floor is the reference's own error.
* `median`: the median over noises of the same for each noise alone, which no single strayed sample decides.
* `sliced`: the sliced 2-Wasserstein distance to exact draws of the data, and `covariance`: the relative Frobenius
  distance of covariances; mean and standard deviation over groups of draws as many as the samples. Their floor is what
  such a group gets against the others.

Evaluations are what the wrapper counted, never what a sampler says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path as File
from typing import Any, Protocol

import torch
from frontier_problems import Counted, Problem
from torch import Tensor

from scorefield.errors import ScorefieldError

BUDGETS = (4, 5, 8, 10, 15, 20, 35, 50, 100)
PROJECTIONS = 64
MOST_OF_A_NETWORK = 50
SCREENING, SCREENED, KEPT, KEPT_LATE = 8, 4, 8, 3
"""On a network, whose every evaluation costs: by how many evaluations of how many noises the settings are chosen that go on;
how many of a library's do; and how many of those above 20 evaluations."""

Row = dict[str, Any]


class Named(Protocol):
    """What a setting tells of itself."""

    @property
    def name(self) -> str:
        """In the tables."""

    @property
    def is_deterministic(self) -> bool:
        """Whether its distance to the flow's image means anything."""


Run = Callable[[Problem, Counted, Any, int], Tensor]


def survey(
    library: str,
    problem: Problem,
    settings: Sequence[Any],
    run: Run,
    budgets: Sequence[int],
    report: Callable[[str], None],
) -> list[Row]:
    """Rows of every setting at every budget; on a network only of those that pass a screening on a few noises."""

    def taken(part: Problem, kept: Sequence[Any], chosen: Sequence[int]) -> list[Row]:
        report(f"{library} on {problem.name}: {len(kept)} settings, {len(part.x_T)} noises, {list(chosen)} evaluations")
        return [measure(library, part, setting, run, budget) for setting in kept for budget in chosen]

    budgets = [budget for budget in budgets if not (problem.is_network and budget > MOST_OF_A_NETWORK)]
    if not problem.is_network or len(settings) <= KEPT:
        return taken(problem, settings, budgets)
    screening = [SCREENING]
    kept = _best(settings, taken(problem.first(SCREENED), settings, screening), screening, KEPT)
    early, late = [budget for budget in budgets if budget <= 20], [budget for budget in budgets if budget > 20]
    rows = taken(problem, kept, early)
    return rows + taken(problem, _best(kept, rows, early[-1:], KEPT_LATE) if late else [], late)


def _best(kept: Sequence[Any], rows: Sequence[Row], chosen: Sequence[int], count: int) -> list[Any]:
    """The settings that stand among the best at any of the chosen budgets."""
    ranks: dict[str, int] = {}
    names = {setting.name for setting in kept}
    for budget in chosen:
        at = sorted(
            (row["rmse"], row["name"])
            for row in rows
            if row["budget"] == budget and row["rmse"] is not None and row["name"] in names
        )
        for rank, (_, name) in enumerate(at):
            ranks[name] = min(rank, ranks.get(name, rank))
    best = set(sorted(ranks, key=lambda name: ranks[name])[:count])
    return [setting for setting in kept if setting.name in best or getattr(setting, "is_kept", False)]


def measure(library: str, problem: Problem, setting: Named, run: Run, budget: int) -> Row:
    """One row; figures are None where the sampler refused, failed or left the numbers."""
    counted = Counted(problem.denoiser)
    start = time.perf_counter()
    try:
        with torch.no_grad():
            x, failure = run(problem, counted, setting, budget), None
    except (
        ScorefieldError,
        ValueError,
        IndexError,
        ZeroDivisionError,
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:
        x, failure = torch.full_like(problem.x_0, torch.nan), f"{type(error).__name__}: {error}"
    row = {
        "problem": problem.name,
        "library": library,
        "name": setting.name,
        "budget": budget,
        "evaluations": counted.asked,
        "is_deterministic": setting.is_deterministic,
        "seconds": time.perf_counter() - start,
        **figures(problem, x.double(), setting.is_deterministic),
    }
    return row | ({"failure": failure} if failure else {})


def figures(problem: Problem, x: Tensor, is_deterministic: bool) -> Row:
    """All of a row's figures."""
    names = ("rmse", "rmse_se", "median", "sliced", "sliced_sd", "covariance", "covariance_sd")
    found: Row = dict.fromkeys(names)
    if not bool(torch.isfinite(x).all()) or float(x.abs().max()) > 1e6:
        return found
    if is_deterministic:
        each = (x - problem.x_0).square().flatten(1).mean(1)
        rmse = float(each.mean().sqrt())
        found |= {
            "rmse": rmse,
            "rmse_se": float(each.std()) / (2.0 * max(rmse, 1e-30) * len(each) ** 0.5),
            "median": float(each.median().sqrt()),
        }
    if problem.draws is not None:
        groups = problem.draws.split(len(x))
        sliced, covariance = _against(x, groups)
        found |= {
            "sliced": sliced[0],
            "sliced_sd": sliced[1],
            "covariance": covariance[0],
            "covariance_sd": covariance[1],
        }
    return found


def floors(problem: Problem) -> Row:
    """What exact results get: the reference's error, and exact draws against one another."""
    found: Row = {"rmse": problem.error, "rms": float(problem.x_0.square().mean().sqrt())}
    if problem.draws is None:
        return found
    groups = problem.draws.split(len(problem.x_0))
    pairs = list(combinations(groups, 2))
    sliced, covariance = (
        _spread([sliced_wasserstein(a, b) for a, b in pairs]),
        _spread([covariance_error(a, b) for a, b in pairs]),
    )
    return found | {
        "sliced": sliced[0],
        "sliced_sd": sliced[1],
        "covariance": covariance[0],
        "covariance_sd": covariance[1],
    }


def _against(x: Tensor, groups: Sequence[Tensor]) -> tuple[tuple[float, float], tuple[float, float]]:
    return _spread([sliced_wasserstein(x, group) for group in groups]), _spread(
        [covariance_error(x, group) for group in groups]
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std())


def sliced_wasserstein(x: Tensor, y: Tensor) -> float:
    """√ of the mean over directions of the squared 2-Wasserstein distance of the projections; sets of one size."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(x.shape[1], PROJECTIONS, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt())


def covariance_error(x: Tensor, y: Tensor) -> float:
    """‖Cov x − Cov y‖ / ‖Cov y‖."""
    return float((x.T.cov() - y.T.cov()).norm() / y.T.cov().norm())


# ── rows on disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


def surveyed(
    library: str,
    problem: Problem,
    settings: Sequence[Any],
    run: Run,
    budgets: Sequence[int],
    folder: File,
    report: Callable[[str], None],
) -> list[Row]:
    """The rows of `survey`, from `peers_LIBRARY_PROBLEM.json` where the same was asked before."""
    file = folder / f"peers_{library}_{problem.name}.json"
    mark = [problem.digest, [setting.name for setting in settings], list(budgets)]
    if file.exists():
        stored = json.loads(file.read_text())
        if stored["mark"] == mark:
            return stored["rows"]
    rows = survey(library, problem, settings, run, budgets, report)
    file.write_text(json.dumps({"mark": mark, "rows": rows}))
    return rows
