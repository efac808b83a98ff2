"""`fit` on data of every shape and kind: what comes out is laid out as what went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scorefield as sf
from scorefield.errors import MissingExtraError, UsageError

TINY: dict[str, Any] = {"steps": 2, "batch": 4, "previews": 0, "device": "cpu"}
MLP: dict[str, Any] = {"network": "mlp", "network__width": 8, "network__depth": 1, "network__embedding": 8}
UNET: dict[str, Any] = {
    "network": "unet",
    "network__widths": [8, 8],
    "network__depths": [1, 1],
    "network__head_width": 8,
    "network__embedding": 8,
}


def _data(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(0)
    if kind.startswith("uint"):
        return generator.integers(0, np.iinfo(kind).max, size=shape).astype(kind)
    return (3.0 + 2.0 * generator.normal(size=shape)).astype(kind)


CASES: dict[str, tuple[str, tuple[int, ...]]] = {
    "points": ("float32", (12, 3)),
    "points in double precision": ("float64", (12, 3)),
    "one-dimensional points": ("float32", (12, 1)),
    "grey images": ("uint8", (8, 8, 8)),
    "colour images": ("uint8", (8, 8, 8, 3)),
    "images that are not square": ("uint8", (8, 6, 10)),
    "images with odd sides": ("uint8", (8, 7, 5, 3)),
    "16-bit images": ("uint16", (8, 8, 8)),
    "images of floats": ("float32", (8, 2, 7, 6)),
    "series": ("float32", (8, 2, 11)),
    "volumes": ("float32", (6, 1, 5, 4, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_are_laid_out_as_the_data(name: str) -> None:
    kind, shape = CASES[name]
    model = sf.fit(_data(kind, shape), **TINY, **(MLP if len(shape) == 2 else UNET))
    drawn = model.sample(3, sampler=sf.Heun(steps=2), seed=1)
    assert drawn.shape == (3, *shape[1:]) and drawn.dtype == np.dtype(kind)
    assert np.isfinite(drawn.astype(float)).all()


@pytest.mark.parametrize("preset", ["ddpm", "edm"])
def test_a_papers_preset_fits_images(preset: str) -> None:
    model = sf.fit(_data("uint8", (8, 8, 8)), preset=preset, **TINY, **UNET)
    assert model.sample(2, sampler=sf.DDIM(steps=3)).shape == (2, 8, 8)


@pytest.mark.parametrize("path", ["vp", "vpcosine", "subvp", "ve", "edm", "rectified", "discrete"])
def test_every_path_can_be_fitted_with_its_own_parameterisations(path: str) -> None:
    for parameterisation in ("noise", "data", "velocity", "score", "preconditioned", "rectifiedvelocity"):
        settings = {"path": path, "parameterisation": parameterisation, "objective__times": "uniform"}
        if path in ("rectified", "vpcosine") and parameterisation in ("noise", "score"):
            with pytest.raises(UsageError, match="says nothing of the data"):
                sf.fit("mixture-2d", **settings)
            continue
        model = sf.fit(_data("float32", (12, 2)), **TINY, **MLP, **settings)
        assert np.isfinite(model.sample(2, sampler=sf.DDIM(steps=3))).all(), parameterisation


def test_a_setting_is_given_with_underscores_for_the_dot(tmp_path: Path) -> None:
    model = sf.fit(_data("float32", (12, 2)), out=tmp_path / "run", optimiser__learning_rate=1e-30, **TINY, **MLP)
    assert '"learning_rate":1e-30' in (tmp_path / "run" / "run.json").read_text().replace(" ", "")
    assert model.config.provenance["preset"] == "default"


def test_fitting_again_where_a_run_is_loads_it(tmp_path: Path) -> None:
    """The same call goes on with the run; it is complete, so the model is the same."""
    data = _data("float32", (12, 2))
    first, again = (sf.fit(data, out=tmp_path / "run", **TINY, **MLP) for _ in range(2))
    np.testing.assert_array_equal(first.sample(2, seed=0), again.sample(2, seed=0))


def test_a_run_without_a_folder_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sf.fit(_data("float32", (12, 2)), **TINY, **MLP)
    assert not list(tmp_path.iterdir())


def test_previews_and_the_report_lie_in_the_run(tmp_path: Path) -> None:
    sf.fit(_data("uint8", (8, 8, 8)), out=tmp_path, **TINY | {"previews": 1}, **UNET)
    assert (tmp_path / "samples" / "step-2.png").is_file() and (tmp_path / "report.html").is_file()


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a setting": ({"optimiser__learning_rte": 1.0}, "did you mean 'optimiser.learning_rate'"),
    "a network for images": ({"network": "unet"}, "use an MLP"),
    "a device": ({"device": "tpux"}, "no device"),
    "minutes": ({"minutes": -1.0}, "minutes"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_fitted_is_refused_before_a_folder_is_made(name: str, tmp_path: Path) -> None:
    settings, said = IMPOSSIBLE[name]
    with pytest.raises(UsageError, match=said):
        sf.fit(_data("float32", (12, 2)), out=tmp_path / "run", **TINY | settings)
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_asked_for_by_its_extra_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"scorefield\[track\]"):
        sf.fit(_data("float32", (12, 2)), out=tmp_path / "run", tensorboard=True, **TINY)
    assert not list(tmp_path.iterdir())


def test_labels_are_learned_with_dropout_and_drawn(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", data=_data("float32", (12, 2)), labels=np.arange(12) % 3)
    model = sf.fit(str(tmp_path / "x.npz"), label_dropout=0.5, **TINY, **MLP)
    assert model.config.classes == 3 and model.sample(4, classes=[0, 1, 2, 0]).shape == (4, 2)
    without = sf.fit(str(tmp_path / "x.npz"), data__labels=False, **TINY, **MLP)
    assert without.config.classes == 0
