"""The data that `likelihood` and `rate-distortion` measure: some examples of a data set, with their classes as the model knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from scorefield.cli.common import label_dropout, reading_of
from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.data import Dataset
    from scorefield.likelihood import Measured, Method
    from scorefield.model import Model


@final
@dataclass(frozen=True, eq=False)
class HeldOut:
    """Examples to measure.

    Attributes:
        x: (n, …) in the data's own units and layout.
        indices: (n,) their places in the data set.
        classes: (n,) the model's class numbers, or None.
        class_names: (n,) for people; empty where there are none.
        what: p(x) or p(x|y).
    """

    x: np.ndarray
    indices: np.ndarray
    classes: np.ndarray | None
    class_names: list[str]
    what: str

    def part_of_classes(self, count: int) -> np.ndarray | None:
        """The classes of the first examples."""
        return None if self.classes is None else self.classes[:count]

    def measured(self, model: Model, method: Method, **options: Any) -> Measured:
        """Their likelihood; each example's noise belongs to its place in the data set."""
        import torch

        samples = torch.from_numpy(self.indices)
        return model.likelihood(self.x, method, classes=self.classes, samples=samples, **options)


def held_out(model: Model, run: str, data: str, count: int | None, seed: int, unconditional: bool) -> HeldOut:
    """Open data as the run did, and choose some examples by the seed; all where count is None or 0.

    Raises:
        UsageError: data of another shape or kind, classes the model does not know, or none where it needs them.
    """
    import numpy as np

    from scorefield.data import open_data

    dataset = open_data(data, **reading_of(run))
    _require_kind(model, dataset)
    indices = np.arange(len(dataset))
    if count and count < len(dataset):
        indices = np.sort(np.random.default_rng(seed).choice(len(dataset), size=count, replace=False))
    x = model.config.representation.own_layout(dataset.batch(indices))
    names = [""] * len(indices)
    if dataset.labels is not None and dataset.class_names:
        names = [dataset.class_names[label] for label in dataset.labels[indices]]
    if not model.config.classes or unconditional:
        _require_dropped_labels(model, run, unconditional)
        return HeldOut(x, indices, None, names, "p(x)")
    return HeldOut(x, indices, _classes(model, dataset, names), names, "p(x|y)")


def _require_kind(model: Model, dataset: Dataset) -> None:
    """Refuse data of another shape, and floats for a model of integers or the other way round."""
    representation = model.config.representation
    if dataset.shape != representation.shape:
        raise UsageError(
            f"the model is of data of shape {representation.shape}, {dataset.name} has {dataset.shape}; give data of the model's shape"
        )
    if (dataset.dtype.kind == "f") != (representation.levels is None):
        kind = "floats" if representation.levels is None else f"integers of {representation.levels} levels"
        raise UsageError(
            f"the model is of {kind}, {dataset.name} holds {dataset.dtype}; a density of floats and a probability of integers are no one figure: give data of the model's kind"
        )


def _require_dropped_labels(model: Model, run: str, unconditional: bool) -> None:
    """Refuse `--unconditional` where the model never saw data without a label."""
    if not unconditional:
        return
    if not model.config.classes:
        raise UsageError("this model has no classes, so that it is unconditional already; leave --unconditional out")
    if label_dropout(run) == 0.0:
        raise UsageError(
            "this model was trained with label_dropout=0 and never saw data without a label; leave --unconditional out"
        )


def _classes(model: Model, dataset: Dataset, names: list[str]) -> np.ndarray:
    import numpy as np

    if dataset.labels is None:
        raise UsageError(
            f"the model has {model.config.classes} classes and {dataset.name} has no labels; give data with labels for p(x|y), or --unconditional for p(x)"
        )
    return np.asarray(model.class_numbers(names, len(names)))
