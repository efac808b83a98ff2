"""Classifiers of noisy samples: what they learn of a world whose class posterior is known, what they say where nothing is to be seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scorefield as sf
from scorefield.data import Dataset, open_data
from scorefield.denoisers import GaussianMixture, MixtureClassifier
from scorefield.errors import DivergedError, RefusedFileError, UsageError
from scorefield.model import Model
from scorefield.model_classifier import NoiseClassifier, load_classifier
from scorefield.paths import VP, Discrete, Rectified
from scorefield.training.classifier import RATIOS, ClassifierPlan, FittedClassifier, fit_classifier
from tests.worlds import float64, normal, seeded

MEANS = float64([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.5]])
NETWORK = {"width": 32, "depth": 1, "embedding": 16, "dropout": 0.0}
SMALL = ClassifierPlan(steps=400, batch=256, learning_rate=1e-2, weight_decay=0.0, network=NETWORK)


def points(count: int = 3000) -> Dataset:
    """Three round clusters in the plane, each a class."""
    labels = torch.randint(3, (count,), generator=seeded(1))
    drawn = MEANS[labels] + 0.5 * torch.randn(count, 2, generator=seeded(2), dtype=torch.float64)
    return open_data(drawn.float().numpy(), labels=labels.numpy())


def model_of(dataset: Dataset, **settings: Any) -> Model:
    """A model that was hardly trained: a classifier needs its path and its space alone."""
    tiny: dict[str, Any] = {"network": "mlp", "network__width": 8, "network__depth": 1, "network__embedding": 8}
    return sf.fit(dataset, **tiny | {"steps": 1, "batch": 8, "guidance": 1.0} | settings)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model of the clusters on the default path."""
    return model_of(points())


@pytest.fixture(scope="module")
def fitted(model: Model) -> FittedClassifier:
    """A classifier of them."""
    return fit_classifier(model, points(), SMALL)


def exact(model: Model) -> MixtureClassifier:
    """The clusters' own classifier in model space."""
    z = model.config.representation.to_model(MEANS.float().numpy()).double()
    unit = model.config.representation.to_model((MEANS + 1.0).float().numpy()).double() - z
    covariance = torch.diag((0.5 * unit[0]) ** 2).expand(3, 2, 2)
    world = GaussianMixture(model.config.path, torch.ones(3, dtype=torch.float64), z, covariance)
    return MixtureClassifier(world, torch.arange(3))


# ── what is learned ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 2.0])
def test_it_learns_the_posterior_at_every_noise_level(model: Model, fitted: FittedClassifier, ratio: float) -> None:
    """A wrong label of the noise level, scale of the input or law of times gives a posterior of another level."""
    path, truth = model.config.path, exact(model)
    t = float(path.time_of(-math.log(ratio)))
    x_t = path.alpha(t) * truth.mixture.draw(500, seeded(3)) + path.sigma(t) * normal(500, 2, seed=4)
    wanted = torch.stack([truth.log_probability(x_t, t, torch.full((500,), y)) for y in range(3)], 1).exp()
    got = torch.stack([fitted.classifier.log_probability(x_t, t, torch.full((500,), y)) for y in range(3)], 1).exp()
    assert (got - wanted).abs().mean() < 0.03


def test_its_gradient_leads_to_the_law_of_the_class(model: Model, fitted: FittedClassifier) -> None:
    """(M42) The exact prior and the learned classifier draw, for a class, its cluster of spread 0.5; the others are 1.8 away."""
    from scorefield.denoisers import Guided
    from scorefield.samplers import Heun

    truth = exact(model)
    denoiser = Guided(truth.mixture, fitted.classifier)
    x_T = model.config.path.prior_std * normal(1500, 2, seed=5)
    drawn = Heun(steps=24).sample(denoiser, x_T, condition=torch.full((1500,), 2))
    samples = torch.from_numpy(model.config.representation.from_model(drawn.float())).double()
    assert (samples.mean(0) - MEANS[2]).abs().max() < 0.15
    assert ((samples - MEANS[2]).std(0) - 0.5).abs().max() < 0.1


def test_what_it_knows_falls_with_the_noise(fitted: FittedClassifier) -> None:
    """Held-out examples are noised to the ratio that is printed: the clusters of 2σ apart are told at 0.05, not at 10."""
    accuracy = [level.accuracy for level in fitted.levels]
    assert [level.ratio for level in fitted.levels] == list(RATIOS)
    assert accuracy[0] > 0.9 and accuracy[-1] < 0.6 and fitted.steps == 400
    assert fitted.levels[0].cross_entropy < 0.3 < 0.9 < fitted.levels[-1].cross_entropy < 1.2
    p = accuracy[0]
    assert fitted.levels[0].standard_error == pytest.approx(math.sqrt(p * (1 - p) / fitted.levels[0].count))


def test_levels_are_those_that_are_named(model: Model, fitted: FittedClassifier) -> None:
    """What the exact classifier knows at σ/α, to within what 300 examples and 400 steps leave; at twice or half the ratio it is farther off."""
    path, truth = model.config.path, exact(model)
    labels = truth.mixture.draw_components(4000, seeded(6))
    x_0 = truth.mixture.means[labels] + normal(4000, 2, seed=7) * truth.mixture.covariances[0].diagonal().sqrt()
    for ratio in (0.5, 2.0):
        t, level = float(path.time_of(-math.log(ratio))), next(row for row in fitted.levels if row.ratio == ratio)
        x_t = path.perturb(x_0, torch.full((4000,), t, dtype=torch.float64), normal(4000, 2, seed=8))
        wanted = -float(truth.log_probability(x_t, t, labels).mean())
        assert level.cross_entropy == pytest.approx(wanted, abs=0.08)


def test_beyond_all_signal_it_says_how_frequent_classes_are(fitted: FittedClassifier) -> None:
    """Its gradient there is multiplied by σ²/α without a bound: it must be none at all, not a small error."""
    labels, x_t = torch.tensor([0, 1, 2]), normal(3, 2).float().requires_grad_()
    classifier = replace(fitted.classifier, config=replace(fitted.classifier.config, path=Rectified()))
    found = classifier.log_probability(x_t, 1.0, labels)
    assert torch.allclose(found, torch.tensor(classifier.class_weights).log())
    (gradient,) = torch.autograd.grad(found.sum(), x_t)
    assert not gradient.any()


def test_each_sample_has_its_own_time(fitted: FittedClassifier) -> None:
    """A batch of several times must answer as each by itself, the blind ones among them."""
    labels, x_t, times = torch.tensor([0, 1, 2]), normal(3, 2).float(), float64([0.1, 2.0, 39.0])
    together = fitted.classifier.log_probability(x_t, times, labels)
    alone = [fitted.classifier.log_probability(x_t[k : k + 1], float(times[k]), labels[k : k + 1]) for k in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("path", [VP(), Discrete(), Rectified()], ids=["VP", "Discrete", "Rectified"])
def test_it_is_fitted_on_any_path(model: Model, path: Any) -> None:
    """A path without a time for a level, or with α = 0 at its end, must give finite losses and levels of its own."""
    other = replace(model, config=replace(model.config, path=path))
    found = fit_classifier(other, points(200), replace(SMALL, steps=3))
    assert found.classifier.path == path and all(math.isfinite(level.cross_entropy) for level in found.levels)


def test_the_same_plan_gives_the_same_bits(model: Model) -> None:
    """Hidden randomness would make a classifier that nobody can make again; the global generator stays as it was."""
    before = torch.get_rng_state()
    first, again = (fit_classifier(model, points(200), replace(SMALL, steps=3)).classifier for _ in range(2))
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_are_flipped_only_where_the_model_was_so_trained() -> None:
    """Digits are no digits in a mirror: an asymmetric class must be learned from what it is."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pictures = generator.integers(0, 40, size=(64, 4, 4)).astype(np.uint8)
    pictures[labels == 1, :, :2] += 200
    pictures[labels == 0, :, 2:] += 200
    dataset = open_data(pictures, labels=labels)
    model = _picture_model(dataset)
    network = {"widths": (8,), "depths": (1,), "embedding": 8, "attention": 0, "dropout": 0.0, "fold": 1}
    plan = ClassifierPlan(steps=60, batch=32, learning_rate=1e-2, network=network)
    plain, flipped = (fit_classifier(model, dataset, replace(plan, flip=flip)).levels[0] for flip in (False, True))
    assert plain.cross_entropy < 0.3 < 0.5 < flipped.cross_entropy


def _picture_model(dataset: Dataset) -> Model:
    unet: dict[str, Any] = {
        "network": "unet",
        "network__widths": (8,),
        "network__depths": (1,),
        "network__attention": 0,
        "network__embedding": 8,
    }
    return sf.fit(dataset, **unet, steps=1, batch=8)


# ── on disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_comes_back_from_the_models_folder(model: Model, fitted: FittedClassifier, tmp_path: Path) -> None:
    """Weights, moments and classes as they were, under names that no model's are."""
    place = fitted.classifier.save(tmp_path)
    assert sorted(file.name for file in place.iterdir()) == ["classifier.safetensors", "config.json"]
    loaded = load_classifier(tmp_path, model)
    assert loaded.config == fitted.classifier.config
    x_t, labels = normal(4, 2).float(), torch.tensor([0, 1, 2, 0])
    wanted = fitted.classifier.log_probability(x_t, 0.7, labels)
    assert torch.equal(loaded.log_probability(x_t, 0.7, labels), wanted)


def test_damage_is_found_before_it_is_used(model: Model, fitted: FittedClassifier, tmp_path: Path) -> None:
    """One bit of the weights, another configuration, and one that describes another network."""
    place = fitted.classifier.save(tmp_path)
    for name, change in (
        ("classifier.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        (
            "config.json",
            lambda data: data.replace(b'"width":32', b'"width":16').replace(b'"width": 32', b'"width": 16'),
        ),
    ):
        whole = (place / name).read_bytes()
        (place / name).write_bytes(change(whole))
        with pytest.raises(RefusedFileError):
            load_classifier(tmp_path, model)
        (place / name).write_bytes(whole)
    load_classifier(tmp_path, model)


def test_data_of_another_width_are_not_learned_from() -> None:
    """Sixteen bits in the place of eight would be 257 times as bright as what the model draws."""
    numbers, labels = np.random.default_rng(0).integers(0, 256, (20, 2)).astype(np.uint8), np.arange(20) % 2
    model = model_of(sf.open_data(numbers, labels=labels))
    wide = sf.open_data(numbers.astype(np.uint16) * 257, labels=labels)
    with pytest.raises(UsageError, match="holds uint16"):
        fit_classifier(model, wide, ClassifierPlan(steps=1))


def test_a_classifier_of_another_model_is_refused(model: Model, fitted: FittedClassifier, tmp_path: Path) -> None:
    """It would judge another x_t, or lead to a class of another name."""
    with pytest.raises(UsageError, match="make one: scorefield train-classifier"):
        load_classifier(tmp_path, model)
    fitted.classifier.save(tmp_path)
    own = model.config
    for other, message in (
        (replace(own, path=VP()), "is for the path"),
        (replace(own, class_names=("a", "b", "c")), "tells 3 classes"),
        (replace(own, representation=replace(own.representation, shift=(9.0,))), "is for data"),
    ):
        with pytest.raises(UsageError, match=message):
            load_classifier(tmp_path, replace(model, config=other))
        with pytest.raises(UsageError, match=message):
            replace(model, config=other).with_classifier(fitted.classifier)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_without_classes_takes_its_classifiers(fitted: FittedClassifier) -> None:
    """An unconditional model is asked for a class by name, and draws them as often as they are in the data."""
    free = model_of(points(), data__labels=False)
    assert not free.class_names
    led = free.with_classifier(fitted.classifier, 1.0)
    assert led.class_names == ("0", "1", "2")
    drawn = led.sample(4, classes="2", sampler=sf.DDIM(steps=4))
    assert drawn.shape == (4, 2) and np.isfinite(drawn).all()
    labels = led.labels(0, 0, 3000)
    assert labels is not None
    shares = torch.bincount(labels, minlength=3) / 3000
    assert (shares - torch.tensor(fitted.classifier.class_weights)).abs().max() < 0.04
    with pytest.raises(UsageError, match="leave told out"):
        free.with_classifier(fitted.classifier, told=True)


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_that_are_not_the_models_are_refused(model: Model) -> None:
    """Each would teach classes or shapes that the model does not have."""
    array, labels = points(60).batch(np.arange(60)), np.arange(60) % 3
    for dataset, message in (
        (open_data(array), "has no labels to learn"),
        (open_data(array, labels=labels % 2), "give data with the model's classes"),
        (open_data(array[:, :1], labels=labels), "give the data that it was trained on"),
    ):
        with pytest.raises(UsageError, match=message):
            fit_classifier(model, dataset, SMALL)
    told: dict[str, Any] = {"condition_names": ("c",), "condition_mean": (0.0,), "condition_scale": (1.0,)}
    numbers = replace(model, config=replace(model.config, class_names=(), class_weights=(), **told))
    with pytest.raises(UsageError, match="conditioned on numbers"):
        fit_classifier(numbers, points(60), SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps ≥ 1"),
        ({"batch": 0}, "a batch from 1"),
        ({"minutes": -1.0}, "a positive number"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is read or built."""
    with pytest.raises(UsageError, match=message):
        ClassifierPlan(**options)


def test_more_cannot_be_held_out_than_there_are(model: Model) -> None:
    """Nothing would be left to learn from, or to judge by."""
    with pytest.raises(UsageError, match="can be held out, got 60"):
        fit_classifier(model, points(60), replace(SMALL, held_out=60))


def test_a_loss_that_is_not_finite_ends_it(model: Model) -> None:
    """Weights of NaN would be kept otherwise."""
    with pytest.raises(DivergedError, match="learning_rate"):
        fit_classifier(model, points(200), replace(SMALL, learning_rate=1e38, steps=20))


def test_a_plan_of_minutes_ends_by_the_clock(model: Model) -> None:
    """And is told of every step with its share of the time."""
    told: list[float] = []
    found = fit_classifier(
        model, points(200), replace(SMALL, minutes=0.005), progress=lambda event: told.append(event.progress)
    )
    assert told[-1] == 1.0 and len(told) == found.steps and told == sorted(told)
    assert isinstance(found.classifier, NoiseClassifier)
