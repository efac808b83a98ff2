"""Guides of a model: classifier-free with an interval, a classifier, a worse model; what wraps its denoiser, and where guides come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from scorefield.denoisers import Autoguided, Classifier, ClassifierFree, Denoiser, Guided
from scorefield.denoisers.guidance import Interval
from scorefield.errors import UsageError
from scorefield.model_classifier import NoiseClassifier, require_fit

if TYPE_CHECKING:
    from scorefield.model import Model


class Guide(ABC):
    """What a denoiser is wrapped in, wherever the model is."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, guided."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Guide:
        """The guide on another device."""

    @abstractmethod
    def networks(self) -> Iterator[nn.Module]:
        """Those that it asks, which must not drop out anything while it guides."""


@final
@dataclass(frozen=True, eq=False)
class ByClassifier(Guide):
    """Guidance by a classifier; the fields are those of `Guided`."""

    classifier: Classifier
    scale: float
    interval: Interval | None
    told: bool

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, led to where the classifier is surer."""
        return Guided(denoiser, self.classifier, self.scale, self.interval, self.told)

    def to(self, device: str | torch.device) -> ByClassifier:
        """With the classifier there; one without `to` is taken to have no place."""
        moves = getattr(self.classifier, "to", None)
        return self if moves is None else replace(self, classifier=moves(device))

    def networks(self) -> Iterator[nn.Module]:
        """The classifier itself, or the `network` in it; none of one that has none."""
        found = (self.classifier, getattr(self.classifier, "network", None))
        return (each for each in found if isinstance(each, nn.Module))


@final
@dataclass(frozen=True, eq=False)
class AwayFrom(Guide):
    """Guidance away from a worse model; the fields are those of `Autoguided`."""

    worse: Model
    scale: float
    interval: Interval | None

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, led away from the worse model's."""
        return Autoguided(denoiser, self.worse.plain_denoiser, self.scale, self.interval)

    def to(self, device: str | torch.device) -> AwayFrom:
        """With the worse model there."""
        return replace(self, worse=self.worse.to(device))

    def networks(self) -> Iterator[nn.Module]:
        """The worse model's, and its guides'."""
        yield self.worse.network
        yield from self.worse.guides.networks()


@final
@dataclass(frozen=True, eq=False)
class Guides:
    """How a model is guided beyond the scale that its configuration holds.

    Attributes:
        interval: the σ/α at which there is classifier-free guidance; everywhere where None.
        rescale: of classifier-free guidance, φ.
        wrappers: what wraps the denoiser then, in their order.
        class_names, class_weights: what a classifier tells apart, and how often each comes: the classes of a model that has none.
    """

    interval: Interval | None = None
    rescale: float = 0.0
    wrappers: tuple[Guide, ...] = ()
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()

    @property
    def are_plain(self) -> bool:
        """Whether nothing is changed by them."""
        return self.interval is None and self.rescale == 0.0 and not self.wrappers

    def around(self, denoiser: Denoiser, null: int | float, scale: float) -> Denoiser:
        """The denoiser with all of its guides."""
        if scale != 1.0:
            denoiser = ClassifierFree(denoiser, null, scale, self.interval, self.rescale)
        for wrap in self.wrappers:
            denoiser = wrap(denoiser)
        return denoiser

    def with_wrapper(self, guide: Guide) -> Guides:
        """One more, outside of the others."""
        return replace(self, wrappers=(*self.wrappers, guide))

    def to(self, device: str | torch.device) -> Guides:
        """The guides on another device."""
        return replace(self, wrappers=tuple(guide.to(device) for guide in self.wrappers))

    def networks(self) -> Iterator[nn.Module]:
        """Those of all guides."""
        for guide in self.wrappers:
            yield from guide.networks()

    def require_none(self) -> None:
        """Refuse to write a model with guides, which its folder has no place for. Raises UsageError."""
        if not self.are_plain:
            raise UsageError(
                "a model's folder keeps its scale of guidance alone, not an interval, a rescaling, a classifier or a worse model; save the model without them, and guide it again once it is loaded"
            )


def with_guidance(model: Model, scale: float, interval: Interval | None = None, rescale: float = 0.0) -> Model:
    """A model with classifier-free guidance; `Model.with_guidance` documents it."""
    if not model.is_conditional:
        raise UsageError("this model was trained without classes, so there is nothing to guide; leave guidance out")
    if scale != 1.0:
        _require_free(model, f"guidance {scale:g}", "leave guidance out")
        if any(isinstance(guide, ByClassifier) and not guide.told for guide in model.guides.wrappers):
            raise UsageError(
                f"guidance {scale:g} would do nothing, for the classifier answers for all classes and the model is told none; give the classifier with told=True, or leave one of the two out"
            )
    guides = replace(model.guides, interval=interval, rescale=rescale)
    if scale == 1.0:  # what cannot be is refused, even where nothing would come of it
        ClassifierFree(model.plain_denoiser, 0, scale, interval, rescale)
    guides.around(model.plain_denoiser, 0, scale)
    return replace(model, config=replace(model.config, guidance=scale), guides=guides)


def with_classifier(
    model: Model, classifier: Classifier, scale: float = 1.0, interval: Interval | None = None, told: bool = False
) -> Model:
    """A model guided by a classifier; `Model.with_classifier` documents it."""
    if model.config.conditions:
        raise UsageError("this model is conditioned on numbers, a classifier leads to classes; leave it out")
    if isinstance(classifier, NoiseClassifier):
        require_fit(model, classifier)
    names, weights = (tuple(getattr(classifier, name, ())) for name in ("class_names", "class_weights"))
    if not model.config.classes and (told or not names or len(names) != len(weights)):
        raise UsageError(
            "this model was trained without classes; leave told out, and give a classifier with class_names and class_weights"
        )
    if not told and model.config.classes:
        _require_free(model, "a classifier's guidance", "set told=True (--guidance 1)")
    guide = ByClassifier(classifier, scale, interval, told)
    guide(model.plain_denoiser)  # which refuses what cannot be
    config = model.config if told else replace(model.config, guidance=1.0)
    guides = replace(model.guides.with_wrapper(guide), class_names=names, class_weights=weights)
    return replace(model, config=config, guides=guides)


def with_autoguidance(model: Model, guide: Model, scale: float = 1.5, interval: Interval | None = None) -> Model:
    """A model led away from a worse one; `Model.with_autoguidance` documents it."""
    ours, theirs = model.config, guide.config
    if (ours.shape, ours.class_names, ours.representation) != (theirs.shape, theirs.class_names, theirs.representation):
        raise UsageError(
            f"the guide is of data {theirs.shape} with {theirs.classes} classes, the model of {ours.shape} with {ours.classes}; give a model of the same data"
        )
    for name in ("condition_names", "condition_mean", "condition_scale"):
        if getattr(ours, name) != getattr(theirs, name):
            raise UsageError(
                f"the guide's {name} is {getattr(theirs, name)}, the model's {getattr(ours, name)}, so that one number would mean two things; give a model of the same data and condition"
            )
    away = AwayFrom(guide, scale, interval)
    away(model.plain_denoiser)  # which refuses what cannot be
    return replace(model, config=replace(ours, guidance=1.0), guides=model.guides.with_wrapper(away))


def _require_free(model: Model, what: str, otherwise: str) -> None:
    if model.config.always_conditioned:
        raise UsageError(
            f"{what} compares with the model without its condition, which this one was not trained to be (label_dropout=0); {otherwise}, or train with --set label_dropout=0.1"
        )
