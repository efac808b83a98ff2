"""`restore`, `inpaint`, `colorize` and `upscale`: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.worlds import UNET, Answer, call, trained

QUICK = ("--steps", 3, "-n", 2, "--threads", 1, "--method", "replacement")


def last(answer: Answer) -> Any:
    """The JSON object that ends standard output."""
    assert answer.code == 0, answer.text
    return json.loads(answer.out.splitlines()[-1])


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What an .npz file holds."""
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and masks of 8×8, right and wrong ones."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    for name, array in (
        ("clean", pixels),
        ("small", pixels[:4, :4]),
        ("odd", pixels[:5, :5]),
        ("mask", mask),
        ("nothing", np.zeros_like(mask)),
        ("everything", np.full_like(mask, 255)),
        ("grey-mask", pixels),
        ("wide-mask", np.repeat(mask, 2, 1)),
        ("rgb", np.random.default_rng(6).integers(0, 256, (8, 8, 3), dtype=np.uint8)),
        ("see-through", np.dstack([pixels, pixels, pixels, mask])),
        ("deep", pixels.astype(np.uint16) * 257),
    ):
        Image.fromarray(array).save(folder / f"{name}.png")
    np.save(folder / "numbers.npy", np.linspace(0.0, 100.0, 16))
    (folder / "broken.png").write_bytes(b"no picture")
    whole = (folder / "clean.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.open(folder / "rgb.png").quantize(16).save(folder / "palette.png")
    Image.fromarray(np.dstack([mask, mask, np.zeros_like(mask)])).save(folder / "colours.png")
    np.save(folder / "nan.npy", np.full((8, 8), np.nan))
    (folder / "folder").mkdir()
    return folder


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 8×8 pictures in colour."""
    folder = tmp_path_factory.mktemp("colour")
    np.save(folder / "x.npy", np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    return trained(folder / "run", folder / "x.npy", UNET)


def test_inpainting_hands_known_pixels_back_bit_by_bit(image_run: Path, files: Path, tmp_path: Path) -> None:
    """In every sample, the mean and a folder's files; only the hole has a deviation."""
    out = tmp_path / "x.npz"
    words = ("inpaint", image_run, files / "clean.png", "--mask", files / "mask.png", *QUICK)
    found = last(call(*words, "--out", out, "--json"))
    assert found["count"] == 2 and found["evaluations"] == 3 and "psnr_of_a_sample" not in found
    held, clean = arrays(out), np.asarray(Image.open(files / "clean.png"))
    assert list(held) == ["samples", "mean", "std", "measurement"] and held["samples"].shape == (2, 8, 8)
    assert (held["samples"][:, :4] == clean[:4]).all() and (held["mean"][:4] == clean[:4]).all()
    assert (held["std"][:4] == 0.0).all() and (held["std"][4:] > 0.0).any()
    assert call(*words, "--out", tmp_path / "folder").code == 0
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["000000.png", "000001.png", "mean.png", "measurement.png", "std.npy"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / "000001.png")), held["samples"][1])


def test_files_of_an_earlier_call_are_told_of(image_run: Path, images: str, files: Path, tmp_path: Path) -> None:
    """Four old samples beside two new ones look like six of one call; in a folder for each picture too."""
    words = ("inpaint", image_run, files / "clean.png", "--mask", files / "mask.png", *QUICK, "--out", tmp_path / "x")
    assert "from before" not in call(*words, "-n", 3).text
    assert "from before" not in call(*words, "-n", 3).text
    answer = call(*words, "-n", 2)
    assert answer.code == 0 and "x still holds 1 from before beside what was written, such as 000002.png" in answer.err
    several = ("inpaint", image_run, images, "--mask", files / "mask.png", "--degrade", *QUICK, "--out", tmp_path / "y")
    assert "from before" not in call(*several, "--first", 3).text
    assert "y still holds 1 from before beside what was written, such as 000002" in call(*several, "--first", 2).err
    assert "holds" not in call("sample", image_run, "-n", 1, "--steps", 2, "--out", tmp_path / "z").text
    assert "holds" not in call("sample", image_run, "-n", 1, "--first", 1, "--steps", 2, "--out", tmp_path / "z").text
    assert "z still holds 1" in call("sample", image_run, "-n", 1, "--steps", 2, "--out", tmp_path / "z").err


def test_a_strip_has_a_tile_for_everything(image_run: Path, images: str, files: Path, tmp_path: Path) -> None:
    """Measurement, samples, mean, deviation, original: a row for each picture."""
    words = ("--degrade", "--first", 3, "--mask", files / "mask.png", "--out", tmp_path / "x.png")
    assert call("inpaint", image_run, images, *words, *QUICK).code == 0
    assert np.asarray(Image.open(tmp_path / "x.png")).shape == (2 + 3 * 58, 2 + 6 * 58)


@pytest.mark.parametrize(
    ("operator", "more", "shape"),
    [
        ("downsample=2", (), (4, 4)),
        ("blur=1.5", (), (8, 8)),
        ("project=0.25", (), (16,)),
        ("denoise", ("--noise", 20), (8, 8)),
        ("mask=MASK", (), (8, 8)),
    ],
)
def test_every_operator_degrades_restores_and_reports(
    image_run: Path,
    images: str,
    files: Path,
    tmp_path: Path,
    operator: str,
    more: tuple[object, ...],
    shape: tuple[int, ...],
) -> None:
    """The measurement that is written is what was restored from; PSNR is of what the files hold, with an error over pictures."""
    out = tmp_path / "x.npz"
    task = operator.replace("MASK", str(files / "mask.png"))
    words = ("--operator", task, "--degrade", "--first", 3, "--out", out, "--json")
    found = last(call("restore", image_run, images, *words, *QUICK, *more))
    held = arrays(out)
    assert held["measurement"].shape == (3, *shape) and held["samples"].shape == (3, 2, 8, 8)
    errors = ((held["mean"] - held["original"]) ** 2).mean((1, 2))
    each = 10.0 * np.log10(255.0**2 / errors)
    assert found["psnr_of_the_mean"]["value"] == pytest.approx(each.mean())
    assert found["psnr_of_the_mean"]["standard_error"] == pytest.approx(each.std(ddof=1) / np.sqrt(3))


def test_a_noisy_measurement_of_a_mask_is_read_back(image_run: Path, files: Path, tmp_path: Path) -> None:
    """Noise leaves the range of the data, and the file that the command wrote was refused for it."""
    common = ("--mask", files / "mask.png", "--noise", 60, *QUICK)
    first, second = tmp_path / "first", tmp_path / "second.npz"
    assert call("inpaint", image_run, files / "clean.png", "--degrade", "--out", first, *common).code == 0
    y = np.load(first / "measurement.npy")
    assert y.min() < 0 or y.max() > 255
    answer = call("inpaint", image_run, first / "measurement.npy", "--out", second, *common)
    assert answer.code == 0, answer.text
    assert np.array_equal(arrays(second)["measurement"], y)


def test_a_measurement_from_a_file_is_what_degrading_makes(image_run: Path, images: str, tmp_path: Path) -> None:
    """A degraded picture is rounded as its file is, so that both ways give the same samples."""
    one, other = tmp_path / "one", tmp_path / "other.npz"
    common = ("--operator", "downsample=2", *QUICK)
    assert call("restore", image_run, images, "--index", 0, "--degrade", *common, "--out", one).code == 0
    assert call("restore", image_run, one / "measurement.png", *common, "--out", other).code == 0
    assert np.array_equal(arrays(other)["samples"][0], np.asarray(Image.open(one / "000000.png")))
    assert call("upscale", image_run, one / "measurement.png", *QUICK, "--out", tmp_path / "third.npz").code == 0
    assert np.array_equal(arrays(tmp_path / "third.npz")["samples"], arrays(other)["samples"])


def test_projections_are_read_from_arrays(image_run: Path, files: Path, tmp_path: Path) -> None:
    """Sixteen numbers of sixty-four."""
    words = ("--operator", "project=0.25", "--out", tmp_path / "x.npz", *QUICK)
    assert call("restore", image_run, files / "numbers.npy", *words).code == 0
    assert arrays(tmp_path / "x.npz")["samples"].shape == (2, 8, 8)


def test_colours_keep_the_grey_they_were_given(colour_run: Path, files: Path, tmp_path: Path) -> None:
    """Where a channel is not at its end; a picture in colour is degraded first where asked."""
    words = ("--out", tmp_path / "x.npz", *QUICK)
    assert call("colorize", colour_run, files / "clean.png", *words).code == 0
    held = arrays(tmp_path / "x.npz")
    assert held["samples"].shape == (2, 8, 8, 3)
    inside = ((held["samples"] > 0) & (held["samples"] < 255)).all(-1)
    apart = np.abs(held["samples"] @ np.array([0.299, 0.587, 0.114]) - held["measurement"])
    assert (apart[inside] < 1.5).all()
    found = last(call("colorize", colour_run, files / "rgb.png", "--degrade", "--json", *words))
    assert found["psnr_of_a_sample"]["standard_error"] is None


def test_pictures_are_read_as_data_are(image_run: Path, colour_run: Path, files: Path, tmp_path: Path) -> None:
    """Transparency on white, 16 bits as 8, another size by --resize, said aloud."""
    mask, out = files / "mask.png", tmp_path / "x.npz"
    common = ("--mask", mask, "--out", out, *QUICK)
    assert call("inpaint", image_run, files / "see-through.png", *common).code == 0
    top = arrays(out)["measurement"][:4]
    assert (top == 255).all()
    assert call("inpaint", image_run, files / "deep.png", *common).code == 0
    assert np.array_equal(arrays(out)["measurement"], np.asarray(Image.open(files / "clean.png")))
    answer = call("inpaint", image_run, files / "odd.png", "--resize", *common)
    assert answer.code == 0 and "5×5 to 8×8" in answer.err


def test_the_samplers_options_are_those_of_sample(image_run: Path, files: Path, tmp_path: Path) -> None:
    """`--eta 0` is `--set sampler.eta=0`; a method that walks by itself takes the grid, and says that it takes nothing else."""
    common = ("inpaint", image_run, files / "clean.png", "--mask", files / "mask.png", "--steps", 3, "-n", 1)

    def drawn(*words: object) -> np.ndarray:
        assert call(*common, "--out", tmp_path / "x.npz", "--method", *words).code == 0
        return arrays(tmp_path / "x.npz")["samples"]

    options = ("dps", "--eta", 0, "--grid", "quadratic")
    short, long = drawn(*options), drawn("dps", "--set", "sampler.eta=0", "--set", "sampler.grid=quadratic")
    assert np.array_equal(short, long) and not np.array_equal(short, drawn("dps"))
    assert not np.array_equal(drawn("ddrm"), drawn("ddrm", "--grid", "quadratic"))
    answer = call(*common, "--out", tmp_path / "x.npz", "--method", "ddrm", "--sampler", "heun")
    assert answer.code == 0 and "only --steps and --grid count" in answer.err
    answer = call(*common, "--out", tmp_path / "x.npz", "--method", "replacement", "--noise", 9)
    assert answer.code == 0 and "its noise stays" in answer.err


def test_points_are_restored_too(point_run: Path, points: str, tmp_path: Path) -> None:
    """No picture anywhere: arrays, and the root of the mean squared error."""
    words = ("--operator", "project=0.5", "--degrade", "--first", 4, "--out", tmp_path / "x.npz", "--json", *QUICK)
    found = last(call("restore", point_run, points, *words))
    assert found["rmse_of_a_sample"]["value"] > 0.0 and arrays(tmp_path / "x.npz")["samples"].shape == (4, 2, 2)


WRONG: list[tuple[str, list[str], str]] = [
    ("inpaint clean.png", ["--mask", "nothing.png"], "hides nothing"),
    ("inpaint clean.png", ["--mask", "everything.png"], "hides everything"),
    ("inpaint clean.png", ["--mask", "wide-mask.png"], "8×16"),
    ("inpaint clean.png", ["--mask", "grey-mask.png"], "--threshold"),
    ("inpaint clean.png", ["--mask", "none.png"], "no file"),
    ("inpaint clean.png", ["--mask", "broken.png"], "not an image"),
    ("inpaint odd.png", ["--mask", "mask.png"], "--resize"),
    ("inpaint rgb.png", ["--mask", "mask.png"], "convert it to grey"),
    ("inpaint broken.png", ["--mask", "mask.png"], "not an image"),
    ("inpaint none.png", ["--mask", "mask.png"], "no file"),
    ("inpaint clean.png", ["--mask", "mask.png", "--noise", "-1"], "0 or more"),
    ("inpaint clean.png", ["--mask", "mask.png", "--noise", "nan"], "0 or more"),
    ("inpaint clean.png", ["--mask", "mask.png", "--method", "replacment"], "did you mean 'replacement'"),
    ("inpaint clean.png", ["--mask", "mask.png", "--sampler", "dimm"], "did you mean 'ddim'"),
    ("inpaint clean.png", ["--mask", "mask.png", "--set", "speed=3"], "unknown option of the method"),
    ("inpaint clean.png", ["--mask", "mask.png", "--set", "sampler.speed=3"], "unknown option of the sampler"),
    ("inpaint clean.png", ["--mask", "mask.png", "--grid", "karas"], "did you mean 'karras'"),
    ("inpaint clean.png", ["--mask", "mask.png", "--order", "2"], "has no --order"),
    ("inpaint clean.png", ["--mask", "mask.png", "--eta", "-1"], "eta"),
    ("inpaint clean.png", ["--mask", "mask.png", "--steps", "0"], "at least 1 step"),
    ("inpaint clean.png", ["--mask", "mask.png", "--class", "7"], "unknown class"),
    ("inpaint clean.png", ["--mask", "mask.png", "--guidance", "2"], "--class"),
    ("inpaint clean.png", ["--mask", "mask.png", "-n", "0"], "-n"),
    ("inpaint clean.png", ["--mask", "mask.png", "--index", "1"], "leave --index out"),
    ("colorize clean.png", [], "two channels"),
    ("upscale clean.png", [], "no whole factor"),
    ("upscale odd.png", ["--factor", "2"], "5×5"),
    ("upscale small.png", ["--factor", "9"], "from 2 to 8"),
    ("upscale small.png", ["--index", "0"], "--degrade"),
    ("restore clean.png", ["--operator", "blurr=2"], "did you mean 'blur'"),
    ("restore clean.png", ["--operator", "blur=wide"], "takes a number"),
    ("restore clean.png", ["--operator", "grey"], "two channels"),
    ("restore clean.png", ["--operator", "downsample=99"], "from 2 to 8"),
    ("restore clean.png", ["--operator", "denoise"], "--noise"),
    ("restore clean.png", ["--operator", "denoise=3", "--noise", "25"], "denoise takes no parameter"),
    ("restore clean.png", ["--operator", "project=0", "--degrade"], "above 0 up to 1"),
    ("restore clean.png", ["--operator", "project=nan", "--degrade"], "above 0 up to 1"),
    ("restore clean.png", ["--operator", "project=2", "--degrade"], "above 0 up to 1"),
    ("restore clean.png", ["--operator", "blur=nan", "--degrade"], "positive standard deviation"),
    ("restore cut.png", ["--operator", "denoise", "--noise", "25"], "damaged or cut short"),
    ("restore rgb.png", ["--operator", "denoise", "--noise", "25"], "convert it to grey"),
    ("restore palette.png", ["--operator", "denoise", "--noise", "25"], "convert it to grey"),
    ("restore folder", ["--operator", "denoise", "--noise", "25"], "no file"),
    ("restore nan.npy", ["--operator", "denoise", "--noise", "25"], "finite numbers"),
    ("restore odd.png", ["--operator", "denoise", "--noise", "25"], "--resize"),
    ("restore clean.png", ["--operator", "denoise", "--noise", "25", "--set", "eta=2"], "eta from 0 to 1"),
    ("inpaint clean.png", ["--mask", "cut.png"], "damaged or cut short"),
    ("inpaint clean.png", ["--mask", "colours.png"], "convert it to grey"),
    ("upscale small.png", ["--factor", "-2"], "from 2 to 8"),
    ("restore clean.png", ["--operator", "mask"], "mask=M.png"),
    ("restore clean.png", ["--operator", "project=0.25"], ".npy"),
    ("restore numbers.npy", ["--operator", "project=0.5"], "must have shape"),
]


@pytest.mark.parametrize(("task", "words", "said"), WRONG, ids=str)
def test_wrong_use_is_refused_with_the_fix(
    image_run: Path, files: Path, tmp_path: Path, task: str, words: list[str], said: str
) -> None:
    """Exit code 2, and nothing written."""
    name, image = task.split()
    placed = [str(files / word) if word.endswith(".png") and "=" not in word else word for word in words]
    quick = () if {"--method", "--set"} & {*words} else QUICK[-2:]
    answer = call(name, image_run, files / image, "--out", tmp_path / "x.npz", *quick, *placed)
    assert answer.code == 2 and said in answer.text, answer.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "said"), [("x.gif", ".npz"), ("none/x.png", "no folder"), ("clean.png/y", "no folder")]
)
def test_outputs_that_cannot_be_are_refused_before_anything_is_drawn(
    image_run: Path, files: Path, out: str, said: str
) -> None:
    """With the fix."""
    answer = call("inpaint", image_run, files / "clean.png", "--mask", files / "mask.png", "--out", files / out)
    assert answer.code == 2 and said in answer.text, answer.text
