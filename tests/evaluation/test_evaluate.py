"""An evaluation orders models as it must, keeps to its seed, and survives JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.evaluation.distances import Estimate, frechet_distance
from scorefield.evaluation.evaluate import MEASURES, Evaluation, Figure, Yardstick, evaluate
from scorefield.evaluation.features import Coordinates


def points(count: int, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def good() -> Evaluation:
    return evaluate(points(150, seed=1), points(600, seed=0), points(400, seed=2))


def test_every_figure_is_there_with_its_floor(good: Evaluation):
    assert [figure.name for figure in good.figures] == list(MEASURES)
    assert all(figure.floor is not None for figure in good.figures)
    assert (good.samples, good.reference, good.held_out) == (150, 600, 150)


def test_a_perfect_model_is_at_the_floor(good: Evaluation):
    """Samples of the data's own law lie within four spreads of held-out data, in every figure."""
    for figure in good.figures:
        assert figure.floor is not None
        spread = math.hypot(figure.value.standard_error, figure.floor.standard_error)
        assert abs(figure.value.value - figure.floor.value) <= 4 * spread, figure.name


def test_a_shifted_model_is_worse_in_the_stated_direction(good: Evaluation):
    bad = evaluate(points(150, seed=1, shift=1.5), points(600, seed=0), points(400, seed=2))
    for figure in bad.figures:
        difference = figure.value.value - good[figure.name].value
        assert {"low": difference > 0, "high": difference < 0, "floor": difference != 0}[figure.measure.better], figure


def test_a_copying_model_is_found_out():
    train = points(300, seed=0)
    copied = evaluate(train[:100] + 1e-4, train, points(300, seed=2))
    assert copied["copying"].value > 0.95
    assert copied["nearest"].value < 1e-3


def test_the_figures_are_those_of_the_distances():
    samples, reference = points(80, seed=1), points(200, seed=0)
    extractor = Coordinates(reference)
    expected = frechet_distance(extractor.features(samples), extractor.features(reference))
    assert evaluate(samples, reference)["frechet"] == expected


def test_without_held_out_data_nothing_has_a_floor():
    alone = evaluate(points(50, seed=1), points(100, seed=0))
    assert all(figure.floor is None for figure in alone.figures)
    assert "copying" not in [figure.name for figure in alone.figures]


def test_the_same_seed_gives_the_same_figures():
    arguments = points(60, seed=1), points(200, seed=0), points(100, seed=2)
    assert evaluate(*arguments, seed=3) == evaluate(*arguments, seed=3)


def test_the_floor_is_the_mean_over_disjoint_draws():
    held_out, reference = points(120, seed=2), points(300, seed=0)
    yardstick = Yardstick(reference, Coordinates(reference))
    floor = yardstick.floor(held_out, 50, draws=9)
    assert (floor.size, len(floor.nearest)) == (50, 100)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    parts = [yardstick.measure(held_out[order[i : i + 50]]).figures["coverage"].value for i in (0, 50)]
    assert floor.figures["coverage"].value == pytest.approx(sum(parts) / 2)
    assert floor.figures["coverage"].standard_error == pytest.approx(abs(parts[0] - parts[1]) / math.sqrt(2))


def test_an_evaluation_survives_json(good: Evaluation):
    assert Evaluation.from_json(json.loads(json.dumps(good.as_json(), allow_nan=False))) == good


def test_what_is_not_finite_becomes_null():
    evaluation = Evaluation(1, 1, 0, "x", (Figure("frechet", Estimate(1.0, math.nan), None),))
    again = Evaluation.from_json(json.loads(json.dumps(evaluation.as_json(), allow_nan=False)))
    assert math.isnan(again["frechet"].standard_error)


def test_the_table_has_a_line_for_every_figure(good: Evaluation):
    lines = good.table().splitlines()
    assert len(lines) == 1 + len(MEASURES)
    assert lines[1].startswith("Fréchet distance")
    assert str(good["frechet"]) in lines[1]


def test_images_with_labels_are_measured_by_a_classifier():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60, dtype=torch.int32) % 3
    from scorefield.evaluation.features import fit_features

    extractor = fit_features(images, labels, epochs=1)
    got = evaluate(images[:20], images, images[20:50], extractor=extractor)
    assert got.features == "classifier of 3 classes"
    assert got["nearest"].value == 0.0


@pytest.mark.parametrize(
    ("samples", "reference", "test", "words"),
    [
        (torch.zeros(20, 3), torch.zeros(20, 2), None, "trained on"),
        (torch.zeros(20, 2), torch.zeros(20, 2), torch.zeros(20, 3), "test data"),
        (torch.zeros(5, 2), torch.zeros(20, 2), None, "draw some hundreds"),
        (torch.zeros(20, 2), torch.zeros(4, 2), None, "more than 5"),
    ],
)
def test_sets_that_cannot_be_measured_are_refused(samples: Tensor, reference: Tensor, test: Tensor | None, words: str):
    with pytest.raises(UsageError, match=words):
        evaluate(samples, reference, test)
