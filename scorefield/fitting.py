"""Fit a model in one call: train, draw previews on the way, write the report."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scorefield.data import Dataset, open_data
from scorefield.errors import DivergedError, MissingExtraError, UsageError
from scorefield.evaluation.pictures import png
from scorefield.evaluation.report import report_html
from scorefield.model import Model, load
from scorefield.model_calibration import calibrate_model, save_calibration
from scorefield.model_conditions import typical_rows
from scorefield.model_config import require_buildable
from scorefield.samplers import Calibrated
from scorefield.storage import write_bytes
from scorefield.training.configuration import RunConfig, configure
from scorefield.training.loop import Calibrating, Ended, Event, Logged, Previewed, train
from scorefield.training.processes import choose_device

logger = logging.getLogger("scorefield")

_PREVIEW_SAMPLES = 36
_PREVIEW_STEPS = 18


def fit(
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    preset: str | None = None,
    device: str | None = None,
    **settings: Any,
) -> Model:
    """Fit a score model to data and return it.

    Args:
        data: a built-in name, a path, `hf:NAME`, or an array (N, …).
        out: the run's folder, resumed where it is one; a temporary one, deleted at the end, where None.
        minutes: how long to train; the setting `steps` counts instead where None.
        preset: `default`, or a paper's.
        device: where to compute.
        settings: as in `--set`, with `__` for the dot: `steps=1000`, `optimiser__learning_rate=1e-3`; `calibrate=True` ends with
            a calibration, which `Model.calibrated` makes at any time.

    Raises:
        UsageError: data that cannot be read, or an unknown or impossible setting; and what `train` raises.

    Example:
        >>> import scorefield as sf
        >>> sf.fit("mixture-2d", steps=2).config.shape
        (2,)
    """
    named = {"calibrate": False} | {name.replace("__", "."): value for name, value in settings.items()}
    config = configure(preset, named | ({} if minutes is None else {"minutes": minutes}))
    if out is not None:
        _finish(run_training(config, data, os.fspath(out), device=device))
        return load(out, device=device or "cpu")
    with tempfile.TemporaryDirectory(prefix="scorefield-") as folder:
        _finish(run_training(replace(config, previews=0), data, str(Path(folder, "run")), device=device))
        return load(Path(folder, "run"), device=device or "cpu")


def _finish(end: Ended) -> None:
    """Hand a signal that stopped the training on to the caller's program, now that all is saved."""
    if end.interrupted_by is not None:
        signal.raise_signal(end.interrupted_by)


def run_training(
    config: RunConfig, data: Any, out: str, *, device: str | None = None, watch: Callable[[Event], None] | None = None
) -> Ended:
    """Train to the end or to a signal, with previews in `samples/` and the report; `watch` is called with every event."""
    options = config.data
    size = tuple(options.size) if isinstance(options.size, tuple) else options.size
    dataset = open_data(
        data,
        size=size,  # type: ignore[arg-type]
        condition=options.condition,
        layout=options.layout,
        skip_bad=options.skip_bad,
    )
    _require_possible(config, dataset.shape, device)
    leads = int(os.environ.get("RANK", "0")) == 0
    if leads:
        _tell(dataset, config)
    end, board = None, None
    for event in train(config, dataset, out, device=device):
        # Only now: the run's folder is there, and nothing that was refused has left anything behind.
        board = tensorboard_writer(Path(out)) if config.tensorboard and leads and board is None else board
        if isinstance(event, Previewed):
            write_preview(event, Path(out))
        if isinstance(event, Logged) and board is not None:
            write_scalars(board, event)
        if watch is not None:
            watch(event)
        end = event if isinstance(event, Ended) else end
    if end is None:
        raise DivergedError("training ended without saying how")
    if leads and config.calibrate and end.interrupted_by is None:
        calibrate_run(out, device, watch)
    if leads:
        write_bytes(Path(out, "report.html"), report_html(Path(out)).encode())
    return end


def calibrate_run(out: str, device: str | None = None, watch: Callable[[Event], None] | None = None) -> None:
    """Calibrate a trained run whose sampler asks for it, where it has not been; a network that cannot be is told of and left."""
    model = load(out, device=device or "cpu")
    if not isinstance(model.config.sampler, Calibrated) or model.calibration is not None:
        return
    tell = watch or (lambda _: None)
    tell(Calibrating(0))
    try:
        found = calibrate_model(model, rounds=0, progress=lambda plan: tell(Calibrating(plan.evaluations)))
        save_calibration(out, found)
    except UsageError as error:
        logger.warning("not calibrated: %s", error)


def _tell(dataset: Dataset, config: RunConfig) -> None:
    """Say what was decided about the data, and how many files were left out."""
    if dataset.conditions is not None and dataset.labels is not None and config.data.labels:
        logger.warning(
            "data: the model is of the condition (%s), not of the classes", ", ".join(dataset.condition_names[:8])
        )
    for note in dataset.notes:
        logger.warning("data: %s", note)
    if dataset.skipped:
        first = dataset.skipped[0]
        logger.warning("data: %d files are left out, such as %s (%s)", len(dataset.skipped), first.path, first.reason)


def _require_possible(config: RunConfig, shape: tuple[int, ...], device: str | None) -> None:
    """Refuse what cannot be trained before a run's folder is made for it. Raises UsageError."""
    choose_device(device)
    if config.tensorboard:
        _summary_writer()
    if config.network is not None:
        require_buildable(config.network, shape)
        with torch.device("meta"):
            config.network.build(shape)


def write_preview(event: Previewed, run: Path) -> None:
    """Draw a grid of samples of the averaged weights, in a few steps, into samples/step-N.png."""
    sampler = event.model.config.sampler
    sampler = replace(sampler, steps=min(sampler.steps, _PREVIEW_STEPS))
    config = event.model.config
    condition = typical_rows(config, _PREVIEW_SAMPLES, seed=0) if config.conditions else None
    samples = event.model.sample(_PREVIEW_SAMPLES, sampler=sampler, condition=condition)
    write_bytes(run / "samples" / f"step-{event.step}.png", picture_of(event.model, samples))


def tensorboard_writer(run: Path) -> Any:
    """A writer of TensorBoard's files in the run's folder. Raises MissingExtraError."""
    return _summary_writer()(run / "tensorboard")


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("logging to TensorBoard", "track") from None
    return SummaryWriter


def write_scalars(board: Any, event: Logged) -> None:
    """Hand a line of the log to TensorBoard: its numbers, and the losses by noise level."""
    step = event.line["step"]
    numbers = {name: value for name, value in event.line.items() if isinstance(value, (int, float)) and name != "step"}
    for name, value in (numbers | {"examples_per_second": event.examples_per_second}).items():
        board.add_scalar(name, value, step)
    for number, value in enumerate(event.line["loss_by_noise"]):
        if value is not None:
            board.add_scalar(f"loss_by_noise/{number}", value, step)
    board.flush()


def picture_of(model: Model, samples: Any, columns: int | None = None) -> bytes:
    """A PNG grid of samples in the data's own units."""
    representation = model.config.representation
    return png(
        torch.from_numpy(representation.channels_first(samples)), columns=columns, value_range=value_range(model)
    )


def value_range(model: Model) -> tuple[float, float] | None:
    """The range of integer data, which black and white stand for; None for others."""
    representation = model.config.representation
    if representation.levels is None:
        return None
    return float(representation.low), float(representation.low + representation.levels - 1)
