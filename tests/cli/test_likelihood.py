"""`scorefield likelihood`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.worlds import MLP, UNET, Answer, call, trained


def last(answer: Answer) -> Any:
    """The JSON object that ends standard output."""
    assert answer.code == 0, answer.text
    return json.loads(answer.out.splitlines()[-1])


@pytest.fixture(scope="module")
def learned_run(tmp_path_factory: pytest.TempPathFactory, images: str) -> Path:
    """A run of iDDPM's preset with a chain of 20 steps."""
    chain: dict[str, object] = {"path.steps": 20, "sampler.steps": 10}
    return trained(tmp_path_factory.mktemp("learned") / "run", images, UNET, chain, more=["--preset", "iddpm"])


def test_the_bound_of_points_has_terms_errors_rows_and_a_picture(point_run: Path, points: str, tmp_path: Path) -> None:
    """Everything that is promised, and figures that agree with each other (M19, M21)."""
    rows, plot = tmp_path / "x.csv", tmp_path / "x.svg"
    answer = call("likelihood", point_run, points, "-n", 20, "--per-sample", rows, "--plot", plot, "--json")
    found = last(answer)
    assert found["method"] == "bound" and found["of"] == "p(x)" and found["samples"] == 20
    assert sum(found["terms"].values()) == pytest.approx(found["bits_per_dim"])
    assert found["standard_error"] > 0.0 and found["noise_error"] > 0.0
    table = list(csv.DictReader(rows.read_text().splitlines()))
    assert list(table[0]) == ["index", "bits_per_dim", "noise_se", "class"] and len(table) == 20
    assert np.mean([float(row["bits_per_dim"]) for row in table]) == pytest.approx(found["bits_per_dim"], rel=1e-6)
    assert plot.read_text().startswith("<svg") and "bits/dim" in plot.read_text()
    assert "over the data" in answer.out and "over the noise" in answer.out


def test_results_do_not_depend_on_the_batch_or_the_number_of_examples(
    point_run: Path, points: str, tmp_path: Path
) -> None:
    """Noise belongs to an example's place in the data."""
    figures = []
    for name, words in (("one", ["--batch", 3]), ("other", ["--batch", 200])):
        answer = call("likelihood", point_run, points, "-n", 0, "--per-sample", tmp_path / f"{name}.csv", *words)
        assert answer.code == 0, answer.text
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()[1:]
        figures.append([float(line.split(",")[1]) for line in lines])
    assert figures[0] == pytest.approx(figures[1], rel=1e-4, abs=1e-4)


def test_the_flow_of_points_reports_evaluations(point_run: Path, points: str) -> None:
    """Per sample mean and maximum, and no error over noise that there is none of (M40)."""
    found = last(call("likelihood", point_run, points, "--method", "flow", "-n", 10, "--float64", "--json"))
    assert found["evaluations"]["mean"] <= found["evaluations"]["max"] < 200
    assert found["noise_error"] is None and found["settings"]["trace"] == "exact"


def test_conditional_and_unconditional_figures_differ_and_are_called_so(image_run: Path, images: str) -> None:
    """Labels in the data make it p(x|y)."""
    conditional = last(call("likelihood", image_run, images, "-n", 4, "--terms", 4, "--json"))
    free = last(call("likelihood", image_run, images, "-n", 4, "--terms", 4, "--unconditional", "--json"))
    assert (conditional["of"], free["of"]) == ("p(x|y)", "p(x)")
    assert conditional["bits_per_dim"] != free["bits_per_dim"]


@pytest.mark.parametrize("way", ["uniform", "truncated-normal", "variational"])
def test_pictures_are_dequantised_in_every_way(image_run: Path, images: str, way: str) -> None:
    """Near 8 bits for an untrained model of white noise (M41)."""
    words = ["--dequantisation", way, "--probes", 1, "--tolerance", 0.01, "--importance", 2, "-n", 3]
    found = last(call("likelihood", image_run, images, "--method", "flow", *words, "--json"))
    assert 7.0 < found["bits_per_dim"] < 11.0 and found["settings"]["dequantisation"] == way


def test_chains_have_their_own_variance(learned_run: Path, discrete_run: Path, images: str, points: str) -> None:
    """Learned where it is learned, and either of the fixed ones where asked (M14)."""
    found = {
        v: last(call("likelihood", learned_run, images, "-n", 3, *v, "--json")) for v in ((), ("--variance", "large"))
    }
    assert [one["settings"]["variance"] for one in found.values()] == ["learned", "large"]
    some = last(call("likelihood", discrete_run, points, "--terms", 5, "--json"))
    assert some["settings"]["terms"] == 5 and math.isfinite(some["bits_per_dim"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--probes", "2"], "--probes belongs to --method flow"),
        (["--method", "flow", "--terms", "2"], "--terms belongs to --method bound"),
        (["--method", "flow", "--plot", "x.svg"], "--plot belongs to --method bound"),
        (["--plot", "x.png"], "written as .svg"),
        (["--per-sample", "x.txt"], "written as .csv"),
        (["--per-sample", "/nowhere/at/all/x.csv"], "there is no folder"),
        (["--end", "soon"], "auto or a log(α/σ)"),
        (["--end", "40"], "between"),
        (["--repeats", "0"], "--repeats ≥ 1"),
        (["-n", "-3"], "-n ≥ 0"),
        (["--unconditional"], "no classes"),
        (["--variance", "learned", "--steps", "3"], "no learned variance"),
        (["--method", "flow", "--dequantisation", "uniform"], "use the dequantisation none"),
        (["--method", "flow", "--tolerance", "0"], "tolerance"),
    ],
)
def test_wrong_use_is_refused_with_the_fix(point_run: Path, points: str, words: list[str], said: str) -> None:
    """And prints no figure that could be taken for a result."""
    answer = call("likelihood", point_run, points, *words)
    assert answer.code == 2 and said in answer.text, answer.text
    assert answer.out == ""


def test_data_of_another_kind_are_refused(
    image_run: Path, point_run: Path, points: str, images: str, tmp_path: Path
) -> None:
    """Another shape, floats for integers, labels that are missing or unknown."""
    np.save(tmp_path / "floats.npy", np.zeros((4, 8, 8), np.float32))
    np.save(tmp_path / "plain.npy", np.zeros((4, 8, 8), np.uint8))
    pixels, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 2, 3])
    np.savez(tmp_path / "many.npz", images=pixels, labels=labels)
    for run, data, said in (
        (image_run, points, "give data of the model's shape"),
        (point_run, images, "give data of the model's shape"),
        (image_run, tmp_path / "floats.npy", "integers of 256 levels"),
        (image_run, tmp_path / "plain.npy", "has no labels"),
        (image_run, tmp_path / "many.npz", "unknown class"),
    ):
        answer = call("likelihood", run, data)
        assert answer.code == 2 and said in answer.text, answer.text


def test_a_model_that_always_saw_labels_has_no_unconditional_figure(images: str, tmp_path: Path) -> None:
    """The null label was never trained: its figure would be of noise."""
    run = trained(tmp_path / "run", images, UNET, {"label_dropout": 0.0})
    answer = call("likelihood", run, images, "--unconditional")
    assert answer.code == 2 and "label_dropout=0" in answer.text


def test_points_of_another_scale_keep_their_units(points: str, tmp_path: Path) -> None:
    """Bits of a density follow the data's unit (M41)."""
    np.save(tmp_path / "large.npy", 8.0 * np.load(points))
    run = trained(tmp_path / "run", tmp_path / "large.npy", MLP)
    plain = trained(tmp_path / "plain", points, MLP)
    words = ("--method", "flow", "--float64", "--json")
    large, small = (
        last(call("likelihood", *pair, *words)) for pair in ((run, tmp_path / "large.npy"), (plain, points))
    )
    assert large["bits_per_dim"] - small["bits_per_dim"] == pytest.approx(3.0, abs=5e-3)
