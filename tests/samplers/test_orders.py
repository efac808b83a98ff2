"""Every deterministic sampler of the public list converges at the order that it declares: a new one is tested by being added."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
from torch import Tensor

from scorefield.paths import EDM
from scorefield.samplers import SAMPLERS, Adaptive, Calibrated, LogSNR, Sampler
from tests.samplers.flows import errors, orders
from tests.worlds import exact_flow, mixture, normal

PATH = EDM(sigma_max=500.0)
HIGH, LOW = 200.0, 1.0
"""From where the data hardly matter, so that a ramp-up of lower order costs nothing, to the middle."""

UNDECLARED: tuple[type[Sampler], ...] = (Adaptive, Calibrated)
"""Those whose error follows a tolerance, or a fit."""

DEFAULTS: list[Sampler] = [kind() for kind in SAMPLERS if not issubclass(kind, UNDECLARED)]  # type: ignore[call-arg]
DETERMINISTIC = [sampler for sampler in DEFAULTS if sampler.is_deterministic]
STEPS = {1: (128, 256), 2: (96, 192), 3: (64, 128), 4: (192, 384), 5: (192, 384)}


@cache
def way() -> tuple[Tensor, Tensor]:
    """Where it begins and where the flow ends."""
    x = math.hypot(1.0, HIGH) * normal(4, 2)
    return x, exact_flow(mixture(PATH), x, HIGH, LOW)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=lambda sampler: type(sampler).__name__)
def test_every_deterministic_sampler_has_the_order_it_declares(sampler: Sampler) -> None:
    """With its defaults, in float64, on a mixture: within a quarter of the order that a table of choices is read by (M26)."""
    declared: int = getattr(sampler, "convergence_order", sampler.order)
    x, exact = way()
    found = errors(replace(sampler, grid=LogSNR()), mixture(PATH), x, (HIGH, LOW), exact, STEPS[declared])
    assert all(abs(order - declared) < 0.25 for order in orders(found)), (found, orders(found))


def test_adaptive_has_the_error_it_is_given() -> None:
    """Its order is seen in the price: a fifth-order method needs 100^{1/5} = 2.5 times the evaluations for a hundredth (M26)."""
    x, exact = way()
    found, calls = [], []
    for tolerance in (1e-4, 1e-6, 1e-8):
        *_, last = Adaptive(rtol=tolerance, atol=tolerance).trajectory(mixture(PATH), x, start=HIGH, end=LOW)
        found.append(float((last.x - exact).square().mean().sqrt()))
        calls.append(last.evaluations)
    assert all(error < 30.0 * tolerance for error, tolerance in zip(found, (1e-4, 1e-6, 1e-8), strict=True)), found
    assert calls[2] < 3.5 * calls[1]
