"""What the commands write and print: files, standard output, standard error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scorefield as sf
from scorefield import cli
from tests.cli.worlds import MLP, Answer, call, process, python, settings, trained


def _drawn(run: Path, out: Path, *words: object) -> dict[str, np.ndarray]:
    """The arrays of an .npz that `sample` wrote."""
    answer = call("sample", run, "--out", out, "--steps", 3, *words)
    assert answer.code == 0, answer.text
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """What makes `scorefield --help` slow is imports; no clock is needed to see them."""
    code = (
        "import sys\nfrom scorefield import cli\n"
        "try: cli.run(sys.argv[1:])\nexcept SystemExit as leaving: assert not leaving.code\n"
        "heavy = {'torch', 'numpy', 'tyro', 'rich', 'yaml', 'PIL'} & set(sys.modules)\nassert not heavy, heavy"
    )
    answer = python("-c", code, *words)
    assert answer.code == 0 and "scorefield" in answer.out and not answer.err, answer


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_that_opens_with_its_summary(name: str) -> None:
    answer = call(name, "--help")
    assert answer.code == 0 and cli.COMMANDS[name] in answer.text
    assert cli.COMMANDS[name] in call("--help").text


def test_the_commands_import_no_torch_until_they_run() -> None:
    names = ", ".join(f"scorefield.cli.{name.replace('-', '_')}" for name in cli.COMMANDS)
    answer = python("-c", f"import sys, {names}, scorefield; assert 'torch' not in sys.modules")
    assert answer.code == 0, answer.err


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_archive_holds_samples_first_laid_out_as_the_data(image_run: Path, tmp_path: Path) -> None:
    drawn = _drawn(image_run, tmp_path / "x.npz", "-n", 5, "--seed", 7)
    assert list(drawn) == ["samples", "seeds", "classes"]
    assert drawn["samples"].shape == (5, 8, 8) and drawn["samples"].dtype == np.uint8
    assert drawn["seeds"].tolist() == [7] * 5
    assert drawn["classes"].shape == (5,) and set(drawn["classes"].tolist()) <= {0, 1}


def test_an_archive_of_data_without_classes_holds_none(point_run: Path, tmp_path: Path) -> None:
    drawn = _drawn(point_run, tmp_path / "x.npz", "-n", 3)
    assert list(drawn) == ["samples", "seeds"]
    assert drawn["samples"].shape == (3, 2) and drawn["samples"].dtype == np.float32


def test_a_folder_holds_exactly_the_samples_of_the_archive(image_run: Path, tmp_path: Path) -> None:
    samples = _drawn(image_run, tmp_path / "x.npz", "-n", 3, "--first", 4)["samples"]
    assert call("sample", image_run, "--out", tmp_path / "x", "-n", 3, "--first", 4, "--steps", 3).code == 0
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert names == ["000004.png", "000005.png", "000006.png"]
    found = np.stack([np.asarray(Image.open(tmp_path / "x" / name)) for name in names])
    np.testing.assert_array_equal(found, samples)


def test_a_folder_of_points_holds_arrays(point_run: Path, tmp_path: Path) -> None:
    samples = _drawn(point_run, tmp_path / "x.npz", "-n", 2)["samples"]
    assert call("sample", point_run, "--out", tmp_path / "x", "-n", 2, "--steps", 3).code == 0
    np.testing.assert_array_equal(np.stack([np.load(tmp_path / "x" / f"00000{k}.npy") for k in range(2)]), samples)


@pytest.mark.parametrize("sampler", ["heun", "ddim", "ancestral"])
def test_a_sample_depends_on_its_number_and_seed_alone(sampler: str, image_run: Path, tmp_path: Path) -> None:
    """Sample k is the same for any -n, --batch and --first: the class and the noise of every step are its own."""
    whole = _drawn(image_run, tmp_path / "a.npz", "-n", 6, "--sampler", sampler)
    split = _drawn(image_run, tmp_path / "b.npz", "-n", 4, "--first", 2, "--batch", 3, "--sampler", sampler)
    np.testing.assert_array_equal(whole["classes"][2:], split["classes"])
    difference = whole["samples"][2:].astype(int) - split["samples"]
    assert np.abs(difference).max() <= 1, "one level, where a matrix product of another size rounds otherwise"
    other = _drawn(image_run, tmp_path / "c.npz", "-n", 6, "--seed", 1, "--sampler", sampler)
    assert np.abs(whole["samples"].astype(int) - other["samples"]).max() > 1


def test_the_same_command_writes_the_same_bytes(image_run: Path, tmp_path: Path) -> None:
    first, again = (
        _drawn(image_run, tmp_path / name, "-n", 4, "--sampler", "ancestral") for name in ("a.npz", "b.npz")
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_class_is_drawn_by_number(image_run: Path, tmp_path: Path) -> None:
    for wanted in (0, 1):
        drawn = _drawn(image_run, tmp_path / "x.npz", "-n", 4, "--class", wanted)
        assert drawn["classes"].tolist() == [wanted] * 4


def test_a_class_is_drawn_by_name(tmp_path: Path) -> None:
    """Sub-folders are classes; their names are those of the classes."""
    for number, name in enumerate(("cat", "owl")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 100 * number + k).save(tmp_path / "data" / name / f"{k}.png")
    unet: dict[str, object] = {
        "network": "unet",
        "network.widths": "[8]",
        "network.depths": "[1]",
        "network.head_width": 8,
    }
    run = trained(tmp_path / "run", tmp_path / "data", unet | {"network.embedding": 8})
    assert _drawn(run, tmp_path / "x.npz", "-n", 2, "--class", "owl")["classes"].tolist() == [1, 1]
    answer = call("sample", run, "--out", tmp_path / "x.npz", "--class", "owls")
    assert answer.code == 2 and "did you mean 'owl'" in answer.text


@pytest.mark.parametrize(("name", "kind"), [("x.png", "PNG"), ("x.PNG", "PNG"), ("x.gif", "GIF"), ("x.GIF", "GIF")])
@pytest.mark.parametrize("which", ["image_run", "point_run"])
def test_pictures_and_films_are_of_their_kind(
    name: str, kind: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(which)
    assert call("sample", run, "--out", tmp_path / name, "-n", 3, "--steps", 3).code == 0
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind and min(picture.size) >= 8
        assert kind == "PNG" or getattr(picture, "n_frames", 1) >= 2


@pytest.mark.parametrize("grid", ["native", "linear", "quadratic", "trailing", "leading", "logsnr", "karras"])
def test_every_grid_draws_with_every_sampler(grid: str, discrete_run: Path, tmp_path: Path) -> None:
    for sampler in ("ancestral", "ddim", "heun"):
        drawn = _drawn(discrete_run, tmp_path / "x.npz", "-n", 2, "--sampler", sampler, "--grid", grid)
        assert np.isfinite(drawn["samples"]).all()


# ── what is printed ──────────────────────────────────────────────────────────────────────────────────────────────────


def _only_object(answer: Answer) -> dict[str, Any]:
    """The JSON object that is all of standard output."""
    assert answer.code == 0, answer
    assert answer.out.count("\n") == 1, answer.out
    found: dict[str, Any] = json.loads(answer.out)
    return found


def test_json_is_the_last_line_of_standard_output(point_run: Path, points: str, tmp_path: Path) -> None:
    sampled = _only_object(call("sample", point_run, "--out", tmp_path / "x.npz", "-n", 3, "--steps", 4, "--json"))
    assert sampled["count"] == 3 and sampled["steps"] == 4 and sampled["sampler"] == "calibrated"
    assert sampled["evaluations"] == 4
    reported = _only_object(call("report", point_run, "--out", tmp_path / "r.html", "--json"))
    assert Path(reported["out"]).read_text().startswith("<!")
    described = json.loads(call("data", points, "--json").out.splitlines()[-1])
    assert described["shape"] == [2]


def test_standard_output_is_empty_and_progress_silent_without_a_terminal(points: str, tmp_path: Path) -> None:
    """As a process whose standard error is a pipe: no bar, no control codes; the same command then has nothing to do."""
    words = ["train", points, "--out", tmp_path / "run", *settings(MLP, {"batch": 8, "steps": 2, "previews": 0})]
    answer = process(*words)
    assert answer.code == 0 and answer.out == "" and "\x1b" not in answer.err
    assert answer.err.startswith("scorefield: done at step 2") and len(answer.err.splitlines()) == 1, answer.err
    again = call(*words, "--json")
    assert _only_object(again)["step"] == 2


def test_a_reader_that_leaves_early_is_no_error(points: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`scorefield data X | head -0` ends quietly."""

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    monkeypatch.setattr("os.dup2", lambda *_: 1)
    assert cli.run(["data", points]) == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 7, "smaller --batch"),
        (RuntimeError("CUDA out of memory. Tried"), 7, "smaller --batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 7, "smaller --batch"),
        (OSError(28, "No space left on device", "x"), 4, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_machine_lacks_has_a_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("scorefield.cli.report.ReportCommand.run", fail)
    answer = call("report", "x")
    assert answer.code == code and said in answer.err and "Traceback" not in answer.err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own must be seen with its place, not dressed up as the user's mistake."""

    def fail(_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("scorefield.cli.report.ReportCommand.run", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        call("report", "x")


def test_a_run_samples_alike_from_python(image_run: Path, tmp_path: Path) -> None:
    drawn = _drawn(image_run, tmp_path / "x.npz", "-n", 3, "--sampler", "ddim", "--eta", "0.5")
    model = sf.load(image_run)
    np.testing.assert_array_equal(model.sample(3, sampler=sf.DDIM(steps=3, eta=0.5), seed=0), drawn["samples"])
