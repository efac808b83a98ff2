r"""Multistep methods as tables: one row of numbers a step, and the loop that walks along them.

    V_n = p x_n + q D(x_n, t_n)                                  the quantity that is remembered
    x_{n+1} = carry · x_n + Σ_j weights[j] V_{n−j} + noise · z    the step, newest first
    x_n ← carry' · x_{n−1} + Σ_j weights'[j] V_{n−j} + what noise had come into x_n    the correction, once V_n is known

Each probability flow is y' = V in some variable z, y = x/c, so that a step is the integral of a polynomial through the last
V's: weights[j] = c ∫ ℓ_j(u) dz with Lagrange's ℓ_j in a variable u. The integrals are taken once for a grid, by
Gauss–Legendre, and are checked: weights that do not reproduce every polynomial that their number allows are refused.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.samplers.base import Draw, State
from scorefield.shapes import Float, Tensor

_TOLERANCE = 1e-8


class Correction(NamedTuple):
    """x_n ← carry · x_{n−1} + Σ_j weights[j] V_{n−j} + the noise that came into x_n; V_n is the newest."""

    carry: float
    weights: tuple[float, ...]


class Row(NamedTuple):
    """A step's numbers; see the module.

    Attributes:
        quantity: (p, q) of V_n = p x_n + q D(x_n, t_n).
        carry: what multiplies x_n.
        weights: what multiplies V_n, V_{n−1}, …
        noise: what multiplies z; no noise is drawn where it is 0.
        correction: how x_n is redone once V_n is known, before the step; None where it stays.
    """

    quantity: tuple[float, float]
    carry: float
    weights: tuple[float, ...]
    noise: float = 0.0
    correction: Correction | None = None


TO_DATA = Row((0.0, 1.0), 0.0, (1.0,))
"""The step to t = 0, which takes the denoiser's answer itself  (M25)."""


# ── walking along a table ────────────────────────────────────────────────────────────────────────────────────────────


def walk_table(
    rows: Sequence[Row],
    denoiser: Denoiser,
    x: Float[Tensor, "b *d"],
    times: Sequence[float],
    draw: Draw,
    condition: Any = None,
) -> Iterator[State]:
    """Yield the state after every row, with one evaluation a row.

    Args:
        rows: one for each step; its history is what the rows before it have found.
        denoiser: whom to ask.
        x: the start, at times[0]; it is not changed.
        times: where each row asks, and after them the end.
        draw: the source of noise for rows that have some.
        condition: handed to the denoiser.

    Raises:
        UsageError: rows that do not match the times, or that look further back than there are rows.
    """
    _check_table(rows, times)
    found: deque[Tensor] = deque(maxlen=max(len(weights) for row in rows for weights in _all_weights(row)))
    before, noise, size = x, None, 0.0
    for n, row in enumerate(rows):
        x_0 = denoiser(x, times[n], condition).x0
        found.appendleft(_combined(*row.quantity, x, x_0))
        if row.correction is not None:
            x = _stepped(row.correction.carry, before, row.correction.weights, found)
            if noise is not None:
                x.add_(noise, alpha=size)
        before = x
        x = x_0 if row == TO_DATA else _stepped(row.carry, x, row.weights, found)
        noise, size = (draw(before), row.noise) if row.noise else (None, 0.0)
        if noise is not None:
            x.add_(noise, alpha=size)
        yield State(times[n + 1], x, x_0, n + 1)


def _combined(p: float, q: float, x: Tensor, x_0: Tensor) -> Tensor:
    """p x + q D; the denoiser's own tensor where that is D."""
    if p == 0.0:
        return x_0 if q == 1.0 else x_0 * q
    return (x_0 * q).add_(x, alpha=p)


def _stepped(carry: float, x: Tensor, weights: tuple[float, ...], found: deque[Tensor]) -> Tensor:
    """carry · x + Σ_j weights[j] V_{n−j}, in one new tensor."""
    result = x * carry
    for weight, quantity in zip(weights, found):  # the history may be longer than a row's
        if weight != 0.0:
            result.add_(quantity, alpha=weight)
    return result


def _all_weights(row: Row) -> tuple[tuple[float, ...], ...]:
    return (row.weights,) if row.correction is None else (row.weights, row.correction.weights)


def _check_table(rows: Sequence[Row], times: Sequence[float]) -> None:
    if len(rows) != len(times) - 1 or not rows:
        raise UsageError(
            f"a table needs one row for each step of its times, got {len(rows)} rows for {len(times)} times; make it for these times"
        )
    for n, row in enumerate(rows):
        longest = max(len(weights) for weights in _all_weights(row))
        if longest > n + 1 or (n == 0 and row.correction is not None):
            raise UsageError(
                f"row {n} looks back on {longest} evaluations where there are {n + 1}; begin with rows of lower order"
            )


# ── weights from integrals ───────────────────────────────────────────────────────────────────────────────────────────


class Integral(NamedTuple):
    """∫ f(u) dμ ≈ Σ masses · f(points): the kernel of one step as a quadrature in the polynomial's variable."""

    points: tuple[float, ...]
    masses: tuple[float, ...]

    def of_power(self, power: int, origin: float, width: float) -> float:
        """∫ ((u − origin)/width)^power dμ."""
        return math.fsum(
            mass * ((u - origin) / width) ** power for u, mass in zip(self.points, self.masses, strict=True)
        )


def interpolating(nodes: Sequence[float], integral: Integral) -> tuple[float, ...]:
    """∫ ℓ_j(u) dμ for Lagrange's polynomials of the nodes: exact for polynomials of degree below their number.

    Args:
        nodes: where the quantities are known, u_n, u_{n−1}, …, all different.
        integral: the step's kernel.

    Raises:
        UsageError: nodes that coincide, or that are so near to each other that the weights have lost their digits.
    """
    if len(set(nodes)) < len(nodes) or not all(map(math.isfinite, nodes)):
        raise UsageError(
            f"a polynomial needs distinct finite nodes, got {tuple(nodes)}; use fewer steps or a lower order"
        )
    weights = []
    for j, node in enumerate(nodes):
        others = [*nodes[:j], *nodes[j + 1 :]]
        terms = (mass * math.prod([u - other for other in others]) for u, mass in zip(*integral, strict=True))
        weights.append(math.fsum(terms) / math.prod([node - other for other in others]))
    return verified(tuple(weights), nodes, integral)


def verified(
    weights: tuple[float, ...], nodes: Sequence[float], integral: Integral, degree: int | None = None
) -> tuple[float, ...]:
    """The weights themselves, where Σ_j weights[j] u_jᵏ = ∫ uᵏ dμ for every k up to the degree (one below their number where None).

    Raises:
        UsageError: an order's condition that does not hold; no table can be made of such weights.
    """
    origin = nodes[0]
    width = max((abs(u - origin) for u in (*nodes, *integral.points)), default=1.0) or 1.0
    scale = math.fsum(map(abs, weights)) + math.fsum(map(abs, integral.masses))
    for power in range(len(nodes) if degree is None else degree + 1):
        got = math.fsum(weight * ((u - origin) / width) ** power for weight, u in zip(weights, nodes, strict=True))
        wanted = integral.of_power(power, origin, width)
        if not abs(got - wanted) <= _TOLERANCE * scale:
            raise UsageError(
                f"weights {weights} integrate u^{power} to {got:.6g} instead of {wanted:.6g}; their order needs the conditions up to degree {power}"
            )
    return weights


@lru_cache(maxsize=8)
def legendre(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(points, weights) of the Gauss–Legendre rule on [−1, 1], by Newton's method on P_count."""
    points, weights = [], []
    for k in range(count):
        x = math.cos(math.pi * (k + 0.75) / (count + 0.5))
        for _ in range(20):
            value, slope = _legendre_polynomial(count, x)
            x -= value / slope
        points.append(x)
        weights.append(2.0 / ((1.0 - x * x) * _legendre_polynomial(count, x)[1] ** 2))
    return tuple(points), tuple(weights)


def _legendre_polynomial(count: int, x: float) -> tuple[float, float]:
    """(P_n(x), P_n'(x)) by the three-term recurrence."""
    before, value = 0.0, 1.0
    for n in range(count):
        before, value = value, ((2 * n + 1) * x * value - n * before) / (n + 1)
    return value, count * (before - x * value) / (1.0 - x * x)


def quadrature(low: float, high: float, panel: float = math.inf, count: int = 8) -> Integral:
    """∫_low^high du in panels no wider than `panel`, `count` points each; high may lie below low."""
    panels = max(1, math.ceil(abs(high - low) / panel))
    half = 0.5 * (high - low) / panels
    points, weights = legendre(count)
    return Integral(
        tuple(low + half * (2 * k + 1 + x) for k in range(panels) for x in points),
        tuple(half * weight for _ in range(panels) for weight in weights),
    )
