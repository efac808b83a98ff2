"""Batches are pure functions of (seed, step): whatever was interrupted, whoever asks, the numbers are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.data import Dataset, report
from scorefield.training.batches import Batch, Batches, mixed
from scorefield.training.processes import World
from tests.training import runs


def batches(dataset: Dataset, **options: Any) -> Batches:
    """The batches of the tiny run with these settings."""
    return Batches(dataset, report(dataset).representation, runs.tiny(**options), dataset.classes)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches agree in every bit."""
    labels = (one.condition is None and other.condition is None) or torch.equal(one.condition, other.condition)  # type: ignore[arg-type]
    drawn = torch.equal(one.draws.u, other.draws.u) and torch.equal(one.draws.noise, other.draws.noise)
    return torch.equal(one.x_0, other.x_0) and labels and drawn


def test_a_batch_does_not_depend_on_what_was_asked_before():
    """State between calls, or use of the global generator, would change the run after a resumption."""
    first = batches(runs.points())
    in_order = [first.batch(step) for step in range(1, 9)]
    torch.manual_seed(7)
    fresh = [batches(runs.points()).batch(step) for step in (8, 3, 5)]
    for step, batch in zip((8, 3, 5), fresh, strict=True):
        assert same(batch, in_order[step - 1])


def test_drawing_a_batch_leaves_the_global_generator_alone():
    """A user's own random numbers must not depend on whether training runs beside them."""
    before = torch.get_rng_state()
    batches(runs.points()).batch(3)
    assert torch.equal(before, torch.get_rng_state())


def test_seed_and_step_change_order_noise_times_and_dropped_labels():
    """A seed that misses one of them makes 'independent' runs share it."""
    dataset = runs.points()
    one, other = batches(dataset).batch(2), batches(dataset, seed=1).batch(2)
    following = batches(dataset).batch(3)
    for batch in (other, following):
        assert not torch.equal(one.x_0, batch.x_0)
        assert not torch.isclose(one.draws.u, batch.draws.u).any()
        assert not torch.isclose(one.draws.noise, batch.draws.noise).all(1).any()
    assert not np.array_equal(batches(dataset).indices(1), batches(dataset, seed=1).indices(1))


@settings(max_examples=20)
@given(count=st.integers(1, 40), batch=st.integers(1, 30), seed=st.integers(0, 5))
def test_every_pass_sees_every_example_once(count, batch, seed):
    """An off-by-one at the end of a pass would show some examples twice and others never."""
    source = batches(runs.points(count), batch=batch, seed=seed)
    seen = np.concatenate([source.indices(step) for step in range(1, 3 * count // batch + 3)])
    for epoch in range(2):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_is_another_in_every_pass():
    """A permutation that is drawn once gives the same neighbours for ever."""
    source = batches(runs.points(64), batch=64)
    orders = [source.indices(step) for step in range(1, 6)]
    assert len({tuple(order) for order in orders}) == 5


def test_a_batch_larger_than_the_data_goes_round():
    """Ten examples and a batch of 16 must work: 10 of one pass, 6 of the next."""
    indices = batches(runs.points(10)).indices(1)
    assert sorted(indices[:10]) == list(range(10))
    assert len(set(indices[10:])) == 6


@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 4)])
def test_shares_of_all_processes_are_the_batch_in_order(size, accumulate):
    """Overlaps or gaps between ranks or micro-batches would train on other data than one process does."""
    whole = batches(runs.points()).batch(4)
    parts = [part for rank in range(size) for part in World(rank, size).share(16, accumulate)]
    assert [part.start for part in parts] == sorted(part.start for part in parts)
    joined = [whole[part] for part in parts]
    assert torch.equal(torch.cat([part.x_0 for part in joined]), whole.x_0)
    assert torch.equal(torch.cat([part.draws.u for part in joined]), whole.draws.u)
    assert torch.equal(torch.cat([part.draws.noise for part in joined]), whole.draws.noise)
    assert torch.equal(torch.cat([part.condition for part in joined]), whole.condition)  # type: ignore[arg-type, misc]


def test_labels_are_those_of_the_examples_and_dropped_at_the_rate_asked_for():
    """A dropped label is the number of classes; 0.25 of 8,000 is within 4 standard errors."""
    dataset = runs.points(800)
    source = batches(dataset, batch=800, label_dropout=0.25)
    dropped = 0
    for step in range(1, 11):
        labels = source.batch(step).condition
        assert labels is not None
        kept = labels.numpy() != dataset.classes
        assert dataset.labels is not None
        assert np.array_equal(labels.numpy()[kept], dataset.labels[source.indices(step)][kept])
        dropped += int((~kept).sum())
    assert abs(dropped / 8000 - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5


def test_conditions_are_those_of_the_examples_and_dropped_with_the_same_numbers_as_labels():
    """A dropped condition is a row of NaN; the random numbers of a step are in the order that they always had."""
    dataset = runs.points(800)
    rows = np.random.default_rng(0).normal(size=(800, 2)).astype(np.float32)
    config = runs.tiny(batch=800, label_dropout=0.25)
    source = Batches(dataset, report(dataset).representation, config, 0, rows)
    for step in (1, 2):
        batch, labelled = source.batch(step), batches(dataset, batch=800, label_dropout=0.25).batch(step)
        assert batch.condition is not None and labelled.condition is not None
        kept = ~batch.condition.isnan()
        assert torch.equal(kept.all(1), kept.any(1)) and torch.equal(kept.all(1), labelled.condition != dataset.classes)
        assert np.array_equal(batch.condition[kept.all(1)], rows[source.indices(step)][kept.all(1)])
        assert torch.equal(batch.x_0, labelled.x_0) and torch.equal(batch.draws.noise, labelled.draws.noise)


def test_no_labels_where_they_are_not_wanted():
    """An unconditional model must not be handed classes."""
    dataset = runs.points()
    plain = Batches(dataset, report(dataset).representation, runs.tiny(), 0)
    assert plain.batch(1).condition is None


def test_half_of_the_images_are_mirrored_left_to_right_on_request_only():
    """Flips along another axis, of all images, or unasked, change what is learned."""
    dataset = runs.images(200)
    plain, flipped = (batches(dataset, network="unet", batch=200, data__flip=flip).batch(1) for flip in (False, True))
    mirrored = plain.x_0.flip(-1)
    changed = (flipped.x_0 != plain.x_0).flatten(1).any(1)
    assert torch.equal(flipped.x_0[changed], mirrored[changed])
    assert abs(changed.float().mean() - 0.5) < 4 * (0.25 / 200) ** 0.5
    assert torch.equal(plain.draws.noise, flipped.draws.noise)
    assert torch.equal(
        plain.x_0, report(dataset).representation.to_model(dataset.batch(batches(dataset, batch=200).indices(1)))
    )


def test_noise_is_standard_normal_and_times_are_uniform():
    """Noise of another scale, or the same for all samples, would fit another model."""
    draws = batches(runs.points(), batch=4096).batch(1).draws
    assert abs(float(draws.noise.mean())) < 4 / 8192**0.5
    assert abs(float(draws.noise.var()) - 1.0) < 4 * (2 / 8192) ** 0.5
    assert abs(float(draws.u.mean()) - 0.5) < 4 * (1 / 12 / 4096) ** 0.5


def test_mixed_seeds_differ_by_seed_purpose_and_number():
    """Two streams from one seed would be correlated: noise that repeats the order, dropout that repeats the noise."""
    found = {
        mixed(seed, purpose, number) for seed in range(5) for purpose in ("order", "noise") for number in range(50)
    }
    assert len(found) == 500
    assert all(0 <= seed < 2**63 for seed in found)
