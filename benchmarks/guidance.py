"""What guidance gives and takes on a model of classes: accuracy, Fréchet distance, precision and recall over its scale; a table.

    make guidance RUN=runs/fashion TRAIN=train-images TEST=test-images

Classes are asked for in turn. A classifier fitted on the clean training data, and on nothing of the model, says which class each
sample is of; its own accuracy on TEST is the first line, and the row `data` is TEST itself. Fréchet distance, precision and recall are
measured in that classifier's last hidden layer, against as many examples of TEST as there are samples.

    python benchmarks/guidance.py RUN TRAIN TEST --by classifier --scales 1,2,4     # RUN's own classifier of noisy samples
    python benchmarks/guidance.py RUN TRAIN TEST --by OTHER --scales 1.5,2          # away from a worse model, OTHER's or step-N of RUN
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield import load
from scorefield.data import Dataset, open_data
from scorefield.denoisers.guidance import Interval
from scorefield.errors import UsageError
from scorefield.evaluation.distances import Estimate, frechet_distance, mean_estimate, neighbourhood
from scorefield.evaluation.features import Classifier, fit_features
from scorefield.model import Model
from scorefield.model_classifier import load_classifier
from scorefield.samplers import Calibrated
from scorefield.training.earlier import checkpoint_model

SCALES = (1.0, 1.5, 1.75, 2.0, 3.0)
INTERVALS: tuple[tuple[float, Interval], ...] = ((3.0, (0.2, 4.0)),)
RESCALED = ((1.75, 0.7),)


@dataclass(frozen=True)
class Row:
    """What was measured at one scale; without one, of the data."""

    scale: float | None
    interval: Interval | None
    rescale: float
    accuracy: Estimate
    frechet: Estimate
    precision: Estimate
    recall: Estimate

    def __str__(self) -> str:
        """A row of the table."""
        scale = "data" if self.scale is None else f"{self.scale:g}"
        where = "" if self.interval is None else f"{self.interval[0]:g}:{self.interval[1]:g}"
        rescale = f"{self.rescale:g}" if self.rescale else ""
        share = f"{100 * self.accuracy.value:.1f} ± {100 * self.accuracy.standard_error:.1f}"
        return f"| {scale} | {where} | {rescale} | {share} | {self.frechet} | {self.precision} | {self.recall} |"


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier of clean data, and the features of held-out examples."""

    classifier: Classifier
    reference: Tensor

    @classmethod
    def of(cls, train: Dataset, test: Dataset, count: int, cache: Path | None = None) -> Judge:
        """Fitted on the training data; `count` examples of the test data are what samples are compared with; `cache` keeps it."""
        if train.labels is None or test.labels is None:
            raise UsageError(
                f"guidance is measured on data with classes; {train.name} or {test.name} has no labels: give data with labels"
            )
        classifier = fit_features(
            torch.from_numpy(train.batch(range(len(train)))), torch.from_numpy(train.labels), cache=cache
        )
        if not isinstance(classifier, Classifier):
            raise UsageError(f"a judge is a classifier of pictures, series or volumes; {train.name} holds points")
        return cls(classifier, classifier.features(torch.from_numpy(test.batch(range(count)))))

    def row(
        self,
        x: Tensor,
        labels: Tensor,
        scale: float | None = None,
        interval: Interval | None = None,
        rescale: float = 0.0,
    ) -> Row:
        """The figures of examples (n, C, *d), in the data's own units, that are to be of these classes."""
        features = self.classifier.features(x)
        right = self.classifier.head(features).argmax(1) == labels
        near = neighbourhood(features, self.reference)
        distance = frechet_distance(features, self.reference)
        return Row(scale, interval, rescale, mean_estimate(right), distance, near.precision, near.recall)


def drawn(model: Model, count: int, steps: int) -> tuple[Tensor, Tensor]:
    """Samples of the classes in turn, channels first, and their classes."""
    labels = np.arange(count) % len(model.class_names)
    samples = model.sample(count, classes=labels, sampler=Calibrated(steps=steps), seed=0, batch=100)
    return torch.from_numpy(model.config.representation.channels_first(samples)), torch.from_numpy(labels)


def scales(rows: Sequence[Row]) -> list[float]:
    """Where rows lie on the axis."""
    return [row.scale for row in rows if row.scale is not None]


def picture(rows: Sequence[Row], file: Path) -> None:
    """Accuracy, precision and recall over the scale, and precision over recall; hollow marks are guided within the interval only."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0))
    everywhere, within = (
        [row for row in rows if (row.interval is None) == plain and not row.rescale] for plain in (True, False)
    )
    for name, colour in (("accuracy", "tab:blue"), ("precision", "tab:green"), ("recall", "tab:red")):
        figures = [getattr(row, name) for row in everywhere]
        errors = [figure.standard_error for figure in figures]
        values = [figure.value for figure in figures]
        left.errorbar(scales(everywhere), values, errors, color=colour, marker="o", ms=4, label=name)
        hollow = [getattr(row, name).value for row in within]
        left.plot(scales(within), hollow, "o", color=colour, mfc="white", ms=7)
    left.set(xlabel="scale of guidance w", ylabel="share of samples")
    left.legend(loc="lower left")
    right.plot(
        [row.recall.value for row in everywhere], [row.precision.value for row in everywhere], "o-", color="0.3", ms=4
    )
    right.plot(
        [row.recall.value for row in within],
        [row.precision.value for row in within],
        "o",
        color="0.3",
        mfc="white",
        ms=7,
    )
    for row in (*everywhere, *within):
        place = (row.recall.value, row.precision.value)
        offset = (-14, -4) if row.interval else (6, 4)
        right.annotate(f"{row.scale:g}", place, offset, textcoords="offset points")
    right.set(xlabel="recall", ylabel="precision")
    right.margins(0.1)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def plans(options: argparse.Namespace, model: Model) -> Iterator[tuple[float, Interval | None, float, Model]]:
    """What is measured: scales, intervals and rescaling, and the model guided so."""
    wanted = SCALES if options.scales is None else tuple(map(float, options.scales.split(",")))
    if options.by == "free":
        for scale in wanted:
            yield scale, None, 0.0, model.with_guidance(scale)
        if options.scales is None:
            for scale, interval in INTERVALS:
                yield scale, interval, 0.0, model.with_guidance(scale, interval)
            for scale, rescale in RESCALED:
                yield scale, None, rescale, model.with_guidance(scale, None, rescale)
    elif options.by == "classifier":
        classifier = load_classifier(options.run, model)
        for scale in wanted:
            yield scale, None, 0.0, model.with_classifier(classifier, scale)
    else:
        guide = _worse(model, options.run, options.by)
        for scale in wanted:
            yield scale, None, 0.0, model.with_autoguidance(guide, scale)


def _worse(model: Model, run: str, name: str) -> Model:
    return checkpoint_model(model, run, name) if name.startswith("step-") else load(name, calibrated=False)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, of a model of classes")
    parser.add_argument("train", help="the training data, for the judge")
    parser.add_argument("test", help="held-out data")
    parser.add_argument("--count", type=int, default=1000, help="samples of each row")
    parser.add_argument(
        "--steps", type=int, default=15, help="evaluations a sample, of the default sampler, uncalibrated"
    )
    parser.add_argument(
        "--by", default="free", metavar="free|classifier|RUN|step-N", help="what guides; free alone draws the picture"
    )
    parser.add_argument("--scales", metavar="W,W", help="these alone, without a picture")
    parser.add_argument("--image", type=Path, default=Path("docs/images/guidance.png"))
    options = parser.parse_args()
    model = load(options.run, calibrated=False)
    train, test = open_data(options.train), open_data(options.test)
    judge = Judge.of(train, test, options.count, Path(options.run, "judge.safetensors"))
    assert test.labels is not None
    known = judge.classifier.accuracy(torch.from_numpy(test.batch(range(len(test)))), torch.from_numpy(test.labels))
    print(f"the judge's accuracy on {len(test)} held-out examples: {100 * known:.1f} %\n")
    print(
        "| scale | interval of σ/α | rescale | accuracy, % | Fréchet | precision | recall |\n|---|---|---|---|---|---|---|"
    )
    others = np.arange(options.count, min(2 * options.count, len(test)))
    print(judge.row(torch.from_numpy(test.batch(others)), torch.from_numpy(test.labels[others])), flush=True)
    rows = []
    for scale, interval, rescale, guided in plans(options, model):
        started = time.perf_counter()
        x, labels = drawn(guided, options.count, options.steps)
        seconds = time.perf_counter() - started
        rows.append(judge.row(x, labels, scale, interval, rescale))
        print(f"{rows[-1]} {1000 * seconds / options.count:.0f} ms a sample", flush=True)
    if options.by == "free" and options.scales is None:
        picture(rows, options.image)


if __name__ == "__main__":
    main()
