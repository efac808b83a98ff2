"""From densities to probabilities: each q is a law on the right points, and the bounds fall towards the exact figure."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.likelihood import FlowLikelihood, Subject, measure
from scorefield.likelihood.dequantisation import DEQUANTISATIONS
from scorefield.paths import EDM, VP
from tests.likelihood.worlds import BITS, Discretised, batch_of
from tests.worlds import mixture, seeded

BIN = 2.0 / 16.0


@pytest.mark.parametrize("name", ["uniform", "truncated-normal", "variational"])
def test_q_is_the_density_that_its_points_are_drawn_from(name: str) -> None:
    """E_q[1/q] over a box inside its support is the box's length: a lost constant moves every figure (M41)."""
    path, count = VP(), 40_000
    t = path.time_of(-math.log(BIN / 3.0))
    batch = batch_of(torch.full((count, 1), 0.25, dtype=torch.float64))
    points = DEQUANTISATIONS[name].points(batch, path, t, BIN, 0, 0)
    x_bar = points.z[:, 0] / path.alpha(t)
    inside = (x_bar - 0.25).abs() < 0.3 * BIN
    length = torch.where(inside, (-points.log_q).exp(), 0.0).mean() / path.alpha(t)
    assert float(length) == pytest.approx(0.6 * BIN, rel=0.02)
    if name != "variational":
        assert float((x_bar - 0.25).abs().max()) <= 0.5 * BIN * (1.0 + 1e-12)


@pytest.mark.parametrize("name", ["uniform", "truncated-normal", "variational"])
def test_more_points_come_nearer_and_never_below(name: str) -> None:
    """K = 20 ≤ 5 ≤ 1, all at least the exact figure, of data with 17 levels (M40, M41; Burda et al. 2016)."""
    world = Discretised.of(EDM(), 17)
    x = world.draw(40)
    exact = world.nats(x) / 4.0 * BITS
    end = -math.log(BIN / 3.0)
    found = [
        measure(FlowLikelihood(1e-3, dequantisation=name, importance=k, end=end), world.subject, x, repeats=2)
        for k in (20, 5, 1)
    ]
    values = [one.value for one in found]
    assert values[0] <= values[1] <= values[2]
    off = found[0].per_sample - exact
    assert (
        float(off.mean()) > -4.0 * float(off.std()) / 40**0.5 - 0.003 and float(off.mean()) < 0.04
    )  # the noise at the end point


@pytest.mark.parametrize("levels", [5, 17])
def test_probabilities_of_the_model_sum_to_one_over_the_cells(levels: int) -> None:
    """With many points on one value after another, Σ P(x) = 1 for data on the line: offset, levels and scale all enter (M41)."""
    world = Discretised.of(EDM(), levels, size=1)
    values = torch.linspace(-1.5, 1.5, 3 * (levels - 1) // 2 + 1, dtype=torch.float64)[:, None]
    subject = Subject(world.world, levels, world.subject.reference)
    method = FlowLikelihood(1e-3, dequantisation="uniform", importance=64, end=-math.log(2.0 / (levels - 1) / 3.0))
    batch = batch_of(values)
    nats = method.ready(subject, batch).estimate(subject, batch, 0).nats
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=0.03)


def test_floats_are_not_dequantised_and_integers_are() -> None:
    """A density at integers, or noise on floats, would be a figure without a meaning."""
    world = mixture(EDM())
    x = world.draw(3, seeded())
    with pytest.raises(UsageError, match="use the dequantisation none"):
        measure(FlowLikelihood(dequantisation="uniform"), Subject(world), x)
    with pytest.raises(UsageError, match="use the dequantisation uniform"):
        measure(FlowLikelihood(dequantisation="none"), Subject(world, 17), torch.zeros_like(x))
    with pytest.raises(UsageError, match="importance weighting is for integers"):
        measure(FlowLikelihood(importance=3), Subject(world), x)
    with pytest.raises(UsageError, match="did you mean 'uniform'"):
        FlowLikelihood(dequantisation="unifrom")


def test_the_end_point_is_judged_by_trying() -> None:
    """For data with a smooth density at 256 levels every end does; with 17 the best is found and kept for all samples."""
    world = Discretised.of(EDM(), 17)
    chosen = measure(FlowLikelihood(1e-3), world.subject, world.draw(30), repeats=1)
    tried = [
        measure(FlowLikelihood(1e-3, end=-math.log(BIN * factor)), world.subject, world.draw(30), repeats=1).value
        for factor in (1.0 / 6.0, 1.0 / 3.0, 0.5, 1.0)
    ]
    assert min(tried) - 1e-9 <= chosen.value <= min(tried) + 0.03
