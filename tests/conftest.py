"""What every test shares: one thread, and a marker for what a machine may lack."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator
from pathlib import Path

# One thread a worker: two workers then fill two cores, and bits do not depend on the number of threads.
# Set before anything imports torch; xdist's workers inherit it.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import hypothesis  # noqa: E402 - the variables above must be set first
import pytest  # noqa: E402
import torch  # noqa: E402 - before the package, whose shape annotations are checked only where torch is loaded

# The same examples every time: a red test is red again, and a mutant is judged by the same evidence as its neighbour.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
DATA_SETS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
HARDWARE = {"cuda"}  # the only thing that CI, too, may lack


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Hold torch to one thread, whatever the machine has."""

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_global_seed() -> None:
    """Seed torch's global generator, so that a test that forgets `generator=` fails the same way every time."""

    torch.manual_seed(0)


def has(thing: str) -> bool:
    """Whether this machine has a program, an importable module, a data set or a device of this name."""
    if thing == "cuda":
        import torch

        return torch.cuda.is_available()
    if thing == "root":
        return os.geteuid() == 0
    if thing in DATA_SETS:
        return DATA_SETS[thing].is_dir()
    return shutil.which(thing) is not None or importlib.util.find_spec(thing) is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `needs("strace", …)` where one of these things is missing."""
    wanted = [thing for mark in item.iter_markers("needs") for thing in mark.args]
    missing = [thing for thing in wanted if not has(thing)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI: a check that is not run there is not run at all."""
    report = yield
    wanted = {thing for mark in item.iter_markers("needs") for thing in mark.args}
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and not wanted & HARDWARE:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {reason}"
    return report
