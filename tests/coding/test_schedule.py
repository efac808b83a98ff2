"""The chain's steps are the path's posterior, their cost is its divergence, and the nodes chosen cost least."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scorefield.coding.schedule import ErrorCurve, Node, Schedule, Step, candidate_nodes
from scorefield.denoisers.reverse import Normal, kl_divergence
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified, SubVP, VPCosine

PATHS = [EDM(), VE(), VP(), SubVP(), VPCosine(), Rectified(), Discrete(), Discrete(steps=50, schedule="cosine")]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_a_step_is_the_posterior_of_every_path(path: Path) -> None:
    """In the scale α² + σ² = 1 the step must be the path's own posterior  (M5)."""
    nodes = candidate_nodes(path, 12)
    assert len(nodes) > 5
    for noisy, clear in itertools.pairwise(nodes):
        step, row = Step.between(noisy, clear), path.posterior(clear.time, noisy.time)
        assert step.carry == pytest.approx(row.from_x_t * noisy.scale / clear.scale, rel=1e-9)
        assert step.pull == pytest.approx(row.from_x_0 / clear.scale, rel=1e-9)
        assert step.std == pytest.approx(row.std / clear.scale, rel=1e-9)
        assert noisy.scale * noisy.alpha == pytest.approx(path.alpha(noisy.time), rel=1e-9, abs=1e-12)


def test_a_step_costs_the_divergence_of_its_laws() -> None:
    """½ (SNR′ − SNR) ‖x − D‖² must be KL(q ‖ p) of the two posteriors, which differ in x alone  (M16)."""
    noisy, clear = Node.at(EDM(), -0.5), Node.at(EDM(), 0.4)
    step, x, denoised = Step.between(noisy, clear), torch.tensor([[0.3, -0.8]]), torch.tensor([[0.1, 0.2]])
    laws = [Normal(step.pull * mean, torch.full((1, 2), 2.0 * math.log(step.std))) for mean in (x, denoised)]
    expected = 0.5 * (clear.snr - noisy.snr) * float((x - denoised).square().sum())
    assert float(kl_divergence(*laws)) == pytest.approx(expected, rel=1e-5)


def test_the_chosen_nodes_cost_least() -> None:
    """The dynamic programme must find what trying every chain finds."""
    nodes = tuple(Node(0.0, ratio, 1.0) for ratio in np.geomspace(20, 0.1, 9))
    curve = ErrorCurve(nodes, tuple(node.ratio**2 / (1 + node.ratio**2) * 0.3 for node in nodes))
    for steps in (1, 2, 3, 4):
        chains = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), steps - 1)]
        least = min(sum(curve.chain_bits(chain)) for chain in chains)
        assert sum(curve.chain_bits(curve.best_nodes(8, steps))) == pytest.approx(least)


def test_more_steps_cost_less_and_never_less_than_endlessly_many() -> None:
    """A left sum of a falling curve lies above its integral, by less with more steps: ½ log(1 + SNR) for a Gaussian  (M21)."""
    nodes = tuple(Node(0.0, ratio, 1.0) for ratio in np.geomspace(50, 0.1, 400))
    curve = ErrorCurve(nodes, tuple(node.ratio**2 / (1 + node.ratio**2) for node in nodes))
    exact = 0.5 * math.log2(1 + nodes[-1].snr) - 0.5 * math.log2(1 + nodes[0].snr)
    assert curve.rate(399) == pytest.approx(exact, rel=1e-3)
    costs = [sum(curve.chain_bits(curve.best_nodes(399, steps))) for steps in (2, 4, 8, 16, 32)]
    assert costs == sorted(costs, reverse=True) and costs[-1] > exact


def test_a_schedule_goes_from_noise_to_its_last_node() -> None:
    """One step between any two nodes that follow, and a memory for the trellis."""
    nodes = candidate_nodes(VP(), 5)
    schedule = Schedule.through(nodes, 8)
    assert len(schedule.steps) == 4 and schedule.nodes == nodes and schedule.memory == 8
    assert all(a.ratio > b.ratio for a, b in itertools.pairwise(nodes))
