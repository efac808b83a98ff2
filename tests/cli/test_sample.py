"""`scorefield sample`: every option of every sampler and grid, films of any length, and how often the network was asked."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scorefield.cli.sample import SampleCommand, _Thinned
from scorefield.records import kind_of, to_plain
from scorefield.samplers import DDIM, GRIDS, SAMPLERS, Ancestral, Grid, Heun, Karras, Sampler, State
from tests.cli.worlds import Answer, call

CHANGED: dict[str, Any] = {
    "steps": 7,
    "eta": 0.5,
    "order": 1,
    "variance": "large",
    "method": "midpoint",
    "quantity": "noise",
    "prediction": "data",
    "rtol": 0.01,
    "atol": 0.02,
    "attempts": 17,
    "compact": False,
    "s_churn": 3.0,
    "s_min": 0.02,
    "s_max": 9.0,
    "s_noise": 1.1,
    "intervals": [[0.1, 0.2, 3, 2], [1.0, 2.0, 1, 1]],
    "ell": 0.5,
    "predictor": "euler-maruyama",
    "corrector": "none",
    "snr": 0.2,
    "corrector_steps": 2,
    "step_size": 0.2,
    "time": 0.5,
    "metropolis": True,
    "inner_steps": 3,
    "epsilon": 1e-5,
    "denoise": False,
    "variable": "log-snr",
    "solver": "heun",
    "stochastic": True,
    "lower_order_final": False,
    "variant": "bh1",
}
"""A value that is no default, for every field of every sampler."""

OTHERWISE: dict[tuple[str, str], Any] = {
    ("unipc", "corrector"): False,
    ("unipc", "prediction"): "noise",
    ("dpmsolvermultistep", "prediction"): "noise",
}

GRID_FIELDS: dict[str, Any] = {"rho": 5.0, "kappa": 0.3, "power": 0.7, "chain": 500, "levels": [3.0, 2.0, 1.0]}


def _chosen(*settings: str, default: Sampler | None = None, **options: Any) -> Sampler:
    return SampleCommand(model="", out="", settings=settings, **options).chosen(default or DDIM())


# ── which sampler ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_field_of_every_sampler_can_be_set(kind: Any) -> None:
    """Fails where a sampler gains a field that the command line cannot reach, or a value arrives as another."""
    name = kind_of(kind)
    for field in fields(kind):
        if field.name in ("grid", "calibration"):
            continue
        value = OTHERWISE.get((name, field.name), CHANGED[field.name])
        sampler = _chosen(f"{field.name}={json.dumps(value)}", sampler=name)
        assert to_plain(sampler) == to_plain(kind()) | {field.name: value}
        assert to_plain(kind())[field.name] != value, "a default proves nothing"


@pytest.mark.parametrize("kind", GRIDS)
def test_every_field_of_every_grid_can_be_set(kind: type[Grid]) -> None:
    """Fails where a grid's own number, such as Karras's ρ, cannot be reached, or is set in the sampler instead."""
    name = kind_of(kind)
    changed = {field.name: GRID_FIELDS[field.name] for field in fields(kind)}
    sampler = _chosen(*(f"grid.{field}={json.dumps(value)}" for field, value in changed.items()), grid=name)
    assert to_plain(sampler.grid) == to_plain(kind()) | changed and sampler.steps == DDIM().steps


def test_options_of_their_own_are_those_of_set() -> None:
    """Fails where --steps, --order, --eta, --variance or --grid mean something else than --set of their name."""
    assert _chosen(sampler="deis", steps=5, order=2) == _chosen("steps=5", "order=2", sampler="deis")
    assert _chosen(eta=0.5, grid="karras") == _chosen("eta=0.5", "grid=karras") == DDIM(eta=0.5, grid=Karras())
    assert _chosen(sampler="ancestral", variance="large") == Ancestral(variance="large")


def test_a_sampler_of_the_models_own_kind_starts_from_the_models_own() -> None:
    """Fails where naming the model's own sampler forgets what the model said about it, or another's begins with it."""
    own = Heun(steps=9, grid=Karras(rho=3.0))
    assert _chosen(default=own) == _chosen(default=own, sampler="heun") == own
    assert _chosen("grid.rho=4", default=own) == replace(own, grid=Karras(rho=4.0))
    assert _chosen(default=own, sampler="ddim") == DDIM()


@pytest.mark.parametrize("name", ["uni-pc", "UniPC", "uni_pc", "unipc"])
def test_hyphens_and_capitals_are_free(name: str) -> None:
    assert kind_of(type(_chosen(sampler=name))) == "unipc"
    assert kind_of(type(_chosen(grid="vp-time").grid)) == "vptime"


def test_the_help_lists_the_samplers_and_grids_there_are() -> None:
    """Fails where the help names by hand what is a list, and forgets the newest."""
    text = call("sample", "--help").text
    for kinds in (SAMPLERS, GRIDS):
        assert ", ".join(sorted(kind_of(kind) for kind in kinds)) in text


def test_the_page_of_samplers_names_every_one() -> None:
    """Fails where a sampler or a grid is there and the page that says which to take knows nothing of it."""
    page = Path(__file__, "../../../docs/choosing.md").resolve().read_text()
    assert [kind_of(kind) for kind in (*SAMPLERS, *GRIDS) if f"`{kind_of(kind)}`" not in page] == []


# ── drawing with it ──────────────────────────────────────────────────────────────────────────────────────────────────


def _told(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.text
    told: dict[str, Any] = json.loads(answer.out.splitlines()[-1])
    return told


@pytest.mark.parametrize("name", [kind_of(kind) for kind in SAMPLERS])
def test_every_sampler_draws_and_says_how_often_it_asked(name: str, point_run: Path, tmp_path: Path) -> None:
    """Fails where a sampler cannot be drawn with by its name, or `evaluations` is unknown or not that of the walk."""
    words = ["--sampler", name, "--steps", 3, "--json", *(["--set", "inner_steps=4"] if "annealed" in name else [])]
    told = _told(call("sample", point_run, "--out", tmp_path / "x.npz", "-n", 3, "--batch", 2, *words))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (3, 2) and np.isfinite(arrays["samples"]).all()
    kind = next(kind for kind in SAMPLERS if kind_of(kind) == name)
    expected = _chosen(*(["inner_steps=4"] if "annealed" in name else []), sampler=name, steps=3).evaluations()
    assert told["sampler"] == kind_of(kind) and told["steps"] == 3
    assert told["evaluations"] == expected if expected else told["evaluations"] > 3


@pytest.mark.parametrize(
    "words",
    [["adaptive"], ["annealed-langevin", "--steps", 3], ["langevin", "--steps", 200], ["heun"], ["ddim", "--steps", 1]],
    ids=lambda words: words[0],
)
def test_a_film_has_at_most_forty_frames_whatever_the_sampler(
    words: list[Any], point_run: Path, tmp_path: Path
) -> None:
    """Fails where states elsewhere than at the grid's times make a film of thousands of frames, or of none."""
    told = _told(call("sample", point_run, "--out", tmp_path / "x.gif", "-n", 2, "--json", "--sampler", *words))
    with Image.open(tmp_path / "x.gif") as film:
        assert 2 <= getattr(film, "n_frames", 1) <= 40
    assert told["evaluations"] >= 1


@given(st.integers(1, 900), st.integers(2, 39))
def test_states_kept_are_spread_over_the_way_and_end_with_it(count: int, most: int) -> None:
    """Fails where a long walk's memory grows, its end is missing from the film, or one part of the way is left out."""
    thinned, x = _Thinned(), torch.empty(0)
    for number in range(1, count + 1):
        thinned.add(State(1.0 / number, x, x, number))
        assert len(thinned.kept) < 80
    numbers = [state.evaluations for state in thinned.spread(most)]
    gaps = np.diff([0, *numbers])
    assert numbers[-1] == count and len(numbers) <= most and (gaps > 0).all()
    assert gaps.max() <= max(1, 4 * count / most)
