"""One step: what it changes, and that a step which is not finite changes nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from scorefield.training.batches import Batch
from scorefield.training.optimisers import Muon
from scorefield.training.trainer import Trainer, build_network
from tests.training import runs


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of everything that is saved."""
    return {name: tensor.clone() for name, tensor in trainer.tensors().items()}


def changed(before: dict[str, Tensor], trainer: Trainer) -> set[str]:
    """The names of the tensors that are not as before."""
    now = trainer.tensors()
    assert now.keys() >= before.keys()
    return {name for name in now if name not in before or not torch.equal(now[name], before[name])}


def poisoned(batch: Batch, value: float) -> Batch:
    """The batch with one number replaced."""
    x_0 = batch.x_0.clone()
    x_0[3, 1] = value
    return dataclasses.replace(batch, x_0=x_0)


def test_a_step_changes_weights_average_and_moments():
    """A part that does not move is not trained, or not averaged."""
    trainer, batches = runs.trainer(runs.points())
    trainer.train_step(batches.batch(1), 0.0)
    before = snapshot(trainer)
    result = trainer.train_step(batches.batch(2), 0.0)
    assert result.is_finite
    assert trainer.step == 2
    moved = changed(before, trainer)
    assert {name.split(".")[0] for name in moved} == {"network", "average", "optimiser"}
    assert "network.head.weight" in moved
    assert "average.head.weight" in moved


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(bad, kind):
    """`lerp_(nan, 0)` poisons an average, one NaN in a moment never leaves it."""
    times = {"objective__times": "importancesampled", "objective__times__strata": 2, "objective__times__depth": 1}
    trainer, batches = runs.trainer(runs.points(), optimiser__kind=kind, **times)
    for step in range(1, 4):
        trainer.train_step(batches.batch(step), 0.0)
    before = snapshot(trainer)
    result = trainer.train_step(poisoned(batches.batch(4), bad), 0.0)
    assert not result.is_finite
    assert changed(before, trainer) == set()
    assert trainer.train_step(batches.batch(5), 0.0).is_finite
    assert all(tensor.isfinite().all() for tensor in trainer.tensors().values())


def test_one_bad_micro_batch_spoils_the_step_and_no_more():
    """The losses of all micro-batches count, not only the last one's."""
    trainer, batches = runs.trainer(runs.points(), accumulate=4)
    trainer.train_step(batches.batch(1), 0.0)
    before = snapshot(trainer)
    assert not trainer.train_step(poisoned(batches.batch(2), math.nan), 0.0).is_finite
    assert changed(before, trainer) == set()


def test_micro_batches_sum_to_the_gradient_of_the_whole_batch():
    """A missing division would multiply the learning rate by their number; agreement to rounding (float32)."""
    found = []
    for accumulate in (1, 2, 8):
        trainer, batches = runs.trainer(runs.points(), accumulate=accumulate)
        result = trainer.train_step(batches.batch(1), 0.0)
        found.append((result.losses, result.gradient_norm))
    for losses, norm in found[1:]:
        assert torch.allclose(losses, found[0][0], rtol=1e-5)
        assert norm == pytest.approx(found[0][1], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for():
    """With plain momentum-free steps, a clip of ε bounds the step; the reported norm is the one before."""
    big, batches = runs.trainer(runs.points(), optimiser__clip=1e-3)
    result = big.train_step(batches.batch(1), 0.0)
    total = torch.stack([p.grad.norm() for p in big.network.parameters() if p.grad is not None]).norm()
    assert result.gradient_norm > 1e-2
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_follows_warm_up_and_decay():
    """Warm-up is by steps, decay by progress; both groups of an optimiser move together."""
    trainer, batches = runs.trainer(
        runs.points(), optimiser__kind="muon", optimiser__warmup=4, optimiser__learning_rate=0.1
    )
    assert isinstance(trainer.optimiser, Muon)
    for step, progress, expected in ((1, 0.0, 0.025), (2, 0.5, 0.025), (3, 0.5, 0.0375), (4, 1.0, 0.0)):
        trainer.train_step(batches.batch(step), progress)
        assert [group["lr"] for group in trainer.optimiser.param_groups] == pytest.approx([expected] * 2)


def test_weights_depend_on_the_seed_alone():
    """Initial weights from the global generator would differ between processes and after an import."""
    trainer, _ = runs.trainer(runs.points())
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = build_network(trainer.model_config, 0)
    assert torch.equal(state, torch.get_rng_state())
    other = build_network(trainer.model_config, 1)
    weights = trainer.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    assert not torch.equal(weights["stem.weight"], other.state_dict()["stem.weight"])


def test_dropout_is_a_function_of_the_step_and_the_micro_batch():
    """From the global generator it would differ after a resumption, and be the same in every micro-batch."""
    losses = []
    for disturbance in (1, 2):
        trainer, batches = runs.trainer(runs.points(), network__dropout=0.5, accumulate=2, optimiser__learning_rate=0.1)
        found = []
        for step in (1, 2, 3):
            torch.manual_seed(disturbance)
            found.append(trainer.train_step(batches.batch(step), 0.0).losses)
        losses.append(torch.stack(found))
    assert torch.equal(*losses)
    trainer, batches = runs.trainer(runs.points(), optimiser__learning_rate=0.1, accumulate=2)
    without = torch.stack([trainer.train_step(batches.batch(step), 0.0).losses for step in (1, 2, 3)])
    assert not torch.equal(losses[0], without)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_tensors_are_those_that_were_saved(kind):
    """A moment under another parameter's number, or in another dtype, is not seen until the loss diverges."""
    one, batches = runs.trainer(runs.points(), optimiser__kind=kind)
    for step in range(1, 6):
        one.train_step(batches.batch(step), 0.1)
    other, _ = runs.trainer(runs.points(), optimiser__kind=kind)
    other.restore(one.step, snapshot(one))
    assert changed(snapshot(one), other) == set()
    for trainer in (one, other):
        trainer.train_step(batches.batch(6), 0.2)
    assert changed(snapshot(one), other) == set()


def test_the_model_is_the_average_not_the_live_network():
    """Samples of the live weights are worse, and change with the last batch."""
    trainer, batches = runs.trainer(runs.points())
    for step in range(1, 5):
        trainer.train_step(batches.batch(step), 0.0)
    assert trainer.model.network is trainer.average.network
    assert not torch.equal(trainer.model.network.head.weight, trainer.network.head.weight)  # type: ignore[arg-type, union-attr]
