"""A model's configuration, and the model: saved and loaded, drawn from by number, refused where it cannot be."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch

from scorefield.data.representation import Representation
from scorefield.denoisers import (
    PARAMETERISATIONS,
    Centred,
    Clipped,
    Energy,
    EnergyDenoiser,
    NetworkDenoiser,
    Noise,
    Preconditioned,
)
from scorefield.errors import NoCheckpointError, RefusedFileError, UsageError
from scorefield.model import Model, load, make_denoiser
from scorefield.model_config import KINDS, MAX_PARAMETERS, ModelConfig, _parameters, require_buildable
from scorefield.networks import MLPSpec, UNetSpec, default_network
from scorefield.objectives import TIME_SAMPLINGS, WEIGHTINGS, Denoising, Objective
from scorefield.paths import EDM, PATHS, VP, Discrete
from scorefield.samplers import DDIM, GRIDS, SAMPLERS, Ancestral, Heun, Karras

MLP = MLPSpec(width=8, depth=1, embedding=8)
UNET = UNetSpec(widths=(8,), depths=(1,), fold=1, head_width=8, embedding=8)
POINTS = Representation((2,), "float32", "array", (0.0,), (1.0,))
PIXELS = Representation((1, 4, 6), "uint8", "image", (127.5,), (127.5,), 0, 256)


def _config(**values: Any) -> ModelConfig:
    plain: dict[str, Any] = {
        "path": EDM(),
        "parameterisation": Preconditioned(),
        "network": MLP,
        "objective": Denoising(),
        "sampler": Heun(steps=3),
        "representation": POINTS,
    }
    return ModelConfig(**plain | values)


def _model(**values: Any) -> Model:
    """A model with random weights, also where a network starts as zero."""
    config = _config(**values)
    generator = torch.Generator().manual_seed(1)
    network = config.build_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Model(config, network.eval())


EVERY_PART: list[dict[str, Any]] = [
    *({"path": kind()} for kind in PATHS),
    *({"parameterisation": kind()} for kind in PARAMETERISATIONS),
    *({"sampler": kind(steps=7, grid=Karras())} for kind in SAMPLERS),
    *({"sampler": DDIM(grid=kind())} for kind in GRIDS),
    *({"objective": kind()} for kind in KINDS[Objective]),
    *({"objective": Denoising(weighting=kind())} for kind in WEIGHTINGS),
    *({"objective": Denoising(times=kind())} for kind in TIME_SAMPLINGS),
    {"path": Discrete.from_betas((0.1, 0.2, 0.3))},
    {"network": UNET, "representation": PIXELS, "class_names": ("a", "b"), "class_weights": (0.25, 0.75), "clip": True},
]


@pytest.mark.parametrize("values", EVERY_PART, ids=str)
def test_a_configuration_comes_back_equal_through_json(values: dict[str, Any]) -> None:
    config = _config(**values)
    assert ModelConfig.from_plain(json.loads(json.dumps(config.to_plain()))) == config


def test_a_configuration_from_before_objectives_had_kinds_is_read() -> None:
    """Files of format 1 that name no kind of objective were fitted by denoising."""
    plain = _config().to_plain()
    assert plain["objective"].pop("kind") == "denoising"
    assert ModelConfig.from_plain(plain) == _config()


@pytest.mark.parametrize("mean", [(0.0,), (0.4, -1.0)])
def test_a_model_of_an_energy_knows_it(mean: tuple[float, ...]) -> None:
    """Its denoiser is one with an energy, centred or not, whose gradient is the score; samples are drawn from it (M10)."""
    model = _model(parameterisation=Energy(), mean=mean)
    denoiser, x = make_denoiser(model.config, model.network), torch.randn(3, 2, requires_grad=True)
    assert isinstance(denoiser, EnergyDenoiser)
    (slope,) = torch.autograd.grad(denoiser.energy(x, 2.0).sum(), x)
    assert torch.allclose(denoiser(x, 2.0).score, -slope, rtol=1e-4, atol=1e-5)
    assert np.isfinite(model.sample(3, seed=0)).all()


LEARNED: dict[str, Any] = {
    "path": Discrete(steps=8),
    "parameterisation": Noise(learned_variance=True),
    "sampler": Ancestral(steps=4, variance="learned"),
}


@pytest.mark.parametrize(
    "values", [{}, EVERY_PART[-1], LEARNED, LEARNED | EVERY_PART[-1]], ids=["points", "images", "variance", "both"]
)
def test_a_saved_model_is_loaded_with_the_same_weights_and_draws_the_same(
    values: dict[str, Any], tmp_path: File
) -> None:
    model = _model(**values)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == model.config and not again.network.training
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    np.testing.assert_array_equal(model.sample(3, seed=4), again.sample(3, seed=4))


@pytest.mark.parametrize(("path", "sampler"), list(itertools.product(PATHS, SAMPLERS)))
def test_every_sampler_draws_on_every_path(path: type, sampler: type) -> None:
    """The same bits for the same seed, in the data's own dtype."""
    model = _model(path=path(), parameterisation=Preconditioned())
    drawn = model.sample(4, sampler=sampler(steps=4), seed=2)
    assert drawn.shape == (4, 2) and drawn.dtype == np.float32 and np.isfinite(drawn).all()
    np.testing.assert_array_equal(drawn, model.sample(4, sampler=sampler(steps=4), seed=2))


@pytest.mark.parametrize("sampler", [Heun(steps=3), DDIM(steps=3, eta=0.7), Ancestral(steps=3)], ids=str)
def test_a_sample_is_the_same_in_any_company(sampler: Any) -> None:
    model = _model(class_names=("a", "b"), class_weights=(0.5, 0.5))
    whole = model.sample(7, sampler=sampler, seed=3)
    part = model.sample(4, sampler=sampler, seed=3, first=2, batch=3)
    np.testing.assert_allclose(part, whole[2:6], rtol=1e-5, atol=1e-5)


def test_classes_come_as_often_as_in_the_data() -> None:
    model = _model(class_names=("a", "b"), class_weights=(0.25, 0.75))
    labels = model.labels(0, 0, 4000)
    assert labels is not None and abs(float(labels.double().mean()) - 0.75) < 4 * (0.1875 / 4000) ** 0.5


def test_a_name_that_is_a_number_is_a_name_first() -> None:
    """Classes called 7 and 0: `--class 0` is the second of them."""
    model = _model(class_names=("7", "0"), class_weights=(1.0, 1.0))
    assert model.class_numbers("0", 1) == [1] and model.class_numbers(["7", "1"], 2).tolist() == [0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": "c"}, "unknown class 'c'"),
        ({"classes": 2}, "unknown class '2'"),
        ({"classes": -1}, "unknown class '-1'"),
        ({"classes": ["a"]}, "got 1 for 3"),
        ({"batch": 0}, "batch ≥ 1"),
    ],
)
def test_impossible_drawing_is_refused(options: dict[str, Any], said: str) -> None:
    model = _model(class_names=("a", "b"), class_weights=(1.0, 1.0))
    with pytest.raises(UsageError, match=said):
        model.sample(3, **options)


def test_drawing_nothing_gives_an_empty_array_of_the_right_kind() -> None:
    drawn = _model(network=UNET, representation=PIXELS).sample(0)
    assert drawn.shape == (0, 4, 6) and drawn.dtype == np.uint8


def test_sampling_leaves_the_networks_mode_and_gradients_alone() -> None:
    model = _model(network=replace(MLP, dropout=0.5))
    model.network.train()
    first = model.sample(2)
    assert model.network.training
    np.testing.assert_array_equal(first, model.sample(2))
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_the_denoiser_is_centred_and_clipped_as_the_configuration_says() -> None:
    assert isinstance(_model().denoiser, NetworkDenoiser)
    assert isinstance(_model(mean=(0.5,)).denoiser, Centred)
    assert isinstance(_model(network=UNET, representation=PIXELS, clip=True).denoiser, Clipped)
    assert not isinstance(_model(clip=True).denoiser, Clipped), "floats have no range to be clipped to"


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "update scorefield"),
    ({"class_names": ("a",)}, "one weight a class"),
    ({"mean": (1.0, 2.0, 3.0)}, "one a channel"),
    ({"mean": ()}, "one a channel"),
    ({"network": MLPSpec(width=10**9)}, "parameters"),
    ({"network": MLPSpec(embedding=10**9)}, "parameters"),
    ({"network": MLPSpec(depth=10**9)}, "blocks"),
    ({"network": UNetSpec(widths=(2**15,), depths=(1,), fold=1), "representation": PIXELS}, "parameters"),
    ({"network": UNetSpec(depths=(10**6, 1)), "representation": PIXELS}, "blocks"),
    ({"network": UNetSpec(fold=10**6), "representation": PIXELS}, "parameters"),
]


@pytest.mark.parametrize(("values", "said"), IMPOSSIBLE, ids=str)
def test_an_impossible_model_is_refused_before_it_is_built(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _config(**values)


@pytest.mark.parametrize("shape", [(2,), (64,), (1, 64), (1, 28, 28), (3, 32, 32), (1, 16, 16, 16)], ids=str)
def test_the_estimate_of_a_networks_size_is_right_within_a_factor_of_two(shape: tuple[int, ...]) -> None:
    """Otherwise the limit would refuse what could be built, or build what should be refused."""
    spec = default_network(shape)
    with torch.device("meta"):
        exact = sum(parameter.numel() for parameter in spec.build(shape).parameters())
    assert 0.5 < _parameters(spec, shape) / exact < 2.0
    require_buildable(spec, shape)
    assert exact < MAX_PARAMETERS


def test_a_configuration_from_a_file_is_refused_as_a_file() -> None:
    with pytest.raises(RefusedFileError, match=r"config\.json: .*sigma_dta"):
        ModelConfig.from_plain(_config().to_plain() | {"sigma_dta": 1})


def test_weights_of_another_network_are_refused_by_name(tmp_path: File) -> None:
    _model().save(tmp_path)
    wider = _model(network=replace(MLP, width=12))
    Model(_config(), wider.network).save(tmp_path)
    with pytest.raises(RefusedFileError, match="tensors differ"):
        load(tmp_path)


def test_a_folder_without_weights_holds_no_model_yet(tmp_path: File) -> None:
    _model().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NoCheckpointError, match="train on"):
        load(tmp_path)


def test_loading_draws_no_random_numbers(tmp_path: File) -> None:
    """A user's seed must mean the same with and without a model loaded in between."""
    _model(path=VP()).save(tmp_path)
    before = torch.random.get_rng_state()
    load(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
