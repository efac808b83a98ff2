"""Conditions on the command line: trained, drawn, measured and resumed with; refused in words where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.worlds import MLP, SHORT, UNET, call, settings, trained

C = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


@pytest.fixture(scope="session")
def numbers(runs: Path) -> str:
    """A file of points with two numbers each and what must be neither data nor labels."""
    points = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    np.savez(runs / "numbers.npz", samples=points, warmth=C[:, 0], labels=np.arange(40) % 2, weight=C[:, 1])
    return str(runs / "numbers.npz")


@pytest.fixture(scope="session")
def conditioned(runs: Path, numbers: str) -> Path:
    """A run whose condition is two keys."""
    return trained(runs / "conditioned", numbers, MLP, more=["--condition", "warmth,weight"])


@pytest.fixture(scope="session")
def always(runs: Path, numbers: str) -> Path:
    """A run that never was without its condition."""
    return trained(runs / "always", numbers, MLP, {"label_dropout": 0}, more=["--condition", "warmth"])


def test_what_is_drawn_says_its_conditions(conditioned: Path, tmp_path: Path) -> None:
    """Samples whose condition is not kept with them cannot be used."""
    np.save(tmp_path / "rows.npy", C[:5])
    for words, wanted in (
        (["--condition", "0.5,1"], np.tile([0.5, 1.0], (5, 1))),
        (["--condition=-0.5,-1"], np.tile([-0.5, -1.0], (5, 1))),
        (["--condition", f"@{tmp_path / 'rows.npy'}", "--guidance", 2], C[:5]),
    ):
        answer = call("sample", conditioned, "-n", 5, "--batch", 2, "--out", tmp_path / "x.npz", *words)
        assert answer.code == 0, answer.text
        with np.load(tmp_path / "x.npz") as found:
            assert found.files == ["samples", "seeds", "conditions"]
            assert found["samples"].shape == (5, 3) and np.array_equal(found["conditions"], wanted.astype(np.float32))
    assert call("sample", conditioned, "-n", 5, "--out", tmp_path / "x.npz").code == 0
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["samples", "seeds"]


def test_data_without_the_conditions_columns_are_edited_all_the_same(
    conditioned: Path, numbers: str, tmp_path: Path
) -> None:
    """The condition is given on the command line; data that cannot be read are still told so."""
    with np.load(numbers) as held:
        bare = {name: held[name] for name in held.files if name not in ("warmth", "weight")}
    np.savez(tmp_path / "bare.npz", **bare)
    np.save(tmp_path / "mask.npy", np.array([False, True, False]))
    words = ["--index", 2, "--mask", tmp_path / "mask.npy", "--condition", "0.5,1", "--steps", 2]
    for data, out in ((tmp_path / "bare.npz", "a.npz"), (numbers, "b.npz")):
        answer = call("inpaint", conditioned, data, *words, "--out", tmp_path / out)
        assert answer.code == 0, answer.text
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as other:
        assert np.array_equal(one["samples"], other["samples"])
    answer = call("inpaint", conditioned, tmp_path / "none.npz", *words, "--out", tmp_path / "c.npz")
    assert answer.code == 2 and "none.npz" in answer.text


def test_films_and_pictures_are_drawn_under_a_file_beside_the_images(runs: Path, images: str, tmp_path: Path) -> None:
    """Images have no columns: the numbers lie in a file, in training and beside held-out data; labels there are left aside."""
    np.save(tmp_path / "c.npy", np.arange(len(np.load(images)["labels"]), dtype=np.float64))
    run = trained(tmp_path / "run", images, UNET, more=["--condition", tmp_path / "c.npy"])
    for out in ("x.png", "x.gif", "folder"):
        words = ["--condition", 3.5, "--sampler", "heun", "--steps", 2]
        assert call("sample", run, "-n", 2, "--out", tmp_path / out, *words).code == 0
    asked = ["likelihood", run, images, "-n", 2, "--terms", 2, "--repeats", 1]
    assert "give --condition FILE.npy" in call(*asked).text
    for option, of in (("--condition " + str(tmp_path / "c.npy"), "p(x|c)"), ("--unconditional", "p(x)")):
        answer = call(*asked, *option.split())
        assert answer.code == 0 and of in answer.out, answer.text


def test_the_other_commands_take_the_condition_from_its_columns(
    conditioned: Path, numbers: str, tmp_path: Path
) -> None:
    """A key that was left out of the data in training is left out again, or the data are of another shape."""
    assert "warmth: " in call("data", numbers, "--condition", "warmth").out
    answer = call("likelihood", conditioned, numbers, "-n", 3, "--method", "flow", "--tolerance", 0.1)
    assert answer.code == 0 and "p(x|c)" in answer.out, answer.text
    answer = call("rate-distortion", conditioned, numbers, "-n", 3, "--steps", 3, "--out", tmp_path / "rd")
    assert answer.code == 0, answer.text
    answer = call("evaluate", conditioned, numbers, "-n", 12)
    assert answer.code == 0, answer.text
    answer = call("calibrate", conditioned, "--evaluations", "4", "--pilots", 8, "--rounds", 0)
    assert answer.code == 0, answer.text


def test_a_model_that_always_had_its_condition_is_measured_and_drawn_with_it(
    always: Path, numbers: str, tmp_path: Path
) -> None:
    """Without it every figure and picture would be of a vector that was never trained."""
    assert call("evaluate", always, numbers, "-n", 12).code == 0
    assert call("likelihood", always, numbers, "-n", 2, "--terms", 2).code == 0
    for words in (
        ["sample", always, "-n", 2, "--out", tmp_path / "x.npz"],
        ["sample", always, "-n", 2, "--out", tmp_path / "x.npz", "--condition", 1, "--guidance", 2],
        ["likelihood", always, numbers, "--unconditional"],
    ):
        answer = call(*words)
        assert answer.code == 2 and "label_dropout" in answer.text, answer.text
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--condition", "1"], "has 2 numbers a sample (warmth, weight), got 1; give one each, such as"),
        (
            ["--condition", "1,warm"],
            "takes numbers with commas between them, such as 0.3,1.2, or @FILE.npy; got '1,warm'",
        ),
        (["--condition", "1,nan"], "must be finite numbers, got nan"),
        (["--condition", "@nowhere.npy"], "no file 'nowhere.npy'"),
        (["--class", "1"], "no classes, it is conditioned on numbers"),
        (["--condition", "1,2", "--class", "1"], "leave one out"),
    ],
)
def test_what_is_no_condition_of_the_model_is_refused(
    conditioned: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    """What, got and the fix, and nothing is written."""
    answer = call("sample", conditioned, "-n", 2, "--out", tmp_path / "x.npz", *words)
    assert answer.code == 2 and said in answer.text, answer.text
    assert not (tmp_path / "x.npz").exists()


def test_rows_must_be_as_many_as_the_samples(conditioned: Path, tmp_path: Path) -> None:
    """A file of other rows would be cut or repeated without a word."""
    np.save(tmp_path / "rows.npy", C[:3])
    words = ["--condition", f"@{tmp_path / 'rows.npy'}", "--out", tmp_path / "x.npz"]
    answer = call("sample", conditioned, "-n", 5, *words)
    assert answer.code == 2 and "got 3 for 5 samples" in answer.text, answer.text


def test_models_without_conditions_say_so(point_run: Path, image_run: Path, tmp_path: Path) -> None:
    """A model of nothing, and one of classes, name what they are of."""
    for run, said in ((point_run, "trained without a condition; leave it out"), (image_run, "choose a class")):
        answer = call("sample", run, "-n", 2, "--out", tmp_path / "x.npz", "--condition", "1")
        assert answer.code == 2 and said in answer.text, answer.text


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("warmht", "unknown key of"),
        ("nowhere.npy", "no file nowhere.npy"),
        ("warmth,", "has an empty name"),
    ],
)
def test_unknown_columns_are_refused_before_a_folder_is_made(
    numbers: str, tmp_path: Path, condition: str, said: str
) -> None:
    """Nothing is left behind by a slip of the keyboard."""
    answer = call("train", numbers, "--out", tmp_path / "run", "--condition", condition, *settings(MLP, SHORT))
    assert answer.code == 2 and said in answer.text, answer.text
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_with_the_same_condition_only(numbers: str, tmp_path: Path) -> None:
    """Another column, and the same column with other values, are another run."""
    words = ["train", numbers, "--out", tmp_path / "run", "--threads", 1, *settings(MLP, SHORT)]
    assert call(*words, "--condition", "warmth").code == 0
    assert call(*words, "--condition", "warmth", "--set", "steps=3").code == 0
    answer = call(*words, "--condition", "weight")
    assert answer.code == 2 and "data.condition was warmth, now weight" in answer.text, answer.text
    np.savez(tmp_path / "other.npz", samples=np.load(numbers)["samples"], warmth=C[:, 1])
    answer = call("train", tmp_path / "other.npz", *words[2:], "--condition", "warmth")
    assert answer.code == 2 and "trained on other data" in answer.text, answer.text
