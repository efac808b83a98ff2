"""Muon: its updates are orthogonal, it fits faster than Adam, and its state resumes to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from scorefield.networks import MLPSpec, UNetSpec
from scorefield.training.optimisers import Muon, orthogonalise, parameter_groups


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12), (1, 5)])
def test_orthogonalised_matrix_keeps_its_singular_vectors(shape: tuple[int, int]) -> None:
    """A wrong coefficient or product order leaves singular values away from 1 or turns the vectors."""
    generator = torch.Generator().manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, -2, len(s), dtype=torch.float64)
    result = u.mT @ orthogonalise(u * s @ v) @ v.mT
    assert torch.allclose(result, torch.diag(result.diagonal()), atol=1e-6)
    assert result.diagonal().min() > 0.3
    assert result.diagonal().max() < 1.3


def test_zero_gradient_moves_nothing() -> None:
    """Layers behind a zero-initialised one have no gradient at first; a division by the norm would make NaN."""
    assert not orthogonalise(torch.zeros(3, 5)).any()


def small_unet() -> nn.Module:
    torch.manual_seed(0)
    return UNetSpec(widths=(16, 32), depths=(1, 1), head_width=16, embedding=16).build((1, 8, 8), None, 3)


def test_groups_hold_every_parameter_once() -> None:
    """A parameter in no group would never learn; one in two would be moved twice."""
    for network in (small_unet(), MLPSpec(width=16, depth=1, embedding=16).build((2,)), nn.Linear(3, 2)):
        grouped = [id(p) for group in parameter_groups(network) for p in group["params"]]
        assert sorted(grouped) == sorted(map(id, network.parameters()))


def test_first_and_last_layers_are_left_to_adam() -> None:
    """Their sides are pixels, not features: orthogonalising them trains badly."""
    network = small_unet()
    matrices = {id(p) for p in parameter_groups(network)[0]["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in matrices}
    assert names
    assert not any(name.startswith(("stem", "head", "embedding")) for name in names)


def loss_of(network: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 1, 8, 8, generator=generator)
    return (network(x, torch.zeros(8), torch.zeros(8, dtype=torch.long)) - x.flip(-1).tanh()).square().mean()


def train(network: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> float:
    losses = []
    for step in steps:
        optimiser.zero_grad()
        loss = loss_of(network, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[-1]


def fit_ill_conditioned(weight: nn.Parameter, optimiser: torch.optim.Optimizer) -> float:
    """The squared error of a linear map after 100 steps, from inputs whose scales span two decades in rotated axes."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    inputs, target = torch.logspace(0, -2, 16).diag() @ axes, torch.randn(16, 16, generator=generator)
    for _ in range(100):
        optimiser.zero_grad()
        (inputs @ (weight - target)).square().mean().backward()
        optimiser.step()
    return (weight - target).square().mean().item()


def test_learns_rare_directions_faster_than_adamw() -> None:
    """The reason to have it: all directions of a matrix move alike, however little data they carry."""
    ours, theirs = nn.Parameter(torch.zeros(16, 16)), nn.Parameter(torch.zeros(16, 16))
    muon = Muon([{"params": [ours], "orthogonal": True}], lr=2e-2, weight_decay=0.0)
    adam = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.0)
    assert fit_ill_conditioned(ours, muon) < 0.8 * fit_ill_conditioned(theirs, adam)


def test_state_resumes_to_the_bit() -> None:
    """A resumed run must take the steps that the uninterrupted one takes."""
    network = small_unet()
    optimiser = Muon(parameter_groups(network))
    train(network, optimiser, range(3))
    resumed = copy.deepcopy(network)
    other = Muon(parameter_groups(resumed))
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    train(network, optimiser, range(3, 6))
    train(resumed, other, range(3, 6))
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for state in optimiser.state_dict()["state"].values():
        assert all(isinstance(value, Tensor) for value in state.values())


def test_an_update_of_a_matrix_has_the_size_the_rate_says() -> None:
    """Rates carry over between widths only if the root mean square of an update is ½ η for every shape."""
    for shape in ((8, 64), (64, 8), (4, 4, 3, 3)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([{"params": [weight], "orthogonal": True}], lr=0.1).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.25)
