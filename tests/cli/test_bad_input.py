"""Wrong use and bad input: the exit code, what the message says, and that nothing is lost or left behind."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.worlds import MLP, SHORT, UNET, Answer, call, digest, process, python, settings, trained

# ── data that cannot be used ─────────────────────────────────────────────────────────────────────────────────────────


def _array(array: Any, **options: Any) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        np.save(folder / "x.npy", array, **options)
        return folder / "x.npy"

    return make


def _file(name: str, content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> object:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _folder(*images: bytes | tuple[int, int]) -> Callable[[Path], object]:
    """A folder of PNG files: of so many pixels, or of these bytes."""

    def make(folder: Path) -> object:
        (folder / "pictures").mkdir()
        for number, image in enumerate(images):
            path = folder / "pictures" / f"{number}.png"
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                Image.new("L", image, number).save(path)
        return folder / "pictures"

    return make


def _with_nan() -> np.ndarray:
    array = np.zeros((6, 3), np.float32)
    array[4, 1] = np.nan
    return array


HUGE_HEADER = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }".ljust(117)
    + (b"\n")
)

DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown name": (lambda _: "mixture-3d", "mixture-2d"),
    "missing path": (lambda folder: folder / "nowhere" / "x.npy", "nowhere"),
    "empty name": (lambda _: "", ""),
    "empty folder": (_folder(), "no "),
    "corrupt images": (_folder(b"not a picture", b"\x89PNG\r\n\x1a\n"), "cannot"),
    "one corrupt image in three": (_folder((4, 4), (4, 4), b"\x89PNG\r\n"), "skip"),
    "mixed sizes": (_folder((4, 4), (5, 4), (4, 6)), "size"),
    "one image": (lambda folder: Path(str(_folder((4, 4))(folder)), "0.png"), "folder"),
    "nan": (_array(_with_nan()), "(4, 1) is nan"),
    "infinite": (_array(np.full((3, 2), np.inf)), "inf"),
    "objects": (_array(np.array([{}, []], dtype=object), allow_pickle=True), "object"),
    "complex": (_array(np.zeros((3, 2), complex)), "complex"),
    "text": (_array(np.array([["a"], ["b"]])), "<U1"),
    "empty array": (_array(np.zeros((0, 2), np.float32)), "0"),
    "empty example": (_array(np.zeros((5, 0), np.float32)), "0"),
    "a scalar": (_array(np.float32(1)), "()"),
    "rank 7": (_array(np.zeros((2, 1, 1, 1, 1, 1, 1), np.float32)), "shape"),
    "declared larger than it is": (_file("x.npy", HUGE_HEADER), "x.npy"),
    "truncated": (_file("x.npy", b"\x93NUMPY\x01\x00"), "x.npy"),
    "empty file": (_file("x.npy", b""), "write it again"),
    "of no known kind": (_file("x.bin", b"hello"), ".npy"),
    "not a zip": (_file("x.npz", b"PK nonsense"), "x.npz"),
    "idx cut short": (_file("x-idx3-ubyte.gz", gzip.compress(struct.pack(">IIII", 2051, 9, 9, 9))), "idx3"),
    "gzip cut short": (_file("x-idx3-ubyte.gz", gzip.compress(b"\0" * 999)[:40]), "idx3"),
    "not parquet": (_file("x.parquet", b"PAR1"), "x.parquet"),
    "not a tar": (_file("x.tar", b"nonsense"), "x.tar"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_used_is_refused_before_a_run_is_made(name: str, tmp_path: Path) -> None:
    make, said = DATA[name]
    data = make(tmp_path)
    before = digest(tmp_path)
    for answer in (call("data", data), call("train", data, "--out", tmp_path / "run", *settings(SHORT))):
        _refused(answer, 2, said)
    assert digest(tmp_path) == before


def _refused(answer: Answer, code: int, said: str) -> None:
    assert answer.code == code, answer
    assert said.lower() in answer.text.lower(), answer.text
    assert "Traceback" not in answer.text
    assert len(answer.text) < 2500, "a message is to be read"


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["--preset", "dppm"], "did you mean 'ddpm'"),
    "unknown setting": (["--set", "bacth=2"], "did you mean 'batch'"),
    "unknown nested setting": (["--set", "optimiser.learning_rat=2"], "did you mean 'optimiser.learning_rate'"),
    "unknown kind": (["--set", "path=vpp"], "did you mean 'vp'"),
    "unknown kind of network": (["--set", "network=unett"], "did you mean 'unet'"),
    "unknown weighting": (["--set", "objective.weighting=simpl"], "did you mean 'simple'"),
    "setting of another kind": (
        ["--set", "network=mlp", "--set", "network.widths=[8]"],
        "did you mean 'network.width'",
    ),
    "setting inside a value": (["--set", "batch.size=3"], "batch"),
    "no equals sign": (["--set", "batch"], "key=value"),
    "no key": (["--set", "=3"], "key=value"),
    "not yaml": (["--set", "batch=[1"], "cannot read"),
    "yaml that builds objects": (["--set", "batch=!!python/object/apply:os.getcwd []"], "cannot read"),
    "wrong type": (["--set", "batch=many"], "many"),
    "a list for a number": (["--set", "batch=[1]"], "[1"),
    "a number for a list": (["--set", "network=unet", "--set", "network.widths=8"], "list"),
    "a fraction for a whole number": (["--set", "batch=2.5"], "2.5"),
    "truth for a number": (["--set", "steps=true"], "True"),
    "nothing": (["--set", "steps="], "steps"),
    "nan": (["--set", "optimiser.learning_rate=.nan"], "finite"),
    "infinite": (["--set", "optimiser.learning_rate=1e400"], "finite"),
    "negative": (["--set", "optimiser.learning_rate=-1"], "positive"),
    "zero steps": (["--steps", "0"], "steps must be at least 1"),
    "zero batch": (["--batch", "0"], "batch"),
    "negative seed": (["--seed", "-1"], "seed"),
    "huge seed": (["--seed", str(2**64)], "seed"),
    "zero minutes": (["--minutes", "0"], "minutes"),
    "minutes not a number": (["--minutes", "nan"], "minutes"),
    "endless minutes": (["--minutes", "1e400"], "minutes"),
    "never saving": (["--save-every", "0"], "save_every"),
    "probability above one": (["--set", "label_dropout=1.5"], "between 0 and 1"),
    "dropout of everything": (["--set", "network=mlp", "--set", "network.dropout=1"], "dropout"),
    "bad schedule": (["--set", "path=discrete", "--set", "path.beta_end=2"], "beta"),
    "chain of a billion": (["--set", "path=discrete", "--set", "path.steps=1000000000"], "1,000,000"),
    "a sampler of more steps than the chain has": (
        ["--preset", "ddpm", "--set", "path.steps=20"],
        "1000 steps are more than this 20-step model has",
    ),
    "a network that says nothing at the start": (
        ["--set", "path=rectified", "--set", "parameterisation=noise"],
        "predict with Velocity",
    ),
    "sampler of no steps": (["--set", "sampler.steps=0"], "at least 1"),
    "width of a billion": (["--set", "network=mlp", "--set", "network.width=1000000000"], "parameters"),
    "depth of a billion": (["--set", "network=mlp", "--set", "network.depth=1000000000"], "blocks"),
    "layout": (["--set", "data.layout=sideways"], "channels-first"),
    "ten megabytes": (["--set", "batch=" + "9" * 10_000_000], "100000"),
    "a thousand digits": (["--set", "batch=" + "9" * 1000], "batch"),
    "ten thousand digits": (["--set", "batch=" + "9" * 10_000], "batch"),
    "nested a thousand deep": (["--set", "batch=" + "[" * 1000 + "]" * 1000], "batch"),
    "a mapping": (["--set", "path={kind: vp, beta_mix: 1}"], "beta_min"),
    "another version's number of steps": (["--steps", "few"], "few"),
    "no such option": (["--stepz", "3"], "--steps"),
    "no threads": (["--threads", "0"], "--threads must be between 1 and 4096, got 0"),
    "no such device": (["--device", "tpux"], "no device 'tpux'"),
    "a network for other data": (["--set", "network=unet"], "use an MLP"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_impossible_configuration_is_refused_before_a_run_is_made(name: str, points: str, tmp_path: Path) -> None:
    words, said = SETTINGS[name]
    _refused(call("train", points, "--out", tmp_path / "run", *words), 2, said)
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_checked_before_torch_is_imported_and_data_are_opened(tmp_path: Path) -> None:
    code = (
        "import sys; from scorefield import cli; code = cli.run(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and code == 2, code"
    )
    answer = python("-c", code, "train", "no-such-data", "--out", tmp_path / "run", "--set", "bacth=3")
    assert answer.code == 0 and "did you mean 'batch'" in answer.text, answer
    assert not list(tmp_path.iterdir())


def test_too_few_settings_leave_a_traceback_nowhere(tmp_path: Path) -> None:
    """As a real process: a mistake gives 2 and one message."""
    answer = process("train", "mixture-2d", "--out", tmp_path / "run", "--set", "batch=0")
    _refused(answer, 2, "batch")
    assert answer.out == ""


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SAMPLING: dict[str, tuple[list[str], int, str]] = {
    "unknown sampler": (["--sampler", "dimm"], 2, "did you mean 'ddim'"),
    "unknown grid": (["--grid", "karas"], 2, "did you mean 'karras'"),
    "more steps than the chain has": (["--sampler", "ddim", "--steps", "21"], 2, "at most 20"),
    "too many steps": (["--steps", "1000001"], 2, "1,000,000"),
    "no steps": (["--steps", "0"], 2, "at least 1"),
    "negative eta": (["--sampler", "ddim", "--eta", "-0.5"], 2, "eta"),
    "eta not a number": (["--sampler", "ddim", "--eta", "nan"], 2, "eta"),
    "eta of another sampler": (["--sampler", "heun", "--eta", "1"], 2, "no --eta"),
    "an option that another sampler has": (["--sampler", "ddim", "--set", "snr=0.2"], 2, "known: eta, grid, steps"),
    "an option almost spelt": (["--sampler", "churn", "--set", "s_chrun=3"], 2, "did you mean 's_churn'"),
    "an option that another grid has": (["--grid", "linear", "--set", "grid.rho=5"], 2, "unknown option"),
    "an option within a number": (["--set", "steps.most=5"], 2, "unknown option"),
    "another kind": (["--set", "kind=ddim"], 2, "unknown option"),
    "a calibration": (["--sampler", "calibrated", "--set", "calibration=x"], 2, "unknown option"),
    "an option without value": (["--set", "variance"], 2, "key=value"),
    "an option of text": (["--sampler", "churn", "--set", "s_churn=lots"], 2, "must be a number, got 'lots'"),
    "an impossible option": (["--sampler", "predictor-corrector", "--set", "snr=7"], 2, "between 0 and 1"),
    "an unknown corrector": (["--sampler", "predictor-corrector", "--set", "corrector=x"], 2, "langevin"),
    "an unknown grid by --set": (["--set", "grid=karas"], 2, "did you mean 'karras'"),
    "a grid that is a number": (["--set", "grid=3"], 2, "grid must be"),
    "a fraction of a step": (["--set", "steps=2.5"], 2, "whole number"),
    "order of another sampler": (["--sampler", "heun", "--order", "2"], 2, "no --order"),
    "an order there is not": (["--sampler", "deis", "--order", "9"], 2, "order"),
    "levels that rise": (["--grid", "levels", "--set", "grid.levels=[1,2]"], 2, "fall strictly"),
    "levels of another number": (["--grid", "levels", "--set", "grid.levels=[2,1]"], 2, "steps"),
    "a variance that was not learned": (["--variance", "learned"], 2, "learned_variance=true"),
    "a chain that compares energies": (
        ["--sampler", "langevin", "--steps", "5", "--set", "metropolis=true"],
        2,
        "parameterisation=energy",
    ),
    "guidance of a model without classes": (["--guidance", "2"], 2, "without classes"),
    "unknown variance": (["--sampler", "ancestral", "--variance", "huge"], 2, "small"),
    "a class of a model without": (["--class", "3"], 2, "without classes"),
    "no samples": (["-n", "0"], 2, "-n"),
    "a negative number": (["-n", "-4"], 2, "-n"),
    "too many samples": (["-n", str(10**18)], 2, "-n"),
    "not a number": (["-n", "many"], 2, "many"),
    "no batch": (["--batch", "0"], 2, "--batch"),
    "negative first": (["--first", "-1"], 2, "--first"),
    "huge first": (["--first", str(2**64)], 2, "--first"),
    "huge seed": (["--seed", str(2**70)], 2, "--seed"),
    "no threads": (["--threads", "0"], 2, "--threads"),
    "no such device": (["--device", "cuda:99"], 2, "no device"),
    "no such option": (["--sampel", "ddim"], 2, "--sampler"),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_impossible_sampling_is_refused_and_writes_nothing(name: str, discrete_run: Path, tmp_path: Path) -> None:
    words, code, said = SAMPLING[name]
    _refused(call("sample", discrete_run, "--out", tmp_path / "x.npz", *words), code, said)
    assert not list(tmp_path.iterdir())


def test_an_ancestral_predictor_wants_a_path_that_has_one(runs: Path, points: str, tmp_path: Path) -> None:
    """Fails where sub-VP, which has no chain, is drawn by another path's chain, or by a traceback."""
    run = trained(runs / "subvp", points, MLP, more=["--preset", "subvp"])
    words = ["--sampler", "predictor-corrector", "--steps", 3, "--set", "predictor=ancestral"]
    _refused(call("sample", run, "--out", tmp_path / "x.npz", *words), 2, "use predictor='reverse-diffusion'")
    assert not list(tmp_path.iterdir())


def test_guidance_is_refused_where_no_label_was_left_out(runs: Path, images: str, tmp_path: Path) -> None:
    """Fails where a model that never saw a sample without its class is guided by what it says about that."""
    run = trained(runs / "labelled", images, UNET, {"label_dropout": 0})
    _refused(call("sample", run, "--out", tmp_path / "x.npz", "--guidance", "2"), 2, "label_dropout=0")
    assert not list(tmp_path.iterdir())
    assert call("sample", run, "--out", tmp_path / "x.npz", "-n", 1, "--steps", 1, "--guidance", "1").code == 0


OUTPUTS: dict[str, tuple[str, int, str]] = {
    "unknown extension": ("x.jpg", 2, ".png"),
    "no parent": ("nowhere/x.png", 2, "make it first"),
    "a file as parent": ("file/x.png", 2, "no folder"),
    "a folder as file": ("folder.png", 2, "is a folder"),
    "a file as folder": ("file", 2, "file"),
    "proc": ("/proc/x.npz", 4, "/proc"),
    "a device": ("/dev/full/x.npz", 2, "/dev/full"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_cannot_be_is_refused(name: str, point_run: Path, tmp_path: Path) -> None:
    out, code, said = OUTPUTS[name]
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    before = digest(tmp_path)
    _refused(call("sample", point_run, "--out", tmp_path / out, "-n", 2), code, said)
    assert digest(tmp_path) == before


def test_a_full_disk_leaves_the_old_output_as_it_was(point_run: Path, tmp_path: Path) -> None:
    """A file may grow to 1 kB only: the exit code is that of storage, the old samples are intact, nothing else is left."""
    out = tmp_path / "x.npz"
    assert call("sample", point_run, "--out", out, "-n", 1, "--steps", 1).code == 0
    before = digest(tmp_path)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); from scorefield import cli; sys.exit(cli.run(sys.argv[1:]))"
    )
    _refused(python("-c", code, "sample", point_run, "--out", out, "-n", 999, "--steps", 1), 4, str(out))
    assert digest(tmp_path) == before


@pytest.mark.parametrize(("count", "said"), [("zero", "did you mean"), ("7", "unknown class"), ("-1", "unknown class")])
def test_an_unknown_class_is_refused_with_those_there_are(
    count: str, said: str, image_run: Path, tmp_path: Path
) -> None:
    answer = call("sample", image_run, "--out", tmp_path / "x.png", "--class", count)
    assert answer.code == 2 and "known: 0, 1" in answer.text, answer


# ── model folders ────────────────────────────────────────────────────────────────────────────────────────────────────


def _changed(**changes: Any) -> Callable[[Path], None]:
    """config.json with values at dotted names (`__` for the dot) replaced."""

    def change(run: Path) -> None:
        plain = json.loads((run / "config.json").read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            place = plain
            for parent in parents:
                place = place[parent]
            place[last] = value
        (run / "config.json").write_text(json.dumps(plain))

    return change


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text)


def _as_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("x")


def _emptied(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def _cut(name: str, left: int) -> Callable[[Path], None]:
    return lambda run: os.truncate(run / name, left)


def _flip(name: str, at: int) -> Callable[[Path], None]:
    def flip(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[at] ^= 1
        (run / name).write_bytes(data)

    return flip


def _link(name: str) -> Callable[[Path], None]:
    def link(run: Path) -> None:
        (run / name).rename(run / "elsewhere")
        (run / name).symlink_to("elsewhere")

    return link


MODELS: dict[str, tuple[Callable[[Path], object], int]] = {
    "missing": (shutil.rmtree, 2),
    "a file": (_as_file, 2),
    "empty": (_emptied, 3),
    "no weights yet": (lambda run: (run / "model.safetensors").unlink(), 3),
    "no config": (lambda run: (run / "config.json").unlink(), 8),
    "weights truncated": (_cut("model.safetensors", 100), 8),
    "weights emptied": (_cut("model.safetensors", 0), 8),
    "first byte of the weights": (_flip("model.safetensors", 0), 8),
    "last byte of the weights": (_flip("model.safetensors", -1), 8),
    "a byte of the config": (_flip("config.json", 20), 8),
    "config emptied": (_cut("config.json", 0), 8),
    "config not json": (_text("config.json", "hello"), 8),
    "config a list": (_text("config.json", "[]"), 8),
    "config of something else": (_text("config.json", '{"model_type": "bert"}'), 8),
    "config too deep": (_text("config.json", "[" * 100_000 + "]" * 100_000), 8),
    "config too large": (_text("config.json", '{"a": "' + "x" * 2_000_000 + '"}'), 8),
    "config with nan": (_text("config.json", '{"sigma_data": NaN}'), 8),
    "config a link": (_link("config.json"), 8),
    "weights a link": (_link("model.safetensors"), 8),
    "a later format": (_changed(format=99), 8),
    "another path": (_changed(path__kind="vq"), 8),
    "a key too many": (_changed(surprise=1), 8),
    "a wider network": (_changed(network__width=16), 8),
    "a width of a billion": (_changed(network__width=10**9), 8),
    "a depth of a billion": (_changed(network__depth=10**9), 8),
    "a deep network": (_changed(network__depth=10**6), 8),
    "an embedding of a billion": (_changed(network__embedding=10**9), 8),
    "a width of 4000 digits": (_changed(network__width=10**4000), 8),
    "a wide U-Net": (_changed(network={"kind": "unet", "widths": [10**9], "depths": [1], "attention": 0}), 8),
    "a deep U-Net": (_changed(network={"kind": "unet", "widths": [8], "depths": [10**6], "attention": 0}), 8),
    "a U-Net of many levels": (
        _changed(network={"kind": "unet", "widths": [8] * 9999, "depths": [1] * 9999, "attention": 0}),
        8,
    ),
    "a U-Net for points": (_changed(network={"kind": "unet"}), 8),
    "huge samples": (_changed(representation__shape=[10**12]), 8),
    "samples of no size": (_changed(representation__shape=[]), 8),
    "an unknown dtype": (_changed(representation__dtype="float13"), 8),
    "objects": (_changed(representation__dtype="O"), 8),
    "a sampler of endless steps": (_changed(sampler__steps=10**15), 8),
    "a chain of endless steps": (_changed(path={"kind": "discrete", "steps": 10**12}), 8),
    "a class without weight": (_changed(class_names=["a"]), 8),
    "a mean of text": (_changed(mean=["0"]), 8),
    "no mean": (_changed(mean=[]), 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_damaged_or_foreign_model_is_refused(name: str, point_run: Path, tmp_path: Path) -> None:
    """Whatever is wrong with it: the code says which kind, the folder's bytes stay, nothing is written."""
    damage, code = MODELS[name]
    run = tmp_path / "run"
    shutil.copytree(point_run, run)
    damage(run)
    before = digest(tmp_path)
    answer = call("sample", run, "--out", tmp_path / "x.npz", "-n", 2)
    _refused(answer, code, "")
    assert answer.err.startswith("scorefield: error: "), answer
    assert digest(tmp_path) == before


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _again(run: Path, data: object, table: Mapping[str, Any], *more: object) -> Answer:
    return call("train", data, "--out", run, "--threads", 1, "--device", "cpu", *settings(dict(table), SHORT), *more)


def test_another_configuration_is_refused_with_what_differs(point_run: Path, points: str, runs: Path) -> None:
    before = digest(point_run)
    _refused(_again(point_run, points, MLP | {"network.width": 12, "seed": 3}), 2, "network.width was 8, now 12")
    _refused(_again(point_run, points, MLP, "--preset", "ddpm"), 2, "preset was default, now ddpm")
    assert digest(point_run) == before


def test_other_data_are_refused(point_run: Path) -> None:
    before = digest(point_run)
    _refused(_again(point_run, "moons", MLP), 2, "other data")
    assert digest(point_run) == before


def test_a_folder_of_something_else_is_never_a_run(points: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    before = digest(tmp_path)
    _refused(_again(tmp_path, points, MLP), 2, "thesis.tex")
    _refused(_again(tmp_path / "thesis.tex", points, MLP), 2, "is a file")
    assert digest(tmp_path) == before


def test_a_run_in_use_is_refused_at_once(point_run: Path, points: str) -> None:
    from scorefield.training.run_folder import RunFolder

    before = digest(point_run)
    with RunFolder(point_run).lock():
        _refused(_again(point_run, points, MLP), 5, "in use by process")
    assert digest(point_run) == before


@pytest.mark.parametrize("parent", ["/proc", "/dev/full"])
def test_a_run_where_nothing_can_be_written_is_a_matter_of_storage(parent: str, points: str) -> None:
    answer = _again(Path(parent, "run"), points, MLP)
    assert answer.code in (2, 4) and "Traceback" not in answer.text and parent in answer.text, answer


# ── the other commands ───────────────────────────────────────────────────────────────────────────────────────────────

OTHERS: dict[str, tuple[list[str], str]] = {
    "unknown command": (["trian", "digits"], "did you mean 'train'"),
    "unknown option instead of a command": (["--verbose"], "--version"),
    "no arguments for train": (["train"], "--help"),
    "no output for train": (["train", "digits"], "--out"),
    "report of nothing": (["report", "nowhere-at-all"], "nowhere-at-all"),
    "evaluate nothing": (["evaluate", "nowhere-at-all", "mixture-2d"], "nowhere-at-all"),
    "evaluate against nothing": (["evaluate", "mixture-2d", "nowhere-at-all"], "nowhere-at-all"),
    "evaluate too few": (["evaluate", "mixture-2d", "moons", "-n", "3"], "-n"),
    "data of no size": (["data", "digits", "--size", "0"], "size"),
    "data of no layout": (["data", "digits", "--layout", "sideways"], "layout"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_wrong_use_of_other_commands_is_refused(name: str) -> None:
    words, said = OTHERS[name]
    _refused(call(*words), 2, said)
