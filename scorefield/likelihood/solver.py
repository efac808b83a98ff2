r"""Dormand & Prince's 5(4) for a point and a number that is integrated along with it, every sample with steps of its own.

    dy/du = f(u, y),   dℓ/du = g(u, y)

A step is taken where the difference of the two results, in units of its tolerance, is at most 1:

    e² = max( mean over the elements of (Δy/tol_y)²,  (Δℓ/tol_ℓ)² )

A joint error for a batch would let the few samples that cross from one mode to another carry all the error of a likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from scorefield.errors import UsageError
from scorefield.samplers.adaptive import FIFTH, FIFTH_LESS_FOURTH
from scorefield.shapes import Float, Tensor

Slope = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(u (b,), y (b, D), rows (b,)) → (dy/du (b, D), dℓ/du (b,)); rows are the samples' numbers in the batch."""

_SAFETY, _PROPORTIONAL, _INTEGRAL = 0.9, 0.14, 0.08
_LEAST, _MOST = 0.2, 5.0
_ATTEMPTS = 2000


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """Where the samples have arrived.

    Attributes:
        y: (b, D) the points.
        total: (b,) what was integrated along the way.
        evaluations: (b,) how often the slope was asked for each.
    """

    y: Float[Tensor, "b dim"]
    total: Float[Tensor, " b"]
    evaluations: Float[Tensor, " b"]


@dataclass(frozen=True, eq=False)
class _Crowd:
    """Samples under way; all tensors have one row a sample."""

    y: Tensor
    total: Tensor
    dy: Tensor
    dtotal: Tensor
    u: Tensor
    h: Tensor
    error: Tensor
    asked: Tensor

    def rows(self, chosen: Tensor) -> _Crowd:
        return _Crowd(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def with_rows(self, chosen: Tensor, few: _Crowd) -> _Crowd:
        pairs = ((getattr(self, name), getattr(few, name)) for name in self.__dataclass_fields__)
        return _Crowd(*(whole.index_copy(0, chosen, part) for whole, part in pairs))


@final
@dataclass(frozen=True)
class Solver:
    """Per-sample adaptive steps from u₀ to u₁.

    Attributes:
        tolerance: tol_y, of an element of y, whose size is about 1.
        total_tolerance: tol_ℓ.
        first: the first step that is tried.
    """

    tolerance: float
    total_tolerance: float
    first: float

    def solve(self, slope: Slope, y: Float[Tensor, "b dim"], start: float, end: float) -> Solution:
        """Go from `start` to `end` with ℓ = 0 at first.

        Raises:
            UsageError: the steps do not suffice.
        """
        import torch

        everyone = torch.arange(len(y), device=y.device)
        u = y.new_full((len(y),), start)
        dy, dtotal = slope(u, y, everyone)
        ones = torch.ones_like(u)
        crowd = _Crowd(y, 0.0 * u, dy, dtotal, u, self.first * ones, ones, ones)
        for _ in range(_ATTEMPTS):
            rows = (crowd.u < end).nonzero()[:, 0]
            if not len(rows):
                return Solution(crowd.y, crowd.total, crowd.asked)
            crowd = crowd.with_rows(rows, self._attempted(slope, crowd.rows(rows), rows, end))
        raise UsageError(
            f"the flow did not arrive within {_ATTEMPTS} attempts; loosen the tolerance, or ask the network in float64"
        )

    def _attempted(self, slope: Slope, now: _Crowd, rows: Tensor, end: float) -> _Crowd:
        """One step tried by everyone, taken where its error is small enough."""
        h = now.h.minimum(end - now.u)
        there = now.u + h
        there = there.where(h < end - now.u, there.new_tensor(end))
        slopes, totals = [now.dy], [now.dtotal]
        y = now.y
        for node, row in zip(FIFTH.nodes[1:], FIFTH.matrix[1:], strict=True):
            y = now.y + h[:, None] * _sum(row, slopes)
            dy, dtotal = slope(there if node > 1.0 - 1e-12 else now.u + node * h, y, rows)
            slopes.append(dy)
            totals.append(dtotal)
        error = self._error(h[:, None] * _sum(FIFTH_LESS_FOURTH, slopes), h * _sum(FIFTH_LESS_FOURTH, totals))
        total = now.total + h * _sum(FIFTH.weights, totals)
        return self._judged(now, replace(now, y=y, total=total, dy=slopes[-1], dtotal=totals[-1], u=there), h, error)

    def _error(self, off: Tensor, total_off: Tensor) -> Tensor:
        in_y = off.square().mean(1).sqrt() / self.tolerance
        error = in_y.maximum(total_off.abs() / self.total_tolerance)
        return error.nan_to_num(nan=math.inf).clamp(1e-10, 1e10)

    @staticmethod
    def _judged(before: _Crowd, after: _Crowd, h: Tensor, error: Tensor) -> _Crowd:
        taken = error <= 1.0
        # Gustafsson's controller, and the plain one where the error is so small that caution gains nothing
        cautious = error**-_PROPORTIONAL * before.error**_INTEGRAL
        longer = _SAFETY * cautious.maximum((10.0 * error) ** (-1.0 / FIFTH.order))
        shorter = (_SAFETY * error ** (-1.0 / FIFTH.order)).clamp(max=1.0)
        width = h * longer.where(taken, shorter).clamp(_LEAST, _MOST)
        after = replace(after, h=width, error=error)
        before = replace(before, h=width)
        names = before.__dataclass_fields__
        chosen = (_chosen(taken, getattr(after, name), getattr(before, name)) for name in names)
        return replace(_Crowd(*chosen), asked=before.asked + 6.0)


def _chosen(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return one.where(which.view(-1, *(1,) * (one.ndim - 1)), other)


def _sum(weights: tuple[float, ...], quantities: list[Tensor]) -> Tensor:
    """Σ_j weights[j] quantities[j]."""
    total = quantities[0] * weights[0]
    for weight, quantity in zip(weights[1:], quantities[1:], strict=False):
        if weight != 0.0:
            total = total + weight * quantity
    return total
