"""Runge–Kutta methods of the probability flow: tableaux that check themselves, measured orders, and who they are equal to."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path, Rectified, VPCosine
from scorefield.samplers import DDIM, Heun, Karras, LogSNR, RungeKutta, Trailing
from scorefield.samplers.runge_kutta import TABLEAUX, Tableau
from tests.samplers.flows import errors, flow_between, level, orders
from tests.worlds import EVERY_PATH, exact_flow, gaussian, gaussian_flow, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_method = pytest.mark.parametrize("method", TABLEAUX)
every_quantity = pytest.mark.parametrize("quantity", ["data", "noise", "velocity", "straight"])


# ── tableaux ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_method
def test_a_weight_that_is_off_is_refused(method: str) -> None:
    """Every entry of every tableau matters to its order: none can be wrong in a digit and pass."""
    right = TABLEAUX[method]
    for i in range(len(right.weights)):
        weights = tuple(b + 1e-6 * (i == j) for j, b in enumerate(right.weights))
        with pytest.raises(UsageError, match="claim a lower order"):
            Tableau(right.matrix, weights, right.order)


@pytest.mark.parametrize("method", ["midpoint", "kutta3", "rk4", "three-eighths"])
def test_an_order_too_much_is_refused(method: str) -> None:
    """A claim is not believed: the condition that fails is named."""
    with pytest.raises(UsageError, match=r"needs Σb.* = "):
        Tableau(TABLEAUX[method].matrix, TABLEAUX[method].weights, TABLEAUX[method].order + 1)


def test_rows_of_the_wrong_length_are_refused() -> None:
    """An implicit or a ragged matrix would be read as another method."""
    with pytest.raises(UsageError, match="rows of 0, 1, 2"):
        Tableau(((0.5,),), (1.0,), 1)


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = {1: (128, 256), 2: (64, 128), 3: (32, 64), 4: (32, 64)}


@every_method
@every_quantity
def test_error_falls_at_the_declared_order(method: str, quantity: str) -> None:
    """In each of the four variables, within a quarter of an order: the mixture's flow is known to 1e-10 (M26)."""
    path, sampler = EDM(), RungeKutta(method=method, quantity=quantity, grid=LogSNR())
    x, exact = flow_between((3.0, 0.3))
    found = errors(sampler, mixture(path), x, (3.0, 0.3), exact, STEPS[sampler.order])
    assert all(abs(order - sampler.order) < 0.25 for order in orders(found)), (found, orders(found))


@every_path
@pytest.mark.parametrize("way", [(3.0, 0.3), (0.3, 3.0)], ids=["down", "up"])
def test_fourth_order_on_every_path(path: Path, way: tuple[float, float]) -> None:
    """The order does not depend on α and σ, a chain's with stages between its steps included (M26)."""
    x_bar, exact = flow_between(way)
    t, s = level(path, way[0]), level(path, way[1])
    sampler = RungeKutta(grid=LogSNR())
    found = errors(sampler, mixture(path), path.alpha(t) * x_bar, (t, s), path.alpha(s) * exact, (32, 64))
    assert all(abs(order - 4.0) < 0.25 for order in orders(found)), (found, orders(found))


@pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=repr)
@every_quantity
def test_order_holds_where_the_signal_ends(path: Path, quantity: str) -> None:
    """At α = 0 a step is taken in the angle, whatever the quantity: no infinity, and an error as elsewhere (M26)."""
    world, s = mixture(path), level(path, 1.0)
    x = normal(6, 2)
    exact = exact_flow(world, x, path.t_max, s)
    coarse, fine = errors(RungeKutta(grid=Trailing(), quantity=quantity), world, x, (path.t_max, s), exact, (8, 32))
    assert fine < coarse / (100.0 if quantity in ("velocity", "straight") else 4.0), (coarse, fine)
    assert fine < 2e-3


@every_path
@every_quantity
def test_the_whole_way_from_noise_to_data(path: Path, quantity: str) -> None:
    """From t_max to t = 0 on a Gaussian, both ends included (M22, M26)."""
    world = gaussian(path, variances=(0.8, 0.3))
    x_T = path.prior_std * normal(8, 2)
    exact = gaussian_flow(world, x_T, path.t_max, path.t_min)
    (found,) = errors(RungeKutta(quantity=quantity), world, x_T, (path.t_max, 0.0), exact, (30,))
    assert found < 0.01 + 2.0 * (path.sigma(path.t_min) / path.alpha(path.t_min)) ** 2


@every_path
@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4)])
def test_round_trip_falls_at_the_order(path: Path, method: str, order: int) -> None:
    """Data → noise → data: encoding is as exact as sampling (M26, M43). A one-step method is not its own inverse."""
    world, low, high = mixture(path), level(path, 0.1), level(path, 6.0)
    x = path.perturb(world.means, low, 0.3 * normal(3, 2))
    found = []
    for steps in (24, 48):
        sampler = RungeKutta(steps=steps, grid=LogSNR(), method=method)
        back = sampler.sample(world, sampler.sample(world, x, start=low, end=high), start=high, end=low)
        found.append(float((back - x).square().mean().sqrt()))
    assert all(order - 0.5 < got < order + 1.6 for got in orders(found)), (found, orders(found))


# ── equals ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize(("method", "other"), [("euler", DDIM()), ("heun", Heun())], ids=["DDIM", "Heun"])
def test_ddim_and_heun_are_members(path: Path, method: str, other: DDIM | Heun) -> None:
    """Euler and the trapezoidal rule in σ/α, computed in two ways (M23, M26)."""
    world, t, s = mixture(path), level(path, 2.0), level(path, 0.7)
    x_t = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2)
    ours = RungeKutta(method=method, quantity="noise").step(world, x_t, t, s)
    assert torch.allclose(ours.x, other.step(world, x_t, t, s).x, rtol=1e-8, atol=1e-9)


def test_rk4_is_the_textbooks() -> None:
    """k₁ … k₄ of dx/dσ = (x − D)/σ on EDM's path, written out (M26)."""
    world, x, t, s = mixture(EDM()), 3.0 * normal(4, 2), 2.0, 1.2
    h = s - t

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x - world(x, sigma).x0) / sigma

    k1 = slope(x, t)
    k2 = slope(x + 0.5 * h * k1, t + 0.5 * h)
    k3 = slope(x + 0.5 * h * k2, t + 0.5 * h)
    k4 = slope(x + h * k3, s)
    wanted = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    got = RungeKutta(quantity="noise").step(world, x, t, s)
    assert torch.allclose(got.x, wanted, rtol=1e-10, atol=1e-11)
    assert got.evaluations == 4


@every_method
def test_evaluations_are_stages_but_for_the_last_step(method: str) -> None:
    """Four a step for RK4, and one to data: 4K − 3."""
    stages = len(TABLEAUX[method].weights)
    assert RungeKutta(steps=7, method=method).evaluations() == 6 * stages + 1


@pytest.mark.parametrize(
    ("settings", "said"), [({"method": "rk5"}, "three-eighths"), ({"quantity": "flow"}, "straight")]
)
def test_what_there_is_not_is_refused(settings: dict[str, str], said: str) -> None:
    """With the names that there are."""
    with pytest.raises(UsageError, match=said):
        RungeKutta(**settings)  # type: ignore[arg-type]


def test_defaults() -> None:
    """RK4 in the angle, on EDM's grid."""
    sampler = RungeKutta()
    assert (sampler.method, sampler.quantity, sampler.grid, sampler.order) == ("rk4", "velocity", Karras(), 4)
    assert sampler.sample(mixture(VP()), normal(3, 2)).isfinite().all()
