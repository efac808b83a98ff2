"""`scorefield train-classifier` and what draws by it: where it lies, what it prints, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.worlds import MLP, UNET, call, digest, settings, trained

TINY = settings({"network.widths": "[8]", "network.depths": "[1]", "network.embedding": 8, "network.attention": 0})


@pytest.fixture(scope="module")
def run(runs: Path, images: str) -> Path:
    """A run on images of two classes, of its own: a classifier goes into it."""
    return trained(runs / "classified", images, UNET)


@pytest.fixture(scope="module")
def judged(run: Path, images: str) -> Path:
    """The run with a classifier."""
    answer = call("train-classifier", run, images, "--steps", 3, "--batch", 4, *TINY)
    assert answer.code == 0, answer.text
    return run


def test_it_is_kept_beside_the_model_and_says_what_it_knows(run: Path, images: str) -> None:
    """A table for people, one object for programs, and the run's own files as they were."""
    before = (run / "model.safetensors").read_bytes()
    answer = call("train-classifier", run, images, "--steps", 2, "--batch", 4, "--held-out", 3, "--json", *TINY)
    assert answer.code == 0, answer.text
    found = json.loads(answer.out.splitlines()[-1])
    assert found["steps"] == 2 and [level["count"] for level in found["levels"]] == [3] * len(found["levels"])
    assert set(found["levels"][0]) == {"ratio", "accuracy", "cross_entropy", "count", "standard_error"}
    assert "σ/α   accuracy" in answer.out
    assert sorted(file.name for file in (run / "classifier").iterdir()) == ["classifier.safetensors", "config.json"]
    assert (run / "model.safetensors").read_bytes() == before
    again = call("train-classifier", run, images, "--steps", 1, "--batch", 4, *TINY)
    assert again.code == 0 and "has a classifier, which this one replaces" in again.err
    assert "replaces" not in answer.text


def test_samples_are_led_by_it(judged: Path, tmp_path: Path) -> None:
    """The option reaches the denoiser: other samples than without, each scale its own; alone, or on top of --guidance."""
    drawn = {}
    options = {
        "none": ["--guidance", 1],
        "one": ["--classifier-guidance", 1],
        "many": ["--classifier-guidance", 400],
        "both": ["--classifier-guidance", 400, "--guidance", 2],
        "short": ["--classifier-guidance", 400, "--guidance-interval", "0.5:2"],
    }
    for name, words in options.items():
        out = tmp_path / f"{name}.npz"
        answer = call("sample", judged, "-n", 2, "--class", 1, "--sampler", "heun", "--steps", 3, "--out", out, *words)
        assert answer.code == 0, answer.text
        with np.load(out) as found:
            drawn[name] = found["samples"]
            assert found["classes"].tolist() == [1, 1]
    for name, other in (("none", "many"), ("one", "many"), ("many", "short"), ("none", "short")):
        assert not np.array_equal(drawn[name], drawn[other]), (name, other)


def test_a_model_without_classes_is_led_too(runs: Path, images: str, tmp_path: Path) -> None:
    """The classes that are asked for are the classifier's, and are kept with the samples."""
    free = trained(runs / "unlabelled", images, UNET, {"data.labels": "false"})
    assert call("sample", free, "-n", 2, "--class", 1, "--out", tmp_path / "x.npz").code == 2
    assert call("train-classifier", free, images, "--steps", 1, "--batch", 4, *TINY).code == 0
    answer = call(
        "sample", free, "-n", 3, "--class", 1, "--classifier-guidance", 2, "--steps", 5, "--out", tmp_path / "x.npz"
    )
    assert answer.code == 0, answer.text
    with np.load(tmp_path / "x.npz") as found:
        assert found["samples"].shape == (3, 8, 8) and found["classes"].tolist() == [1, 1, 1]


def test_without_a_classifier_the_command_is_named(image_run: Path, tmp_path: Path) -> None:
    """The message is the next line to type."""
    answer = call("sample", image_run, "-n", 2, "--classifier-guidance", 1, "--out", tmp_path / "x.npz")
    assert answer.code == 2 and f"scorefield train-classifier {image_run} DATA" in answer.text, answer.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", 0], "steps ≥ 1"),
        (["--batch", 0], "a batch from 1"),
        (["--minutes", -1], "a positive number"),
        (["--held-out", 12], "can be held out, got 12"),
        (["--set", "rate=1"], "unknown setting of the classifier 'rate'"),
        (["--set", "learning_rate=fast"], "learning_rate must be a number"),
        (["--set", "learning_rate=-1"], "learning_rate > 0"),
        (["--set", "network.width=8"], "network.widths"),
        (["--set", "network.widths=[0]"], "at least one whole number"),
        (["--threads", 0], "--threads must be between"),
    ],
)
def test_slips_of_the_keyboard_are_refused(run: Path, images: str, words: list[object], said: str) -> None:
    """What, got, fix; and nothing of the run changes."""
    before = digest(run)
    answer = call("train-classifier", run, images, *words)
    assert answer.code == 2 and said in answer.text, answer.text
    assert digest(run) == before


def test_other_data_are_refused(run: Path, point_run: Path, images: str, points: str, tmp_path: Path) -> None:
    """Other classes, other shapes, no labels, no run: each is named with what would do."""
    with np.load(images) as found:
        np.savez(tmp_path / "other.npz", images=found["images"], labels=np.arange(12) % 3)
        np.savez(tmp_path / "bare.npz", images=found["images"])
    for where, data, said in (
        (run, tmp_path / "other.npz", "give data with the model's classes"),
        (run, tmp_path / "bare.npz", "has no labels to learn"),
        (point_run, images, "give the data that it was trained on"),
        (tmp_path / "nowhere", images, "no run folder at"),
        (run, tmp_path / "nothing.npz", "nothing.npz"),
    ):
        answer = call("train-classifier", where, data)
        assert answer.code == 2 and said in answer.text, answer.text


def test_points_have_classifiers_too(tmp_path: Path) -> None:
    """A perceptron stands where a U-Net cannot."""
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", data=generator.normal(size=(40, 2)).astype(np.float32), labels=np.arange(40) % 2)
    run = trained(tmp_path / "run", tmp_path / "two.npz", MLP)
    words = settings({"network.width": 8, "network.depth": 1, "network.embedding": 8})
    answer = call("train-classifier", run, tmp_path / "two.npz", "--steps", 2, "--batch", 8, *words)
    assert answer.code == 0, answer.text
    answer = call("sample", run, "-n", 2, "--classifier-guidance", 1, "--out", tmp_path / "x.npz")
    assert answer.code == 0, answer.text
