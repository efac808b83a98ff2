"""Deterministic samplers against the exact probability flow: order, both ways, on every path, and EDM's own algorithm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.paths import EDM, VP, Path, Rectified, VPCosine
from scorefield.samplers import DDIM, Heun, Karras, LogSNR, Sampler, Trailing
from tests.samplers.flows import WAYS, errors, flow_between, level, orders
from tests.worlds import EVERY_PATH, exact_flow, gaussian, gaussian_flow, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
SOLVERS = {"DDIM": DDIM(grid=Karras()), "Heun": Heun()}
every_solver = pytest.mark.parametrize("sampler", SOLVERS.values(), ids=SOLVERS)


def test_the_reference_flow_is_the_formula_for_one_gaussian() -> None:
    """The yardstick itself, on a straight, a curved and a one-sided path: otherwise the order tests measure nothing."""
    for path in (Rectified(), VP(), EDM()):
        world, x = gaussian(path), normal(5, 2)
        t, s = 0.9 * path.t_max, 0.05 * path.t_max
        assert torch.allclose(exact_flow(world, x, t, s), gaussian_flow(world, x, t, s), rtol=1e-8, atol=1e-9)


@every_path
@every_solver
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_error_falls_at_the_declared_order(path: Path, sampler: Sampler, way: tuple[float, float]) -> None:
    """On a mixture, downwards and upwards: one wrong subscript in a second-order step makes it first order (M26)."""
    world = mixture(path)
    t, s = level(path, way[0]), level(path, way[1])
    x_bar, exact = flow_between(way)
    found = errors(sampler, world, path.alpha(t) * x_bar, (t, s), path.alpha(s) * exact, (32, 64, 128))
    assert all(abs(order - sampler.order) < 0.3 for order in orders(found)), (found, orders(found))
    assert found[-1] < (0.1 if sampler.order == 1 else 0.004) * math.hypot(path.alpha(s), path.sigma(s))


@every_path
@every_solver
def test_the_whole_way_from_noise_to_data(path: Path, sampler: Sampler) -> None:
    """From t_max to t = 0 on a Gaussian, whose flow is a formula at both ends, α = 0 and σ = 0 included (M22, M26)."""
    world = gaussian(path, variances=(0.8, 0.3))
    x_T = path.prior_std * normal(8, 2)
    exact = gaussian_flow(world, x_T, path.t_max, path.t_min)
    coarse, fine = errors(sampler, world, x_T, (path.t_max, 0.0), exact, (40, 160))
    floor = 2.0 * (path.sigma(path.t_min) / path.alpha(path.t_min)) ** 2
    assert fine < (0.1 if sampler.order == 1 else 0.01)
    assert fine < coarse / (2.5 if sampler.order == 1 else 6.0) + floor


@pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=repr)
@pytest.mark.parametrize("upwards", [False, True])
def test_second_order_holds_where_the_signal_ends(path: Path, upwards: bool) -> None:
    """At α = 0 the variable x/α does not exist: 1/0 must not spoil either way; next to it the error is h² log h (M26)."""
    world, s = mixture(path), level(path, 1.0)
    x = normal(6, 2)
    ends = (s, path.t_max) if upwards else (path.t_max, s)
    found = errors(Heun(grid=Trailing()), world, x, ends, exact_flow(world, x, *ends), (16, 32, 64))
    assert all(1.5 < order < 2.3 for order in orders(found)), (found, orders(found))


@every_path
def test_inversion_round_trip_falls_at_first_order(path: Path) -> None:
    """Data → noise → data by DDIM: the error halves when the steps double, so it encodes (M26)."""
    world = mixture(path)
    low, high = level(path, 0.1), level(path, 6.0)
    x = path.perturb(world.means, low, 0.3 * normal(3, 2))
    found = []
    for steps in (40, 80, 160):
        sampler = DDIM(steps=steps, grid=LogSNR())
        back = sampler.sample(world, sampler.sample(world, x, start=low, end=high), start=high, end=low)
        found.append(float((back - x).abs().max()))
    assert all(0.7 < order < 1.4 for order in orders(found)), (found, orders(found))
    assert found[-1] < 0.1


@every_path
def test_ddim_is_euler_in_sigma_over_alpha(path: Path) -> None:
    """x̄_s = x̄_t + (s_s − s_t) ε̂: the same step written in the ODE's own variables (M23, M26)."""
    world = mixture(path)
    for high, low in ((5.0, 2.0), (0.5, 0.3), (0.3, 0.5)):
        t, s = level(path, high), level(path, low)
        x_t = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2)
        slope = world(x_t, t).noise
        wanted = path.alpha(s) * (
            x_t / path.alpha(t) + (path.sigma(s) / path.alpha(s) - path.sigma(t) / path.alpha(t)) * slope
        )
        assert torch.allclose(DDIM().step(world, x_t, t, s).x, wanted, rtol=1e-9, atol=1e-10)


@every_path
def test_heun_is_the_trapezoidal_rule(path: Path) -> None:
    """Slopes at both ends, the second at Euler's point, averaged (M26; EDM, algorithm 1, with all of σ(t), s(t))."""
    world = mixture(path)
    t, s = level(path, 2.0), level(path, 0.7)
    x_t = math.hypot(path.alpha(t), path.sigma(t)) * normal(4, 2)
    width = path.sigma(s) / path.alpha(s) - path.sigma(t) / path.alpha(t)
    first = world(x_t, t).noise
    euler = path.alpha(s) * (x_t / path.alpha(t) + width * first)
    wanted = path.alpha(s) * (x_t / path.alpha(t) + 0.5 * width * (first + world(euler, s).noise))
    state = Heun().step(world, x_t, t, s)
    assert torch.allclose(state.x, wanted, rtol=1e-9, atol=1e-10)
    assert torch.allclose(state.x0, world(euler, s).x0, rtol=1e-9)


def test_heun_on_its_own_path_is_edms_algorithm() -> None:
    """Algorithm 1 of the paper line by line: d = (x − D)/t, Euler, correction unless t_{i+1} = 0 (M26)."""
    world, x = mixture(EDM()), 80.0 * normal(5, 2)
    times = Karras().times(EDM(), 12)
    wanted = x.clone()
    for t, s in zip(times, times[1:], strict=False):
        d = (wanted - world(wanted, t).x0) / t
        after = wanted + (s - t) * d
        if s != 0.0:
            d_end = (after - world(after, s).x0) / s
            after = wanted + (s - t) * 0.5 * (d + d_end)
        wanted = after
    assert torch.allclose(Heun(steps=12).sample(world, x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [DDIM(steps=20, grid=LogSNR()), Heun(steps=20, grid=LogSNR())], ids=repr)
def test_the_path_does_not_matter(sampler: Sampler) -> None:
    """At the same levels σ/α every path is one ODE: samples agree to rounding, whatever α and σ are (M26)."""
    x = normal(6, 2)

    def drawn(path: Path) -> Tensor:
        t, s = level(path, 5.0), level(path, 0.05)
        return sampler.sample(mixture(path), path.alpha(t) * 5.0 * x, start=t, end=s) / path.alpha(s)

    for path in EVERY_PATH.values():
        assert torch.allclose(drawn(path), drawn(EDM()), rtol=1e-6, atol=1e-7)
