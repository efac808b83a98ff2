"""Models with guides: what wraps the denoiser, what it does to samples, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scorefield as sf
from scorefield.data import open_data
from scorefield.denoisers import Autoguided, ClassifierFree, Guided
from scorefield.errors import UsageError
from scorefield.model import Model
from scorefield.model_calibration import tune_model
from scorefield.model_classifier import NoiseClassifier
from scorefield.model_guidance import AwayFrom, ByClassifier
from scorefield.training.classifier import ClassifierPlan, fit_classifier
from scorefield.training.earlier import checkpoint_model
from tests.worlds import normal

NETWORK: dict[str, Any] = {
    "network": "mlp",
    "network__width": 16,
    "network__depth": 1,
    "network__embedding": 8,
    "batch": 64,
}


def data(seed: int = 0) -> dict[str, Any]:
    """Two classes of points on a line, far apart."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=400)
    return {"labels": labels, "points": (generator.normal(size=(400, 2)) + 4.0 * labels[:, None]).astype(np.float32)}


def trained(tmp_path: Path, **settings: Any) -> Model:
    """A short run on them."""
    np.savez(tmp_path / "two.npz", **data())
    return sf.fit(
        str(tmp_path / "two.npz"), out=tmp_path / "run", **NETWORK | {"steps": 40, "save_every": 20} | settings
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The run's model, drawn from plainly."""
    return trained(tmp_path_factory.mktemp("guided")).with_guidance(1.0)


class Leaning:
    """log p(y | x_t) = ∓ Σ x_t: a classifier whose gradient is known."""

    def log_probability(self, x_t: Tensor, t: Any, labels: Tensor) -> Tensor:
        """A plane, one way for each class."""
        return (2.0 * labels - 1.0) * x_t.flatten(1).sum(1)


def test_an_interval_and_a_rescaling_reach_the_denoiser(model: Model) -> None:
    """Options that stopped at the model would draw plain samples without a word."""
    guided = model.with_guidance(2.0, (0.2, 4.0), 0.5).denoiser
    assert isinstance(guided, ClassifierFree)
    assert (guided.scale, guided.interval, guided.rescale) == (2.0, (0.2, 4.0), 0.5)
    x_t, labels = normal(3, 2).float(), torch.tensor([0, 1, 0])
    outside = float(model.config.path.time_of(-np.log(10.0)))
    with model.evaluating():
        assert torch.equal(guided(x_t, outside, labels).x0, model.denoiser(x_t, outside, labels).x0)


def test_a_classifier_moves_samples_to_its_side(model: Model) -> None:
    """A gradient of the wrong sign moves them to the other; σ²/α left out makes it another formula."""
    t, labels, x_t = 0.7, torch.tensor([0, 1]), normal(2, 2).float()
    told = model.with_classifier(Leaning(), 0.5, told=True).denoiser
    assert isinstance(told, Guided)
    path = model.config.path
    with model.evaluating():
        plain, bent = model.denoiser(x_t, t, labels).x0, told(x_t, t, labels).x0
        free = model.with_classifier(Leaning(), 0.5).denoiser(x_t, t, labels).x0
        unconditional = model.denoiser(x_t, t, torch.tensor([2, 2])).x0
    moved = 0.5 * path.sigma(t) ** 2 / path.alpha(t) * torch.tensor([[-1.0], [1.0]])
    assert torch.allclose(bent, plain + moved, atol=1e-5)
    assert torch.allclose(free, unconditional + moved, atol=1e-5)


def test_a_checkpoint_is_a_guide(model: Model, tmp_path: Path) -> None:
    """The averaged weights of that step, not the last ones: those would guide nowhere."""
    last = trained(tmp_path).with_guidance(1.0)
    earlier = checkpoint_model(last, tmp_path / "run", "step-20")
    before = torch.get_rng_state()
    newest = checkpoint_model(last, tmp_path / "run", "step-40")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(_weights(last), _weights(newest), strict=True))
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(_weights(last), _weights(earlier), strict=True))
    guided = last.with_autoguidance(earlier, 2.0)
    assert isinstance(guided.denoiser, Autoguided)
    assert not np.array_equal(guided.sample(4), last.sample(4))
    with pytest.raises(UsageError, match="there are: step-20, step-40"):
        checkpoint_model(last, tmp_path / "run", "step-7")


def _weights(model: Model) -> list[Tensor]:
    return list(model.network.state_dict().values())


def test_a_guided_model_is_not_walked_by_anothers_calibration(model: Model) -> None:
    """A calibration is of one flow; guides make another one."""
    calibrated = model.calibrated(budgets=[5], pilots=16, rounds=0)
    sampler = sf.Calibrated(steps=5)
    assert calibrated.ready(sampler).calibration is not None  # type: ignore[attr-defined]
    for other in (
        calibrated.with_guidance(1.0, (0.2, 4.0)),
        calibrated.with_guidance(1.0, None, 0.5),
        calibrated.with_guidance(2.0),
        calibrated.with_classifier(Leaning(), 1.0, told=True),
        calibrated.with_autoguidance(model),
    ):
        assert other.ready(sampler).calibration is None  # type: ignore[attr-defined]


def test_a_model_with_guides_is_not_calibrated(model: Model) -> None:
    """Kept with its scale alone, its plans would be taken for those of the model without the guides."""
    for other in (model.with_guidance(2.0, (0.2, 4.0)), model.with_autoguidance(model)):
        with pytest.raises(UsageError, match="of a scale of guidance alone"):
            other.calibrated(budgets=[5], pilots=16, rounds=0)
        with pytest.raises(UsageError, match="of a scale of guidance alone"):
            tune_model(other, budgets=[5], pilots=16, rounds=0)


def test_guides_go_where_the_model_goes(model: Model) -> None:
    """Left behind on another device they would be asked of tensors that are elsewhere; on `meta` every tensor tells where it is."""
    points = data()
    dataset = open_data(points["points"], labels=points["labels"])
    plan = ClassifierPlan(steps=1, network={"width": 8, "depth": 1, "embedding": 8})
    classifier = fit_classifier(model, dataset, plan).classifier
    guided = model.with_classifier(classifier, 1.0, told=True).with_autoguidance(model)
    by, away = copy.deepcopy(guided).to("meta").guides.wrappers
    assert isinstance(by, ByClassifier) and isinstance(by.classifier, NoiseClassifier) and isinstance(away, AwayFrom)
    assert {each.device.type for each in by.classifier.network.parameters()} == {"meta"}
    assert away.worse.device.type == "meta"
    assert isinstance(model.with_classifier(Leaning(), 1.0, told=True).to("cpu").denoiser, Guided)


def test_nothing_is_dropped_out_while_guides_guide(model: Model) -> None:
    """A guide left in training mode would drop out at random; afterwards each is as it was, and those within guides too."""
    worse, within, judge = (copy.deepcopy(model) for _ in range(3))
    points = data()
    plan = ClassifierPlan(steps=1, network={"width": 8, "depth": 1, "embedding": 8})
    classifier = fit_classifier(model, open_data(points["points"], labels=points["labels"]), plan).classifier
    networks = [worse.network, within.network, classifier.network]
    guided = judge.with_autoguidance(worse.with_autoguidance(within)).with_classifier(classifier, told=True)
    for network in (*networks, judge.network):
        network.train(network is not within.network)
    with guided.evaluating():
        assert not any(network.training for network in (*networks, judge.network))
    assert [network.training for network in networks] == [True, False, True] and judge.network.training


def test_a_model_with_guides_is_not_saved_without_them(model: Model, tmp_path: Path) -> None:
    """Loaded again it would draw other samples without a word; a scale is kept."""
    for other in (model.with_guidance(2.0, (0.2, 4.0)), model.with_autoguidance(model)):
        with pytest.raises(UsageError, match="guide it again once it is loaded"):
            other.save(tmp_path / "guided")
    assert not (tmp_path / "guided").exists()
    model.with_guidance(2.0).save(tmp_path / "scaled")
    assert sf.load(tmp_path / "scaled").config.guidance == 2.0


def test_sample_k_does_not_depend_on_the_batch(model: Model) -> None:
    """A classifier's gradient is each sample's own."""
    guided = model.with_classifier(Leaning(), 0.3, told=True)
    whole = guided.sample(6, seed=3, classes=1, sampler=sf.DDIM(steps=5, eta=1.0))
    parts = guided.sample(6, seed=3, classes=1, sampler=sf.DDIM(steps=5, eta=1.0), batch=2)
    assert np.allclose(whole, parts, atol=1e-5)


def test_what_cannot_be_is_refused(model: Model) -> None:
    """Each with the fix."""
    plain = sf.fit("mixture-2d", steps=1, **NETWORK)
    with pytest.raises(UsageError, match="trained without classes"):
        plain.with_classifier(Leaning())
    with pytest.raises(UsageError, match="trained without classes"):
        plain.with_guidance(2.0)
    with pytest.raises(UsageError, match="a model of the same data"):
        model.with_autoguidance(plain)
    numbers = {"condition_names": ("c",), "condition_mean": (0.0,), "condition_scale": (1.0,)}
    one = replace(plain, config=replace(plain.config, **numbers))
    other = replace(plain, config=replace(plain.config, **numbers | {"condition_scale": (1000.0,)}))
    with pytest.raises(UsageError, match="one number would mean two things"):
        one.with_autoguidance(other)
    with pytest.raises(UsageError, match="low to high"):
        model.with_guidance(1.0, (4.0, 0.2))
    with pytest.raises(UsageError, match="scale ≥ 0"):
        model.with_classifier(Leaning(), -1.0, told=True)
    always = replace(model, config=replace(model.config, always_conditioned=True))
    with pytest.raises(UsageError, match="label_dropout=0"):
        always.with_classifier(Leaning())
    with pytest.raises(UsageError, match="would do nothing, for the classifier answers for all classes"):
        model.with_classifier(Leaning()).with_guidance(2.0)


def test_a_run_without_dropped_labels_is_never_asked_without(tmp_path: Path) -> None:
    """Its vector for "no class" was never trained: whatever would ask for it is refused, from Python too."""
    always = trained(tmp_path, label_dropout=0.0, steps=2)
    for ask in (
        lambda: always.with_guidance(2.0),
        lambda: always.with_classifier(Leaning()),
        lambda: always.inpaint([4.0, 4.0], [0, 1]),
        lambda: always.edit(np.zeros(2, np.float32), strength=0.5),
    ):
        with pytest.raises(UsageError, match="label_dropout=0"):
            ask()
    assert always.sample(2).shape == always.with_classifier(Leaning(), told=True).sample(2).shape == (2, 2)
