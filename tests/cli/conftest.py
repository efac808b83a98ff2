"""Runs that the tests of the command line share; no test changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli import worlds


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared runs and data."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def points(runs: Path) -> str:
    """A file of points in the plane."""
    np.save(runs / "points.npy", np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
    return str(runs / "points.npy")


@pytest.fixture(scope="session")
def images(runs: Path) -> str:
    """A file of 8×8 grey images in two classes."""
    pixels, labels = worlds.pictures()
    np.savez(runs / "images.npz", images=pixels, labels=labels)
    return str(runs / "images.npz")


@pytest.fixture(scope="session")
def point_run(runs: Path, points: str) -> Path:
    """A run on points with the default path."""
    return worlds.trained(runs / "points", points, worlds.MLP)


@pytest.fixture(scope="session")
def image_run(runs: Path, images: str) -> Path:
    """A run on images of two classes."""
    return worlds.trained(runs / "images", images, worlds.UNET)


@pytest.fixture(scope="session")
def discrete_run(runs: Path, points: str) -> Path:
    """A run of DDPM's preset with a chain of 20 steps."""
    chain: dict[str, object] = {"path.steps": 20, "sampler.steps": 10}
    return worlds.trained(runs / "discrete", points, worlds.MLP, chain, more=["--preset", "ddpm"])
