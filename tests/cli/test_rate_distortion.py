"""`scorefield rate-distortion`: its files, and that its rates end at the bound's figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.worlds import Answer, call


def last(answer: Answer) -> Any:
    """The JSON object that ends standard output."""
    assert answer.code == 0, answer.text
    return json.loads(answer.out.splitlines()[-1])


def test_pictures_get_a_table_three_plots_and_a_strip(image_run: Path, images: str, tmp_path: Path) -> None:
    """In continuous time, cut into steps; the same seed gives the bound's own figure to the last digit (M45)."""
    out, words = tmp_path / "out", ("-n", 5, "--steps", 12, "--seed", 3, "--json")
    found = last(call("rate-distortion", image_run, images, "--out", out, *words, "--pictures", 3))
    files = {"table.csv", "rate.svg", "distortion.svg", "distortion-rate.svg", "strip.png"}
    assert {path.name for path in out.iterdir()} == files
    assert found["bits_per_dim"] == last(call("likelihood", image_run, images, *words))["bits_per_dim"]
    assert found["rows"][-1]["rate"] + found["decoder"] == pytest.approx(found["bits_per_dim"], rel=1e-12)
    assert len((out / "table.csv").read_text().splitlines()) == 14
    with Image.open(out / "strip.png") as strip:
        width, height = strip.size
    assert width == pytest.approx(height * 11 / 3, rel=0.05)
    rates = [row["rate"] for row in found["rows"]]
    assert rates == sorted(rates)
    assert found["rows"][-1]["distortion"] < found["rows"][0]["distortion"] < 255.0


def test_a_chain_has_its_own_steps(discrete_run: Path, points: str, tmp_path: Path) -> None:
    """Points have no pictures; the table has a row a step (M45)."""
    found = last(call("rate-distortion", discrete_run, points, "--out", tmp_path / "out", "--json"))
    assert [row["reverse_time"] for row in found["rows"]] == list(range(1, 21))
    assert found["bits_per_dim"] == last(call("likelihood", discrete_run, points, "--json"))["bits_per_dim"]
    assert not (tmp_path / "out" / "strip.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "5"], "whose bound has no other steps"),
        (["--repeats", "0"], "--repeats ≥ 1"),
        (["--variance", "learned"], "no learned variance"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(
    discrete_run: Path, points: str, tmp_path: Path, words: list[str], said: str
) -> None:
    """An empty folder would look like a result."""
    answer = call("rate-distortion", discrete_run, points, "--out", tmp_path / "out", *words)
    assert answer.code == 2 and said in answer.text, answer.text
    assert not (tmp_path / "out").exists() and answer.out == ""


def test_a_file_in_the_place_of_the_folder_is_refused(discrete_run: Path, points: str, tmp_path: Path) -> None:
    """Nothing is overwritten."""
    (tmp_path / "out").write_text("mine")
    answer = call("rate-distortion", discrete_run, points, "--out", tmp_path / "out")
    assert answer.code == 2 and "name a folder" in answer.text and (tmp_path / "out").read_text() == "mine"
