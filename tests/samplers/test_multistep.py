"""Multistep samplers against the exact flow and the exact law: order, both ways, on every path, and their formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path, Rectified, VPCosine
from scorefield.samplers import (
    DDIM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    AdamsBashforth,
    DPMSolverMultistep,
    Karras,
    Linear,
    LogSNR,
    Sampler,
    Trailing,
    UniPC,
)
from scorefield.samplers.multistep import Multistep
from tests.worlds import (
    EVERY_PATH,
    Shrinking,
    exact_flow,
    float64,
    gaussian,
    gaussian_flow,
    mixture,
    normal,
    seeded,
    sliced_wasserstein,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)

METHODS: dict[str, Multistep] = {
    **{f"LMS-{order}": LMS(order=order) for order in (1, 2, 3, 4)},
    **{f"DEIS-{order}": DEIS(order=order) for order in (2, 3, 4)},
    "DEIS-log-snr": DEIS(variable="log-snr"),
    **{f"AB-velocity-{order}": AdamsBashforth(order=order) for order in (2, 3, 4)},
    **{f"AB-straight-{order}": AdamsBashforth(order=order, quantity="straight") for order in (2, 3)},
    **{f"AB-data-{order}": AdamsBashforth(order=order, quantity="data", variable="log-snr") for order in (3, 4)},
    "IPNDM-1": IPNDM(order=1),
    "IPNDM-4": IPNDM(),
    "DPM++1": DPMSolverMultistep(order=1),
    "DPM++2M": DPMSolverMultistep(),
    "DPM++2M-heun": DPMSolverMultistep(solver="heun"),
    "DPM++3M": DPMSolverMultistep(order=3),
    "DPM-2": DPMSolverMultistep(prediction="noise"),
    "DPM-3": DPMSolverMultistep(order=3, prediction="noise"),
    "UniPC-1": UniPC(order=1),
    "UniPC-2-bh1": UniPC(variant="bh1"),
    "UniPC-2-bh2": UniPC(),
    "UniPC-3": UniPC(order=3),
    "UniPC-3-noise": UniPC(order=3, prediction="noise"),
    "UniP-3": UniPC(order=3, corrector=False),
}
"""Every method and order, on the grid that a test gives it."""

CHOSEN: dict[str, Sampler] = {
    **{name: METHODS[name] for name in ("LMS-4", "AB-velocity-3", "AB-straight-3", "AB-data-4", "IPNDM-4")},
    **{name: METHODS[name] for name in ("DPM++2M", "DPM-3", "UniPC-2-bh1", "UniPC-3-noise")},
    "PNDM": PNDM(),
}
"""One of each family, for what follows from the forms alone."""

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def level(path: Path, s: float) -> float:
    """The time at which σ/α = s."""
    return path.time_of(-math.log(s))


@cache
def flow_between(high: float, low: float) -> tuple[Tensor, Tensor]:
    """Points at one level σ/α of EDM's path and where the flow takes them."""
    x = math.hypot(1.0, high) * normal(4, 2)
    return x, exact_flow(mixture(_WIDE), x, high, low)


_WIDE = EDM(sigma_max=500.0)


def errors(sampler: Sampler, steps: Sequence[int], high: float, low: float) -> list[float]:
    """Root mean square errors at the end, for several numbers of steps uniform in λ."""
    x, exact = flow_between(high, low)
    runs = (
        replace(sampler, steps=count, grid=LogSNR()).sample(mixture(_WIDE), x, start=high, end=low) for count in steps
    )
    return [float((run - exact).square().mean().sqrt()) for run in runs]


def orders(found: list[float]) -> list[float]:
    """The orders seen between runs of doubled steps."""
    return [math.log2(abs(coarse / fine)) for coarse, fine in pairwise(found)]


# ── the flow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_method
def test_error_falls_at_the_declared_order(method: Multistep) -> None:
    """From noise to σ/α = 1 on a mixture: a wrong subscript in a weight makes a third-order method second order (M26)."""
    found = errors(method, (192, 384) if method.convergence_order > 3 else (64, 128), 200.0, 1.0)
    assert all(abs(order - method.convergence_order) < 0.25 for order in orders(found)), (found, orders(found))


def test_pndm_is_of_second_order_where_steps_are_not_equal() -> None:
    """Fixed weights on steps that shrink: second order, with and without the pseudo-Runge–Kutta start (M26)."""
    found = errors(PNDM(), (128, 256), 200.0, 1.0)
    assert all(abs(order - PNDM.order) < 0.25 for order in orders(found)), (found, orders(found))


def test_fixed_weights_are_right_where_steps_are_equal() -> None:
    """Uniform in s = σ/α, EDM's t: with its Runge–Kutta start PNDM is of order 4 from the middle, and IPNDM is LMS (M26)."""
    x, exact = flow_between(3.0, 0.6)
    world = mixture(_WIDE)

    def run(sampler: Sampler, steps: int) -> Tensor:
        return replace(sampler, steps=steps, grid=Linear()).sample(world, x, start=3.0, end=0.6)

    found = [float((run(PNDM(), steps) - exact).square().mean().sqrt()) for steps in (64, 128, 256)]
    assert all(abs(order - 4) < 0.25 for order in orders(found)), (found, orders(found))
    assert torch.allclose(run(IPNDM(), 20), run(LMS(), 20), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "wanted"), [(LMS(), 2), (AdamsBashforth(order=4), 2), (UniPC(order=3), 3)], ids=["LMS", "AB", "UniPC"]
)
def test_the_ramp_is_what_is_left_from_the_middle(method: Multistep, wanted: int) -> None:
    """Started where D moves, the first step's h² stays: order 2, or 3 where the corrector has redone that step (M26)."""
    found = errors(method, (128, 256), 3.0, 0.3)
    assert orders(found)[0] == pytest.approx(wanted, abs=0.25), found


@pytest.mark.parametrize("method", CHOSEN.values(), ids=CHOSEN)
def test_upwards_is_the_flow_too(method: Sampler) -> None:
    """From data to noise by the same table: encoding and decoding again return, at second order or better (M26)."""
    world, x = mixture(_WIDE), flow_between(3.0, 0.3)[1]
    found = []
    for steps in (20, 40):
        sampler = replace(method, steps=steps, grid=LogSNR())
        up = sampler.sample(world, x, start=0.3, end=3.0)
        found.append(float((sampler.sample(world, up, start=3.0, end=0.3) - x).square().mean().sqrt()))
    assert found[1] < 0.02
    assert found[1] < 0.6 * found[0]


PATHLESS = {name: method for name, method in CHOSEN.items() if name != "PNDM"}


@pytest.mark.parametrize("method", PATHLESS.values(), ids=PATHLESS)
def test_the_path_does_not_matter(method: Sampler) -> None:
    """At the same levels σ/α every path is one ODE: samples agree to rounding, whatever α and σ are (M26)."""
    x = normal(6, 2)
    sampler = replace(method, steps=9, grid=LogSNR())

    def drawn(path: Path) -> Tensor:
        t, s = level(path, 5.0), level(path, 0.05)
        return sampler.sample(mixture(path), path.alpha(t) * 5.0 * x, start=t, end=s) / path.alpha(s)

    for path in EVERY_PATH.values():
        assert torch.allclose(drawn(path), drawn(EDM()), rtol=1e-6, atol=1e-7)


@every_path
@pytest.mark.parametrize("method", [*CHOSEN.values(), DEIS()], ids=[*CHOSEN, "DEIS"])
def test_the_whole_way_from_noise_to_data(path: Path, method: Sampler) -> None:
    """From t_max to t = 0 on a Gaussian whose flow is a formula, α = 0 included: 1/0 at either end would show (M26)."""
    world = gaussian(path, variances=(0.8, 0.3))
    x_T = path.prior_std * normal(8, 2)
    exact = gaussian_flow(world, x_T, path.t_max, path.t_min)
    end = replace(method, steps=40, grid=LogSNR()).sample(world, x_T)
    assert float((end - exact).square().mean().sqrt()) < 0.03


@cache
def flow_along(path: Path, ends: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Points and where the flow takes them between two times of one path."""
    x = normal(4, 2)
    return x, exact_flow(mixture(path), x, *ends)


@pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=repr)
@pytest.mark.parametrize(
    "method", [AdamsBashforth(), AdamsBashforth(quantity="straight"), UniPC(), DPMSolverMultistep(), LMS(), PNDM()]
)
@pytest.mark.parametrize("upwards", [False, True], ids=["downwards", "upwards"])
def test_second_order_holds_where_the_signal_ends(path: Path, method: Sampler, upwards: bool) -> None:
    """Uniform in t to or from α = 0, where λ = −∞: quantities that know no such end keep their order, others lose less than one (M26)."""
    world, s = mixture(path), level(path, 1.0)
    ends = (s, path.t_max) if upwards else (path.t_max, s)
    x, exact = flow_along(path, ends)
    runs = [
        replace(method, steps=count, grid=Trailing()).sample(world, x, start=ends[0], end=ends[1]) for count in (48, 96)
    ]
    found = [float((run - exact).square().mean().sqrt()) for run in runs]
    assert all(order > 1.2 for order in orders(found)), (found, orders(found))


# ── the law ──────────────────────────────────────────────────────────────────────────────────────────────────────────

STOCHASTIC = {order: DPMSolverMultistep(order=order, stochastic=True) for order in (1, 2, 3)}
every_stochastic = pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC)


class Unit:
    """Draw k is one for sample k alone: a batch becomes the columns of the map from start and noises to the end."""

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """The k-th column's noise."""
        return torch.zeros_like(like).index_fill_(0, torch.tensor([draw]), 1.0)


def variance(sampler: Sampler, path: Path, of_data: float, high: float, low: float) -> tuple[float, float]:
    """(the variance of x_s when x_t has the exact law, what it should be), by the affine map: exact, nothing is drawn."""
    world, t, s = gaussian(path, (0.0,), (of_data,)), level(path, high), level(path, low)
    columns = torch.zeros(sampler.steps + 1, 1, dtype=torch.float64)
    columns[0] = math.sqrt(path.alpha(t) ** 2 * of_data + path.sigma(t) ** 2)
    end = sampler.sample(world, columns, start=t, end=s, generator=Unit())
    return float(end.square().sum()), path.alpha(s) ** 2 * of_data + path.sigma(s) ** 2


@every_stochastic
def test_law_of_the_error_falls_at_the_declared_order(sampler: DPMSolverMultistep) -> None:
    """The variance of a Gaussian, propagated exactly: one wrong noise column leaves an error that does not fall (M35)."""
    found = []
    for steps in (160, 320):
        got, wanted = variance(replace(sampler, steps=steps, grid=LogSNR()), VP(), 0.5, 3.0, 0.3)
        found.append(got - wanted)
    assert all(abs(order - sampler.convergence_order) < 0.25 for order in orders(found)), (found, orders(found))


@every_path
@every_stochastic
def test_noise_is_the_bridge_of_known_data(path: Path, sampler: DPMSolverMultistep) -> None:
    """With x₀ known, D = x₀, the law is exact in any number of steps of any order: carry and noise are one Gaussian bridge (M4, M5, M35)."""
    got, wanted = variance(replace(sampler, steps=4, grid=LogSNR()), path, 0.0, 4.0, 0.2)
    assert got == pytest.approx(wanted, rel=1e-9)


def test_first_order_is_ddpm() -> None:
    """The reverse SDE with D held along a step is the posterior with D for x₀: DDIM with η = 1, draw by draw (M23, M24)."""
    world, x = mixture(VP()), normal(5, 2)
    ours = DPMSolverMultistep(steps=12, order=1, stochastic=True).sample(world, x, generator=seeded(3))
    assert torch.allclose(ours, DDIM(steps=12, eta=1.0).sample(world, x, generator=seeded(3)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3])
def test_forty_steps_draw_the_mixture(order: int) -> None:
    """From N(0, I) within the noise floor of exact draws in sliced Wasserstein distance, where DDPM needs a hundred and more (M35)."""
    world, count = mixture(VP()), 1_000
    floor = [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    sampler = DPMSolverMultistep(steps=40, grid=Karras(), order=order, stochastic=True)
    drawn = sampler.sample(world, normal(count, 2, seed=7), generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    spread = torch.tensor(floor)
    assert found < float(spread.mean() + 2.0 * spread.std()), (found, floor)


# ── formulas ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = {"DPM++1": METHODS["DPM++1"], "LMS-1": METHODS["LMS-1"], "IPNDM-1": METHODS["IPNDM-1"]}


@pytest.mark.parametrize("method", NAMES.values(), ids=NAMES)
@every_path
def test_first_order_is_ddim(path: Path, method: Multistep) -> None:
    """With D or ε̂ held along a step every one of them is DDIM (M23, M26)."""
    x_T = path.prior_std * normal(3, 2)
    ours = replace(method, steps=7).sample(mixture(path), x_T)
    assert torch.allclose(ours, DDIM(steps=7).sample(mixture(path), x_T), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=repr)
def test_2m_is_the_papers_algorithm(path: Path) -> None:
    """Algorithm 2 of DPM-Solver++: D_i = (1 + 1/2r) D_{i−1} − 1/2r D_{i−2}, r = h_{i−1}/h_i, then the first-order step (M26)."""
    world, times = mixture(path), [level(path, s) for s in (8.0, 5.0, 2.0, 1.1, 0.3)]
    x, lambdas = path.alpha(times[0]) * 8.0 * normal(3, 2), [path.log_snr(t) for t in times]
    wanted, answers = x, []
    for i, (t, s) in enumerate(pairwise(times), start=1):
        h = lambdas[i] - lambdas[i - 1]
        answers.append(world(wanted, t).x0)
        mean = answers[-1]
        if i > 1:
            r = (lambdas[i - 1] - lambdas[i - 2]) / h
            mean = (1 + 1 / (2 * r)) * answers[-1] - 1 / (2 * r) * answers[-2]
        wanted = path.sigma(s) / path.sigma(t) * wanted - path.alpha(s) * math.expm1(-h) * mean
    *_, last = DPMSolverMultistep().walk(world, x, times, undrawn)
    assert torch.allclose(last.x, wanted, rtol=1e-10, atol=1e-11)


def test_pndm_is_the_papers_algorithm() -> None:
    """Algorithm 2 of PNDM with its transfer φ: four stages three times, then (55, −59, 37, −9)/24 of the ε̂ at the steps (M26)."""
    path = VP()
    world, times = mixture(path), [0.9, 0.8, 0.65, 0.5, 0.4, 0.3]
    x, stored = normal(3, 2), []

    def transfer(x_t: Tensor, noise: Tensor, t: float, s: float) -> Tensor:
        x_0 = (x_t - path.sigma(t) * noise) / path.alpha(t)
        return path.alpha(s) * x_0 + path.sigma(s) * noise

    wanted = x
    for n, (t, s) in enumerate(pairwise(times)):
        stored.append(world(wanted, t).noise)
        if n < 3:
            middle = 0.5 * (t + s)
            e_2 = world(transfer(wanted, stored[-1], t, middle), middle).noise
            e_3 = world(transfer(wanted, e_2, t, middle), middle).noise
            e_4 = world(transfer(wanted, e_3, t, s), s).noise
            mean = (stored[-1] + 2 * e_2 + 2 * e_3 + e_4) / 6
        else:
            mean = (55 * stored[-1] - 59 * stored[-2] + 37 * stored[-3] - 9 * stored[-4]) / 24
        wanted = transfer(wanted, mean, t, s)
    *_, last = PNDM().walk(world, x, times, undrawn)
    assert torch.allclose(last.x, wanted, rtol=1e-9, atol=1e-10)
    assert last.evaluations == 3 * 4 + 2


def test_few_steps_ease_out_and_many_do_not() -> None:
    """Below 15 steps the order falls 3, 2, 1 towards data, as the authors do; a start or end elsewhere leaves it alone."""
    path = VP()

    def lengths(method: Multistep, steps: int, end: float = 0.0) -> list[int]:
        from scorefield.samplers.schemes import table

        return [len(row.weights) for row in table(method.scheme, path, Trailing().times(path, steps, None, end))]

    for method in (DPMSolverMultistep(order=3), UniPC(order=3)):
        assert lengths(method, 6) == [1, 2, 3, 3, 2, 1]
        assert lengths(method, 15)[-3:] == [3, 3, 1]
        assert lengths(replace(method, lower_order_final=False), 6) == [1, 2, 3, 3, 3, 1]
        assert lengths(method, 6, 0.1) == [1, 2, 3, 3, 3, 3]


def test_a_chains_half_steps_are_steps() -> None:
    """PNDM asks between its times: on a path of finitely many steps those must be steps of it too."""
    denoiser = Shrinking(Discrete())
    PNDM(steps=7).sample(denoiser, normal(2, 3))
    assert all(abs(1000 * t - round(1000 * t)) < 1e-9 for t in denoiser.asked)


def undrawn(like: Tensor) -> Tensor:
    """The noise of a deterministic method."""
    raise AssertionError("a deterministic method has drawn noise")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cls", "settings", "said"),
    [
        (AdamsBashforth, {"order": 5}, "order from 1 to 4, got 5"),
        (AdamsBashforth, {"quantity": "epsilon"}, "quantity of data, noise, velocity, straight, got 'epsilon'"),
        (AdamsBashforth, {"variable": "s"}, "variable of own, log-snr, time, got 's'"),
        (LMS, {"order": 0}, "order from 1 to 4, got 0"),
        (DEIS, {"order": 5}, "order from 1 to 4"),
        (DEIS, {"variable": "rho"}, "variable of own"),
        (IPNDM, {"order": 5}, "order from 1 to 4"),
        (DPMSolverMultistep, {"order": 4}, "order from 1 to 3"),
        (DPMSolverMultistep, {"prediction": "v"}, "prediction of 'data' or 'noise', got 'v'"),
        (DPMSolverMultistep, {"solver": "rk"}, "solver of 'midpoint' or 'heun'"),
        (DPMSolverMultistep, {"prediction": "noise", "stochastic": True}, "prediction='data'"),
        (UniPC, {"order": 4}, "order from 1 to 3"),
        (UniPC, {"variant": "bh3"}, "variant of 'bh1' or 'bh2'"),
        (UniPC, {"prediction": "score"}, "prediction of 'data' or 'noise'"),
    ],
)
def test_impossible_settings_are_refused(cls: Any, settings: dict[str, Any], said: str) -> None:
    """A misspelt quantity would silently be another one."""
    with pytest.raises(UsageError, match=said):
        cls(**settings)


def test_one_gaussian_is_the_first_orders_worst_case() -> None:
    """What is declared is never flattering: more evaluations looked back on, less error, at 20 evaluations of a VP path."""
    path = VP()
    world, x = gaussian(path, variances=(0.8, 0.3)), normal(8, 2)
    exact = gaussian_flow(world, x, path.t_max, path.t_min)
    found = [
        float((DPMSolverMultistep(order=order, grid=LogSNR()).sample(world, x) - exact).square().mean().sqrt())
        for order in (1, 2, 3)
    ]
    assert found[0] > 3.0 * found[1]
    assert float64(found).max() == found[0]
