"""Rate and distortion: what a chain's terms say, and no other figure than the bound's."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.coding.rate_distortion import rate_distortion
from scorefield.errors import UsageError
from scorefield.likelihood import Measured, Reference, Subject, VariationalBound, measure
from scorefield.likelihood.bound import prior_divergence
from scorefield.paths import VP, Discrete, Path
from tests.worlds import gaussian, mixture_moments, seeded


def measured(path: Path, method: VariationalBound, levels: int | None = None) -> Measured:
    """A Gaussian's bound; at 17 levels where there are any."""
    world = gaussian(path, (0.1, -0.2), (0.1, 0.05))
    x = world.draw(200, seeded())
    if levels is not None:
        half = (levels - 1) / 2.0
        x = ((x + 1.0) * half).round().clamp(0, levels - 1) / half - 1.0
    return measure(method, Subject(world, levels, Reference.of(*mixture_moments(world))), x, repeats=2)


@pytest.mark.parametrize(
    ("path", "method"), [(Discrete(steps=25), VariationalBound()), (VP(), VariationalBound(steps=25))]
)
def test_rates_end_at_the_bound_to_the_last_digit(path: Path, method: VariationalBound) -> None:
    """One measuring, two ways to read it: rate + L₀ is the bound's own figure (M45, M15)."""
    found = measured(path, method, 17)
    curve = rate_distortion(found)
    assert curve.total == found.value
    assert curve.rows[-1].rate == pytest.approx(found.terms["prior"] + found.terms["steps"], rel=1e-12)
    assert curve.last == pytest.approx(found.terms["decoder"], rel=1e-10)
    assert curve.rows[0].rate == pytest.approx(found.terms["prior"], rel=1e-12)


def test_rate_grows_and_distortion_falls_as_the_formulas_say() -> None:
    """For a Gaussian both are known at every step: E‖x₀ − D‖² = Σ v s²/(v + s²), and the rate's sum of ½ ΔSNR of it (M45)."""
    path = Discrete(steps=25)
    curve = rate_distortion(measured(path, VariationalBound(variance="small")), scale=127.5)
    variances, steps = (0.1, 0.05), len(curve.rows)
    rate = float(prior_divergence(path, torch.tensor([[0.1, -0.2]]).double(), 1.0)) / (2 * math.log(2.0))
    for row in curve.rows:
        t = (steps + 1 - row.reverse_time) / steps
        s2 = math.exp(-2.0 * path.log_snr(t))
        error = sum(v * s2 / (v + s2) for v in variances)
        assert row.distortion == pytest.approx(127.5 * math.sqrt(error / 2.0), rel=0.15)
        assert row.log_snr == pytest.approx(path.log_snr(t))
        assert row.rate == pytest.approx(rate, rel=0.15, abs=2e-3)
        if row.reverse_time < steps:
            gain = math.exp(2.0 * path.log_snr(t - 1.0 / steps)) - 1.0 / s2
            rate += 0.5 * gain * error / (2.0 * math.log(2.0))
    assert [row.reverse_time for row in curve.rows] == list(range(1, steps + 1))


def test_the_table_is_laid_out_as_the_papers() -> None:
    """The finest row first: reverse time, rate, distortion (Ho et al. 2020, table 4)."""
    curve = rate_distortion(measured(Discrete(steps=25), VariationalBound()))
    head, *rows = curve.csv().splitlines()
    assert head == "reverse_time,rate_bits_per_dim,distortion_rmse,log_snr"
    assert [int(row.split(",")[0]) for row in rows] == list(range(25, 0, -1))
    assert [row.reverse_time for row in curve.every(5)] == [25, 20, 15, 10, 5]


@pytest.mark.parametrize("method", [VariationalBound(terms=4), VariationalBound(terms=24)])
def test_only_whole_chains_have_a_curve(method: VariationalBound) -> None:
    """Of steps that were not asked there is no distortion; and continuous time has no steps (M45)."""
    if method.terms == 4:
        with pytest.raises(UsageError, match="every step"):
            rate_distortion(measured(Discrete(steps=25), method))
    with pytest.raises(UsageError, match="chain of steps"):
        rate_distortion(measured(VP(), method))
