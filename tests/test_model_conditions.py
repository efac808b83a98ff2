"""Models of conditions: what the network is told, what it is drawn under, and what it then draws, where that is known exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scorefield as sf
from scorefield.data import Dataset, open_data
from scorefield.denoisers import ClassifierFree
from scorefield.errors import RefusedFileError, UsageError
from scorefield.fitting import write_preview
from scorefield.model import Model, load
from scorefield.model_conditions import condition_rows, typical_rows
from scorefield.model_config import ModelConfig
from scorefield.networks import MLPSpec, UNetSpec
from scorefield.networks.layers import Embedding
from scorefield.samplers import Heun
from scorefield.training.loop import Previewed

SPREAD = 0.5
NETWORK: dict[str, Any] = {
    "network": "mlp",
    "network__width": 64,
    "network__depth": 2,
    "network__embedding": 32,
    "batch": 256,
}
TINY = NETWORK | {"network__width": 16, "network__depth": 1, "network__embedding": 8, "steps": 3}


def means(c: Any) -> np.ndarray:
    """E[x | c] = (2c + 1, −c): of the world that the models here learn."""
    c = np.asarray(c, np.float64)
    return np.stack([2.0 * c + 1.0, -c], axis=-1)


def world(count: int = 20_000) -> Dataset:
    """x | c ~ N(means(c), SPREAD² I) with c even over −100 … 300, in units of a hundredth."""
    generator = np.random.default_rng(0)
    c = generator.uniform(-1.0, 3.0, count)
    x = means(c) + SPREAD * generator.normal(size=(count, 2))
    return open_data(x.astype(np.float32), condition=100.0 * c)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model of the world after some seconds."""
    return sf.fit(world(), steps=400, **NETWORK)


def tiny(**settings: Any) -> Model:
    """A model of the world after three steps, for what does not depend on what was learned."""
    return sf.fit(world(200), **TINY | settings)


# What is learned


@pytest.mark.parametrize("c", [-0.8, 0.5, 1.7, 2.8])
def test_samples_follow_their_condition(model: Model, c: float) -> None:
    """A condition that is ignored, not standardised as in training, or of other rows misses E[x | c] by more than SPREAD.

    Allowed are 4 standard errors of 500 samples (0.09) and 0.1 of an unfinished fit, which has been seen to be 0.06; the
    marginal's mean is 0.8 away or more in the first dimension for every c here but 0.5, whose deviation then would be 2.4.
    """
    samples = model.sample(500, condition=100.0 * c, seed=3)
    assert np.abs(samples.mean(0) - means(c)).max() < 4.0 * SPREAD / math.sqrt(500) + 0.1
    assert np.allclose(samples.std(0), SPREAD, rtol=0.25)


def test_without_a_condition_the_samples_are_of_all(model: Model) -> None:
    """The rows that were trained without condition make p(x), whose deviation is four times that of p(x | c)."""
    samples, x = model.sample(2000, seed=3), world().batch(np.arange(2000))
    assert np.abs(samples.mean(0) - x.mean(0)).max() < 0.35
    assert np.allclose(samples.std(0), x.std(0), rtol=0.2)


def test_likelihood_is_that_of_the_condition(model: Model) -> None:
    """h(x | c) = log₂(s √(2πe)) bits a dimension; p(x) costs 1.2 bits more."""
    x, c = world().batch(np.arange(150)), np.asarray(world().conditions)[:150]
    exact = math.log2(SPREAD * math.sqrt(2.0 * math.pi * math.e))
    under = {method: model.likelihood(x, method, condition=c) for method in ("flow", "bound")}
    for found in under.values():
        assert exact - 0.15 < found.value < exact + 0.3
    assert model.likelihood(x).value > exact + 0.8


def test_guidance_goes_on_from_without_to_with_the_condition(model: Model) -> None:
    """(M42) D = D_∅ + w (D_c − D_∅) for numbers as for classes, with NaN for none: the null row alone would poison the batch."""
    x_t, t, c = torch.randn(4, 2), 1.0, model.labels(0, 0, 4, np.array([[0.0], [1e2], [2e2], [-50.0]]))
    with model.evaluating():
        free, told = model.denoiser(x_t, t).x0, model.denoiser(x_t, t, c).x0
        guided = model.with_guidance(2.5).denoiser(x_t, t, c).x0
    assert isinstance(model.with_guidance(2.5).denoiser, ClassifierFree)
    torch.testing.assert_close(guided, free + 2.5 * (told - free), rtol=1e-4, atol=1e-4)


# What the network is told


@pytest.mark.parametrize("shape", [(5,), (2, 9), (1, 8, 8)])
def test_rows_of_nan_are_no_condition_bit_for_bit_and_leave_the_others_alone(shape: tuple[int, ...]) -> None:
    """A NaN in a product reaches every gradient of the batch, also where its result is not taken."""
    torch.manual_seed(0)
    spec = MLPSpec(16, 1, 16) if len(shape) == 1 else UNetSpec((16, 32), (1, 1), head_width=16, embedding=16)
    network = spec.build(shape, None, 0, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    x, noise, c = torch.randn(4, *shape), torch.randn(4), torch.randn(4, 3)
    holes = torch.where(torch.tensor([[True], [False], [True], [False]]), torch.nan, c)
    with torch.no_grad():
        free, told, mixed = network(x, noise), network(x, noise, c), network(x, noise, holes)
    assert torch.equal(mixed[::2], free[::2]) and torch.equal(mixed[1::2], told[1::2])
    assert not torch.isclose(free, told).all()
    network(x, noise, holes).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_embeddings_of_conditions_follow_the_network_into_float64() -> None:
    """Likelihoods and the codec ask in 64 bits with conditions that were stored in 32."""
    embedding = Embedding(8, 0, 2).double()
    found = embedding(torch.zeros(3, dtype=torch.float64), torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [0.0, 0.0]]))
    assert found.dtype == torch.float64 and found.isfinite().all()
    assert torch.equal(found[1], embedding(torch.zeros(3, dtype=torch.float64), None)[1])


def test_networks_are_of_classes_or_of_conditions() -> None:
    """One tensor cannot be both."""
    with pytest.raises(UsageError, match="on classes or on numbers"):
        MLPSpec().build((2,), None, 3, 2)


def test_data_are_standardised_and_the_map_is_stored_with_the_model(tmp_path: Path) -> None:
    """A map that is found anew from what is asked for, or lost on disk, shifts every condition."""
    rows = np.random.default_rng(0).normal(size=(200, 2)) * [1e-3, 1e5] + [5.0, -1e6]
    data = open_data(world(200).batch(np.arange(200)), condition=rows)
    model = sf.fit(data, **TINY)
    told = model.config.standardised(np.asarray(data.conditions))
    assert told.dtype == np.float32
    assert np.allclose(told.mean(0), 0.0, atol=1e-4) and np.allclose(told.std(0), 1.0, rtol=1e-4)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.config.standardised(rows), model.config.standardised(rows))
    assert np.array_equal(again.sample(2, condition=rows[0]), model.sample(2, condition=rows[0]))


def test_a_number_that_never_changes_is_told_as_it_is() -> None:
    """A deviation of zero, or of rounding, must not divide."""
    rows = np.stack([np.full(200, 0.1), np.arange(200.0)], axis=1)
    model = sf.fit(open_data(world(200).batch(np.arange(200)), condition=rows), **TINY)
    assert model.config.condition_scale[0] == 1.0
    assert np.isfinite(model.sample(2, condition=[0.1, 3.0])).all()


def test_typical_conditions_have_the_datas_mean_and_deviation() -> None:
    """A calibration whose pilots are elsewhere is of another model. 4,000 draws: 4 standard errors of mean and deviation."""
    config = tiny().config
    rows = typical_rows(config, 4000, 0)
    mean, scale = config.condition_mean[0], config.condition_scale[0]
    assert abs(rows.mean() - mean) < 4.0 * scale / math.sqrt(4000)
    assert abs(rows.std() - scale) < 4.0 * scale / math.sqrt(8000)
    assert np.array_equal(typical_rows(config, 3, 0, first=5), rows[5:8])


# What is asked for


def test_one_condition_for_all_or_one_a_sample() -> None:
    """Sample k of a seed under a condition is the same however the condition is written, and in whatever batch."""
    model = tiny()
    alone = [model.sample(1, condition=c, first=k)[0] for k, c in enumerate((10.0, 20.0, 30.0))]
    for condition in ([10.0, 20.0, 30.0], [[10.0], [20.0], [30.0]], np.array([[10], [20], [30]])):
        assert np.allclose(model.sample(3, condition=condition, batch=2), alone, atol=1e-5)
    assert np.array_equal(model.sample(3, condition=10.0), model.sample(3, condition=[[10.0]]))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ([[1.0, 2.0]], r"has 1 numbers a sample \(condition\), got 2; give one each, such as "),
        ([[1.0], [2.0]], "one for all or one a sample: got 2 for 3 samples"),
        ([[[1.0]]], "give one each"),
        ("warm", "must be numbers, such as .*, got 'warm'"),
        ([math.nan], "must be finite numbers, got nan; leave the condition out"),
        ([1e200], "must be finite"),
        ([], "got 0"),
    ],
)
def test_impossible_conditions_are_refused(condition: Any, said: str) -> None:
    """What is wrong, what was got, and an example that works."""
    with pytest.raises(UsageError, match=said):
        tiny().sample(3, condition=condition)


def test_models_say_what_they_are_of() -> None:
    """A class for a model of conditions, a condition for one of classes or of nothing, name what to do instead."""
    points = world(200).batch(np.arange(200))
    classes = sf.fit(open_data(points, labels=np.arange(200) % 2), **TINY)
    plain = sf.fit(points, **TINY)
    with pytest.raises(UsageError, match=r"no classes, it is conditioned on numbers; .* give a condition such as"):
        tiny().sample(2, classes=1)
    with pytest.raises(UsageError, match="choose a class, one of: 0, 1"):
        classes.sample(2, condition=[1.0])
    with pytest.raises(UsageError, match="trained without a condition; leave it out"):
        plain.sample(2, condition=[1.0])
    with pytest.raises(UsageError, match="nothing to guide"):
        plain.with_guidance(2.0)


def test_a_date_is_told_to_the_second() -> None:
    """Of 1.7 billion seconds 32 bits keep every 128th; what the network is told is standardised first."""
    config = replace(tiny().config, condition_mean=(1.7e9,), condition_scale=(30.0,))
    rows = condition_rows(config, [[1.7e9 + 1.0], [1.7e9 + 31.0]], 2)
    assert config.standardised(rows)[:, 0] == pytest.approx([1.0 / 30.0, 31.0 / 30.0], rel=1e-6)


def test_a_model_that_always_had_its_condition_is_not_drawn_from_without(tmp_path: Path) -> None:
    """Its vector for "no condition" was never trained; its previews and its calibration have conditions all the same."""
    model = tiny(label_dropout=0.0)
    for ask in (lambda: model.sample(2), lambda: model.likelihood(np.zeros((2, 2)))):
        with pytest.raises(UsageError, match=r"never without its condition \(condition\); give one, such as"):
            ask()
    with pytest.raises(UsageError, match="guidance 2 compares with the model without its condition"):
        model.with_guidance(2.0)
    assert model.sample(2, condition=50.0).shape == (2, 2)
    assert model.calibrated(budgets=[5], pilots=16, rounds=0).sample(1, condition=50.0).shape == (1, 2)
    (tmp_path / "samples").mkdir()
    write_preview(Previewed(3, model), tmp_path)
    assert (tmp_path / "samples/step-3.png").is_file()


def test_a_condition_takes_the_place_of_classes() -> None:
    """Data with labels can be modelled by numbers without a second copy of them."""
    data = open_data(world(200).batch(np.arange(200)), labels=np.arange(200) % 2, condition=np.arange(200.0))
    config = sf.fit(data, **TINY).config
    assert (config.classes, config.conditions, config.guidance) == (0, 1, 1.0)


def test_other_samplers_and_derivatives_take_conditions() -> None:
    """Objectives that ask twice, energies and stochastic samplers hand the condition on by rows."""
    for settings in ({"path": "vp", "objective": "finitedifferencesliced"}, {"parameterisation": "energy"}):
        model = tiny(**settings)
        assert np.isfinite(model.sample(3, condition=[1.0, 2.0, 3.0], sampler=Heun(steps=3))).all()


# What a file may say


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"condition_mean": []}, "one mean and one scale"),
        ({"condition_scale": [0.0]}, "its scale positive"),
        ({"class_names": ["a"], "class_weights": [1.0]}, "not of both"),
    ],
)
def test_impossible_files_are_refused(changed: dict[str, Any], said: str) -> None:
    """A foreign configuration must not divide by zero or build what cannot be asked."""
    plain = json.loads(json.dumps(tiny().config.to_plain()))
    with pytest.raises(RefusedFileError, match=said):
        ModelConfig.from_plain(plain | changed)


def test_files_from_before_conditions_are_read() -> None:
    """Models that are on disk say nothing of conditions."""
    config = sf.fit(world(200).batch(np.arange(200)), **TINY).config
    plain = json.loads(json.dumps(config.to_plain()))
    old = {name: value for name, value in plain.items() if not name.startswith(("condition_", "always_"))}
    assert len(old) == len(plain) - 4
    assert ModelConfig.from_plain(old) == config
