"""The moving average has the window that its formula says, and touches nothing but itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scorefield.training.average import Average, power_exponent
from scorefield.training.options import AverageConfig


def averaged(config: AverageConfig, values: list[float]) -> float:
    """The average after the live weight has had these values, one a step."""
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, -100.0)
    average = Average(network, config)
    for step, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        average.update(step)
    return float(next(average.network.parameters()))


@pytest.mark.parametrize("width", [0.03, 0.05, 0.1, 0.2, 0.28])
def test_power_profile_is_the_product_of_its_decays(width):
    """θ̂_N = Σ_n θ_n (1 − β_n) Π_{m>n} β_m with β_n = (1 − 1/n)^{γ+1}; the first step forgets the initial weights."""
    gamma, values = power_exponent(width), [math.sin(n) for n in range(1, 41)]
    weights = []
    for n in range(1, 41):
        later = math.prod((1 - 1 / m) ** (gamma + 1) for m in range(n + 1, 41))
        weights.append((1 - (1 - 1 / n) ** (gamma + 1)) * later)
    assert math.isclose(sum(weights), 1.0, rel_tol=1e-12)
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    assert averaged(AverageConfig("power", width), values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_power_profile_approaches_a_power_of_time_of_the_width_asked_for(width):
    """The weights are (n/N)^{γ+1} − ((n−1)/N)^{γ+1}: a density ∝ t^γ, whose relative deviation is the width."""
    gamma, count = power_exponent(width), 2000
    ends = [(n / count) ** (gamma + 1) for n in range(count + 1)]
    weights = [high - low for low, high in zip(ends, ends[1:], strict=False)]
    values = [n / count for n in range(1, count + 1)]
    mean = averaged(AverageConfig("power", width), values)
    assert mean == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=True)), rel=1e-9)
    second = averaged(AverageConfig("power", width), [value**2 for value in values])
    assert math.sqrt(second - mean**2) == pytest.approx(width, rel=2e-3)


def test_exponents_are_those_of_the_paper():
    """EDM2 (section 3.1) gives σ_rel = 0.05 → γ ≈ 16.97 and 0.10 → γ ≈ 6.94."""
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.005)
    for width in (0.01, 0.07, 0.15, 0.28):
        gamma = power_exponent(width)
        assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(width, rel=1e-9)


def test_constant_profile_halves_in_its_half_life():
    """Once warm, what was learned h steps ago counts half; before, the decay is (1 + n)/(10 + n)."""
    average = Average(nn.Linear(1, 1), AverageConfig("constant", 50.0))
    assert average.decay(10**6) ** 50 == pytest.approx(0.5)
    assert average.decay(1) == pytest.approx(2 / 11)
    assert average.decay(20) == pytest.approx(21 / 30)
    assert Average(nn.Linear(1, 1), AverageConfig("constant", 6931.0)).decay(10**9) == pytest.approx(0.9999, abs=1e-7)


def test_the_live_weights_are_never_touched():
    """An average that shares memory with the live network, or swaps itself in, changes what is trained."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = Average(network, AverageConfig())
    average.network(torch.randn(5, 3))
    for step in range(1, 4):
        average.update(step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    live = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert live.isdisjoint(tensor.data_ptr() for tensor in average.state().values())
    assert network.training
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_average_of_a_constant_is_that_constant_in_every_bit():
    """Weights that no longer move must not drift by rounding."""
    network = nn.Linear(7, 5)
    average = Average(network, AverageConfig())
    for step in range(1, 200):
        average.update(step)
    assert torch.equal(average.network.weight, network.weight)  # type: ignore[arg-type]
