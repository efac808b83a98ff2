"""Guidance on the command line: every option changes what is drawn, and what cannot be is refused with the fix."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.worlds import UNET, call, trained


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory: pytest.TempPathFactory, images: str) -> Path:
    """A run that has learned enough for its classes to matter."""
    learning = {"optimiser.learning_rate": 0.02, "optimiser.warmup": 0, "label_dropout": 0.3}
    return trained(tmp_path_factory.mktemp("classes") / "run", images, UNET, learning, more=["--steps", 15])


def drawn(run: Path, out: Path, *options: object) -> np.ndarray:
    """Four samples of class 1."""
    answer = call("sample", run, "-n", 4, "--class", 1, "--out", out, "--steps", 4, "--threads", 1, *options)
    assert answer.code == 0, answer.text
    samples: np.ndarray = np.load(out)["samples"]
    return samples


@pytest.mark.parametrize(
    "options",
    [
        ["--guidance", 3, "--guidance-interval", "0.1:3"],
        ["--guidance", 3, "--guidance-rescale", 0.9],
        ["--autoguide", "step-15", "--autoguide-scale", 3],
    ],
    ids=["interval", "rescale", "autoguide"],
)
def test_options_are_heard(classes_run: Path, tmp_path: Path, options: list[object]) -> None:
    """An option that is parsed and forgotten draws the same as plain guidance; a guide of the same weights changes nothing."""
    plain = drawn(classes_run, tmp_path / "plain.npz", "--guidance", 3 if "--guidance" in options else 1)
    bent = drawn(classes_run, tmp_path / "bent.npz", *options)
    assert np.array_equal(plain, bent) == ("--autoguide" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance-interval", "3"], "takes LOW:HIGH"),
        (["--guidance-interval", "a:b"], "takes LOW:HIGH"),
        (["--guidance", 2, "--guidance-interval", "4:1"], "from low to high"),
        (["--guidance", 2, "--guidance-rescale", 2], "rescale between 0"),
        (["--guidance", -1], "scale ≥ 0"),
        (["--guidance", 1, "--guidance-interval", "0.1:2"], "none at scale 1; give one"),
        (["--guidance", 1, "--guidance-rescale", 0.7], "none at scale 1; give one"),
        (["--autoguide", "step-9"], "there are: step-2"),
        (["--autoguide", "nowhere"], "no run folder"),
        (["--autoguide", "step-2", "--guidance", 2], "in place of|takes the place"),
        (["--guidance", "nan"], "scale ≥ 0, got nan"),
        (["--class", "shoe", "--guidance", 2], "unknown class 'shoe'; known: "),
        (["--autoguide", "step-2", "--autoguide-scale", -1], "scale ≥ 0, got -1"),
        (["--autoguide", "step-2", "--guidance-rescale", 0.5], "rescale 0.5 is of classifier-free guidance"),
        (["--classifier-guidance", 1, "--guidance-rescale", 0.5], "rescale 0.5 is of classifier-free guidance"),
        (["--autoguide-scale", 2], "name one with --autoguide"),
        (["--classifier-guidance", 1], "train-classifier"),
    ],
)
def test_what_cannot_be_is_refused(image_run: Path, tmp_path: Path, options: list[object], message: str) -> None:
    """Exit code 2, what, got, fix, and nothing written."""
    answer = call("sample", image_run, "-n", 2, "--out", tmp_path / "x.npz", *options)
    assert answer.code == 2 and re.search(message, answer.text), answer.text
    assert not (tmp_path / "x.npz").exists()


def test_a_guide_of_other_data_is_refused(image_run: Path, point_run: Path, tmp_path: Path) -> None:
    """Its answers would be of another shape."""
    answer = call("sample", image_run, "-n", 2, "--out", tmp_path / "x.npz", "--autoguide", point_run)
    assert answer.code == 2 and "a model of the same data" in answer.text


def test_a_model_that_was_never_without_its_class_has_no_scale(
    tmp_path_factory: pytest.TempPathFactory, images: str, tmp_path: Path
) -> None:
    """Its answer without a class is that of untrained weights: classifier-free guidance would be led by noise."""
    run = trained(tmp_path_factory.mktemp("sure") / "run", images, UNET, {"label_dropout": 0, "guidance": 1})
    answer = call("sample", run, "-n", 2, "--class", 1, "--guidance", 2, "--out", tmp_path / "x.npz")
    assert answer.code == 2 and "train with --set label_dropout=0.1" in answer.text, answer.text


def test_a_classifier_of_another_run_is_refused(image_run: Path, point_run: Path, images: str, tmp_path: Path) -> None:
    """Copied into the folder of a model of other data it would judge what it has never seen."""
    for name, source in (("own", image_run), ("other", point_run)):
        shutil.copytree(source, tmp_path / name)
    tiny = ["network.widths=[8]", "network.depths=[1]", "network.embedding=8", "network.attention=0"]
    words = [word for setting in tiny for word in ("--set", setting)]
    assert call("train-classifier", tmp_path / "own", images, "--steps", 1, "--batch", 4, *words).code == 0
    shutil.copytree(tmp_path / "own" / "classifier", tmp_path / "other" / "classifier")
    answer = call("sample", tmp_path / "other", "-n", 2, "--classifier-guidance", 1, "--out", tmp_path / "x.npz")
    assert answer.code == 2 and "make it again: scorefield train-classifier" in answer.text, answer.text
