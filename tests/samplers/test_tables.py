"""Tables of coefficients: their conditions by closed forms, their refusals, and the loop by its own definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path, Rectified
from scorefield.samplers.schemes import FORMS, VARIABLES, DataForm, Scheme, node, table
from scorefield.samplers.tables import (
    TO_DATA,
    Correction,
    Integral,
    Row,
    interpolating,
    legendre,
    quadrature,
    verified,
    walk_table,
)
from tests.worlds import EVERY_PATH, Shrinking, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

DENSE_POINTS, DENSE_WEIGHTS = np.polynomial.legendre.leggauss(16)
LEVELS = (9.0, 4.0, 2.5, 1.2, 0.7, 0.5, 0.2)


def times_of(path: Path) -> tuple[float, ...]:
    """Uneven times at the same levels σ/α on every path."""
    return tuple(path.time_of(-math.log(level)) for level in LEVELS)


def undrawn(like: Tensor) -> Tensor:
    """The noise of a table that has none."""
    raise AssertionError("a row without noise has drawn some")


# ── quadrature ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_legendre_is_numpys(count: int) -> None:
    """A Newton iteration that stops at the wrong root would give a rule of lower degree."""
    points, weights = np.polynomial.legendre.leggauss(count)
    found = sorted(zip(*legendre(count), strict=True))
    assert np.allclose([x for x, _ in found], points, rtol=0, atol=1e-15)
    assert np.allclose([w for _, w in found], weights, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("low", "high"), [(0.3, 2.7), (2.7, 0.3)])
def test_quadrature_in_panels_integrates_both_ways(low: float, high: float) -> None:
    """∫ u³ e^u du from either end, in several panels: a panel's sign or width would show."""
    points, masses = quadrature(low, high, panel=0.5)

    def antiderivative(u: float) -> float:
        return math.exp(u) * (u**3 - 3 * u**2 + 6 * u - 6)

    got = sum(mass * u**3 * math.exp(u) for u, mass in zip(points, masses, strict=True))
    assert got == pytest.approx(antiderivative(high) - antiderivative(low), rel=1e-14)


def test_weights_of_equal_steps_are_adams_and_bashforths() -> None:
    """∫₀¹ through 0, −1, −2, −3: (55, −59, 37, −9)/24, the one table everybody knows."""
    assert interpolating((0.0, -1.0, -2.0, -3.0), quadrature(0.0, 1.0, count=4)) == pytest.approx(
        [55 / 24, -59 / 24, 37 / 24, -9 / 24], rel=1e-14
    )


def test_weights_that_miss_a_condition_are_refused() -> None:
    """A table whose weights do not integrate what their order needs cannot be built."""
    integral = quadrature(0.0, 1.0)
    assert verified((1.5, -0.5), (0.0, -1.0), integral) == (1.5, -0.5)
    for wrong, power in (((1.5, -0.4), 0), ((1.4, -0.4), 1)):
        with pytest.raises(UsageError, match=rf"integrate u\^{power} to .* instead of"):
            verified(wrong, (0.0, -1.0), integral)
    assert verified((1.4, -0.4), (0.0, -1.0), integral, degree=0) == (1.4, -0.4)


@pytest.mark.parametrize("nodes", [(1.0, 1.0), (0.0, math.inf), (math.nan, 0.0)])
def test_nodes_that_coincide_are_refused(nodes: tuple[float, ...]) -> None:
    """A polynomial through one point twice has weights of infinity."""
    with pytest.raises(UsageError, match=r"distinct finite nodes.*fewer steps or a lower order"):
        interpolating(nodes, Integral((0.0,), (1.0,)))


# ── the conditions of the order ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [EDM(), VP(), Rectified(), Discrete()], ids=lambda path: type(path).__name__)
@every_form
@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("upwards", [False, True], ids=["downwards", "upwards"])
def test_a_table_integrates_the_polynomials_of_its_order(path: Path, form: Any, variable: str, upwards: bool) -> None:
    """Σ_j w_j u_jᵏ = ∫ uᵏ dμ for every k below the order, by a dense rule in λ: predictor and corrector, both ways (M26).

    One wrong index, carry or kernel makes the method another, of a lower order.
    """
    times = times_of(path)[::-1] if upwards else times_of(path)
    rows = table(Scheme(form, variable, 3, corrects=True), path, times)
    nodes = [node(path, t) for t in times]

    def position(log_snr: float) -> float:
        t = path.time_of(log_snr)
        return {"own": form.own(node(path, t)), "log-snr": log_snr, "time": t}[variable]

    def moments(n: int) -> list[float]:
        low, high = nodes[n].log_snr, nodes[n + 1].log_snr
        places = (0.5 * (high - low) * DENSE_POINTS + 0.5 * (high + low)).tolist()
        kernel = 0.5 * (high - low) * DENSE_WEIGHTS * [form.density(at, nodes[n + 1]) for at in places]
        values = np.array([position(at) for at in places])
        return [float(kernel @ values**power) for power in range(4)]

    places = np.array([position(one.log_snr) for one in nodes])
    tolerance = 2e-5 if variable == "time" else 1e-8  # a chain's t has corners in λ, where quadratures differ
    for n in (1, 4):
        correction = cast("Correction", rows[n].correction)
        for weights, wanted, count in (
            (rows[n].weights, moments(n), min(3, n + 1)),
            (correction.weights, moments(n - 1), min(4, n + 1)),
        ):
            assert len(weights) == count
            for power in range(count):
                terms = np.array(weights) * places[n - np.arange(count)] ** power
                assert terms.sum() == pytest.approx(wanted[power], abs=tolerance * abs(terms).sum())


@every_path
@pytest.mark.parametrize("name", ["data", "noise", "straight"])
def test_a_constant_quantity_is_carried_exactly(path: Path, name: str) -> None:
    """x = α x₀ + σ ε with D = x₀: D, ε̂ and ε̂ − D stay what they were, so every step lands on the line again (M1, M6, M8)."""
    form, x_0, noise = FORMS[name], 0.7, -1.3
    nodes = [node(path, t) for t in times_of(path)]
    x = [one.alpha * x_0 + one.sigma * noise for one in nodes]
    found = [p * x_t + q * x_0 for x_t, (p, q) in zip(x, map(form.quantity, nodes), strict=True)]
    assert found == pytest.approx([{"data": x_0, "noise": noise, "straight": noise - x_0}[name]] * len(nodes), rel=1e-9)
    for n, row in enumerate(table(Scheme(form, "log-snr", 3), path, times_of(path))):
        step = row.carry * x[n] + sum(weight * found[n - j] for j, weight in enumerate(row.weights))
        assert step == pytest.approx(x[n + 1], rel=1e-9, abs=1e-9)


@every_path
def test_a_standard_normal_has_no_velocity(path: Path) -> None:
    """With D = α/(α²+σ²) x the flow turns x by no angle: v = 0, and x/√(α²+σ²) stays (M7)."""
    form, nodes = FORMS["velocity"], [node(path, t) for t in times_of(path)]
    for t, s in pairwise(nodes):
        p, q = form.quantity(t)
        assert p + q * t.alpha / (t.alpha**2 + t.sigma**2) == pytest.approx(0.0, abs=1e-12)
        assert form.carry(t, s) * math.hypot(t.alpha, t.sigma) == pytest.approx(math.hypot(s.alpha, s.sigma))


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ROWS = (
    Row((0.0, 1.0), 0.9, (0.3,), 0.2),
    Row((0.5, -0.7), 0.8, (0.1, 0.4), 0.3, Correction(0.6, (0.2, -0.1))),
    Row((0.0, 2.0), 0.7, (0.0, 0.0, 0.5), 0.0, Correction(0.5, (0.3, 0.0, 0.2))),
    TO_DATA,
)
TIMES = (4.0, 3.0, 2.0, 1.0, 0.0)


def by_definition(denoise: Callable[[Tensor, float], Tensor], x: Tensor, z: list[Tensor]) -> list[Tensor]:
    """The rows above in the letters of the module, all history kept."""
    found: list[Tensor] = []
    states, arrived, before = [], torch.zeros_like(x), x
    for n, row in enumerate(ROWS):
        answer = denoise(x, TIMES[n])
        found.insert(0, row.quantity[0] * x + row.quantity[1] * answer)
        if row.correction is not None:
            x = row.correction.carry * before + arrived
            x = x + torch.stack([w * v for w, v in zip(row.correction.weights, found, strict=False)]).sum(0)
        before = x
        arrived = row.noise * z[n]
        x = row.carry * x + torch.stack([w * v for w, v in zip(row.weights, found, strict=False)]).sum(0) + arrived
        states.append(x)
    return states


def test_the_loop_is_its_definition() -> None:
    """Quantity, step, noise and correction with what noise had come in, state by state; one draw for each row with noise."""
    denoiser, x, z = Shrinking(EDM()), normal(2, 3), [normal(2, 3, seed=k) for k in range(1, 5)]
    drawn = iter(z)
    states = list(walk_table(ROWS, denoiser, x, TIMES, lambda like: next(drawn)))
    wanted = by_definition(lambda x_t, t: x_t / (1.0 + t), x, z)
    for state, x_s, t, count in zip(states, wanted, TIMES[1:], range(1, 5), strict=True):
        assert torch.allclose(state.x, x_s, rtol=1e-13, atol=1e-14)
        assert (state.t, state.evaluations) == (t, count)
    assert denoiser.asked == list(TIMES[:-1])
    assert len(list(drawn)) == 2
    assert torch.equal(states[-1].x, states[-1].x0)


@dataclass(frozen=True, eq=False)
class Guarded(Denoiser):
    """Answers with tensors that it keeps, with what they were."""

    path: Path
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """Predict, and keep question and answer."""
        answer = x_t / (1.0 + float(t))
        self.kept.extend([(x_t, x_t.clone()), (answer, answer.clone())])
        return Prediction(answer, x_t, t, self.path)


def test_questions_and_answers_are_left_alone() -> None:
    """An in-place step on x_t, on D or on the history would rewrite what the denoiser was asked or has said."""
    denoiser = Guarded(EDM())
    list(walk_table(ROWS, denoiser, normal(2, 3), TIMES, torch.ones_like))
    for tensor, before in denoiser.kept:
        assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[:3], "3 rows for 5 times"),
        ((), "0 rows for 5 times"),
        ((Row((0.0, 1.0), 1.0, (1.0, 0.5)), *ROWS[1:]), "row 0 looks back on 2 evaluations where there are 1"),
        ((ROWS[0]._replace(correction=Correction(1.0, (1.0,))), *ROWS[1:]), "begin with rows of lower order"),
        ((ROWS[0], ROWS[1]._replace(correction=Correction(1.0, (1.0, 1.0, 1.0))), *ROWS[2:]), "row 1 looks back on 3"),
    ],
)
def test_tables_that_do_not_fit_are_refused(rows: tuple[Row, ...], said: str) -> None:
    """A row too many is a step to nowhere; a weight without an evaluation would be dropped without a word."""
    with pytest.raises(UsageError, match=said):
        next(walk_table(rows, Shrinking(EDM()), normal(2, 3), TIMES, undrawn))


def test_a_table_is_made_once() -> None:
    """Coefficients are a property of path, times and method; making them at every trajectory would cost more than the steps."""
    scheme, times = Scheme(DataForm(), "log-snr", 3), times_of(VP())
    assert table(scheme, VP(), times) is table(scheme, VP(), times)
    assert all(earlier != later for earlier, later in pairwise(table(scheme, VP(), times)))
