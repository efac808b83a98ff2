"""One call for all figures: samples against data, each with its standard error and its noise floor.

The floor is what the same figure says about held-out data of the same number: no model can be told from perfect below
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.evaluation.distances import (
    Estimate,
    copying,
    frechet_distance,
    kernel_distance,
    mean_estimate,
    nearest,
    neighbourhood,
    sliced_wasserstein,
)
from scorefield.evaluation.features import Coordinates, Features, fit_features
from scorefield.shapes import Float, Int

KERNEL_REFERENCE = 10_000
FLOOR_DRAWS = 5


@dataclass(frozen=True)
class Measure:
    """A figure's name in tables, and which way is good: "low", "high", or "floor" (the nearer to it the better)."""

    title: str
    better: str


MEASURES: Mapping[str, Measure] = {
    "frechet": Measure("Fréchet distance", "low"),
    "kernel": Measure("kernel distance (KID)", "low"),
    "precision": Measure("precision", "high"),
    "recall": Measure("recall", "high"),
    "density": Measure("density", "high"),
    "coverage": Measure("coverage", "high"),
    "sliced_wasserstein": Measure("sliced Wasserstein distance, data space", "low"),
    "nearest": Measure("distance to the nearest training example", "floor"),
    "copying": Measure("nearer to the training data than held-out data are", "floor"),
}


@dataclass(frozen=True)
class Figure:
    """One figure of an evaluation, beside its floor.

    The floor's standard error is its spread from one draw of held-out data to the next.
    """

    name: str
    value: Estimate
    floor: Estimate | None

    @property
    def measure(self) -> Measure:
        """What the figure is and which way is good."""
        return MEASURES[self.name]


@dataclass(frozen=True)
class Evaluation:
    """All figures of one set of samples, and what they were measured with."""

    samples: int
    reference: int
    held_out: int
    features: str
    figures: tuple[Figure, ...]

    def __getitem__(self, name: str) -> Estimate:
        return next(figure.value for figure in self.figures if figure.name == name)

    def as_json(self) -> dict[str, Any]:
        """Only numbers, strings, lists and dictionaries; `from_json` reads it back."""
        about = {name: value for name, value in asdict(self).items() if name != "figures"}
        return about | {"figures": {figure.name: _figure_json(figure) for figure in self.figures}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """What `as_json` wrote, read back; KeyError or TypeError where something is missing or of a wrong kind."""
        figures = tuple(
            Figure(name, _estimate(entry), _estimate(entry["floor"]) if entry["floor"] else None)
            for name, entry in data["figures"].items()
            if name in MEASURES
        )
        return cls(int(data["samples"]), int(data["reference"]), int(data["held_out"]), str(data["features"]), figures)

    def table(self) -> str:
        """The figures as text, one a line."""
        rows = [(f.measure.title, str(f.value), str(f.floor or "–"), f.measure.better) for f in self.figures]
        head = ("", f"samples (n = {self.samples})", f"floor (n = {self.held_out})", "good")
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
        return "\n".join(line.rstrip() for line in lines)


def _figure_json(figure: Figure) -> dict[str, Any]:
    return _estimate_json(figure.value) | {"floor": _estimate_json(figure.floor) if figure.floor else None}


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    # JSON has no word for NaN.
    return {name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()}


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    value, error = (math.nan if entry[name] is None else float(entry[name]) for name in ("value", "standard_error"))
    return Estimate(value, error)


@dataclass(frozen=True)
class Measured:
    """The figures of one set of examples, and how far each lies from its nearest reference example."""

    size: int
    figures: Mapping[str, Estimate]
    nearest: Float[Tensor, " n"]


class Yardstick:
    """The reference data, prepared once, that any number of sets of samples are measured against.

    Args:
        reference: the training data, (n, …), in the units of the samples.
        extractor: makes the features in which all but the last three figures are measured.
        neighbours: k of precision, recall, density and coverage.
        seed: of the rows that stand for the reference where it is too large, and of the projections.
    """

    def __init__(self, reference: Tensor, extractor: Features, *, neighbours: int = 5, seed: int = 0) -> None:
        self.reference, self.extractor, self.neighbours, self.seed = reference, extractor, neighbours, seed
        self.scale = float(reference.double().std()) or 1.0
        self.order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
        self.features = extractor.features(reference)

        self.rows = self._scaled(reference)

    def measure(self, samples: Tensor) -> Measured:
        """Every figure that needs no held-out data.

        Precision, recall, density, coverage and the sliced distance compare with as many rows of the reference as there
        are samples, the kernel distance with up to 10,000, the others with all.
        """
        features, rows = self.extractor.features(samples), self._scaled(samples)
        as_many = self.order[: len(samples)]
        among = neighbourhood(features, self.features[as_many], neighbours=self.neighbours)
        generator = torch.Generator().manual_seed(self.seed)
        distances = nearest(rows, self.rows).distance
        figures = {
            "frechet": frechet_distance(features, self.features),
            "kernel": kernel_distance(features, self.features[self.order[:KERNEL_REFERENCE]]),
            **vars(among),
            "sliced_wasserstein": sliced_wasserstein(rows, self.rows[as_many], generator=generator),
            "nearest": mean_estimate(distances),
        }
        return Measured(len(samples), figures, distances)

    def floor(self, held_out: Tensor, size: int, draws: int = FLOOR_DRAWS) -> Measured:
        """The figures of held-out data: the mean over up to `draws` disjoint sets, and the spread among them."""
        draws = max(1, min(draws, len(held_out) // size))
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(self.seed))
        parts = [self.measure(held_out[order[i * size : (i + 1) * size]]) for i in range(draws)]
        figures = {name: _over_draws([part.figures[name] for part in parts]) for name in parts[0].figures}
        return Measured(size, figures, torch.cat([part.nearest for part in parts]))

    def evaluate(self, samples: Tensor, floor: Measured | None = None) -> Evaluation:
        """All figures of samples beside those of held-out data, which `floor` made."""
        measured = self.measure(samples)
        floors = floor.figures if floor else {}
        figures = [Figure(name, value, floors.get(name)) for name, value in measured.figures.items()]
        if floor:
            by_chance = Estimate(0.5, math.sqrt(1 / 12 / len(floor.nearest)))
            figures.append(Figure("copying", copying(measured.nearest, floor.nearest), by_chance))
        held_out = floor.size if floor else 0
        return Evaluation(len(samples), len(self.reference), held_out, _described(self.extractor), tuple(figures))

    def _scaled(self, x: Tensor) -> Float[Tensor, "n d"]:
        return x.flatten(1).float() / self.scale


def _over_draws(estimates: list[Estimate]) -> Estimate:
    if len(estimates) == 1:
        return estimates[0]
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std()))


def _described(extractor: Features) -> str:
    if isinstance(extractor, Coordinates):
        return "coordinates"
    classes = getattr(extractor, "classes", 0)
    return "random convolutions" if classes == 1 else f"classifier of {classes} classes" if classes else "custom"


def evaluate(
    samples: Tensor,
    reference: Tensor,
    test: Tensor | None = None,
    *,
    labels: Int[Tensor, " n"] | None = None,
    extractor: Features | None = None,
    neighbours: int = 5,
    floor_draws: int = FLOOR_DRAWS,
    seed: int = 0,
) -> Evaluation:
    """All figures for samples against data.

    Args:
        samples: (m, …) drawn from a model, in the data's own units.
        reference: (n, …) the training data.
        test: held-out data for the noise floors and for the copying statistic. Without it, every figure stands alone.
        labels: the classes of the reference, to train the feature extractor on.
        extractor: features to measure in; without it `fit_features(reference, labels)`.
        neighbours: k of precision, recall, density and coverage.
        floor_draws: how many disjoint sets of held-out data the floor is averaged over, as far as they go.
        seed: of all that is drawn here.

    Raises:
        UsageError: sets of different shapes, or too few examples.
    """
    _check(samples, reference, test, neighbours)
    extractor = extractor or fit_features(reference, labels, seed=seed)
    yardstick = Yardstick(reference, extractor, neighbours=neighbours, seed=seed)
    floor = yardstick.floor(test, min(len(samples), len(test)), floor_draws) if test is not None else None
    return yardstick.evaluate(samples, floor)


def _check(samples: Tensor, reference: Tensor, test: Tensor | None, neighbours: int) -> None:
    for name, data in (("reference", reference), ("test", test)):
        if data is None:
            continue
        if data.shape[1:] != samples.shape[1:]:
            raise UsageError(
                f"samples are of shape {tuple(samples.shape[1:])}, the {name} data of {tuple(data.shape[1:])}; "
                "evaluate a model on the data it was trained on"
            )
        if len(data) <= neighbours:
            raise UsageError(f"the {name} data need more than {neighbours} examples, got {len(data)}; give more")
    if len(samples) <= neighbours:
        raise UsageError(f"an evaluation needs more than {neighbours} samples, got {len(samples)}; draw some hundreds")
