"""Restoring in the data's own units: exact where the data are Gaussian, known values bit by bit, samples by number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scorefield.data.representation import Representation
from scorefield.denoisers import Preconditioned
from scorefield.editing.methods import DDRM, DPS, METHODS, PiGDM, Replacement, TwistedSMC
from scorefield.editing.operators import Dense, LinearOperator, Mask, Matrixless, Projection, Separable
from scorefield.editing.posterior import Method
from scorefield.errors import DivergedError, UsageError
from scorefield.model import Model
from scorefield.model_config import ModelConfig
from scorefield.model_restoration import (
    ROUNDING,
    averages,
    channels_first,
    degraded,
    hole,
    layout_of,
    measured,
    method_for,
    restore_each,
    sampler_for,
)
from scorefield.networks import MLPSpec
from scorefield.objectives import Denoising
from scorefield.paths import EDM, Discrete
from scorefield.samplers import DDIM, Adaptive, Heun

FLOATS = Representation((3,), "float32", "array", (5.0,), (3.0,))
GREY = Representation((1, 4, 6), "uint8", "image", (127.5,), (127.5,), 0, 256)
COLOUR = Representation((3, 4, 4), "uint8", "image", (127.5,), (127.5,), 0, 256)
UNEQUAL = Representation((3, 4, 4), "float64", "array", (1.0, -40.0, 0.5), (0.5, 20.0, 2.0))
QUICK: dict[str, Any] = {"sampler": DDIM(steps=4, eta=1.0), "method": Replacement()}


def gaussian(representation: Representation, **values: Any) -> Model:
    """A model of white Gaussian data of deviation 0.7 in model space: a fresh network answers zero, and EDM's D is then exact (M9)."""
    config = ModelConfig(
        path=EDM(),
        parameterisation=Preconditioned(sigma_data=0.7),
        network=MLPSpec(width=8, depth=1, embedding=8),
        objective=Denoising(),
        sampler=Heun(steps=3),
        representation=representation,
        sigma_data=0.7,
        **values,
    )
    return Model(config, config.build_network().eval())


class Zero(torch.nn.Module):
    """A network that answers zero for data of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.weight * x


def pictures(representation: Representation, **values: Any) -> Model:
    """The same for pictures."""
    return replace(gaussian(FLOATS), network=Zero(), config=_pictured(representation, values))


def _pictured(representation: Representation, values: dict[str, Any]) -> ModelConfig:
    from scorefield.networks import UNetSpec

    network = UNetSpec(widths=(8,), depths=(1,), fold=1, head_width=8, embedding=8)
    return replace(gaussian(FLOATS).config, representation=representation, network=network, **values)


# ── units ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sum_of_gaussian_coordinates_has_their_exact_posterior() -> None:
    """x ~ N(5, 2.1²) and x₁ + x₂ = 14: means 7, 7, 5, deviations 2.1/√2, 2.1/√2, 2.1; a shift forgotten moves them  (M42)."""
    model, operator = gaussian(FLOATS), Dense(torch.tensor([[1.0, 1.0, 0.0]]))
    walk = {"sampler": DDIM(steps=200, eta=1.0), "method": Replacement(), "batch": 4000}
    found = model.restore([14.0], operator, count=4000, **walk)
    assert found.samples[:, :2].sum(1) == pytest.approx(np.full(4000, 14.0), abs=1e-4)
    deviations = 2.1 * np.array([math.sqrt(0.5), math.sqrt(0.5), 1.0])
    assert (np.abs(found.mean - [7.0, 7.0, 5.0]) < 4.5 * deviations / math.sqrt(4000)).all(), found.mean
    assert found.std == pytest.approx(deviations, rel=0.06)


@pytest.mark.parametrize("representation", [FLOATS, COLOUR, UNEQUAL], ids=["points", "colour", "unequal channels"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_measurement_in_the_datas_units_is_one_in_model_space(representation: Representation, noise: float) -> None:
    """y − A x and y' − A' x' are one residual up to its scale, and so is σ: for every operator, with one scale or one a channel."""
    operators: list[LinearOperator] = [
        Mask(torch.rand(representation.shape, generator=torch.Generator().manual_seed(0)) > 0.4),
        Separable.downsampling(representation.shape, 2),
        Separable.blur(representation.shape, 0.8),
        Projection(representation.shape, 2),
        Dense(torch.linspace(-1.0, 2.0, 2 * representation.size).view(2, -1), representation.shape),
        Matrixless(lambda x: 2.0 * x, lambda y: 2.0 * y, representation.shape, representation.shape),
    ]
    if len(representation.shape) > 1:
        operators.append(Separable.grey(representation.shape))
    z = torch.randn(1, *representation.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = (-1, *(1,) * (len(representation.shape) - 1))
    shift, scale = (
        torch.tensor(each, dtype=torch.float64).view(along) for each in (representation.shift, representation.scale)
    )
    if representation.levels is not None:  # exact pixels are whole numbers
        z = ((z * scale + shift).clamp(0, 255).round() - shift) / scale
    for operator in operators:
        own = operator(z * scale + shift)
        laid_out = own.numpy()
        if layout_of(representation, operator.measured_shape) != operator.measured_shape:
            laid_out = laid_out[:, 0] if own.shape[1] == 1 else np.moveaxis(laid_out, 1, -1)
        found = measured(representation, laid_out, operator, noise)
        assert found.residual(z).abs().max() < 1e-5, operator
        apart = operator(scale * torch.ones_like(z)) / found.operator(torch.ones_like(z))
        if noise:
            ratio = apart[torch.isfinite(apart)].mean()
            assert noise / found.noise == pytest.approx(float(ratio), rel=1e-6), operator


TABLE = Representation((3,), "float32", "array", (0.0, 500.0, 1.0), (20.0, 50_000.0, 1.0))


@pytest.mark.parametrize("kind", METHODS)
def test_columns_of_a_table_are_known_whatever_their_units(kind: type[Method]) -> None:
    """One column is 50,000 times as wide as another: what is told of the narrow ones still holds, masked, noisy, or by a matrix."""
    model, method, sampler = gaussian(TABLE), kind(), DDIM(steps=20, eta=1.0)
    row = np.array([[30.0, 80_000.0, 1.5]])
    options: dict[str, Any] = {"method": method, "sampler": sampler, "count": 12}
    for operator in (Dense(torch.eye(3)), Separable((3,), (torch.eye(3),))):
        exact = restore_each(model, row, operator, **options)[0]
        assert exact.samples == pytest.approx(np.broadcast_to(row, (12, 3)), rel=0.05)
    noisy = restore_each(model, row, Mask(torch.tensor([True, True, False])), noise=0.1, **options)[0]
    assert np.abs(noisy.samples[:, 0] - 30.0).max() < 1.5, noisy.samples


def test_projections_of_a_table_are_met_too() -> None:
    """Each number is one of all columns, the widest in front: it is met to a share of its width, and so it is where A is functions."""
    model, operator = gaussian(TABLE), Projection((3,), 2)
    y = operator(torch.tensor([[30.0, 80_000.0, 1.5]]).double())
    loose = Matrixless(operator, operator.adjoint, (3,), (2,))
    sampler = DDIM(steps=20, eta=1.0)
    for known, method in ((operator, PiGDM()), (operator, DDRM()), (loose, PiGDM())):
        found = restore_each(model, y.numpy(), known, method=method, sampler=sampler, count=12)[0].samples
        assert torch.allclose(operator(torch.from_numpy(found).double()), y.expand(12, 2), rtol=0.0, atol=150.0)


@pytest.mark.parametrize("kind", METHODS)
def test_what_a_mask_hides_is_not_looked_at(kind: type[Method]) -> None:
    """Another value under the mask changes no bit, with noise and without, with one scale and with one a channel."""
    for representation in (FLOATS, TABLE):
        for noise in (0.0, 0.1):
            one, other = (
                restore_each(
                    gaussian(representation),
                    np.array([[30.0, 800.0, hidden]]),
                    Mask(torch.tensor([True, True, False])),
                    noise=noise,
                    method=kind(),
                    sampler=DDIM(steps=4, eta=1.0),
                    count=2,
                )[0].samples
                for hidden in (0.0, math.nan)
            )
            assert np.array_equal(one, other)


@pytest.mark.parametrize("value", [300, -5, 127.6, math.nan])
def test_pixels_that_cannot_be_are_refused_and_not_wrapped(value: float) -> None:
    """300 would come back as 44, "bit by bit"; what a mask hides may be anything, and so may noisy measurements."""
    model, image = pictures(GREY), np.full((1, 4, 6), 90.0)
    mask = Mask(torch.arange(24).view(1, 4, 6) > 0)
    image[0, 3, 5] = value
    with pytest.raises(UsageError, match=r"integers from 0 to 255|finite numbers"):
        restore_each(model, image, mask, **QUICK)
    if math.isfinite(value):
        restore_each(model, image, mask, noise=25.0, **QUICK)
    hidden = np.full((1, 4, 6), 90.0)
    hidden[0, 0, 0] = value
    restore_each(model, hidden, mask, **QUICK)


@pytest.mark.parametrize("kind", METHODS)
def test_the_adaptive_sampler_restores_several_at_once(kind: type[Method]) -> None:
    """It asks for those under way alone elsewhere, and another's measurement must not be met then."""
    ys, options = np.array([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0], [9.0, 0.0, 7.0]]), {"sampler": Adaptive(), "count": 1}
    mask = Mask(torch.tensor([True, False, True]))
    method = kind(particles=2) if kind is TwistedSMC else kind()
    found = restore_each(gaussian(FLOATS), ys, mask, method=method, **options)  # type: ignore[arg-type]
    assert [tuple(each.samples[0, [0, 2]]) for each in found] == [(1.0, 3.0), (6.0, 4.0), (9.0, 7.0)]


def test_particles_of_one_sample_have_its_class() -> None:
    """A last batch of one asked K particles with one label."""
    model = gaussian(FLOATS, class_names=("a", "b"), class_weights=(1.0, 1.0), guidance=2.0)
    options: dict[str, Any] = {"method": TwistedSMC(3), "sampler": DDIM(steps=4), "classes": "b", "noise": 0.1}
    operator = Dense(torch.tensor([[1.0, 1.0, 0.0]]))
    whole = restore_each(model, np.array([[14.0]]), operator, count=3, **options)[0].samples
    parts = restore_each(model, np.array([[14.0]]), operator, count=3, batch=2, **options)[0].samples
    assert np.allclose(whole, parts, atol=1e-4)


def test_whole_numbers_carry_the_noise_of_their_rounding_but_for_a_mask() -> None:
    """σ² = 1/12 levels² for an average that was rounded; pixels as they are were not."""
    small, image = np.full((1, 2, 3), 90, np.uint8), np.full((1, 4, 6), 90, np.uint8)
    operator = Separable.downsampling(GREY.shape, 2)
    assert measured(GREY, small, operator).noise == pytest.approx(math.sqrt(ROUNDING) / 127.5)
    assert measured(GREY, small, operator, 2.0).noise == pytest.approx(math.sqrt(4.0 + ROUNDING) / 127.5)
    assert measured(GREY, small.astype(float), operator).noise == 0.0
    assert measured(GREY, image, Mask(torch.ones(GREY.shape) > 0)).noise == 0.0


def test_a_degraded_picture_is_rounded_as_a_file_would_be_and_a_vector_is_not() -> None:
    """Its noise belongs to the picture's number, and its size is what was asked for."""
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 6), dtype=np.uint8)
    small = degraded(GREY, images, Separable.downsampling(GREY.shape, 2))
    assert small.shape == (50, 2, 3) and small.dtype == np.int32
    assert small[0, 0, 0] == np.rint(images[0, :2, :2].mean())
    numbers = degraded(GREY, images, Projection(GREY.shape, 5))
    assert numbers.shape == (50, 5) and numbers.dtype == np.float64
    noisy = degraded(GREY, images, Separable.identity(GREY.shape), noise=20.0, seed=3)
    assert (noisy - images.astype(float)).std() == pytest.approx(20.0, rel=0.1)
    alone = degraded(GREY, images[7:9], Separable.identity(GREY.shape), noise=20.0, seed=3, first=7)
    assert np.array_equal(alone, noisy[7:9])


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("representation", [GREY, COLOUR], ids=["grey", "colour"])
def test_what_a_mask_shows_comes_back_bit_by_bit(representation: Representation) -> None:
    """Every level survives: neither float32 nor the way to model space and back touches it."""
    model = pictures(representation)
    own = layout_of(representation, representation.shape)
    image = np.random.default_rng(1).integers(0, 256, own, dtype=np.uint8)
    mask = np.zeros(own[:2], bool)
    mask[:, :2] = True
    found = model.inpaint(image, mask, count=3, **QUICK)
    assert found.samples.dtype == np.uint8 and found.samples.shape == (3, *own)
    assert (found.samples[:, ~mask] == image[~mask]).all() and (found.samples[:, mask] != image[mask]).any()
    assert (found.std[~mask] == 0.0).all() and (found.std[mask] > 0.0).any()
    noisy = model.inpaint(image, mask, noise=9.0, **QUICK)
    assert noisy.samples.shape == (1, *own)


def test_a_mask_of_one_channel_is_its_own() -> None:
    """A mask with channels hides values, not pixels."""
    mask = np.zeros((4, 4, 3), int)
    mask[..., 2] = 1
    keep = hole(COLOUR, mask).keep
    assert keep[:2].all() and not keep[2].any()
    assert hole(FLOATS, [True, False, False]).keep.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((4, 6)), "hides everything"),
        (np.zeros((4, 6)), "hides nothing"),
        (np.full((4, 6), 7), "True (or 1)"),
        (np.ones((6, 4)), "got (6, 4)"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(mask: np.ndarray, said: str) -> None:
    """With the fix."""
    with pytest.raises(UsageError) as refusal:
        hole(GREY, mask)
    assert said in str(refusal.value)


# ── what is handed out ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_is_the_same_whatever_batch_count_and_neighbours_are() -> None:
    """Its noise is numbered by measurement and sample."""
    model, operator = pictures(GREY), Separable.downsampling(GREY.shape, 2)
    ys = np.random.default_rng(2).integers(0, 256, (3, 2, 3)).astype(np.uint8)
    whole = restore_each(model, ys, operator, count=3, **QUICK)
    parts = restore_each(model, ys, operator, count=2, batch=4, **QUICK)
    last = restore_each(model, ys[2:], operator, count=3, first=2, **QUICK)
    alone = model.restore(ys[0], operator, count=3, **QUICK)
    for one, other in ((whole[1].samples[:2], parts[1].samples), (whole[2].samples, last[0].samples)):
        assert np.abs(one.astype(int) - other).max() <= 1  # another batch may round another way
    assert np.array_equal(alone.samples, whole[0].samples)
    assert not np.array_equal(whole[0].samples[0], whole[0].samples[1])


def test_mean_and_deviation_are_the_samples_own() -> None:
    """(…) of (n, …), the unbiased deviation, and none of one sample."""
    model, operator = pictures(GREY), Separable.downsampling(GREY.shape, 2)
    found = model.restore(np.full((2, 3), 99, np.uint8), operator, count=5, **QUICK)
    assert found.mean == pytest.approx(found.samples.astype(float).mean(0))
    assert found.std == pytest.approx(found.samples.astype(float).std(0, ddof=1))
    assert found.evaluations == 4
    assert (model.restore(np.full((2, 3), 99), operator, **QUICK).std == 0.0).all()


def test_colours_and_sizes_follow_the_measurement() -> None:
    """The luma and the cells' means of what is handed out are those that were given, to the rounding."""
    model = pictures(COLOUR)
    grey = np.random.default_rng(3).integers(90, 160, (4, 4), dtype=np.uint8)
    coloured = model.colorize(grey, count=2, **QUICK).samples
    assert coloured.shape == (2, 4, 4, 3)
    assert np.abs(coloured @ np.array([0.299, 0.587, 0.114]) - grey).max() < 1.5
    small = np.random.default_rng(4).integers(90, 160, (2, 2, 3), dtype=np.uint8)
    large = model.upscale(small, count=2, **QUICK).samples
    assert large.shape == (2, 4, 4, 3)
    assert np.abs(large.reshape(2, 2, 2, 2, 2, 3).mean((2, 4)) - small).max() < 1.5


def test_the_factor_of_a_small_picture_is_found_or_refused() -> None:
    """By the shapes alone: 4×6 is 2×3 twice as large."""
    assert averages(GREY, (2, 3)).measured_shape == (1, 2, 3)
    with pytest.raises(UsageError, match="no whole factor"):
        averages(GREY, (4, 5))
    with pytest.raises(UsageError, match="3 times"):
        averages(GREY, (2, 3), 3)
    with pytest.raises(UsageError, match="no whole factor"):
        pictures(GREY).upscale(np.zeros((3, 3)))


def test_measurements_that_cannot_be_are_refused() -> None:
    """Another shape, another model's operator, no numbers, no noise, no count; a batch says nothing wrong either."""
    model, operator = pictures(GREY), Separable.blur(GREY.shape, 1.0)
    good = np.zeros((4, 6))
    for y, other, options, said in (
        (good.T, operator, {}, "must have shape (4, 6)"),
        (good, Separable.blur((1, 4, 4), 1.0), {}, "operator is for data of shape"),
        (good + np.nan, operator, {}, "finite"),
        (good, operator, {"noise": -1.0}, "0 or more"),
        (good, operator, {"count": 0}, "count ≥ 1"),
        (good, operator, {"classes": "shirt"}, "without classes"),
    ):
        with pytest.raises(UsageError) as refusal:
            model.restore(y, other, **options)
        assert said in str(refusal.value)


def test_a_model_of_classes_restores_with_one_or_with_none() -> None:
    """None is the label that means none, not one that is drawn."""
    asked: list[Any] = []

    class Listening(Zero):
        def forward(self, x: torch.Tensor, *more: Any) -> torch.Tensor:
            asked.append(more[1].tolist() if len(more) > 1 and more[1] is not None else None)
            return super().forward(x)

    model = replace(pictures(GREY, class_names=("a", "b"), class_weights=(0.5, 0.5)), network=Listening())
    operator = Separable.blur(GREY.shape, 1.0)
    model.restore(np.zeros((4, 6)), operator, classes="b", count=2, **QUICK)
    assert asked[-1] == [1, 1]
    model.restore(np.zeros((4, 6)), operator, count=2, **QUICK)
    assert asked[-1] in (None, [2, 2])
    always = replace(model, config=replace(model.config, always_conditioned=True))
    with pytest.raises(UsageError, match=r"label_dropout=0 and never saw data without a class; give one"):
        always.restore(np.zeros((4, 6)), operator, **QUICK)


def test_what_diverged_is_no_picture() -> None:
    """NaN would be handed back as black."""

    class Lost(Zero):
        def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
            return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 1, math.nan, self.weight * x)

    model = replace(pictures(GREY), network=Lost())
    with pytest.raises(DivergedError, match="1 of 3 samples diverged"):
        model.restore(np.zeros((4, 6)), Separable.blur(GREY.shape, 1.0), count=3, **QUICK)


def test_the_usual_method_is_that_of_the_operators_kind() -> None:
    """Holes, operators with a decomposition, and others."""
    anything = Matrixless(lambda x: x, lambda y: y, GREY.shape, GREY.shape)
    operators = (Mask(torch.ones(GREY.shape) > 0), Separable.identity(GREY.shape), anything)
    assert [type(method_for(operator)) for operator in operators] == [DPS, DDRM, PiGDM]
    grey = method_for(Separable.grey((3, 4, 6)))
    assert isinstance(grey, DPS) and (grey.zeta, grey.repeats) == (0.3, 2)
    assert isinstance(method_for(Separable.downsampling((3, 4, 6), 2)), DDRM)
    assert method_for(Projection((3, 4, 6), 7)) == DPS()
    assert isinstance(method_for(Separable((3, 4), (torch.eye(3).double(), None))), DDRM)


def test_the_usual_sampler_fits_a_short_chain() -> None:
    """A model of 20 steps has no hundred."""
    assert sampler_for(Discrete(steps=20)).steps == 20 and sampler_for(EDM()).steps == 100


def test_layouts_are_those_of_pictures_and_of_arrays() -> None:
    """Channels last, none where there is one; vectors stay."""
    assert layout_of(COLOUR, (1, 4, 4)) == (4, 4) and layout_of(GREY, (1, 2, 3)) == (2, 3)
    assert layout_of(COLOUR, (3, 2, 2)) == (2, 2, 3) and layout_of(COLOUR, (9,)) == (9,)
    assert layout_of(UNEQUAL, (1, 4, 4)) == (1, 4, 4)
    assert channels_first(COLOUR, np.zeros((5, 2, 2, 3)), (3, 2, 2)).shape == (5, 3, 2, 2)
