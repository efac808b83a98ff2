"""What every objective promises: one loss a sample at any rank, the same from the same numbers, and a network that learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scorefield.arithmetic import along_batch
from scorefield.denoisers import Denoiser, Energy, NetworkDenoiser, NetworkEnergy, Noise
from scorefield.errors import UsageError
from scorefield.model_config import KINDS
from scorefield.networks import MLPSpec, UNetSpec
from scorefield.objectives import OBJECTIVES, Explicit, FiniteDifferenceSliced, Objective, Uniform
from scorefield.paths import VP, Discrete, Path
from scorefield.records import from_plain, to_plain
from tests.worlds import RANKS, dummy_denoiser, dummy_network, mixture, normal, seeded

every_objective = pytest.mark.parametrize("cls", OBJECTIVES, ids=lambda cls: cls.__name__)
CHAIN = Discrete(steps=100)


def made(cls: type[Objective], reference: Denoiser | None = None) -> Objective:
    """One of the kind, with its defaults; the explicit one is given the reference it cannot do without."""
    return Explicit(reference or dummy_denoiser(CHAIN)) if cls is Explicit else cls()


class Doubled(nn.Module):
    """A network of two weights with channels for a variance, too; it sees its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.9, 0.4], dtype=torch.float64))

    def forward(self, x: Tensor, label: Tensor, condition: Any = None) -> Tensor:
        shift = 0.0 if condition is None else along_batch(condition, x)
        first, second = self.weights.to(x)
        return torch.cat([first * dummy_network(x + shift, label), second * torch.cos(x + shift)], dim=1)


def learner(path: Path = CHAIN) -> NetworkDenoiser:
    """A denoiser that every objective can fit."""
    return NetworkDenoiser(Doubled(), path, Noise(learned_variance=True))


@every_objective
@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_loss_a_sample_at_every_rank(cls: type[Objective], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """(b,) finite losses in the batch's dtype, the same bits from the same generator; data and noise are not touched."""
    objective, denoiser, x_0 = made(cls), learner(), normal(3, *shape).to(dtype)
    draws = objective.draw(x_0, seeded(3))
    before = x_0.clone(), draws.noise.clone()
    found = objective.losses(denoiser, x_0, draws)
    assert (found.per_sample.shape, found.per_sample.dtype) == ((3,), dtype)
    assert bool(found.per_sample.isfinite().all())
    assert torch.equal(x_0, before[0])
    assert torch.equal(draws.noise, before[1])
    assert torch.equal(objective(denoiser, x_0, generator=seeded(3)), found.per_sample)
    assert not torch.equal(objective(denoiser, x_0, generator=seeded(4)), found.per_sample)


@every_objective
def test_a_slice_of_a_batch_has_the_slices_losses(cls: type[Objective]) -> None:
    """Gradient accumulation and many processes train on slices: the numbers, directions too, are the whole batch's."""
    objective, denoiser, x_0 = made(cls), learner(), normal(7, 2)
    draws = objective.draw(x_0, seeded(3)).to(torch.device("cpu"))
    whole = objective.losses(denoiser, x_0, draws).per_sample
    parts = [objective.losses(denoiser, x_0[part], draws[part]).per_sample for part in (slice(0, 3), slice(3, 7))]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-11)


@every_objective
def test_gradient_reaches_every_weight(cls: type[Objective]) -> None:
    """A graph that is cut trains nothing; the variance's weight moves where the objective is about it, and only there."""
    denoiser = learner()
    made(cls)(denoiser, normal(5, 2), generator=seeded()).mean().backward()
    network = denoiser.network
    assert isinstance(network, Doubled)
    assert network.weights.grad is not None
    mean, variance = (network.weights.grad != 0.0).tolist()
    assert mean
    assert variance == cls.is_of_a_chain


@every_objective
def test_losses_without_a_graph_are_the_same(cls: type[Objective]) -> None:
    """A validation loss is asked under no_grad, where derivatives in x are still needed."""
    objective, denoiser, x_0 = made(cls), learner(), normal(5, 2)
    draws = objective.draw(x_0, seeded())
    recorded = objective.losses(denoiser, x_0, draws).per_sample
    with torch.no_grad():
        free = objective.losses(denoiser, x_0, draws).per_sample
    assert torch.equal(free, recorded)
    assert recorded.requires_grad
    assert not free.requires_grad


@every_objective
def test_condition_reaches_the_denoiser(cls: type[Objective]) -> None:
    """Labels that are dropped on the way train an unconditional model."""
    objective, x_0 = made(cls, learner()), normal(3, 2)
    draws = objective.draw(x_0, seeded())
    plain, labelled = (
        objective.losses(learner(), x_0, draws, condition).per_sample for condition in (None, torch.tensor([0, 1, 0]))
    )
    changed = (plain - labelled).abs() > 1e-9
    assert changed.tolist() == [False, cls is not Explicit, False]  # the reference is told, too


@every_objective
def test_what_is_logged(cls: type[Objective]) -> None:
    """t and log σ/α belong together, and the losses kept for importance sampling are detached."""
    objective, x_0 = made(cls), normal(6, 2)
    found = objective.losses(learner(), x_0, objective.draw(x_0, seeded()))
    assert torch.allclose(found.log_sigma, (CHAIN.sigma(found.t) / CHAIN.alpha(found.t)).log(), rtol=1e-9, atol=1e-12)
    assert not found.unweighted_by_importance.requires_grad
    assert torch.allclose(found.unweighted_by_importance, found.per_sample.detach(), rtol=1e-6)


@every_objective
def test_training_lowers_it(cls: type[Objective]) -> None:
    """Sixty steps of Adam on points of a mixture: the mean loss on fresh draws falls by many of its standard errors."""
    torch.manual_seed(0)
    world = mixture(CHAIN)
    network = MLPSpec(width=32, depth=2, embedding=16).build((2,), 4)
    denoiser = NetworkDenoiser(network, CHAIN, Noise(learned_variance=True))
    objective, x_0 = made(cls, world), world.draw(4096, seeded(1)).float()
    draws = objective.draw(x_0, seeded(2))

    def held_out() -> Tensor:
        with torch.no_grad():
            return objective.losses(denoiser, x_0, draws).per_sample

    before, optimiser = held_out(), torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(60):
        optimiser.zero_grad()
        objective(denoiser, world.draw(256, seeded(10 + step)).float(), generator=seeded(1000 + step)).mean().backward()
        optimiser.step()
    gain = before - held_out()
    assert float(gain.mean()) > 5.0 * float(gain.std()) / math.sqrt(len(gain))


@pytest.mark.parametrize("cls", [cls for cls in OBJECTIVES if not cls.is_of_a_chain], ids=lambda cls: cls.__name__)
def test_an_energy_is_trained_by_all_of_them(cls: type[Objective]) -> None:
    """Its score is a derivative already: implicit objectives need the third, which must exist and move weights (M10)."""
    torch.manual_seed(0)
    network = MLPSpec(width=16, depth=2, embedding=16).build((2,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    denoiser = NetworkEnergy(network, CHAIN, Energy())
    made(cls)(denoiser, normal(5, 2).float(), generator=seeded()).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("cls", [cls for cls in OBJECTIVES if cls.differentiates], ids=lambda cls: cls.__name__)
def test_a_network_with_attention_is_differentiated_twice(cls: type[Objective]) -> None:
    """Fused attention has no second derivative on any machine: without the plain kernel a U-Net would raise (M28, M29)."""
    torch.manual_seed(0)
    network = UNetSpec(widths=(8, 16), depths=(1, 1), head_width=8, embedding=8).build((1, 4, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    denoiser = NetworkDenoiser(network, CHAIN, Noise())
    made(cls)(denoiser, normal(2, 1, 4, 4).float(), generator=seeded()).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@every_objective
def test_facts_are_true(cls: type[Objective]) -> None:
    """An objective of a chain refuses a path without steps, one of a variance a parameterisation without; others take both."""
    objective, learned = made(cls), Noise(learned_variance=True)
    objective.require_fit(CHAIN, learned)
    if cls.is_of_a_chain:
        with pytest.raises(UsageError, match="path=discrete"):
            objective.require_fit(VP(), learned)
        with pytest.raises(UsageError, match="path VP has none"):
            objective(learner(VP()), normal(2, 2), generator=seeded())
    else:
        objective.require_fit(VP(), learned)
    if cls.needs_learned_variance:
        with pytest.raises(UsageError, match="parameterisation.learned_variance=true"):
            objective.require_fit(CHAIN, Noise())
    else:
        objective.require_fit(CHAIN, Noise())


@pytest.mark.parametrize("cls", KINDS[Objective], ids=lambda cls: cls.__name__)
def test_written_down_and_read_again(cls: type[Objective]) -> None:
    """`config.json` says the kind; a misspelt or missing one is refused, and the explicit one is no file's."""
    objective = cls(times=Uniform(stratified=False))  # type: ignore[call-arg]  # every kind has times
    assert from_plain(Objective, to_plain(objective), KINDS) == objective  # type: ignore[type-abstract]
    with pytest.raises(UsageError, match="known: .*sliced"):
        from_plain(Objective, {"kind": "explicit"}, KINDS)  # type: ignore[type-abstract]


def test_differentiating_ones_say_so() -> None:
    """What the trainer keeps from bfloat16 and from compilation."""
    assert {cls.__name__ for cls in OBJECTIVES if cls.differentiates} == {
        "Implicit",
        "Sliced",
        "FiniteDifferenceSliced",
    }
    assert FiniteDifferenceSliced().times == made(FiniteDifferenceSliced).times
