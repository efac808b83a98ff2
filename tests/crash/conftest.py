"""How long the crash suite is: a slice of it by default, all of it by `make crash`."""

from __future__ import annotations

import pytest

SLICE = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--crash-kills`; given, every point of the sweeps is killed at, not one in a few."""
    parser.addoption("--crash-kills", type=int, default=SLICE, help="how many times to kill -9 a run at random")


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    """How many random kills to survive."""
    # Not known where pytest was not given this folder: options are added before it is found.
    return int(pytestconfig.getoption("--crash-kills", SLICE))


@pytest.fixture(scope="session")
def every(kills: int) -> int:
    """The stride of the sweeps."""
    return 1 if kills > SLICE else 8
