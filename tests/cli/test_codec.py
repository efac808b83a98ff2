"""compress, decompress and codec-profile: files go in and come out as they were, and every mistake has its message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scorefield.coding.archive import Picture, pack
from scorefield.data import open_data
from scorefield.model import load
from scorefield.model_codec import codec_of, read_codec_profile
from tests.cli.worlds import UNET, call, process, trained


def smooth(count: int, side: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    """Grey slopes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(side)
    slopes = rng.uniform(-4, 4, (count, 2, 1, 1))
    return np.clip(
        120 + rng.uniform(-40, 40, (count, 1, 1)) + slopes[:, 0] * rows + slopes[:, 1] * columns, 0, 255
    ).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on slopes, with its profile."""
    folder = tmp_path_factory.mktemp("codec")
    np.save(folder / "train.npy", smooth(60))
    made = trained(folder / "run", folder / "train.npy", UNET)
    answer = call("codec-profile", made, "--threads", 1, "--steps", 40, "--examples", 60, "--json")
    assert answer.code == 0, answer.text
    assert json.loads(answer.out.splitlines()[-1])["profile"] == "small"
    return made


def test_data_come_back_in_another_process(run: Path, tmp_path: Path) -> None:
    """The whole way through the command line, verified, by a receiver who has the run and the file only."""
    np.save(tmp_path / "x.npy", smooth(7, seed=3))
    answer = call(
        "compress", run, tmp_path / "x.npy", "--out", tmp_path / "x.sfz", "--verify", "--threads", 1, "--json"
    )
    assert answer.code == 0, answer.text
    said = json.loads(answer.out.splitlines()[-1])
    assert said["bytes"] == (tmp_path / "x.sfz").stat().st_size and said["pictures"] == 7
    bits = said["header_bits"] + said["chain_bits"] + said["last_stage_bits"] + said["stored_bits"]
    assert bits == 8 * said["bytes"] and said["bound_bits_per_value"] <= said["bits_per_value"]
    answer = process("decompress", run, tmp_path / "x.sfz", "--out", tmp_path / "y.npy", "--batch", 3, "--json")
    assert answer.code == 0 and json.loads(answer.out.splitlines()[-1])["lossless"], answer.text
    back = np.load(tmp_path / "y.npy")
    assert back.dtype == np.uint8 and np.array_equal(back, smooth(7, seed=3))


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has hardly learned anything of MNIST's digits: exactness may not hang on how good a model is."""
    run = trained(tmp_path_factory.mktemp("hasty") / "run", "mnist", UNET, {"network.fold": 4, "data.labels": "false"})
    made = call("codec-profile", run, "--profile", "progressive", "--threads", 1, "--steps", 60, "--examples", 200)
    assert made.code == 0, made.text
    return run


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "data", ["mnist-test", pytest.param("fashion-mnist", marks=pytest.mark.needs("fashion-mnist"))]
)
def test_two_hundred_real_pictures_come_back(hasty: Path, tmp_path: Path, data: str) -> None:
    """Digits and clothes, through a real network in float64, read in other batches on two threads."""
    file = "/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz" if data == "fashion-mnist" else data
    words = ["--profile", "progressive", "--first", 200, "--out", tmp_path / "x.sfz", "--threads", 1, "--json"]
    made = call("compress", hasty, file, *words)
    assert made.code == 0 and json.loads(made.out.splitlines()[-1])["bytes"] < 200 * 784, made.text
    answer = process(
        "decompress", hasty, tmp_path / "x.sfz", "--out", tmp_path / "y.npy", "--batch", 33, "--threads", 2
    )
    assert answer.code == 0 and "exactly" in answer.text, answer.text
    expected = open_data(file).batch(np.arange(200))[:, 0]
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


def test_the_first_use_makes_the_profile(run: Path, tmp_path: Path) -> None:
    """Nobody need know of profiles: compress makes one from the run's own training data, and keeps it."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "codec-small.safetensors").unlink()
    np.save(tmp_path / "x.npy", smooth(3, seed=6))
    answer = call("compress", tmp_path / "run", tmp_path / "x.npy", "--out", tmp_path / "x.sfz", "--threads", 1)
    assert answer.code == 0 and "making the codec's profile" in answer.text, answer.text
    answer = call("decompress", tmp_path / "run", tmp_path / "x.sfz", "--out", tmp_path / "y.npz", "--threads", 1)
    assert answer.code == 0 and np.array_equal(np.load(tmp_path / "y.npz")["samples"], smooth(3, seed=6)), answer.text


def test_image_files_of_any_size_come_back_under_their_names(run: Path, tmp_path: Path) -> None:
    """Pixels are the promise: PNG, and whatever else is decoded, tiles included; a folder's names are kept below --out."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    sizes = {"a": (8, 8), "sub/b": (13, 5), "sub/c": (1, 30)}
    for name, side in sizes.items():
        Image.fromarray(smooth(1, side, seed=len(name))[0]).save(tmp_path / "in" / f"{name}.png")
    answer = call("compress", run, tmp_path / "in", "--out", tmp_path / "x.sfz", "--threads", 1)
    assert answer.code == 0, answer.text
    answer = call("decompress", run, tmp_path / "x.sfz", "--out", tmp_path / "out", "--threads", 1)
    assert answer.code == 0, answer.text
    for name in sizes:
        given, got = (np.asarray(Image.open(tmp_path / folder / f"{name}.png")) for folder in ("in", "out"))
        assert np.array_equal(given, got), name
    answer = call(
        "compress", run, tmp_path / "in", "--out", tmp_path / "y.sfz", "--no-names", "--first", 1, "--threads", 1
    )
    assert answer.code == 0 and (tmp_path / "y.sfz").stat().st_size < (tmp_path / "x.sfz").stat().st_size
    answer = call("decompress", run, tmp_path / "y.sfz", "--out", tmp_path / "plain", "--threads", 1)
    assert [file.name for file in (tmp_path / "plain").iterdir()] == ["000000.png"]
    answer = call("decompress", run, tmp_path / "x.sfz", "--out", tmp_path / "one.npy", "--threads", 1)
    assert answer.code == 2 and "several sizes" in answer.text


def test_the_front_of_an_archive_is_a_picture(run: Path, tmp_path: Path) -> None:
    """--bytes and a cut file show what there is and say that it is not exact; --strict refuses."""
    np.save(tmp_path / "x.npy", smooth(5, seed=4))
    assert call("compress", run, tmp_path / "x.npy", "--out", tmp_path / "x.sfz", "--threads", 1).code == 0
    data = (tmp_path / "x.sfz").read_bytes()
    words = ["decompress", run, tmp_path / "x.sfz", "--out", tmp_path / "y.npy", "--threads", 1, "--json"]
    answer = call(*words, "--bytes", len(data) * 2 // 3)
    said = json.loads(answer.out.splitlines()[-1])
    assert answer.code == 0 and not said["lossless"] and np.load(tmp_path / "y.npy").shape == (5, 8, 8)
    (tmp_path / "x.sfz").write_bytes(data[:-2])
    assert not json.loads(call(*words).out.splitlines()[-1])["lossless"]
    answer = call(*words, "--strict")
    assert answer.code == 8 and "cut" in answer.text
    answer = call(*words, "--bytes", 6)
    assert answer.code == 8 and "header" in answer.text


def test_a_damaged_or_foreign_archive_is_refused_and_nothing_is_written(
    run: Path, image_run: Path, tmp_path: Path
) -> None:
    """Exit 8, by name, and no file that could be taken for the picture."""
    np.save(tmp_path / "x.npy", smooth(2, seed=4))
    assert call("compress", run, tmp_path / "x.npy", "--out", tmp_path / "x.sfz", "--threads", 1).code == 0
    data = bytearray((tmp_path / "x.sfz").read_bytes())
    data[-5] ^= 4
    (tmp_path / "bad.sfz").write_bytes(data)
    (tmp_path / "text.sfz").write_text("these are not the bytes of an archive")
    for name, says in (("bad", "damaged"), ("text", "no stream of scorefield")):
        answer = call("decompress", run, tmp_path / f"{name}.sfz", "--out", tmp_path / "out", "--threads", 1)
        assert answer.code == 8 and says in answer.text and not (tmp_path / "out").exists()
    answer = call("decompress", image_run, tmp_path / "x.sfz", "--out", tmp_path / "out", "--threads", 1)
    assert answer.code == 2 and "profile" in answer.text
    np.save(tmp_path / "other.npy", smooth(60, seed=7))
    other = trained(tmp_path / "other", tmp_path / "other.npy", UNET)
    assert call("codec-profile", other, "--threads", 1, "--steps", 5, "--examples", 40).code == 0
    answer = call("decompress", other, tmp_path / "x.sfz", "--out", tmp_path / "out", "--threads", 1)
    assert answer.code == 8 and "was made with profile" in answer.text


def test_a_profile_is_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    """Files that were made with it could no longer be read."""
    before = (run / "codec-small.safetensors").read_bytes()
    answer = call("codec-profile", run, "--threads", 1)
    assert answer.code == 2 and "--replace" in answer.text
    assert (run / "codec-small.safetensors").read_bytes() == before


def test_mistakes_have_their_messages(run: Path, point_run: Path, tmp_path: Path) -> None:
    """What, got, fix; exit 2; before hours are spent."""
    np.save(tmp_path / "wide.npy", smooth(3, (8, 9)))
    np.save(tmp_path / "floats.npy", smooth(3).astype(np.float32))
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "wide.npz.txt").write_text("mine")
    out = ["--out", tmp_path / "x.sfz", "--threads", 1]
    cases: list[tuple[list[object], str]] = [
        (["compress", run, tmp_path / "wide.npy", *out], "shape"),
        (["compress", run, tmp_path / "floats.npy", *out], "whole numbers"),
        (["compress", run, tmp_path / "colour.png", *out], "channel"),
        (["compress", run, tmp_path / "broken.png", *out], "broken.png"),
        (["compress", run, tmp_path / "nothing.npy", *out], "nothing.npy"),
        (["compress", run, *out], "nothing to compress"),
        (["compress", point_run, tmp_path / "wide.npy", *out], "finitely many values"),
        (["compress", tmp_path / "no-run", tmp_path / "wide.npy", *out], "no run folder"),
        (["compress", run, tmp_path / "wide.npy", "--out", tmp_path / "no" / "x.sfz"], "no folder"),
        (["compress", run, tmp_path / "wide.npy", "--out", tmp_path], "is a folder"),
        (["compress", run, tmp_path / "wide.npy", *out, "--profile", "smal"], "small"),
        (["compress", run, tmp_path / "wide.npy", *out, "--seed", 16], "0 to 15"),
        (["decompress", run, tmp_path / "no.sfz", "--out", tmp_path / "y"], "no file"),
        (["decompress", run, tmp_path / "wide.npy", "--out", tmp_path / "y", "--bytes", 0], "--bytes"),
        (["decompress", run, tmp_path / "wide.npy", "--out", tmp_path / "wide.npz.txt"], "is a file"),
        (["codec-profile", run, "--profile", "tiny"], "small"),
        (["codec-profile", point_run], "finitely many values"),
        (["codec-profile", run, tmp_path / "wide.npy", "--replace"], "shape"),
        (["codec-profile", run, "--replace", "--steps", 0], "--steps"),
    ]
    for words, says in cases:
        answer = call(*words)
        assert answer.code == 2 and says in answer.text, (words, answer.text)
    assert not (tmp_path / "x.sfz").exists()


def test_a_model_that_never_saw_data_without_a_class_is_refused(images: str, tmp_path: Path) -> None:
    """The codec asks for D without a class: an untrained question has any answer."""
    run = trained(tmp_path / "run", images, UNET, {"label_dropout": 0})
    answer = call("codec-profile", run, "--threads", 1)
    assert answer.code == 2 and "label_dropout" in answer.text


@pytest.mark.parametrize(
    "names",
    [
        ["//etc/x", "/etc/x", "../../x", "a/../../x", "C:\\\\x"],
        ["x", "x", "X"],
        ["a", "a.png/b", "a"],
        ["a.png/b", "a"],
        ["/".join("d" * 2000), "漢" * 3000, "", ".."],
    ],
    ids=["outside", "equal", "file and folder", "folder and file", "too long"],
)
def test_names_in_an_archive_lead_nowhere_else_and_lose_nothing(run: Path, tmp_path: Path, names: list[str]) -> None:
    """Anybody may have written the archive: every picture must become a file of its own below --out, whatever it is called."""
    model = load(run)
    profile = read_codec_profile(run, "small", model.tensors())
    assert profile is not None
    pictures = [
        Picture(values.astype(np.int64)[None], name[:4000])
        for values, name in zip(smooth(len(names)), names, strict=True)
    ]
    (tmp_path / "x.sfz").write_bytes(pack(codec_of(model, profile), pictures)[0])
    answer = call("decompress", run, tmp_path / "x.sfz", "--out", tmp_path / "deep" / ".." / "out", "--threads", 1)
    assert answer.code == 0, answer.text
    files = sorted(file for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert len(files) == len(names) and {file.suffix for file in files} == {".png"}
    found = {np.asarray(Image.open(file)).tobytes() for file in files}
    assert found == {values.tobytes() for values in smooth(len(names))}


def test_a_replaced_profile_is_kept_and_still_reads_its_files(run: Path, tmp_path: Path) -> None:
    """--replace must not make files unreadable whose profile it replaces."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    np.save(tmp_path / "x.npy", smooth(2, seed=5))
    assert call("compress", copied, tmp_path / "x.npy", "--out", tmp_path / "x.sfz", "--threads", 1).code == 0
    assert (
        call("codec-profile", copied, "--replace", "--steps", 3, "--examples", 30, "--seed", 1, "--threads", 1).code
        == 0
    )
    assert len(list(copied.glob("codec-small*.safetensors"))) == 2
    (copied / "codec-archive.safetensors").write_bytes(b"junk")
    answer = call("decompress", copied, tmp_path / "x.sfz", "--out", tmp_path / "y.npy", "--threads", 1)
    assert answer.code == 0 and np.array_equal(np.load(tmp_path / "y.npy"), smooth(2, seed=5)), answer.text


def test_pictures_that_would_lose_something_are_refused(run: Path, tmp_path: Path) -> None:
    """Lossless is a promise: what is not kept must be refused, and no input be written over."""
    grey = smooth(1)[0]
    Image.fromarray(np.stack([grey, grey], axis=-1), mode="LA").save(tmp_path / "alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "film.gif", save_all=True, append_images=[Image.fromarray(grey[::-1].copy())])
    Image.fromarray(grey).save(tmp_path / "own.png")
    for name, out, says in (
        ("alpha.png", "x.sfz", "transparency"),
        ("deep.png", "x.sfz", "uint16"),
        ("film.gif", "x.sfz", "frames"),
        ("own.png", "own.png", "name another"),
    ):
        answer = call("compress", run, tmp_path / name, "--out", tmp_path / out, "--threads", 1)
        assert answer.code == 2 and says in answer.text, answer.text
    assert np.array_equal(np.asarray(Image.open(tmp_path / "own.png")), grey)
