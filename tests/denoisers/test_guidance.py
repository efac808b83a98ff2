"""Guidance against mixtures, whose class posterior and conditional laws are known: what Bayes' rule says, to rounding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import (
    Autoguided,
    ClassifierFree,
    Clipped,
    Denoiser,
    GaussianMixture,
    Guided,
    Inpainting,
    MixtureClassifier,
    Prediction,
)
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import Replacement
from scorefield.editing.operators import Mask
from scorefield.editing.posterior import Posterior
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import DDIM, Heun
from tests.worlds import EVERY_PATH, RANKS, Shrinking, assert_moments, mixture, mixture_moments, normal, seeded

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
CLASSES = torch.tensor([0, 1, 0])
"""The classes of the three components of `mixture`."""


@dataclass(frozen=True, eq=False)
class Labelled(Denoiser):
    """The exact denoiser of a mixture given the class, and of the whole where the label is 2; counts how often it is asked."""

    world: GaussianMixture
    asked: list[int] = field(default_factory=list)

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The world's."""
        return self.world.path

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """E[x₀ | x_t, y] of each sample's own class."""
        self.asked.append(len(x_t))
        if condition is None:
            return self.world(x_t, t)
        answers = torch.stack([given(self.world, y)(x_t, t).x0 for y in (0, 1)] + [self.world(x_t, t).x0])
        return Prediction(answers[condition, torch.arange(len(x_t))], x_t, t, self.path)


def given(world: GaussianMixture, label: int) -> GaussianMixture:
    """The mixture of one class."""
    chosen = [k for k, own in enumerate(CLASSES.tolist()) if own == label]
    return world.given(torch.tensor(chosen))


def inner_time(path: Path, part: float = 0.4) -> float:
    """A time that every path has, discrete ones included."""
    return path.snap(part * path.t_max) if hasattr(path, "snap") else part * path.t_max


# ── classifier guidance ──────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("part", [0.01, 0.4, 0.9])
def test_the_exact_classifier_makes_the_conditional_denoiser(path: Path, part: float) -> None:
    """(M42) D + (σ²/α) ∇ log p(y|x_t) = E[x₀ | x_t, y]: a wrong factor, sign or time breaks it on some path."""
    world, labels, t = mixture(path), torch.tensor([0, 1, 1, 0]), inner_time(path, part)
    x_t = path.alpha(t) * world.draw(4, seeded()) + path.sigma(t) * normal(4, 2, seed=1)
    guided = Guided(world, MixtureClassifier(world, CLASSES))(x_t, t, labels).x0
    wanted = Labelled(world)(x_t, t, labels).x0
    assert (guided - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=["VP", "EDM", "Rectified"])
def test_guided_samples_have_the_law_given_the_class(path: Path) -> None:
    """(M42) At scale 1 the samples are from p(x₀ | y): at another scale they would not be, nor with a gradient of log p(x_t)."""
    world = mixture(path)
    denoiser = Guided(world, MixtureClassifier(world, CLASSES))
    x_T = path.prior_std * normal(4000, 2)
    drawn = Heun(steps=40).sample(denoiser, x_T, condition=torch.zeros(4000, dtype=torch.long))
    assert_moments(drawn, *mixture_moments(given(world, 0)))


def test_guidance_reaches_to_the_end_of_a_path_without_signal() -> None:
    """At α = 0 nothing may be divided by zero, and the answer is the law's own mean: E[x₀ | y]."""
    world, labels = mixture(Rectified()), torch.tensor([0, 1])
    x_0 = Guided(world, MixtureClassifier(world, CLASSES))(normal(2, 2), 1.0, labels).x0
    wanted = torch.stack([mixture_moments(given(world, y))[0] for y in (0, 1)])
    assert (x_0 - wanted).abs().max() < 1e-3


def test_gradients_are_taken_where_none_are_recorded() -> None:
    """A sampler runs under no_grad, and no graph may be left on what it is given."""
    world, x_t = mixture(VP()), normal(2, 2)
    with torch.no_grad():
        x_0 = Guided(world, MixtureClassifier(world, CLASSES), 2.0)(x_t, 0.5, torch.tensor([0, 1])).x0
    assert not x_0.requires_grad and not x_t.requires_grad


def test_a_gradient_through_the_guided_denoiser_sees_the_classifier() -> None:
    """Methods that differentiate D (a measurement's likelihood) would take the guidance for a constant; the oracle is E[x₀ | x_t, y]."""
    world, labels, x_t = mixture(VP()), torch.tensor([0, 1]), normal(2, 2)
    guided, exact = Guided(world, MixtureClassifier(world, CLASSES)), Labelled(world)

    def slope(denoiser: Denoiser) -> Tensor:
        point = x_t.clone().requires_grad_()
        return torch.autograd.grad(denoiser(point, 0.5, labels).x0.square().sum(), point)[0]

    assert torch.allclose(slope(guided), slope(exact), rtol=1e-8)


def test_a_gradient_goes_through_a_classifier_with_attention() -> None:
    """Fused attention has no second derivative, which DPS around a guided model asks for."""

    class Attending:
        def log_probability(self, x_t: Tensor, t: Any, labels: Tensor) -> Tensor:
            q = x_t[:, None, :, None].expand(-1, 1, -1, 4).contiguous()
            return torch.nn.functional.scaled_dot_product_attention(q, q, q).flatten(1).sum(1)

    x_t = normal(2, 8).float().requires_grad_()
    answer = Guided(Shrinking(VP()), Attending(), 1.0)(x_t, 0.5, torch.tensor([0, 1])).x0
    assert torch.autograd.grad(answer.sum(), x_t)[0].isfinite().all()


def test_without_a_label_nothing_is_guided() -> None:
    """No condition means the unconditional law."""
    world, x_t = mixture(VP()), normal(3, 2)
    assert torch.equal(Guided(world, MixtureClassifier(world, CLASSES))(x_t, 0.5).x0, world(x_t, 0.5).x0)


def test_a_told_denoiser_is_told() -> None:
    """With `is_told` the wrapped denoiser answers for the label, and without it for all."""
    inner = Shrinking(VP())
    for told in (True, False):
        Guided(inner, MixtureClassifier(mixture(VP()), CLASSES), is_told=told)(normal(2, 2), 0.5, torch.tensor([0, 1]))
    assert inner.conditions[0] is not None and inner.conditions[1] is None


# ── classifier-free guidance and autoguidance ────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_goes_through_both_answers(path: Path, scale: float) -> None:
    """(M42) D_∅ + w (D_y − D_∅): w = 1 is the conditional model itself, w = 0 the unconditional one."""
    world, labels, t = mixture(path), torch.tensor([0, 1, 1]), inner_time(path)
    inner, x_t = Labelled(world), normal(3, 2)
    told, free = inner(x_t, t, labels).x0, world(x_t, t).x0
    got = ClassifierFree(inner, 2, scale)(x_t, t, labels).x0
    assert torch.allclose(got, free + scale * (told - free), rtol=0, atol=1e-12 * (1.0 + float(told.abs().max())))


def test_both_kinds_of_guidance_are_one_with_an_exact_classifier() -> None:
    """(M42) p(y|x_t)^w p(x_t): the quotient p(x_t|y)/p(x_t) is the classifier, whichever way it is known."""
    world, labels, x_t = mixture(VP()), torch.tensor([0, 1, 0]), normal(3, 2)
    free = ClassifierFree(Labelled(world), 2, 1.7)(x_t, 0.6, labels).x0
    assert torch.allclose(free, Guided(world, MixtureClassifier(world, CLASSES), 1.7)(x_t, 0.6, labels).x0, rtol=1e-9)


def test_outside_the_interval_one_question_is_asked_and_the_label_answers() -> None:
    """An interval saves half of the evaluations where it is not, and is in σ/α whatever the path."""
    for path in (VP(), EDM(), Rectified()):
        inner = Labelled(mixture(path))
        guided, labels = ClassifierFree(inner, 2, 2.0, interval=(0.3, 2.0)), torch.tensor([0, 1])
        for ratio, asked in ((0.29, 2), (0.31, 4), (1.9, 4), (2.1, 2)):
            t = float(path.time_of(-torch.tensor(ratio, dtype=torch.float64).log().item()))
            inner.asked.clear()
            answer = guided(normal(2, 2), t, labels).x0
            assert inner.asked == [asked], (path, ratio)
            if asked == 2:
                assert torch.equal(answer, inner(normal(2, 2), t, labels).x0)


@pytest.mark.parametrize("kind", ["free", "classifier", "auto"])
def test_an_interval_is_each_samples_own(kind: str) -> None:
    """Where a batch has several times, each sample is guided by its own."""
    world, labels, t = mixture(VP()), torch.tensor([0, 1]), torch.tensor([0.2, 0.9], dtype=torch.float64)
    low, high = (float(torch.exp(-VP().log_snr(torch.tensor(u)))) for u in (0.8, 0.95))
    made: dict[str, Any] = {
        "free": lambda interval: ClassifierFree(Labelled(world), 2, 2.0, interval),
        "classifier": lambda interval: Guided(world, MixtureClassifier(world, CLASSES), 2.0, interval),
        "auto": lambda interval: Autoguided(world, Shrinking(VP()), 2.0, interval),
    }
    x_t = normal(2, 2)
    some = made[kind]((low, high))(x_t, t, labels).x0
    all_of_it, none = made[kind](None)(x_t, t, labels).x0, made[kind]((1e8, 1e9))(x_t, t, labels).x0
    assert torch.allclose(some[1], all_of_it[1]) and torch.allclose(some[0], none[0])
    assert not torch.allclose(some[0], all_of_it[0])


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_rescaling_keeps_the_spread_of_the_conditional_answer(shape: tuple[int, ...]) -> None:
    """φ = 1 gives D' the standard deviation of D_y, sample by sample; φ = ½ stands half way in the factor."""
    inner = _Tilted(Shrinking(VP()))
    x_t, labels = normal(3, *shape), torch.tensor([1, 2, 2])
    told = inner(x_t, 0.5, labels).x0.flatten(1).std(1)
    plain, whole, half = (ClassifierFree(inner, 0, 3.0, rescale=phi)(x_t, 0.5, labels).x0 for phi in (0.0, 1.0, 0.5))
    assert torch.allclose(whole.flatten(1).std(1), told)
    assert torch.allclose(half, 0.5 * (plain + whole))


def test_one_value_has_no_spread_to_be_rescaled_to() -> None:
    """The deviation of one number is no number; the answer is the plain one."""
    inner, x_t, labels = _Tilted(Shrinking(VP())), normal(3, 1), torch.tensor([1, 2, 2])
    plain, rescaled = (ClassifierFree(inner, 0, 3.0, rescale=phi)(x_t, 0.5, labels).x0 for phi in (0.0, 0.7))
    assert torch.equal(plain, rescaled)


@dataclass(frozen=True, eq=False)
class _Tilted(Denoiser):
    """Another answer for every label."""

    inner: Denoiser

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The inner one's."""
        return self.inner.path

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """The inner answer, scaled by the label."""
        prediction = self.inner(x_t, t)
        gain = (1.0 + condition.to(x_t.dtype)).reshape(-1, *(1,) * (x_t.ndim - 1))
        return replace(prediction, x0=gain * prediction.x0)


def test_autoguidance_goes_away_from_the_guide() -> None:
    """D_g + w (D − D_g): at w = 1 the model itself, and the guide is not asked."""
    world, guide, x_t = mixture(VP()), Shrinking(VP()), normal(3, 2)
    assert torch.equal(Autoguided(world, guide, 1.0)(x_t, 0.5).x0, world(x_t, 0.5).x0)
    assert not guide.asked
    d, g = world(x_t, 0.5).x0, guide(x_t, 0.5).x0
    assert torch.allclose(Autoguided(world, guide, 2.5)(x_t, 0.5).x0, g + 2.5 * (d - g))


def test_guidances_wrap_one_another() -> None:
    """All at once, with clipping outside: the condition reaches everybody who asks for it."""
    world, labels, x_t = mixture(VP()), torch.tensor([0, 1, 0]), normal(3, 2)
    free = ClassifierFree(Labelled(world), 2, 1.5)
    both = Clipped(Guided(Autoguided(free, Labelled(world), 1.2), MixtureClassifier(world, CLASSES), 0.5, is_told=True))
    drawn = DDIM(steps=8).sample(both, x_t, condition=labels)
    assert drawn.shape == x_t.shape and bool(drawn.isfinite().all())


@pytest.mark.parametrize("wrapper", ["Inpainting", "Posterior"])
def test_what_knows_each_sample_stands_outside_of_guidance(wrapper: str) -> None:
    """Guidance asks for a batch of twice the size: inside of it nobody could tell whose row is whose; outside, or of one row for all, it works."""
    keep, x_t, labels = torch.tensor([True, False]), normal(3, 2), torch.tensor([0, 1, 0])

    def around(inner: Denoiser, known: Tensor) -> Denoiser:
        if wrapper == "Inpainting":
            return Inpainting(inner, known, keep)
        return Posterior(inner, Measurement(Mask(keep), known * keep), Replacement())

    inner, each = Labelled(mixture(VP())), normal(3, 2, seed=1)
    outside = around(ClassifierFree(inner, 2, 1.5), each)(x_t, 0.5, labels).x0
    assert torch.allclose(outside[:, 0], each[:, 0])
    one = ClassifierFree(around(inner, each[:1]), 2, 1.5)(x_t, 0.5, labels).x0
    assert torch.allclose(one[:, 0], each[:1, 0].expand(3))
    with pytest.raises(UsageError, match="knows 3 samples and is asked for 6; put it outside"):
        ClassifierFree(around(inner, each), 2, 1.5)(x_t, 0.5, labels)


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale ≥ 0"),
        ({"scale": float("nan")}, "scale ≥ 0"),
        ({"interval": (2.0, 1.0)}, "from low to high"),
        ({"interval": (-1.0, 1.0)}, "from low to high"),
        ({"rescale": 1.5}, "rescale between 0"),
    ],
)
def test_impossible_guidance_is_refused(options: dict[str, Any], message: str) -> None:
    """Each would draw something that nobody asked for."""
    with pytest.raises(UsageError, match=message):
        ClassifierFree(Labelled(mixture(VP())), 2, **options)


def test_a_guide_on_another_path_is_refused() -> None:
    """At one time it would see another noise level."""
    with pytest.raises(UsageError, match="own path"):
        Autoguided(mixture(VP()), mixture(EDM()))
