"""Small training runs: in this process, in one of their own, or in a fork that costs milliseconds to start and kill."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorefield.data import Dataset, open_data, report
from scorefield.model_config import ModelConfig
from scorefield.training.batches import Batches
from scorefield.training.configuration import RunConfig, configure
from scorefield.training.loop import Event, Progressed, Saved, train
from scorefield.training.processes import World
from scorefield.training.settling import Surroundings, resolved
from scorefield.training.trainer import Trainer

TINY: dict[str, Any] = {
    "network": "mlp",
    "network.width": 16,
    "network.depth": 1,
    "network.embedding": 8,
    "batch": 16,
    "steps": 12,
    "save_every": 4,
    "log_every": 3,
    "previews": 0,
    "calibrate": False,
}
"""The smallest run in which every part of a run happens."""

MAY_DIFFER = ("timing.jsonl", "report.html", "lock", "samples")
"""What a run may hold that depends on when and by whom it was made: clocks, process numbers, pictures for people."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["scorefield.fitting", "scorefield.cli.train", "tests.training.runs", "torch._dynamo"])


def tiny(**settings: Any) -> RunConfig:
    """The tiny run with other settings, named with `__` for the dot."""
    return configure(None, named(settings))


def named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tiny run's settings with others; where these name a network, its own defaults."""
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return {
        name: value for name, value in TINY.items() if not (name.startswith("network") and "network" in given)
    } | given


def points(count: int = 50, classes: int = 3) -> Dataset:
    """Points in the plane in a few classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=count) if classes else None
    centres = 0 if labels is None else 2.0 * labels[:, None]
    return open_data((centres + generator.normal(size=(count, 2))).astype(np.float32), labels=labels)


def write_points(folder: Path) -> str:
    """The same points as a file."""
    dataset = points()
    path = folder / "points.npz"
    np.savez(path, data=dataset.batch(np.arange(len(dataset))), labels=np.asarray(dataset.labels))
    return str(path)


def images(count: int = 20) -> Dataset:
    """Grey pictures of 4×4 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 4, 4))
    return open_data(pixels.astype(np.uint8))


def trainer(dataset: Dataset, **settings: Any) -> tuple[Trainer, Batches]:
    """A trainer of the tiny run and its batches, without a run folder."""
    found = report(dataset)
    config = resolved(
        tiny(**settings), Surroundings(found.shape, found.sigma_data, found.sigma_data_by_channel, "float32")
    )
    assert config.network is not None
    parts = (
        config.path,
        config.parameterisation,
        config.network,
        config.objective,
        config.sampler,
        found.representation,
    )
    weights = (1.0,) * dataset.classes
    model = ModelConfig(*parts, sigma_data=found.sigma_data, class_names=dataset.class_names, class_weights=weights)
    return Trainer(config, model, World(), torch.device("cpu")), Batches(
        dataset, found.representation, config, model.classes
    )


def finished(config: RunConfig, dataset: Dataset, out: Path) -> list[Event]:
    """Train to the end; the events."""
    return list(train(config, dataset, str(out), device="cpu"))


def stopped_after(step: int, config: RunConfig, dataset: Dataset, out: Path) -> None:
    """Train to a step and vanish without a word, as a killed process does."""
    events = train(config, dataset, str(out), device="cpu")
    for event in events:
        if isinstance(event, Progressed | Saved) and event.step >= step:
            events.close()  # type: ignore[attr-defined]
            return
    raise AssertionError("the run ended before")


def state_of(run: Path) -> dict[str, bytes]:
    """All bytes of a run that its configuration, data and threads decide, by relative path."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    names = {path: path.relative_to(run).as_posix() for path in files}
    return {name: path.read_bytes() for path, name in names.items() if not any(part in name for part in MAY_DIFFER)}


def differing(run: Path, reference: Mapping[str, bytes]) -> list[str]:
    """The names of files that are not as in the reference, or on one side only."""
    found = state_of(run)
    return sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))


def arguments(data: str, out: Path, **settings: Any) -> list[str]:
    """The command line of the tiny run."""
    sets = [word for name, value in named(settings).items() for word in ("--set", f"{name}={value}")]
    return ["train", data, "--out", str(out), "--threads", "1", "--device", "cpu", *sets]


def command(words: Sequence[str]) -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-m", "scorefield", *words]


def forked(words: Sequence[str], log: Path, *, traced: bool = False) -> ForkServerProcess:
    """Start the command line in a fork of a process that has imported everything; what it says goes to a file.

    Where `traced`, it does not begin before a tracer has attached to it.
    """
    process = FORKS.Process(target=_run_command, args=(list(words), str(log), traced))
    process.start()
    return process


def _run_command(words: list[str], log: str, traced: bool) -> None:
    from scorefield import cli

    while traced and "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        time.sleep(0.005)

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        status = cli.run(words)
    except BaseException:  # noqa: BLE001 - the fork must never return into its server
        traceback.print_exc()
        status = 99
    sys.stderr.flush()
    os._exit(status)


def wait_for(path: Path, seconds: float = 30.0) -> None:
    """Wait until a file or folder is there."""
    for _ in polls(seconds):
        if path.exists():
            return
    raise AssertionError(f"{path} did not appear within {seconds} s")


def polls(seconds: float, every: float = 0.005) -> Iterator[None]:
    """Turns of a loop that waits for something, for so long at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(every)
