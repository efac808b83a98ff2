"""How samples are guided: the options that all commands share which draw, and the model that they describe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import label_dropout, load_model
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.denoisers.guidance import Interval
    from scorefield.model import Model


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance towards a class or condition."""

    guidance: float | None = None
    """Scale of classifier-free guidance towards the class or condition: 1 is none; the model's own without it."""

    guidance_interval: Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH")] = None
    """Guide only where the noise-to-signal ratio σ/α is between these, such as 0.2:4."""

    guidance_rescale: Annotated[float, tyro.conf.arg(metavar="PHI")] = 0.0
    """Bring what is guided back to the spread of what is not: 0 (not at all) to 1."""

    classifier_guidance: Annotated[float | None, tyro.conf.arg(metavar="W")] = None
    """Scale of guidance by the classifier that `scorefield train-classifier` fitted; in place of --guidance, or on top where that is given."""

    autoguide: Annotated[str | None, tyro.conf.arg(metavar="RUN|step-N")] = None
    """Lead away from a worse model of the same data: another run, or a checkpoint of this one; in place of --guidance."""

    autoguide_scale: Annotated[float, tyro.conf.arg(metavar="W")] = 1.5
    """Scale of the leading away: 1 is none."""

    def guided(self, model: Model, run: str, *, has_label: bool = True) -> Model:
        """The model with the guidance that was asked for.

        Args:
            model: as it was loaded.
            run: its folder.
            has_label: whether there is a class or condition to be led to.

        Raises:
            UsageError: nothing to be led to, a model that cannot be, or options that contradict one another.
        """
        self._check(run, model, has_label)
        interval = self._interval()
        if self.guidance is not None or interval is not None or self.guidance_rescale:
            scale = model.config.guidance if self.guidance is None else self.guidance
            if self.classifier_guidance is None and self.autoguide is None:
                if scale == 1.0 and (interval is not None or self.guidance_rescale):
                    raise UsageError(
                        "--guidance-interval and --guidance-rescale are of guidance, and there is none at scale 1; give one, such as --guidance 2"
                    )
                return model.with_guidance(scale, interval, self.guidance_rescale)
            if self.guidance is not None:
                model = model.with_guidance(scale, interval, self.guidance_rescale)
        if self.classifier_guidance is not None:
            from scorefield.model_classifier import load_classifier

            classifier = load_classifier(run, model)
            told = self.guidance is not None
            model = model.with_classifier(classifier, self.classifier_guidance, interval, told)
        if self.autoguide is not None:
            model = model.with_autoguidance(self._guide(model, run), self.autoguide_scale, interval)
        return model

    def _check(self, run: str, model: Model, has_label: bool) -> None:
        if self.autoguide is not None and (self.guidance not in (None, 1.0) or self.classifier_guidance is not None):
            raise UsageError(
                "--autoguide takes the place of other guidance; leave --guidance and --classifier-guidance out"
            )
        if self.autoguide is None and self.autoguide_scale != 1.5:
            raise UsageError("--autoguide-scale needs a guide; name one with --autoguide RUN, or --autoguide step-N")
        if self.guidance_rescale and (
            self.autoguide is not None or (self.classifier_guidance is not None and self.guidance is None)
        ):
            raise UsageError(
                f"--guidance-rescale {self.guidance_rescale:g} is of classifier-free guidance, which is off here; leave it out, or give --guidance W in place of --autoguide, beside --classifier-guidance"
            )
        led = self.guidance if self.guidance is not None else self.classifier_guidance
        if led is not None and not has_label:
            raise UsageError(
                f"guidance {led:g} leads to a class or condition; give one with --class or --condition, or leave it out"
            )
        if self.guidance not in (None, 1.0) and model.config.classes and label_dropout(run) == 0.0:
            raise UsageError(
                f"--guidance {self.guidance:g} compares with the model without a class, which this one was not trained to be (label_dropout=0); leave guidance out, or train with --set label_dropout=0.1"
            )

    def _interval(self) -> Interval | None:
        if self.guidance_interval is None:
            return None
        low, _, high = self.guidance_interval.partition(":")
        try:
            return float(low), float(high)
        except ValueError:
            raise UsageError(
                f"--guidance-interval takes LOW:HIGH in units of σ/α, such as 0.2:4; got '{self.guidance_interval}'"
            ) from None

    def _guide(self, model: Model, run: str) -> Model:
        """Another run's model, or a checkpoint of this one."""
        name = self.autoguide or ""
        if name.startswith("step-") and not os.path.isdir(name):
            from scorefield.training.earlier import checkpoint_model

            return checkpoint_model(model, run, name)
        return load_model(name, str(model.device), calibrated=False)
