"""A model's calibration: made from its own trajectories, kept beside its weights in `calibration.json`, and bound to them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scorefield.errors import RefusedFileError, UsageError
from scorefield.model_config import KINDS
from scorefield.records import from_plain, to_plain
from scorefield.samplers.plans import Calibration, Plan
from scorefield.storage import json_bytes, read_json, sha256, write_bytes

if TYPE_CHECKING:
    from scorefield.model import Model
    from scorefield.samplers.calibration.tuning import Gain

CALIBRATION = "calibration.json"
_LIMIT = 16 << 20
_FIX = "delete it, or calibrate the model again"
_SEED = 0x5C0FE  # pilots are noise of their own: no seed of a user's drawing should repeat them
logger = logging.getLogger(__name__)


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name: what a calibration is bound to."""
    parts: list[bytes] = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        values = tensor.flatten().view(torch.uint8).numpy().tobytes()
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), values]
    return sha256(*parts)


def save_calibration(folder: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write a model folder's `calibration.json`. Raises StorageError."""
    write_bytes(Path(folder) / CALIBRATION, json_bytes(to_plain(calibration)))


def read_calibration(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Calibration | None:
    """The calibration of a model folder; None where there is none, or it belongs to other weights.

    Raises:
        RefusedFileError: the file is damaged or foreign.
    """
    file = Path(folder) / CALIBRATION
    if not os.path.lexists(file):
        return None
    try:
        found: Calibration = from_plain(Calibration, read_json(file, max_bytes=_LIMIT), KINDS)
    except UsageError as error:
        raise RefusedFileError(f"{file}: {error}; {_FIX}") from None
    except RefusedFileError as error:
        raise RefusedFileError(f"{error}; {_FIX}") from None
    if found.model != weights_digest(tensors):
        logger.warning("the calibration belongs to other weights and is not used; run `scorefield calibrate` again")
        return None
    return found


def _require_scale_alone(model: Model) -> None:
    """Refuse a model with guides, whose flow a calibration could not be told from another's by. Raises UsageError."""
    if not model.guides.are_plain:
        raise UsageError(
            "a calibration is of a scale of guidance alone, and this model has an interval, a rescaling, a classifier or a guide; calibrate the model without, or draw with another sampler"
        )


def calibrate_model(
    model: Model,
    *,
    budgets: Sequence[int] | None = None,
    pilots: int | None = None,
    rounds: int = 1,
    thorough: bool = False,
    seed: int = 0,
    progress: Callable[[Plan], None] | None = None,
) -> Calibration:
    """Calibrate a model as it is drawn from: with its guidance, its clipping, and its classes as frequent, or its conditions as large, as in the data.

    Args:
        model: it stays as it is; `model.calibrated(…)` draws by what is returned.
        budgets: numbers of evaluations, whose plans then stand beside those that the model has; all from 4 to 50 that
            `calibrate` knows, anew, where None.
        pilots: how many trajectories; as many as `pilot_count` says where None.
        rounds: of the search for better nodes, for budgets up to 10.
        thorough: whether every candidate is tried for more than 10 evaluations.
        seed: of the pilots' noise.
        progress: told of every plan.

    Raises:
        UsageError: impossible budgets, too few pilots, a model with guides, one whose answers are not finite.
    """
    from scorefield.samplers.calibration.calibrate import BUDGETS, calibrate, pilot_count
    from scorefield.samplers.calibration.planning import Spectrum

    _require_scale_alone(model)
    count = pilot_count(model.config.shape) if pilots is None else pilots
    if count < 1:
        raise UsageError(f"a calibration needs pilots, got {count}")
    spectrum = Spectrum.of_moments(model.moments) if model.moments else None
    with model.evaluating():
        found = calibrate(
            model.denoiser,
            model.noise(count, seed=_SEED + seed),
            condition=model.typical(count, _SEED + seed),
            spectrum=spectrum,
            budgets=BUDGETS if budgets is None else budgets,
            rounds=rounds,
            thorough=thorough,
            guidance=model.config.guidance,
            model=weights_digest(model.tensors()),
            progress=progress,
        )
    known = model.calibration
    if budgets is None or known is None or (known.guidance, known.model) != (found.guidance, found.model):
        return found
    return known.with_plans({plan.evaluations: plan for plan in found.plans})


def tune_model(
    model: Model,
    *,
    budgets: Sequence[int] = (4, 6, 8, 12),
    pilots: int | None = None,
    rounds: int = 6,
    seed: int = 0,
    progress: Callable[[Gain], None] | None = None,
) -> tuple[Calibration, list[Gain]]:
    """Tune a model for small budgets; as `calibrate_model`, with a longer search that is judged on fresh noise.

    Raises:
        UsageError: impossible budgets, too few pilots, a model with guides, one whose answers are not finite.
    """
    from scorefield.samplers.calibration.calibrate import pilot_count, require_budgets, require_rounds
    from scorefield.samplers.calibration.pilots import Problem
    from scorefield.samplers.calibration.planning import Spectrum
    from scorefield.samplers.calibration.tuning import tune

    _require_scale_alone(model)
    require_budgets(budgets)
    require_rounds(rounds)
    count = pilot_count(model.config.shape) if pilots is None else pilots
    guidance, digest = model.config.guidance, weights_digest(model.tensors())
    known = model.calibration or Calibration(model.config.path, (), guidance, count, 0, digest)
    if known.guidance != guidance:
        known = replace(known, plans=(), guidance=guidance)
    learned, judged = (
        Problem(model.denoiser, model.noise(count, seed=number), model.typical(count, number))
        for number in (_SEED + seed, _SEED + seed + 1)
    )
    spectrum = Spectrum.of_moments(model.moments) if model.moments else None
    with model.evaluating():
        return tune(learned, judged, known, budgets=budgets, rounds=rounds, spectrum=spectrum, progress=progress)
