"""The conditions that a model's samples are drawn under, in the data's own units: checked, and drawn where any will do.

A model of p(x | c), c ∈ ℝᵏ, is told (c − mean)/scale; without a condition it is that of p(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.model_config import ModelConfig
from scorefield.streams import SampleStreams

if TYPE_CHECKING:
    from scorefield.model import Model

_SHOWN = 6
_DRAW = 1 << 41
"""The number of the draw that chooses a sample's condition: far from those of its noise and its class."""


def condition_rows(config: ModelConfig, condition: Any, count: int) -> np.ndarray:
    """One condition a sample, (count, k) float64 in the data's own units.

    Args:
        config: of the model.
        condition: k numbers for all, or a row a sample; where k = 1 also one number, or one a sample.
        count: of samples.

    Raises:
        UsageError: a model without conditions, or what are not so many finite numbers.
    """
    _require_conditions(config)
    k, rows = config.conditions, _numbers(config, condition)
    if rows.ndim < 2 and rows.size != k and k == 1:
        rows = rows[:, None]
    rows = rows.reshape(1, -1) if rows.ndim < 2 else rows
    if rows.ndim != 2 or rows.shape[1] != k:
        raise UsageError(
            f"the condition has {k} numbers a sample ({_names(config)}), got {rows.shape[-1]}; give one each, such as {example(config)}"
        )
    if len(rows) not in (1, count):
        raise UsageError(f"conditions must be one for all or one a sample: got {len(rows)} for {count} samples")
    return np.ascontiguousarray(np.broadcast_to(rows, (count, k)), dtype=np.float64)


def typical_rows(config: ModelConfig, count: int, seed: int, first: int = 0) -> np.ndarray:
    """Conditions with the mean and the deviation of the data's, (count, k) in their own units; sample k of a seed is always the same."""
    normal = SampleStreams.numbered(seed, first, count).normal(torch.empty(count, config.conditions), _DRAW)
    return np.asarray(normal.numpy() * config.condition_scale + config.condition_mean, dtype=np.float64)


def told(config: ModelConfig, rows: Sequence[Any] | np.ndarray | None, device: torch.device) -> Tensor | None:
    """Conditions as the network is told them; None for none.

    Raises:
        UsageError: none, for a model that was always told one.
    """
    if rows is not None:
        return torch.from_numpy(config.standardised(np.asarray(rows))).to(device)
    if config.always_conditioned:
        raise UsageError(
            f"this model was trained with label_dropout=0 and never without its condition ({_names(config)}); give one, such as {example(config)}, or train with --set label_dropout=0.1"
        )
    return None


def told_if_known(model: Model, count: int, wanted: np.ndarray | None) -> Tensor | None:
    """What samples of data that are given are conditioned on; without a class nothing is assumed of them.

    Raises:
        UsageError: nothing, for a model that was always told its class or condition.
    """
    if wanted is not None or model.config.conditions:
        return model.labels(0, 0, count, wanted)
    if model.config.classes and model.config.always_conditioned:
        raise UsageError(
            "this model was trained with label_dropout=0 and never saw data without a class; give one, or train with --set label_dropout=0.1"
        )
    return None


def example(config: ModelConfig) -> str:
    """A condition as it is written on the command line: the data's mean."""
    shown = ",".join(f"{mean:.3g}" for mean in config.condition_mean[:_SHOWN])
    return f"{shown},…" if config.conditions > _SHOWN else shown


def _names(config: ModelConfig) -> str:
    return _shown(config.condition_names)


def _shown(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown


def _require_conditions(config: ModelConfig) -> None:
    if config.classes:
        raise UsageError(
            f"this model has classes and no condition of numbers; choose a class, one of: {_shown(config.class_names)}"
        )
    if not config.conditions:
        raise UsageError(
            "this model was trained without a condition; leave it out, or train with --condition COLUMN, or --condition FILE.npy"
        )


def _numbers(config: ModelConfig, condition: Any) -> np.ndarray:
    try:
        rows = np.asarray(condition, dtype=np.float64)
    except (ValueError, TypeError):
        raise UsageError(
            f"the condition must be numbers, such as {example(config)}, got {str(condition)[:60]!r}"
        ) from None
    with np.errstate(over="ignore"):
        finite = np.isfinite(rows.astype(np.float32))
    if not finite.all():
        raise UsageError(
            f"the condition must be finite numbers, got {rows[~finite].flat[0]}; leave the condition out where there is none"
        )
    return rows
