"""The data report: what is there, what was left out, and what a model of it will need."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scorefield.data.dataset import Dataset, Skipped
from scorefield.data.moments import Moments, moments
from scorefield.data.representation import Representation
from scorefield.data.statistics import Statistics, statistics

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class DataReport:
    """What `report` found; `model_…`, `sigma_…` and `moments` are in model space, all else in the data's own units.

    Attributes:
        count: Number of examples.
        label_counts: Number of examples a class, by name; empty without labels.
        duplicates: Examples that equal an earlier one exactly.
        constant_values: Places of an example that never change.
        model_mean: Mean over everything, and by channel.
        sigma_data: Standard deviation over everything (EDM's σ_data), and by channel.
        sigma_max: Largest noise to train with: the largest distance between examples (Song & Ermon 2020, technique 1).
        moments: Mean and covariance in model space.
        conditions: Smallest and largest value, mean and standard deviation of each condition, by name; empty without.
    """

    name: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    layout: str
    digest: str
    minimum: float
    maximum: float
    label_counts: dict[str, int]
    duplicates: int
    constant_values: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    representation: Representation
    model_mean: float
    model_channel_means: tuple[float, ...]
    sigma_data: float
    sigma_data_by_channel: tuple[float, ...]
    sigma_max: float
    moments: Moments
    conditions: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def skipped_by_reason(self) -> dict[str, list[str]]:
        """Paths of what was skipped, by reason."""
        by_reason: dict[str, list[str]] = {}
        for entry in self.skipped:
            by_reason.setdefault(entry.reason, []).append(entry.path)
        return by_reason

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; of the covariance, the spectrum without its directions."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        return (
            plain
            | lists
            | {
                "skipped": self.skipped_by_reason,
                "representation": self.representation.to_dict(),
                "variance": self.moments.variance,
                "eigenvalues": self.moments.eigenvalues.tolist(),
                "residual_variance": self.moments.residual_variance,
                "moments_examples": self.moments.examples,
            }
        )

    def to_text(self) -> str:
        """As lines for people."""
        return "\n".join(f"{key:<14}{value}" for key, value in _lines(self))


_PLAIN = (
    "name", "count", "dtype", "layout", "digest", "minimum", "maximum", "label_counts", "duplicates", "constant_values",
    "model_mean", "sigma_data", "sigma_max", "conditions",
)  # fmt: skip
_LISTS = ("shape", "notes", "model_channel_means", "sigma_data_by_channel")


def report(dataset: Dataset) -> DataReport:
    """Read all data once and say what is in them, what was left out, and what a model of them will need."""
    found = statistics(dataset)
    representation = Representation.of(dataset, found)
    measured = moments(dataset, representation, found.mean)
    mean, deviation, channel_means, channel_deviations = _in_model_space(found, representation)
    return DataReport(
        name=dataset.name,
        count=len(dataset),
        shape=dataset.shape,
        dtype=dataset.dtype.name,
        layout=dataset.layout,
        digest=dataset.digest,
        minimum=float(found.minimum.min()),
        maximum=float(found.maximum.max()),
        label_counts=_label_counts(dataset),
        duplicates=found.duplicates,
        constant_values=found.constant,
        skipped=dataset.skipped,
        notes=dataset.notes,
        representation=representation,
        model_mean=mean,
        model_channel_means=tuple(channel_means.tolist()),
        sigma_data=deviation,
        sigma_data_by_channel=tuple(channel_deviations.tolist()),
        sigma_max=_rounded_up(measured.largest_distance),
        moments=measured,
        conditions=_conditions(dataset),
    )


def _in_model_space(found: Statistics, representation: Representation) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Mean and standard deviation of z over everything, then by channel: both are affine in those of x."""
    means, deviations = found.by_channel(representation.shape[0])
    scale = np.array(representation.scale)
    z_means, z_deviations = (means - np.array(representation.shift)) / scale, deviations / scale
    return float(z_means.mean()), math.sqrt(float((z_deviations**2).mean() + z_means.var())), z_means, z_deviations


def _label_counts(dataset: Dataset) -> dict[str, int]:
    if dataset.labels is None:
        return {}
    counts = Counter(dataset.labels.tolist())
    return {name: counts[index] for index, name in enumerate(dataset.class_names)}


def _conditions(dataset: Dataset) -> dict[str, dict[str, float]]:
    if dataset.conditions is None:
        return {}
    columns = dict(zip(dataset.condition_names, dataset.conditions.astype(np.float64).T, strict=True))
    return {
        name: {
            "minimum": float(values.min()),
            "maximum": float(values.max()),
            "mean": float(values.mean()),
            "deviation": float(values.std()),
        }
        for name, values in columns.items()
    }


def _rounded_up(value: float) -> float:
    """To two digits, upwards: 31.2 → 32. A distance of zero (one example) becomes 1."""
    if value == 0.0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def _lines(found: DataReport) -> list[tuple[str, str]]:
    lines = [
        ("data", f"{found.name}: {found.count:,} examples of {'×'.join(map(str, found.shape))} {found.dtype}"),
        ("range", f"{found.minimum:g} to {found.maximum:g}"),
        ("classes", _classes_text(found.label_counts)),
        *_condition_lines(found.conditions),
        ("duplicates", f"{found.duplicates:,} examples equal an earlier one"),
        ("constant", f"{found.constant_values:,} of {found.representation.size:,} values never change"),
        ("model space", _map_text(found.representation)),
        ("mean", f"{found.model_mean:.4g}"),
        ("sigma_data", f"{found.sigma_data:.4g}"),
        ("sigma_max", f"{found.sigma_max:g} (largest distance {found.moments.largest_distance:.4g})"),
        ("spectrum", _spectrum_text(found.moments)),
        ("skipped", f"{len(found.skipped):,}"),
    ]
    lines += [("", f"{len(paths)} {reason}: {_some(paths)}") for reason, paths in found.skipped_by_reason.items()]
    return lines + [("note", note) for note in found.notes]


def _condition_lines(conditions: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    texts = [
        f"{name}: {of['minimum']:g} to {of['maximum']:g}, mean {of['mean']:.4g}, standard deviation {of['deviation']:.4g}"
        for name, of in conditions.items()
    ]
    more = [("", f"and {len(texts) - _SHOWN} more")] if len(texts) > _SHOWN else []
    return [("" if number else "conditions", text) for number, text in enumerate(texts[:_SHOWN])] + more


def _classes_text(counts: dict[str, int]) -> str:
    return f"{len(counts)}: " + _some([f"{name} ({count:,})" for name, count in counts.items()]) if counts else "none"


def _map_text(representation: Representation) -> str:
    if representation.levels is not None:
        low = representation.low
        return f"{representation.levels} values from {low} to {low + representation.levels - 1} become −1 to 1"
    by_channel = (
        " by channel"
        if len(representation.scale) > 1
        else f": (x − {representation.shift[0]:.4g})/{representation.scale[0]:.4g}"
    )
    return f"mean 0 and standard deviation 1{by_channel}"


def _spectrum_text(found: Moments) -> str:
    values = ", ".join(f"{value:.3g}" for value in found.eigenvalues[:3])
    beyond = (
        f"; {found.residual_variance:.3g} beyond the first {len(found.eigenvalues)}" if found.residual_variance else ""
    )
    return f"variances {values}{', …' if len(found.eigenvalues) > 3 else ''}{beyond}"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
