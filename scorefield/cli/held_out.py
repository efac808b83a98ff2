"""The data that `likelihood` and `rate-distortion` measure: some examples of a data set, with their classes or conditions as the model knows them."""

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
        what: p(x), p(x|y) or p(x|c).
        conditions: (n, k) in the data's own units, or None.
    """

    x: np.ndarray
    indices: np.ndarray
    classes: np.ndarray | None
    class_names: list[str]
    what: str
    conditions: np.ndarray | None = None

    def told(self, count: int | None = None) -> dict[str, Any]:
        """Classes and conditions of the first examples, of all without a count, by the names of `Model.likelihood`'s options."""
        pairs = {"classes": self.classes, "condition": self.conditions}
        return {name: None if rows is None else rows[:count] for name, rows in pairs.items()}

    def measured(self, model: Model, method: Method, **options: Any) -> Measured:
        """Their likelihood; each example's noise belongs to its place in the data set."""
        import torch

        samples = torch.from_numpy(self.indices)
        return model.likelihood(self.x, method, samples=samples, **self.told(), **options)


def held_out(
    model: Model,
    run: str,
    data: str,
    count: int | None,
    seed: int,
    unconditional: bool,
    condition: str | None = None,
) -> HeldOut:
    """Open data as the run did, and choose some examples by the seed; all where count is None or 0.

    Raises:
        UsageError: data of another shape or kind, classes or conditions the model does not know, or none where it needs them.
    """
    import numpy as np

    from scorefield.data import open_data

    dataset = open_data(data, **reading_of(run) | ({} if condition is None else {"condition": condition}))
    require_kind(model, dataset)
    indices = np.arange(len(dataset))
    if count and count < len(dataset):
        indices = np.sort(np.random.default_rng(seed).choice(len(dataset), size=count, replace=False))
    x = model.config.representation.own_layout(dataset.batch(indices))
    names = [""] * len(indices)
    if dataset.labels is not None and dataset.class_names:
        names = [dataset.class_names[label] for label in dataset.labels[indices]]
    if not model.is_conditional or unconditional:
        _require_dropped_labels(model, run, unconditional)
        return HeldOut(x, indices, None, names, "p(x)")
    if model.config.conditions:
        return HeldOut(x, indices, None, names, "p(x|c)", _conditions(model, dataset)[indices])
    return HeldOut(x, indices, _classes(model, dataset, names), names, "p(x|y)")


def require_kind(model: Model, dataset: Dataset) -> None:
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
    if not model.is_conditional:
        raise UsageError("this model has no classes, so that it is unconditional already; leave --unconditional out")
    if label_dropout(run) == 0.0:
        raise UsageError(
            "this model was trained with label_dropout=0 and never saw data without a label; leave --unconditional out"
        )


def _conditions(model: Model, dataset: Dataset) -> np.ndarray:
    names = ", ".join(model.config.condition_names[:6])
    if dataset.conditions is None:
        raise UsageError(
            f"the model is conditioned on {names}, and {dataset.name} comes without; give --condition FILE.npy with one row an example for p(x|c), or --unconditional for p(x)"
        )
    if dataset.conditions.shape[1] != model.config.conditions:
        raise UsageError(
            f"the model is conditioned on {model.config.conditions} numbers ({names}), {dataset.name} comes with {dataset.conditions.shape[1]}; give the same"
        )
    return dataset.conditions


def _classes(model: Model, dataset: Dataset, names: list[str]) -> np.ndarray:
    import numpy as np

    if dataset.labels is None:
        raise UsageError(
            f"the model has {model.config.classes} classes and {dataset.name} has no labels; give data with labels for p(x|y), or --unconditional for p(x)"
        )
    return np.asarray(model.class_numbers(names, len(names)))
