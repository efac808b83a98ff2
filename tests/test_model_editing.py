"""Editing by a model, in the data's own units: ends, masks, batches, latents, on points, pictures and a chain."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import scorefield as sf
from scorefield.model import Model
from scorefield.model_editing import edit, interpolate, round_trip_errors
from tests.cli.worlds import MLP, UNET, pictures


def fitted(data: Any, network: dict[str, Any]) -> Model:
    """A model after two steps."""
    settings = {
        name.replace(".", "__"): json.loads(value) if str(value)[0] == "[" else value for name, value in network.items()
    }
    return sf.fit(data, steps=2, seed=0, batch=8, log_every=1, **settings)


@pytest.fixture(scope="module")
def points() -> Model:
    """Of points in the plane."""
    return fitted(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), MLP)


@pytest.fixture(scope="module")
def images() -> Model:
    """Of grey pictures of 8×8 pixels."""
    return fitted(pictures()[0], UNET)


@pytest.fixture(scope="module")
def labelled() -> Model:
    """Of the same pictures with their two classes."""
    x, labels = pictures()
    return fitted(sf.open_data(x, labels=labels), UNET)


@pytest.fixture(scope="module")
def colours() -> Model:
    """Of pictures in colour."""
    return fitted(np.random.default_rng(1).integers(0, 256, size=(12, 8, 8, 3), dtype=np.uint8), UNET)


SAMPLER = sf.DDIM(steps=5, eta=1.0)


def test_edits_do_not_depend_on_batches_or_their_number(points: Model) -> None:
    """Sample k of a seed is the same picture in every batch, and from `first` on (M44)."""
    whole = points.edit([0.5, -1.0], 0.6, count=6, seed=3, repeats=2, sampler=SAMPLER)
    parts = points.edit([0.5, -1.0], 0.6, count=6, seed=3, repeats=2, sampler=SAMPLER, batch=2)
    last = points.edit([0.5, -1.0], 0.6, count=2, seed=3, repeats=2, sampler=SAMPLER, first=4)
    assert np.allclose(whole, parts, atol=1e-5) and np.allclose(whole[4:], last, atol=1e-5)
    assert whole.shape == (6, 2) and whole.dtype == np.float32
    assert not np.allclose(whole[0], whole[1])


def test_strength_one_is_the_models_own_sample(points: Model) -> None:
    """Nothing of the guide is left: the samples of the same seed and sampler (M44)."""
    x = points.edit([50.0, 50.0], 1.0, count=3, seed=2, sampler=SAMPLER)
    assert np.array_equal(x, points.sample(3, seed=2, sampler=SAMPLER))


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_what_a_mask_keeps_is_the_guide_to_the_bit(strength: float, colours: Model) -> None:
    """In the data's own integers, by pixels or by single values of a channel (M44)."""
    guide = np.random.default_rng(5).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    for mask in (np.eye(8, dtype=bool), np.random.default_rng(6).random((8, 8, 3)) < 0.5):
        x = colours.edit(guide, strength, mask=mask, count=2, sampler=SAMPLER)
        wide = mask if mask.ndim == 3 else mask[..., None] & np.ones(3, bool)
        assert x.dtype == np.uint8 and x.shape == (2, 8, 8, 3)
        assert np.array_equal(x[:, ~wide], np.stack([guide[~wide]] * 2))
        assert strength == 0.0 or (x[:, wide] != guide[wide]).any()


@pytest.mark.parametrize("method", ["stochastic", "ode"])
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.8, 1.0])
def test_ends_of_an_interpolation_are_the_ends(method: str, depth: float, points: Model) -> None:
    """λ = 0 and 1 give what becomes of the ends themselves: with the one noise their edits, along the flow (nearly) the ends (M46, M43)."""
    a, b = np.array([0.5, -1.0], np.float32), np.array([-0.3, 0.8], np.float32)
    options: dict[str, Any] = {} if method == "ode" else {"sampler": SAMPLER}
    x = points.interpolate(a, b, count=5, depth=depth, method=method, seed=4, **options)
    assert x.shape == (5, 2)
    for got, end in ((x[0], a), (x[-1], b)):
        wanted = end if method == "ode" else points.edit(end, depth, seed=4, sampler=SAMPLER)[0]
        assert np.allclose(got, wanted, atol=2e-2 if method == "ode" else 1e-5)


def test_one_noise_for_all_that_lies_between(points: Model) -> None:
    """With noise of its own each picture would be another: neighbours would be as far from each other as strangers (M46)."""
    options: dict[str, Any] = {"depth": 0.9, "sampler": SAMPLER}
    x = points.interpolate([0.5, -1.0], [-0.3, 0.8], count=21, **options)
    strangers = points.edit([0.1, -0.1], 0.9, count=21, sampler=SAMPLER)
    assert np.abs(np.diff(x, axis=0)).mean() < 0.3 * np.abs(np.diff(strangers, axis=0)).mean()
    assert np.allclose(points.interpolate([0.5, -1.0], [-0.3, 0.8], count=21, batch=4, **options), x, atol=1e-5)


def test_codes_of_the_ends_are_found_once(images: Model, labelled: Model) -> None:
    """Nine pictures need two codes, not eighteen; a class for each picture needs each (M43)."""
    x = pictures()[0]
    sampler = sf.DDIM(steps=4)
    one = interpolate(images, x[0], x[1], count=4, method="ode", sampler=sampler)
    assert one.evaluations == 4 + 4
    both = interpolate(labelled, x[0], x[1], count=2, method="ode", sampler=sampler, classes=[0, 1])
    assert both.evaluations == 4 + 4 + 4


def test_latents_there_and_back(points: Model, images: Model) -> None:
    """Data in their own units come back from their latents, and the error that is told is the one that is had (M43)."""
    for model, x in ((points, points.sample(5)), (images, pictures()[0][:3])):
        z = model.invert(x, float64=True, batch=2)
        assert z.shape == (len(x), *model.config.shape) and z.dtype == np.float64
        errors = round_trip_errors(model, x, z, float64=True, batch=2)
        assert errors.shape == (len(x),) and errors.max() < 0.5
        back = model.decode(z, float64=True).astype(float)
        assert np.abs(back - x.astype(float)).max() <= max(1e-2, 4.0 * errors.max()) and back.shape == x.shape


def test_decoding_noise_draws_samples(points: Model) -> None:
    """Latents from the prior decode to the model's samples, up to the last step to data; a temperature shrinks them (M43)."""
    z = points.noise(200, seed=1).numpy() / points.config.path.prior_std
    drawn = points.sample(200, seed=1, sampler=sf.UniPC(steps=50, order=3, grid=sf.Karras()))
    assert np.abs(points.decode(z) - drawn).max() < 0.05
    cool = points.decode(z, temperature=0.5)
    assert cool.std() < 0.8 * drawn.std()


def test_guidance_and_clipping_take_no_part_in_latents(labelled: Model) -> None:
    """A guided or clipped flow is another one, and no inverse of it is known (M43)."""
    x, options = pictures()[0][:2], {"classes": [0, 1], "sampler": sf.DDIM(steps=3)}
    bent = replace(labelled.with_guidance(3.0), config=replace(labelled.config, guidance=3.0, clip=True))
    assert np.array_equal(bent.invert(x, **options), labelled.invert(x, **options))
    assert not np.array_equal(labelled.invert(x, sampler=sf.DDIM(steps=3)), labelled.invert(x, **options))


def test_a_label_that_is_not_given_is_none(images: Model) -> None:
    """An edit draws no class by lot: nothing is assumed of a guide."""
    assert edit(images, pictures()[0][0], 0.5, sampler=SAMPLER).evaluations > 0
    with pytest.raises(sf.UsageError, match="without classes"):
        images.edit(pictures()[0][0], classes=1)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda m: m.edit([1.0, 2.0, 3.0]), r"one example of the model's shape \(2,\), got \(3,\)"),
        (lambda m: m.edit([[1.0, 2.0]]), "one example"),
        (lambda m: m.edit([1.0, 2.0], 50.0), "got 50"),
        (lambda m: m.edit([1.0, 2.0], mask=[0.5, 1.0]), "True .or 1. where x may change"),
        (lambda m: m.edit([1.0, 2.0], mask=[True]), r"got \(1,\)"),
        (lambda m: m.edit([1.0, 2.0], count=0), "count ≥ 1"),
        (lambda m: m.edit([1.0, np.nan]), "finite numbers"),
        (lambda m: m.edit(["1", "2"]), "finite numbers"),
        (lambda m: m.interpolate([1.0, 2.0], [1.0, 2.0], method="flow"), "unknown interpolation 'flow'"),
        (lambda m: m.interpolate([1.0, 2.0], [1.0, 2.0], count=1), "at least its two ends"),
        (lambda m: m.interpolate([1.0, 2.0], [1.0]), "an end must be one example"),
        (lambda m: m.invert([[1.0, 2.0]], sampler=sf.Ancestral(steps=4)), "use a deterministic sampler"),
        (lambda m: m.invert([1.0, 2.0]), "shape"),
        (lambda m: m.decode(np.zeros((2, 3))), r"of shape \(n, 2\), got \(2, 3\)"),
        (lambda m: m.decode(np.full((2, 2), np.nan)), "finite floats"),
        (lambda m: m.decode(np.zeros((2, 2)), temperature=0.0), "positive number"),
        (lambda m: m.sample(2, temperature=-1.0), "positive number"),
    ],
)
def test_wrong_use_is_refused(run: Any, said: str, points: Model) -> None:
    """A batch in a single guide's place, a strength in per cent, a mask of grey levels."""
    with pytest.raises(sf.UsageError, match=said):
        run(points)


@pytest.mark.parametrize("level", [300, -5, 127.6])
def test_levels_that_cannot_be_are_refused_and_not_wrapped(level: float, images: Model) -> None:
    """300 in eight bits is 44, which strength 0 would hand back as the guide."""
    guide = np.full((8, 8), 90.0)
    guide[0, 0] = level
    with pytest.raises(sf.UsageError, match="integers"):
        images.edit(guide, 0.0)


def test_temperature_is_no_chance() -> None:
    """A Metropolis test makes its uniform number of the same noise: colder noise would accept what it should not (M32)."""
    model = fitted("mixture-2d", MLP | {"parameterisation": "energy"})
    for sampler in (
        sf.Langevin(steps=4, metropolis=True),
        sf.AnnealedLangevin(2, inner_steps=1, metropolis=True),
        sf.PredictorCorrector(2, corrector="metropolis"),
    ):
        assert model.sample(2, sampler=sampler).shape == (2, 2)
        with pytest.raises(sf.UsageError, match="leave temperature out"):
            model.sample(2, sampler=sampler, temperature=0.5)


def test_temperature_of_samples(points: Model) -> None:
    """One is no temperature, to the bit; less is less varied, with the noise of a stochastic sampler too (M43)."""
    assert np.array_equal(points.sample(4, temperature=1.0), points.sample(4))
    for sampler in (sf.DDIM(steps=10), sf.DDIM(steps=10, eta=1.0)):
        spread = [points.sample(300, sampler=sampler, temperature=t).std() for t in (0.4, 1.0)]
        assert spread[0] < 0.7 * spread[1]
    assert torch.is_tensor(points.noise(1))
