"""Denoisers that know their energy: the score is its negative gradient, with and without a graph, wrapped or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.arithmetic import along_batch
from scorefield.denoisers import CentredEnergy, Energy, EnergyDenoiser, NetworkEnergy
from scorefield.errors import UsageError
from scorefield.networks import MLPSpec, UNetSpec
from scorefield.paths import EDM, VP, Path, Rectified
from tests.worlds import EVERY_PATH, RANKS, dummy_network, float64, mixture, normal, seeded

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
KNOWN: dict[str, Callable[[Path], EnergyDenoiser]] = {
    "GaussianMixture": mixture,
    "NetworkEnergy": lambda path: NetworkEnergy(dummy_network, path, Energy(sigma_data=0.7)),
    "CentredEnergy": lambda path: CentredEnergy(NetworkEnergy(dummy_network, path, Energy()), float64([0.4, -1.0])),
}
every_energy = pytest.mark.parametrize("make", KNOWN.values(), ids=KNOWN)


def times(path: Path) -> Tensor:
    """Three times, from nearly data to nearly noise."""
    return float64([0.03, 0.4, 0.9]) * path.t_max


@every_path
@every_energy
def test_score_is_the_negative_gradient_of_the_energy(path: Path, make: Callable[[Path], EnergyDenoiser]) -> None:
    """ŝ = −∇_x E at one time a sample, by autograd on the energy: another factor or sign anywhere breaks it (M10)."""
    denoiser, x_t, t = make(path), normal(3, 2).requires_grad_(), times(path)
    energy = denoiser.energy(x_t, t)
    (slope,) = torch.autograd.grad(energy.sum(), x_t)
    assert energy.shape == (3,)
    assert torch.allclose(denoiser(x_t, t).score, -slope, rtol=1e-7, atol=1e-7 * float(slope.abs().max()))


@every_energy
def test_one_time_is_one_time_for_all(make: Callable[[Path], EnergyDenoiser]) -> None:
    """A sampler asks with a float, training with a tensor (M10)."""
    denoiser, x_t = make(VP()), normal(3, 2)
    one, each = denoiser.energy(x_t, 0.4), denoiser.energy(x_t, float64([0.4, 0.4, 0.4]))
    assert torch.allclose(one, each, rtol=1e-12)


@every_rank
def test_energy_of_every_kind_of_data(shape: tuple[int, ...]) -> None:
    """One number a sample whatever its rank, and its gradient has the sample's shape (M10)."""
    denoiser, x_t = NetworkEnergy(dummy_network, EDM(), Energy()), normal(3, *shape)
    assert denoiser.energy(x_t, 2.0).shape == (3,)
    assert denoiser(x_t, 2.0).x0.shape == x_t.shape


def test_energy_of_the_mixture_is_its_log_density() -> None:
    """E = −log p_t, constant included, so that a Metropolis ratio is the densities' (M10)."""
    world, x = mixture(Rectified()), normal(5, 2)
    assert torch.equal(world.energy(x, 0.3), -world.log_density(x, 0.3))


def test_zero_network_has_the_energy_of_gaussian_data() -> None:
    """½‖x‖²/(α²σ_d² + σ²): what the network has to add is what the data have beyond a variance (M9, M10)."""
    denoiser, x = NetworkEnergy(lambda x, label: torch.zeros_like(x), VP(), Energy(sigma_data=0.6)), normal(4, 3)
    variance = VP().alpha(0.3) ** 2 * 0.36 + VP().sigma(0.3) ** 2
    assert torch.allclose(denoiser.energy(x, 0.3), 0.5 * x.square().sum(1) / variance, rtol=1e-12)


def test_answers_without_a_graph_where_none_is_recorded() -> None:
    """Samplers run under no_grad: the gradient must be found there all the same, and hold no memory afterwards (M10)."""
    denoiser, x_t = NetworkEnergy(dummy_network, VP(), Energy()), normal(3, 2)
    recorded = denoiser(x_t, 0.4).x0
    with torch.no_grad():
        free = denoiser(x_t, 0.4).x0
    assert torch.equal(free, recorded)
    assert not free.requires_grad
    assert not x_t.requires_grad


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=["mlp", "unet"])
def test_training_reaches_every_weight_through_the_gradient(shape: tuple[int, ...]) -> None:
    """The loss of ∇G is differentiated once more, through attention too; a fused kernel there would raise (M10)."""
    unet = UNetSpec(widths=(16, 32), depths=(1, 1), head_width=16, embedding=16)
    network = (MLPSpec(width=16, depth=2, embedding=16) if len(shape) == 1 else unet).build(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(1)), alpha=0.1)
    x_t = normal(4, *shape).float()
    NetworkEnergy(network, EDM(), Energy())(x_t, 1.0).x0.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_gradient_of_the_score_is_the_hessian() -> None:
    """∇ŝ = −∇²E is symmetric and follows x: implicit objectives differentiate the score of an energy again (M10, M28)."""
    denoiser, x_t = NetworkEnergy(dummy_network, VP(), Energy()), normal(1, 3)

    def score(x: Tensor) -> Tensor:
        return denoiser(x, 0.4).score

    jacobian = torch.autograd.functional.jacobian(score, x_t)[0, :, 0]
    hessian = torch.autograd.functional.hessian(lambda x: denoiser.energy(x, 0.4).sum(), x_t)[0, :, 0]
    assert torch.allclose(jacobian, -hessian, rtol=1e-8, atol=1e-10)
    assert torch.allclose(jacobian, jacobian.T, rtol=1e-8, atol=1e-10)


def test_condition_reaches_the_network() -> None:
    """A class that is dropped on the way would train one energy for all classes (M10)."""

    def network(x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        return along_batch(condition, x) * torch.sin(x)

    denoiser, x_t, labels = NetworkEnergy(network, VP(), Energy()), normal(2, 3), torch.tensor([0, 2])
    for wrapped in (denoiser, CentredEnergy(denoiser)):
        assert float((wrapped.energy(x_t, 0.4, labels) - wrapped.energy(x_t, 0.4, 0 * labels))[1].abs()) > 0.0
        assert not torch.equal(wrapped(x_t, 0.4, labels).x0[1], wrapped(x_t, 0.4, 0 * labels).x0[1])


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.inf, math.nan])
def test_impossible_sigma_data_is_refused(sigma_data: float) -> None:
    """σ_d = 0 makes every energy that of a point."""
    with pytest.raises(UsageError, match="Energy needs a positive, finite sigma_data"):
        Energy(sigma_data=sigma_data)


def test_learned_variance_is_refused() -> None:
    """An energy has no second output to read a variance from."""
    with pytest.raises(UsageError, match="learned_variance=false"):
        Energy(learned_variance=True)
