"""The training loop: from data to a run folder that can be killed at any moment and goes on exactly where it was.

A generator: it yields what happens (`Progressed`, `Previewed`, `Saved`), and whoever runs it shows, draws or stops. What
it learns depends on the configuration, the data and the number of threads alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from scorefield.data import DataReport, Dataset
from scorefield.data import report as report_on
from scorefield.errors import DivergedError, UsageError
from scorefield.model import Model, named_moments
from scorefield.model_config import ModelConfig, versions
from scorefield.model_folder import save_config, save_model
from scorefield.networks import fastest_dtype
from scorefield.records import to_plain
from scorefield.storage import json_bytes, read_json, require_space, write_bytes
from scorefield.training.batches import Batches
from scorefield.training.checkpoints import checkpoint_bytes, clean_leftovers, latest_checkpoint, save_checkpoint
from scorefield.training.configuration import (
    FREE_TO_CHANGE,
    RunConfig,
    changes,
    read_configuration,
)
from scorefield.training.interrupts import Interrupt, watched
from scorefield.training.journal import Clock, Journal, Tally, opened, seconds_until
from scorefield.training.processes import World, choose_device, joined
from scorefield.training.run_folder import RunFolder
from scorefield.training.settling import Surroundings, on_its_ladder, resolved
from scorefield.training.trainer import Trainer

_MOST_BAD_IN_1000 = 10
_RUN_FILE = "run.json"

logger = logging.getLogger("scorefield")


@dataclass(frozen=True)
class Progressed:
    """A step was made.

    Attributes:
        step: its number.
        progress: share of the run that is done, 0 to 1.
        loss: the batch's mean loss.
        seconds: training time so far.
        examples_per_second: since this process began.
    """

    step: int
    progress: float
    loss: float
    seconds: float
    examples_per_second: float


@dataclass(frozen=True)
class Logged:
    """A line went into the log: `line` as log.jsonl has it, and the speed since this process began."""

    line: Mapping[str, Any]
    examples_per_second: float


@dataclass(frozen=True, eq=False)
class Previewed:
    """It is time to look: the model as it is now."""

    step: int
    model: Model


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int


@dataclass(frozen=True)
class Ended:
    """The loop has ended, with everything saved.

    Attributes:
        step: the last step.
        interrupted_by: the signal that stopped it, None where it is complete.
    """

    step: int
    interrupted_by: int | None


@dataclass(frozen=True)
class Calibrating:
    """Training has ended and the sampler is being calibrated: plans up to so many evaluations are made, none at 0."""

    evaluations: int


Event = Progressed | Logged | Previewed | Saved | Ended | Calibrating


def train(config: RunConfig, dataset: Dataset, out: str, *, device: str | None = None) -> Iterator[Event]:
    """Fit a model to data in a run folder, or go on where the folder's run stopped.

    Args:
        config: what to do.
        dataset: the data.
        out: the run's folder.
        device: where to compute; a GPU where there is one if None.

    Yields:
        What happens, in order; the last is `Ended`. Only the leading process yields previews.

    Raises:
        UsageError: the folder holds something else, or a run of another configuration or other data.
        RunInUseError: another process trains here.
        NoCheckpointError: there are checkpoints but none is intact.
        StorageError: the disk failed; the checkpoints before are intact.
        DivergedError: too many steps whose loss or gradient was not finite.
    """
    own_device = choose_device(device)
    with ExitStack() as stack:
        world = stack.enter_context(joined(own_device))
        run = RunFolder(out)
        if world.leads:
            run.create()
            stack.enter_context(run.lock())
            clean_leftovers(run)
        world.wait()
        found = report_on(dataset)  # long for large data, and nothing is lost by a signal yet
        interrupt = stack.enter_context(watched())
        stack.enter_context(torch.random.fork_rng(devices=[]))  # training seeds the global generator at every step
        session = _Session(config, found, dataset, run, world, own_device)
        yield from session.events(interrupt)


class _Session:
    """One process's work on a run from its start, or restart, to its end."""

    def __init__(
        self,
        config: RunConfig,
        found: DataReport,
        dataset: Dataset,
        run: RunFolder,
        world: World,
        device: torch.device,
    ) -> None:
        self.run, self.world = run, world
        # The leader settles what the configuration leaves open; the others then read it.
        if not world.leads:
            world.wait()
        self.config = _agreed(config, found, run, world, device)
        if world.leads:
            world.wait()
        model_config = _model_config(self.config, found, dataset)
        if world.leads:
            save_config(run.path, model_config.to_plain())
        self.batch = self.config.batch or 0
        self.trainer = Trainer(self.config, model_config, world, device, named_moments(found.moments))
        self.batches = Batches(
            dataset,
            model_config.representation,
            self.config,
            model_config.classes,
            None if dataset.conditions is None else model_config.standardised(dataset.conditions),
        )
        self.tally = Tally()
        self.bad: deque[int] = deque(maxlen=_MOST_BAD_IN_1000)
        self._resume()
        require_space(run.path, 2 * checkpoint_bytes(self.trainer.tensors()))

    def _resume(self) -> None:
        checkpoint = latest_checkpoint(self.run)
        if checkpoint:
            self.trainer.restore(checkpoint.step, checkpoint.tensors)
            self.tally.restore(checkpoint.tensors)
            self.bad.extend(checkpoint.state["bad_steps"])
        self.clock = Clock.after(seconds_until(self.run, self.trainer.step))
        self.first = self.trainer.step

    def events(self, interrupt: Interrupt) -> Iterator[Event]:
        """Train until the end of the run or a signal."""
        self.world.wait()
        with opened(self.run, self.trainer.step, self.world.leads) as journal:
            stopped, progress = self._agree(interrupt)
            previewed = int(progress * self.config.previews)
            while progress < 1.0 and not stopped:
                yield from self._step(progress, journal)
                stopped, progress = self._agree(interrupt)
                if self.world.leads and int(progress * self.config.previews) > previewed:
                    previewed = int(progress * self.config.previews)
                    yield Previewed(self.trainer.step, self.trainer.model)
                if self.trainer.step % self.config.save_every == 0 or progress >= 1.0 or stopped:
                    yield self._save(journal)
            # Nothing left to train: a process killed in its last save may owe the model, or the end of an old checkpoint.
            if self.trainer.step == self.first:
                yield self._save(journal)
            self.world.wait()
        yield Ended(self.trainer.step, int(stopped) or None)

    def _agree(self, interrupt: Interrupt) -> tuple[int, float]:
        """(the signal to stop by, the share of the run that is done), the same in every process."""
        stopped, seconds = self.world.largest(float(interrupt.signal or 0), self.clock.seconds)
        if self.config.minutes is not None:
            return int(stopped), min(1.0, seconds / (60.0 * self.config.minutes))
        return int(stopped), self.trainer.step / self.config.steps

    def _step(self, progress: float, journal: Journal) -> Iterator[Event]:
        result = self.trainer.train_step(self.batches.batch(self.trainer.step + 1), progress)
        step = self.trainer.step
        self.tally.add(result)
        if not result.is_finite:
            self._count_bad(step)
        seconds = self.clock.seconds
        rate = self._rate(seconds)
        if step % self.config.log_every == 0:
            peak = self.config.optimiser.learning_rate * self.config.optimiser.factor(step, progress)
            line = self.tally.line(step, step * self.batch, peak)
            journal.write(line, seconds, rate)
            self.tally = Tally()
            yield Logged(line, rate)
        yield Progressed(step, progress, float(result.losses.mean()), seconds, rate)

    def _rate(self, seconds: float) -> float:
        """Examples a second since this process began."""
        return (self.trainer.step - self.first) * self.batch / max(seconds - self.clock.before, 1e-9)

    def _count_bad(self, step: int) -> None:
        """Note a step that was not finite; give up after ten within a thousand."""
        self.bad.append(step)
        logger.warning("step %d: the loss or the gradient is not finite; nothing was changed", step)
        if len(self.bad) == _MOST_BAD_IN_1000 and self.bad[0] > step - 1000:
            raise DivergedError(
                f"training diverged at step {step}: {len(self.bad)} steps of late had a loss or gradient that is not finite; the last checkpoint is good: lower optimiser.learning_rate, or look for extreme values with `scorefield data`"
            )

    def _save(self, journal: Journal) -> Saved:
        """Write a checkpoint and the model, in this order: the model is never newer than what can be resumed."""
        step = self.trainer.step
        if self.world.leads:
            seconds = self.clock.seconds
            journal.time(step, seconds, self._rate(seconds))
            journal.sync()
            save_checkpoint(
                self.run,
                step,
                self.trainer.tensors() | self.tally.tensors(),
                {"step": step, "bad_steps": list(self.bad)},
            )
            model = self.trainer.model
            save_model(self.run.path, model.config.to_plain(), model.tensors())
        return Saved(step)


def _agreed(config: RunConfig, found: DataReport, run: RunFolder, world: World, device: torch.device) -> RunConfig:
    """The configuration with all that depends on data and machine filled in; that of the folder's run where there is one."""
    path = run.path / _RUN_FILE
    if path.is_file() and any(run.checkpoints.iterdir()):  # nothing is bound by a run that has saved nothing
        stored = read_json(path)
        _require_same(read_configuration(stored["requested"]), config, stored["data"], found, run)
        settled = read_configuration(stored["resolved"])
        settled = on_its_ladder(replace(settled, **{name: getattr(config, name) for name in FREE_TO_CHANGE}))
        _warn_of_other_machine(stored, world)
    else:
        precision = _fastest_precision(config, device)
        settled = resolved(config, _surroundings(found, precision))
    world.share(settled.batch or 0, settled.accumulate)  # refused here, before anything is written
    if world.leads:
        data = {"name": found.name, "digest": found.digest}
        machine = {"threads": torch.get_num_threads(), "processes": world.size, "versions": versions()}
        write_bytes(run.data_report, json_bytes(found.to_dict()))
        write_bytes(
            path,
            json_bytes(
                {"requested": to_plain(config), "resolved": to_plain(settled), "data": data, "machine": machine}
            ),
        )
    return settled


def _fastest_precision(config: RunConfig, device: torch.device) -> str:
    """The number format that `auto` stands for.

    On a processor only measuring tells, and two measurements may differ: a run of so many steps, whose bits are promised to
    be those of the seed, does not depend on one; a run by the clock is like no other anyway.
    """
    may_measure = device.type == "cuda" or config.minutes is not None
    return "bfloat16" if may_measure and fastest_dtype(device) is torch.bfloat16 else "float32"


def _surroundings(found: DataReport, precision: str) -> Surroundings:
    sigmas, levels = (found.sigma_data, found.sigma_data_by_channel), found.representation.levels
    return Surroundings(found.shape, *sigmas, precision, levels, found.sigma_max)


def _require_same(before: RunConfig, now: RunConfig, data: Any, found: DataReport, run: RunFolder) -> None:
    """Refuse to go on with a run under another configuration or on other data."""
    differing = {name: pair for name, pair in changes(before, now).items() if name.split(".")[0] not in FREE_TO_CHANGE}
    if differing:
        rows = "; ".join(f"{name} was {old}, now {new}" for name, (old, new) in differing.items())
        raise UsageError(
            f"'{run.path}' holds a run of another configuration: {rows}; repeat the first command to resume, or choose another --out (free to change: {', '.join(FREE_TO_CHANGE)})"
        )
    if data["digest"] != found.digest:
        raise UsageError(
            f"'{run.path}' was trained on other data: '{data['name']}' then, '{found.name}' now, or the same with files added, removed or changed; train on the same data or choose another --out"
        )


def _warn_of_other_machine(stored: Any, world: World) -> None:
    machine, now = (
        stored["machine"],
        {"threads": torch.get_num_threads(), "processes": world.size, "versions": versions()},
    )
    for name in ("threads", "processes", "versions"):
        if machine[name] != now[name] and world.leads:
            logger.warning(
                "this run was made with %s %s, now %s: it goes on, but not with the same bits",
                name,
                machine[name],
                now[name],
            )


def _model_config(config: RunConfig, found: DataReport, dataset: Dataset) -> ModelConfig:
    uses_labels = config.data.labels and dataset.labels is not None and dataset.conditions is None
    counts = [found.label_counts[name] for name in dataset.class_names] if uses_labels else []
    assert config.network is not None
    return ModelConfig(
        path=config.path,
        parameterisation=config.parameterisation,
        network=config.network,
        objective=config.objective,
        sampler=config.sampler,
        guidance=config.guidance if config.label_dropout > 0.0 and dataset.conditions is None else 1.0,
        clip=config.clip,
        representation=found.representation,
        mean=tuple(found.model_channel_means) if config.centre else (0.0,),
        sigma_data=_surroundings(found, config.precision).sigma_about(config.centre),
        class_names=dataset.class_names if uses_labels else (),
        class_weights=tuple(count / sum(counts) for count in counts),
        condition_names=dataset.condition_names,
        condition_mean=tuple(of["mean"] for of in found.conditions.values()),
        condition_scale=tuple(
            of["deviation"] if of["minimum"] < of["maximum"] else 1.0 for of in found.conditions.values()
        ),
        always_conditioned=(bool(found.conditions) or uses_labels) and config.label_dropout == 0.0,
        provenance={"preset": config.preset, "data": found.name, "digest": found.digest, "versions": versions()},
    )
