"""A run that is killed with `kill -9`, at any time or at any system call of a save, ends in the bytes of one that was not.

By the rule of three, 300 kills without a failure bound the probability of one at 1 % with 95 % confidence.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import folder_in_memory
from tests.training import runs

BUSY: dict[str, Any] = {
    "steps": 60,
    "save_every": 2,
    "log_every": 3,
    "accumulate": 2,
    "label_dropout": 0.3,
    "network__dropout": 0.3,
    "path": "vp",
    "objective__times": "importancesampled",
    "objective__times__strata": 3,
    "objective__times__depth": 2,
}
"""Everything with a state that could be lost, saved every other step."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def data(memory: Path) -> str:
    return runs.write_points(memory)


@pytest.fixture(scope="module")
def whole(memory: Path, data: str) -> tuple[dict[str, bytes], float]:
    """The bytes of the uninterrupted run, and how long it took."""
    seconds = 0.0
    for name in ("warm-up", "whole"):
        begun = time.monotonic()
        assert outcome(runs.arguments(data, memory / name, **BUSY), memory / "log", None) == 0, (
            memory / "log"
        ).read_text()
        seconds = time.monotonic() - begun
    assert runs.differing(memory / "warm-up", runs.state_of(memory / "whole")) == []
    return runs.state_of(memory / "whole"), seconds


def outcome(words: list[str], log: Path, seconds: float | None, saving_in: Path | None = None) -> int | None:
    """The exit code of the command in a fork, which is killed after some seconds; in the save that is then next, if told."""
    before = unfinished(saving_in) if saving_in else set()
    process = runs.forked(words, log)
    process.join(seconds)
    while saving_in and process.is_alive() and unfinished(saving_in) <= before:
        time.sleep(0.0002)
    process.kill()
    process.join()
    return process.exitcode


def unfinished(run: Path) -> set[str]:
    """The names of what is being written, or was when its process died."""
    folders = [folder for folder in (run, run / "checkpoints") if folder.is_dir()]
    return {path.name for folder in folders for path in folder.iterdir() if path.name.startswith(".tmp-")}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_times(memory, data, whole, kills, capsys):
    """Count the kills that fell into a save, too: without them the test would say little."""
    reference, seconds = whole
    chance = random.Random(0)
    killed = in_a_save = completed = 0
    while killed < kills:
        run = memory / f"run-{completed}"
        words = runs.arguments(data, run, **BUSY)
        left: set[str] = set()
        while (
            code := outcome(words, memory / "log", chance.uniform(0.0, 0.6 * seconds), run if killed % 2 else None)
        ) == -signal.SIGKILL:
            killed += 1
            in_a_save += not unfinished(run) <= left
            left = unfinished(run)
        assert code == 0, (memory / "log").read_text()
        assert runs.differing(run, reference) == []
        assert not list(run.rglob(".tmp-*"))
        completed += 1
        shutil.rmtree(run)
    with capsys.disabled():
        print(f"\n{killed} kills, {in_a_save} of them inside a save; {completed} runs completed, 0 differ")


CALLS = {
    "fsync": "fsync",
    "rename": "?rename,?renameat,renameat2",
    "write": "write,pwrite64,ftruncate",
    "open": "?open,openat",
    "make": "?mkdir,mkdirat",
    "delete": "?unlink,?rmdir,unlinkat",
    "lock": "flock",
}
"""How a run touches the disk, as the kernel sees it; a `?` is before what not every processor's kernel has."""


@pytest.mark.slow
@pytest.mark.needs("strace")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_every_system_call(memory, data, every, call, capsys):
    """From outside, so that no write escapes that the package does not count itself; four saves, two of which delete, the start and the end."""
    settings = {**BUSY, "steps": 8}
    words = runs.arguments(data, memory / "killed", **settings)
    if not (memory / "short").exists():
        assert outcome(runs.arguments(data, memory / "short", **settings), memory / "log", None) == 0
    reference = runs.state_of(memory / "short")
    points = 0
    # Most files that are opened are read only, imports above all: in a slice, one in forty.
    for k in itertools.count(1, every if every == 1 or call != "open" else 5 * every):
        shutil.rmtree(memory / "killed", ignore_errors=True)
        status = killed_at(words, CALLS[call], k, memory / "log")
        assert status in (0, -signal.SIGKILL), (memory / "log").read_text()
        points += status != 0
        assert outcome(words, memory / "log", None) == 0, (memory / "log").read_text()
        assert runs.differing(memory / "killed", reference) == []
        if status == 0:
            break
    assert points
    with capsys.disabled():
        print(f"\n{points} kills at {call}, 0 differ")


def killed_at(words: list[str], calls: str, k: int, log: Path) -> int | None:
    """The exit code of the command, killed as it enters the k-th of these system calls."""
    process = runs.forked(words, log, traced=True)
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={k}"]
    tracer = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", *inject, "-p", str(process.pid)], check=False)
    process.kill() if tracer.returncode == 1 else None
    process.join()
    return process.exitcode
