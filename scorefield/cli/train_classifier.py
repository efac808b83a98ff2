"""`scorefield train-classifier`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.common import Command, load_model, print_json, reading_of, say, set_threads, trained_with_flips
from scorefield.errors import unknown_name
from scorefield.records import from_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scorefield.training.classifier import ClassifierPlan, Level

_OF_NETWORK = "network."
_SETTINGS = ("learning_rate", "weight_decay")


@dataclass(frozen=True)
class TrainClassifierCommand(Command):
    """Fit a classifier of noisy samples to a model's data, for `--classifier-guidance`.

    It lies in the model's folder (classifier/). Prints how well it tells the classes of held-out examples at each noise level.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The data that the model was trained on, with their classes."""

    steps: int = 3000
    """How many steps to train."""

    minutes: float | None = None
    """How long to train instead."""

    batch: int = 128
    """Examples a step."""

    held_out: int | None = None
    """How many examples to judge by; a tenth, at most 2000, without it."""

    seed: int = 0
    """Seed of everything random."""

    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE …"), tyro.conf.UseAppendAction
    ] = ()
    """learning_rate, weight_decay, or the network's, such as network.widths=[64,96]; may be repeated."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Fit, keep, say how good it is."""
        set_threads(self.threads)
        plan = self._plan()
        from scorefield.cli.progress import TrainingProgress
        from scorefield.data import open_data
        from scorefield.model_classifier import has_classifier
        from scorefield.training.classifier import fit_classifier
        from scorefield.training.configuration import RunConfig

        model = load_model(self.model, self.device, calibrated=False)
        dataset = open_data(self.data, **reading_of(self.model))
        if has_classifier(self.model):
            say(f"{self.model} has a classifier, which this one replaces once it is fitted")
        with TrainingProgress(RunConfig()) as progress:
            found = fit_classifier(model, dataset, plan, progress=progress)
        place = found.classifier.save(self.model)
        _print(found.levels)
        say(f"the classifier is in {place}, after {found.steps} steps")
        if self.json:
            rows = [asdict(level) | {"standard_error": level.standard_error} for level in found.levels]
            print_json({"classifier": str(place), "steps": found.steps, "levels": rows, **progress.last()})
        return 0

    def _plan(self) -> ClassifierPlan:
        """How it is fitted. Raises UsageError."""
        from scorefield.training.classifier import ClassifierPlan
        from scorefield.training.configuration import parse_settings

        given: dict[str, Any] = parse_settings(self.settings)
        network = {name.removeprefix(_OF_NETWORK): given.pop(name) for name in [*given] if name.startswith(_OF_NETWORK)}
        unknown = [name for name in given if name not in _SETTINGS]
        if unknown:
            raise unknown_name("setting of the classifier", unknown[0], [*_SETTINGS, "network.…"])
        own = {name: getattr(self, name) for name in ("steps", "minutes", "batch", "held_out", "seed")}
        flip = trained_with_flips(self.model)
        plan: ClassifierPlan = from_plain(ClassifierPlan, own | given | {"network": network, "flip": flip}, {})
        return plan


def _print(levels: Sequence[Level]) -> None:
    print("  σ/α   accuracy         nats")
    for level in levels:
        share = f"{100.0 * level.accuracy:.1f} ± {100.0 * level.standard_error:.1f} %"
        print(f"{level.ratio:5g}   {share:<14} {level.cross_entropy:6.3f}")
