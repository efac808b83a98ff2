"""A model and its calibration: kept beside the weights, bound to them and to the guidance, refused where damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch

from scorefield.data.representation import Representation
from scorefield.denoisers import Preconditioned
from scorefield.errors import RefusedFileError, UsageError
from scorefield.model import Model, load
from scorefield.model_calibration import (
    CALIBRATION,
    calibrate_model,
    read_calibration,
    save_calibration,
    tune_model,
    weights_digest,
)
from scorefield.model_config import ModelConfig
from scorefield.networks import MLPSpec
from scorefield.objectives import Denoising
from scorefield.paths import EDM
from scorefield.samplers import Calibrated, Calibration, Heun
from scorefield.samplers.calibration.planning import Spectrum

POINTS = Representation((2,), "float32", "array", (0.0,), (1.0,))
CLASSES: dict[str, Any] = {"class_names": ("a", "b"), "class_weights": (0.25, 0.75)}


def model_of(seed: int = 1, **values: Any) -> Model:
    """A small model with random weights, which has a flow as good as any."""
    plain: dict[str, Any] = {
        "path": EDM(),
        "parameterisation": Preconditioned(),
        "network": MLPSpec(width=8, depth=1, embedding=8),
        "objective": Denoising(),
        "sampler": Calibrated(steps=5),
        "representation": POINTS,
    }
    config = ModelConfig(**plain | values)
    network = config.build_network()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return Model(config, network.eval())


@cache
def calibrated() -> Model:
    """With a plan of five evaluations."""
    return model_of().calibrated(budgets=[5], pilots=64, rounds=0)


def found(model: Model) -> Calibration:
    """Its calibration, which it has."""
    assert model.calibration is not None
    return model.calibration


# ── kept with the model ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_calibration_is_saved_and_loaded_with_its_model(tmp_path: File) -> None:
    """The same plans bit for bit, the same samples; without it the samples are others."""
    model = calibrated()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.calibration == found(model)
    assert [plan.evaluations for plan in found(model).plans] == [5]
    samples = again.sample(4, seed=3)
    np.testing.assert_array_equal(samples, model.sample(4, seed=3))
    assert not np.array_equal(samples, replace(model, calibration=None).sample(4, seed=3))


def test_a_model_without_one_is_saved_and_loaded_without(tmp_path: File) -> None:
    """No file, no plans, no warning."""
    model_of().save(tmp_path)
    assert not (tmp_path / CALIBRATION).exists()
    assert load(tmp_path).calibration is None


def test_a_calibration_of_other_weights_is_not_used_and_that_is_said(
    tmp_path: File, caplog: pytest.LogCaptureFixture
) -> None:
    """A model trained on keeps the old file beside it: its plans would be worse than none, silently."""
    calibrated().save(tmp_path)
    model_of(seed=2).save(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = load(tmp_path)
    assert again.calibration is None
    assert "belongs to other weights and is not used; run `scorefield calibrate` again" in caplog.text


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a number": (lambda plain: plain["plans"][0]["steps"][1].update(carry=7.0), "their sum is 1"),
    "a time": (lambda plain: plain["plans"][0]["times"].reverse(), "must fall"),
    "a step": (lambda plain: plain["plans"][0]["steps"].pop(), "a step for each time"),
    "a name": (lambda plain: plain["plans"][0].pop("times"), "times"),
    "a kind": (lambda plain: plain["path"].update(kind="edn"), "did you mean"),
    "a type": (lambda plain: plain["plans"][0].update(error="small"), "error"),
    "too many": (lambda plain: plain["plans"].append(plain["plans"][0]), "in the order of their evaluations"),
}


@pytest.mark.parametrize(("spoil", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_calibration_is_refused_with_the_fix(
    spoil: Callable[[dict[str, Any]], None], said: str, tmp_path: File
) -> None:
    """Read without a check, one flipped digit would spoil every sample; the file is named, and what to do with it."""
    calibrated().save(tmp_path)
    file = tmp_path / CALIBRATION
    plain = json.loads(file.read_text())
    spoil(plain)
    file.write_text(json.dumps(plain))
    with pytest.raises(RefusedFileError, match=f"{said}.*delete it, or calibrate the model again") as refused:
        load(tmp_path)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plans": [NaN]}'])
def test_what_is_no_json_is_refused_with_the_fix(text: str, tmp_path: File) -> None:
    """A file cut short by a full disk."""
    calibrated().save(tmp_path)
    (tmp_path / CALIBRATION).write_text(text)
    with pytest.raises(RefusedFileError, match=rf"{CALIBRATION}.*delete it, or calibrate the model again"):
        load(tmp_path)


def test_the_file_alone_can_be_replaced(tmp_path: File) -> None:
    """What the commands do: the weights stay untouched."""
    model_of().save(tmp_path)
    tensors = model_of().tensors()
    assert read_calibration(tmp_path, tensors) is None
    save_calibration(tmp_path, found(calibrated()))
    assert read_calibration(tmp_path, tensors) == found(calibrated())


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    """Whatever changes the network's answers changes it; the order in which tensors are kept does not."""
    one, other = torch.arange(6.0), torch.ones(2, 3)
    digest = weights_digest({"a": one, "b": other})
    assert digest == weights_digest({"b": other.clone(), "a": one.clone()})
    changed = [
        {"a": one, "c": other},
        {"a": one.double(), "b": other},
        {"a": one.view(2, 3), "b": other},
        {"a": one + 1e-6, "b": other},
        {"a": one},
        {"a": one.bfloat16(), "b": other},
    ]
    digests = [digest, *map(weights_digest, changed)]
    assert len(set(digests)) == len(digests)


# ── which sampler a model is drawn from with ─────────────────────────────────────────────────────────────────────────


def test_ready_gives_the_calibration_to_the_sampler_that_can_use_it() -> None:
    """The model's own sampler or a user's; another method, or one that brings its own plans, stays as it is."""
    model = calibrated()
    assert model.ready() == Calibrated(steps=5, calibration=model.calibration)
    assert model.ready(Calibrated(steps=9, eta=0.5)) == Calibrated(steps=9, eta=0.5, calibration=model.calibration)
    assert model.ready(Heun(steps=3)) == Heun(steps=3)
    own = Calibrated(calibration=replace(found(model), pilots=1))
    assert model.ready(own) is own
    assert model_of().ready() == Calibrated(steps=5)


def test_another_scale_of_guidance_is_drawn_uncalibrated() -> None:
    """Guided answers are those of another denoiser; the plans of one scale are wrong for the next."""
    model = model_of(**CLASSES)
    model = model.calibrated(budgets=[5], pilots=32, rounds=0)
    assert found(model).guidance == 1.0
    assert model.ready() == Calibrated(steps=5, calibration=model.calibration)
    assert model.with_guidance(2.0).ready() == Calibrated(steps=5)
    guided = model.with_guidance(2.0).calibrated(budgets=[5], pilots=32, rounds=0)
    assert found(guided).guidance == 2.0
    assert guided.ready().evaluations() == 5
    assert guided.ready() != Calibrated(steps=5)


# ── made from a model ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_calibrated_as_it_is_drawn_from() -> None:
    """Bound to its weights, better than uncalibrated on its own flow, the same for the same seed, and itself unchanged."""
    model = model_of()
    model.network.train()
    before = weights_digest(model.tensors())
    one, other = (calibrate_model(model, budgets=[4, 6], pilots=32, rounds=0) for _ in range(2))
    assert one == other
    assert one != calibrate_model(model, budgets=[4, 6], pilots=32, rounds=0, seed=1)
    assert (one.model, one.pilots, one.path) == (before, 32, model.config.path)
    assert all(plan.error < plan.uncalibrated for plan in one.plans)
    assert model.network.training
    assert weights_digest(model.tensors()) == before
    assert model.calibration is None


def test_the_datas_moments_are_the_spectrum_where_a_model_has_them() -> None:
    """What training stored of the data is what errors are weighed by."""
    moments = {
        "mean": torch.zeros(2),
        "eigenvalues": torch.tensor([100.0, 1e-6]),
        "eigenvectors": torch.eye(2),
        "residual_variance": torch.tensor(0.0),
    }
    assert Spectrum.of_moments(moments).variances.tolist() == pytest.approx([100.0, 1e-6])
    model = replace(model_of(), moments=moments)
    with_, without = (calibrate_model(one, budgets=[6], pilots=64, rounds=0) for one in (model, model_of()))
    assert with_.plans[0].times != without.plans[0].times
    assert with_.model != without.model


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budgets": [1]}, "2 to 50"),
        ({"budgets": []}, "2 to 50"),
        ({"pilots": 0}, "needs pilots, got 0"),
        ({"pilots": -2}, "needs pilots"),
        ({"pilots": 2, "budgets": [5]}, "at least 4"),
    ],
)
def test_impossible_calibrations_are_refused(options: dict[str, Any], said: str) -> None:
    """Before a network is asked a hundred thousand times."""
    with pytest.raises(UsageError, match=said):
        calibrate_model(model_of(), **options)


def test_a_model_is_tuned_for_small_budgets() -> None:
    """What is kept is better on fresh noise, bound to the weights, and drawn by; other budgets stay."""
    model = calibrated()
    tuned, gains = tune_model(model, budgets=[4], pilots=32, rounds=1)
    assert tuned.model == weights_digest(model.tensors())
    assert [gain.evaluations for gain in gains] == [4]
    assert gains[0].kept
    assert gains[0].after < gains[0].before == gains[0].uncalibrated
    assert [plan.evaluations for plan in tuned.plans] == [4, 5]
    assert tuned.plans[1] == found(model).plans[0]
    assert replace(model, calibration=tuned).ready(Calibrated(steps=4)).evaluations() == 4


def test_tuning_for_another_guidance_forgets_the_plans_of_the_old() -> None:
    """Kept together, half of the plans would be for another denoiser."""
    model = model_of(**CLASSES)
    model = model.calibrated(budgets=[6], pilots=32, rounds=0).with_guidance(2.0)
    tuned, _ = tune_model(model, budgets=[4], pilots=32, rounds=0)
    assert tuned.guidance == 2.0
    assert all(plan.evaluations == 4 for plan in tuned.plans)
    fresh, _ = tune_model(model_of(), budgets=[4], pilots=32, rounds=0)
    assert (fresh.guidance, fresh.pilots) == (1.0, 32)


@pytest.mark.parametrize("budgets", [[], [1], [99]])
def test_impossible_budgets_are_not_tuned_for(budgets: list[int]) -> None:
    """As in a calibration."""
    with pytest.raises(UsageError, match="2 to 50"):
        tune_model(model_of(), budgets=budgets, pilots=8)
