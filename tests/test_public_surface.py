"""`import scorefield as sf`: every public name is there, documented, and nothing is imported before it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import scorefield


@pytest.mark.parametrize("name", [name for name in scorefield.__all__ if name != "__version__"])
def test_every_public_name_exists_and_says_what_it_is(name: str) -> None:
    value = getattr(scorefield, name)
    assert not (inspect.isclass(value) or inspect.isfunction(value)) or inspect.getdoc(value)
    assert name in dir(scorefield)


def test_public_names_are_listed_once() -> None:
    assert len(set(scorefield.__all__)) == len(scorefield.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for every module: `hasattr`, pickling and documentation tools rely on it."""
    with pytest.raises(AttributeError, match="no attribute 'DDMI'"):
        _ = scorefield.DDMI


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import scorefield, sys; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); scorefield.VP"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=100).returncode == 0


def test_samplers_paths_and_configurations_are_made_without_torch() -> None:
    """What a configuration is made of may be imported to check it."""
    code = "import scorefield as sf, sys; sf.DDIM(steps=5), sf.VP(), sf.UNetSpec(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=100).returncode == 0
