"""Figures over many samples: two error bars that mean what they say, and nothing that depends on the batch."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.likelihood import FlowLikelihood, Method, Subject, VariationalBound, measure
from scorefield.paths import EDM, Discrete
from tests.likelihood.worlds import BITS, Discretised, frame_of
from tests.worlds import mixture, normal, seeded

WORLD = mixture(Discrete(steps=12))
SUBJECT = Subject(WORLD, None, frame_of(WORLD))


def test_error_over_the_data_covers_the_truth_in_nine_of_ten_repeats() -> None:
    """Two standard errors, 100 sets of 60 samples: 90 to 99 of them hold the mean of 6,000 (M19)."""
    truth = measure(VariationalBound(), SUBJECT, WORLD.draw(6000, seeded(99)), repeats=1).value
    covered = 0
    for k in range(100):
        found = measure(VariationalBound(), SUBJECT, WORLD.draw(60, seeded(k)), seed=k, repeats=1)
        covered += abs(found.value - truth) <= 2.0 * (found.standard_error or 0.0)
    assert 90 <= covered <= 99


def test_error_over_the_noise_covers_the_truth_in_nine_of_ten_repeats() -> None:
    """The same 20 samples with 100 seeds: what the noise alone changes (M19)."""
    x = WORLD.draw(20, seeded(5))
    truth = measure(VariationalBound(), SUBJECT, x, seed=999, repeats=200).value
    covered = 0
    for seed in range(100):
        found = measure(VariationalBound(), SUBJECT, x, seed=seed, repeats=4)
        covered += abs(found.value - truth) <= 2.0 * (found.noise_error or 0.0)
    assert 90 <= covered <= 99


@pytest.mark.parametrize("method", [VariationalBound(terms=8), FlowLikelihood(1e-3, probes=1)])
def test_results_do_not_depend_on_the_batch(method: Method) -> None:
    """Streams of noise for each sample: 16 at once (the pilots) or 64 rows at once."""
    world = Discretised.of(EDM(), 17)
    x = world.draw(40)
    one, other = (measure(method, world.subject, x, batch=batch) for batch in (16, 640))
    assert torch.allclose(one.nats, other.nats, atol=1e-6)


def test_samples_keep_their_noise_wherever_they_stand() -> None:
    """A part of the data has the figures that it has in the whole, where its numbers are given."""
    x = WORLD.draw(9, seeded())
    whole = measure(VariationalBound(), SUBJECT, x)
    part = measure(VariationalBound(), SUBJECT, x[4:6], samples=torch.tensor([4, 5]))
    assert torch.allclose(whole.nats[4:6], part.nats)


def test_figures_are_consistent() -> None:
    """Parts sum to the whole, samples average to the value, units shift it (M19)."""
    found = measure(VariationalBound(), SUBJECT, WORLD.draw(9, seeded()), repeats=3)
    assert math.isclose(sum(found.terms.values()), found.value, rel_tol=1e-12)
    assert math.isclose(float(found.per_sample.mean()), found.value, rel_tol=1e-12)
    assert found.value == pytest.approx(float(found.nats.mean()) / 2.0 * BITS)
    moved = found.shifted(2.0 * math.log(2.0))
    assert moved.value == pytest.approx(found.value + 1.0)
    assert math.isclose(sum(moved.terms.values()), moved.value, rel_tol=1e-12)
    assert found.per_sample_noise is not None and found.per_sample_noise.shape == (9,)
    single = measure(VariationalBound(), SUBJECT, WORLD.draw(1, seeded()), repeats=1)
    assert single.standard_error is None and single.noise_error is None and single.per_sample_noise is None
    assert set(found.as_json()) >= {"bits_per_dim", "standard_error", "noise_error", "terms", "evaluations", "settings"}


def test_what_has_no_noise_is_measured_once() -> None:
    """The exact trace of floats: a second repeat would be the first again."""
    world = mixture(EDM())
    assert measure(FlowLikelihood(1e-2), Subject(world), world.draw(3, seeded()), repeats=4).nats.shape == (3, 1)


@pytest.mark.parametrize(
    ("x", "levels", "options", "said"),
    [
        (normal(0, 2), None, {}, "needs data"),
        (normal(3, 2), None, {"repeats": 0}, "repeats"),
        (normal(3, 2), None, {"batch": 0}, "batch"),
        (torch.full((3, 2), 0.03).double(), 17, {}, "between or beyond"),
        (torch.full((3, 2), 1.25).double(), 17, {}, "between or beyond"),
        (torch.full((3, 2), math.nan).double(), None, {}, "not finite"),
    ],
)
def test_data_that_have_no_likelihood_are_refused(x, levels, options, said: str) -> None:
    """A probability of a value that integers cannot have would be a number all the same."""
    with pytest.raises(UsageError, match=said):
        measure(VariationalBound(), Subject(WORLD, levels), x, **options)


def test_constant_data_are_refused() -> None:
    """One level has no bins."""
    with pytest.raises(UsageError, match="at least 2 levels"):
        Subject(WORLD, 1)
