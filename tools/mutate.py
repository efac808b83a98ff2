"""The mutation check: change one symbol of a formula at a time, run its tests, and report what nobody noticed.

    python tools/mutate.py                              every mutant; fails when one survives that is not listed
    python tools/mutate.py --sample 40 --least 90       40 of them; fails when fewer than 90 % are noticed
    python tools/mutate.py scorefield/paths.py --list   only this file; only print the mutants

Which tests a file answers to, and the mutants known to change nothing, with the reason, are in `tools/mutate.toml`.

Each mutant is tried in a forked child of a process that has imported torch already, in a copy of the project of its
own: a trial costs the tests alone, and a killed run leaves the working tree as it was.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("scorefield", "tests", "pyproject.toml")
LOG = "tests.log"
PYTEST_OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
PYTEST_OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # modules are imported before pytest starts


@dataclass
class Trial:
    """One mutant being tried: its process, where it runs, which tests, and when it must be done."""

    mutant: Mutant | None
    copy: Path
    tests: list[str]
    limit: float
    pid: int = 0
    started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Fork a child that runs the tests in the copy."""
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_tests(self.copy, self.tests, self.limit)


def main() -> int:
    """Try the mutants that were asked for; 0 when enough of them were noticed."""
    options = _arguments()
    table = tomllib.loads((ROOT / "tools" / "mutate.toml").read_text(encoding="utf-8"))
    mutants = _chosen(options, table)
    if options.list:
        print(*mutants, sep="\n")
        return 0
    _import_once()
    survivors, tried = _try_all(mutants, table, options)
    return _report(survivors, tried, len(mutants), options.least)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="source files; without any, all that mutate.toml names")
    parser.add_argument("--sample", type=int, help="try only so many, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long and judge what was tried")
    parser.add_argument("--least", type=float, default=100.0, help="percentage that must be noticed")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    return parser.parse_args()


def _chosen(options: argparse.Namespace, table: dict) -> list[Mutant]:
    """The mutants to try: of the named files, less those known to be equivalent, in random order."""
    files = [Path(name) for name in options.files] or _files_of(table)
    mutants = [mutant for path in files for mutant in mutants_of(path, ROOT) if str(mutant) not in table["equivalent"]]
    if not options.list:
        random.Random(options.seed).shuffle(mutants)
    return mutants[: options.sample]


def _files_of(table: dict) -> list[Path]:
    found = [path for pattern in table["tests"] for path in sorted(ROOT.glob(pattern)) if path.name != "__init__.py"]
    return [path.relative_to(ROOT) for path in dict.fromkeys(found)]


def _tests_of(path: Path, table: dict) -> list[str]:
    """The tests a file answers to: its mirror first, then what mutate.toml adds."""
    inside = path.relative_to("scorefield")
    mirror = Path("tests") / inside.with_name(f"test_{inside.name}")
    added = next(tests for pattern, tests in table["tests"].items() if path.match(pattern))
    wanted = [str(mirror), *added]
    return [name for name in dict.fromkeys(wanted) if (ROOT / name).exists()]


def _import_once() -> None:
    """Import what every child needs and no mutant touches."""
    sys.dont_write_bytecode = True  # mutants of equal size made within a second would share one cached file
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    for module in ("beartype.claw", "hypothesis", "jaxtyping", "mpmath", "numpy", "pytest", "scipy.stats", "torch"):
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def _run_tests(copy: Path, tests: list[str], limit: float) -> None:
    """In the child: run the tests, their output into the copy's log, and end with pytest's exit code."""
    import pytest

    signal.alarm(int(limit) + 1)  # an endless loop is noticed too
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    log = os.open(copy / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 70
    try:
        code = int(pytest.main([*PYTEST_OPTIONS, *tests]))
    finally:
        os._exit(code)


def _try_all(mutants: list[Mutant], table: dict, options: argparse.Namespace) -> tuple[list[Mutant], int]:
    """Try the mutants on all workers until done or out of time; the survivors, and how many were tried."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [_copy_project(Path(folder) / str(k)) for k in range(options.workers)]
        limit = _time_limit(mutants, table, copies[0])
        deadline = time.monotonic() + 60 * options.minutes
        survivors, tried = [], 0
        for trial, noticed in _trials(mutants, table, limit, copies, deadline):
            tried += 1
            assert trial.mutant is not None
            if not noticed:
                survivors.append(trial.mutant)
                print(f"survived: line {trial.mutant.line} of {trial.mutant}", flush=True)
        return survivors, tried


def _copy_project(target: Path) -> Path:
    target.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def _time_limit(mutants: list[Mutant], table: dict, copy: Path) -> float:
    """Seconds that a trial may take, from a run of all tests without a mutant, which must pass."""
    tests = sorted({test for mutant in mutants for test in _tests_of(mutant.path, table)})
    trial = Trial(None, copy, tests, limit=600)
    trial.start()
    _, status = os.waitpid(trial.pid, 0)
    if status != 0:
        print((copy / LOG).read_text(encoding="utf-8")[-3000:])
        sys.exit("these tests do not pass even without a mutant")
    return 10 + 2 * (time.monotonic() - trial.started)


def _trials(
    mutants: list[Mutant], table: dict, limit: float, copies: list[Path], deadline: float
) -> Iterator[tuple[Trial, bool]]:
    """Run one trial a copy at a time; yield each that ends, and whether a test noticed the mutant."""
    waiting, free, running = list(mutants), list(copies), dict[int, Trial]()
    while running or (waiting and time.monotonic() < deadline):
        while waiting and free and time.monotonic() < deadline:
            mutant = waiting.pop(0)
            trial = Trial(mutant, free.pop(), _tests_of(mutant.path, table), limit)
            source = (ROOT / mutant.path).read_bytes()
            (trial.copy / mutant.path).write_bytes(mutant.applied(source))
            trial.start()
            running[trial.pid] = trial
        pid, status = os.wait()
        trial = running.pop(pid)
        shutil.copy(ROOT / trial.mutant.path, trial.copy / trial.mutant.path)
        free.append(trial.copy)
        yield trial, status != 0


def _report(survivors: list[Mutant], tried: int, wanted: int, least: float) -> int:
    noticed = 100 * (tried - len(survivors)) / max(tried, 1)
    print(f"{tried} of {wanted} mutants tried, {len(survivors)} survived, {noticed:.1f} % noticed (want {least:g})")
    if noticed >= least:
        return 0
    print("write a test that notices the survivors, or list those that change nothing, and why, in tools/mutate.toml")
    return 1


if __name__ == "__main__":
    sys.exit(main())
