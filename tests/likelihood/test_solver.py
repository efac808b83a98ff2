"""The adaptive solver: its error follows the tolerance, every sample goes its own way, and it stops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.likelihood.solver import Solution, Solver
from tests.worlds import float64, normal


def turning(rates: Tensor, u: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """y turns at a rate of each sample's own; ℓ integrates cos u + the rate."""
    rate = rates[rows][:, None]
    return rate * torch.stack([-y[:, 1], y[:, 0]], 1), u.cos() + rates[rows]


def solved(tolerance: float, rates: Tensor, total_tolerance: float | None = None) -> Solution:
    start = float64([[1.0, 0.0]]).repeat(len(rates), 1)
    solver = Solver(tolerance, total_tolerance or tolerance, 0.5)
    return solver.solve(lambda u, y, rows: turning(rates, u, y, rows), start, 0.0, 3.0)


RATES = float64([0.1, 2.0, 9.0])


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_errors_follow_the_tolerance(tolerance: float) -> None:
    """y and the integral are both held: either alone would let the other drift."""
    found = solved(tolerance, RATES)
    exact = torch.stack([(3.0 * RATES).cos(), (3.0 * RATES).sin()], 1)
    assert float((found.y - exact).abs().max()) < 60.0 * tolerance
    assert torch.allclose(found.total, math.sin(3.0) + 3.0 * RATES, rtol=0.0, atol=20.0 * tolerance)


def test_each_sample_has_its_own_steps_and_none_of_its_neighbours() -> None:
    """One error for all would make a likelihood depend on the batch it is measured in."""
    together = solved(1e-5, RATES)
    assert together.evaluations[0] < together.evaluations[1] < together.evaluations[2]
    for k in range(3):
        alone = solved(1e-5, RATES[k : k + 1])
        assert torch.equal(alone.y[0], together.y[k])
        assert float(alone.evaluations[0]) == float(together.evaluations[k])


def test_the_integral_alone_can_shorten_the_steps() -> None:
    """A point that hardly moves may have a density that does."""
    loose, tight = solved(1e-2, RATES[:1]), solved(1e-2, RATES[:1], 1e-9)
    assert float(tight.evaluations[0]) > float(loose.evaluations[0])


def test_a_slope_that_is_not_finite_ends_in_an_error() -> None:
    """An endless loop would say nothing."""
    solver = Solver(1e-3, 1e-3, 0.5)
    with pytest.raises(UsageError, match="did not arrive within"):
        solver.solve(lambda u, y, rows: (y * math.nan, u * math.nan), normal(2, 2), 0.0, 1.0)
