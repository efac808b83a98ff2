"""`edit`, `interpolate` and `invert` on tiny runs: files, seeds, masks to the bit, tables, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scorefield import load
from scorefield.cli.editing import numbers_along
from scorefield.cli.pictures import read_example, read_image, read_mask
from scorefield.errors import UsageError
from tests.cli.worlds import Answer, call

SHORT = ["--steps", 4, "--threads", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Guides and masks of all kinds for 8×8 grey pictures."""
    root = tmp_path_factory.mktemp("guides")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).save(root / "guide.png")
    Image.fromarray(pixels[::-1].copy()).save(root / "other.png")
    Image.fromarray(np.stack([pixels] * 3, -1)).save(root / "equal.png")
    Image.fromarray(np.stack([pixels, pixels[::-1], pixels], -1)).save(root / "colour.png")
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(root / "large.png")
    np.save(root / "guide.npy", pixels)
    np.save(root / "wrong.npy", pixels[:7])
    np.save(root / "high.npy", pixels.astype(np.int64) + 100)
    np.save(root / "fractions.npy", pixels + 0.5)
    np.save(root / "nan.npy", np.full((8, 8), np.nan))
    mask = np.zeros((8, 8), np.uint8)
    mask[:3] = 255
    Image.fromarray(mask).save(root / "mask.png")
    Image.fromarray(pixels).save(root / "many.png")
    np.save(root / "mask.npy", mask > 0)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "black.png")
    np.savez(root / "nobody.npz", latents=np.zeros((1, 1, 8, 8), np.float32), how=np.array("[]"))
    np.save(root / "mask3.npy", np.zeros((8, 8, 3)))
    (root / "text.png").write_bytes(b"no picture")
    return root


def arrays(path: Path) -> dict[str, Any]:
    """What an .npz file holds."""
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def told(answer: Answer) -> Any:
    """The JSON object that ends a command that went well."""
    assert answer.code == 0, answer.text
    return json.loads(answer.out.splitlines()[-1])


# ── edit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_edits_of_a_picture(image_run: Path, folder: Path, tmp_path: Path) -> None:
    """The archive has the samples first, in the data's kind; a seed's edits do not depend on their number or batches."""
    out = tmp_path / "x.npz"
    result = told(call("edit", image_run, folder / "guide.png", "--out", out, "-n", 5, "--json", *SHORT))
    found = arrays(out)
    assert list(found) == ["samples", "seeds", "strengths", "guide"]
    assert found["samples"].shape == (5, 8, 8) and found["samples"].dtype == np.uint8
    assert (found["guide"] == np.load(folder / "guide.npy")).all() and result["sampler"] == "ddim"
    call("edit", image_run, folder / "guide.npy", "--out", out, "-n", 3, "--batch", 2, *SHORT)
    assert np.abs(arrays(out)["samples"].astype(int) - found["samples"][:3]).max() <= 1


def test_strength_nought_is_the_guide(image_run: Path, folder: Path, tmp_path: Path) -> None:
    """No pass through the model may touch a level (M44)."""
    call("edit", image_run, folder / "guide.png", "--strength", 0, "--out", tmp_path / "x.npz", "-n", 2)
    found = arrays(tmp_path / "x.npz")
    assert (found["samples"] == found["guide"]).all() and len(found["samples"]) == 2


@pytest.mark.parametrize("mask", ["mask.png", "mask.npy"])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "unipc"])
def test_what_a_mask_keeps_comes_back_bit_by_bit(
    mask: str, sampler: str, image_run: Path, folder: Path, tmp_path: Path
) -> None:
    """Rounding on the way to model space and back would move a grey level here and there (M44)."""
    words = ["--mask", folder / mask, "--sampler", sampler, "--repeats", 2, "--strength", 0.7]
    answer = call("edit", image_run, folder / "guide.png", "--out", tmp_path / "x.npz", *words, *SHORT)
    assert answer.code == 0, answer.text
    found = arrays(tmp_path / "x.npz")
    assert (found["samples"][:, 3:] == found["guide"][3:]).all()
    assert (found["samples"][:, :3] != found["guide"][:3]).any()


def test_a_mask_may_be_joined_by_a_method(image_run: Path, folder: Path, tmp_path: Path) -> None:
    """Other edits than without, the rest bit by bit as ever (M44, M42)."""
    words = [
        "edit",
        image_run,
        folder / "guide.png",
        "--out",
        tmp_path / "x.npz",
        "--mask",
        folder / "mask.png",
        *SHORT,
    ]
    found = []
    for more in ((), ("--method", "dps"), ("--method", "twisted-smc")):
        answer = call(*words, *more)
        assert answer.code == 0, answer.text
        found.append(arrays(tmp_path / "x.npz")["samples"])
        assert (found[-1][:, 3:] == arrays(tmp_path / "x.npz")["guide"][3:]).all()
    assert (found[0] != found[1]).any() and (found[1] != found[2]).any()


def test_a_strip_over_strengths_with_its_figures(image_run: Path, images: str, folder: Path, tmp_path: Path) -> None:
    """A row a strength, the guide first; the table says how faithful, and with data how real (M44)."""
    png, table, plot = (tmp_path / name for name in ("x.png", "x.csv", "x.svg"))
    words = ["--strength", "0.1:0.9:3", "-n", 2, "--table", table, "--plot", plot, "--json"]
    result = told(call("edit", image_run, folder / "guide.png", "--out", png, *words, *SHORT))
    assert [row["strength"] for row in result["rows"]] == [0.1, 0.5, 0.9]
    assert result["rows"][0]["faithfulness"] < result["rows"][2]["faithfulness"]
    assert result["rows"][0]["evaluations"] < result["rows"][2]["evaluations"] <= 4
    assert table.read_text().startswith("strength,faithfulness") and len(table.read_text().splitlines()) == 4
    assert plot.read_text().startswith("<svg")
    with Image.open(png) as picture:
        assert picture.size == (3 * 58 + 2, 3 * 58 + 2)  # tiles of 56 pixels with gaps of 2
    assert (
        "at least 20 examples"
        in call("edit", image_run, folder / "guide.png", "--out", png, "--data", images, *SHORT).text
    )


def test_realism_beside_its_floor(point_run: Path, points: str, tmp_path: Path) -> None:
    """Far from the data the guide is unreal; the floor is measured on data that were left out (M44)."""
    np.save(tmp_path / "guide.npy", np.array([9.0, 9.0], np.float32))
    words = ["--strength", "0.2,0.6", "--data", points, "--table", tmp_path / "x.csv", "--plot", tmp_path / "x.svg"]
    result = told(
        call("edit", point_run, tmp_path / "guide.npy", "--out", tmp_path / "x.npz", *words, "--json", *SHORT)
    )
    assert 0.0 < result["realism_of_data"] < result["rows"][0]["realism"]
    assert (tmp_path / "x.csv").read_text().splitlines()[-1].startswith("data,,,")


def test_features_of_the_data_are_kept_beside_the_model(image_run: Path, folder: Path, tmp_path: Path) -> None:
    """Fitted once: the next call leaves the file as it is and prints the same; a damaged one is made again."""
    np.save(tmp_path / "x.npy", np.random.default_rng(3).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    words = ["edit", image_run, folder / "guide.png", "--out", tmp_path / "x.npz", "--data", tmp_path / "x.npy", *SHORT]
    kept = image_run / "features.safetensors"
    first = call(*words)
    assert first.code == 0 and str(kept) in first.err
    data, written = kept.read_bytes(), kept.stat().st_mtime_ns
    assert call(*words).out == first.out and kept.stat().st_mtime_ns == written
    kept.write_bytes(data[:100])
    assert call(*words).out == first.out and len(kept.read_bytes()) == len(data)


def test_guides_are_examples_of_data_too(image_run: Path, images: str, tmp_path: Path) -> None:
    """Any DATA by its index; a class, a folder, and a run of a chain whose steps are snapped."""
    words = ["--index", 3, "--class", 1, "--guidance", 2, "--out", tmp_path / "edits", "-n", 2]
    assert call("edit", image_run, images, *words, *SHORT).code == 0
    assert sorted(path.name for path in (tmp_path / "edits").iterdir()) == ["000000.png", "000001.png"]


def test_a_chain_is_edited(discrete_run: Path, points: str, tmp_path: Path) -> None:
    """A discrete path has no other times than its steps."""
    for strength in (0.02, 0.5, 1.0):
        words = ["--index", 0, "--strength", strength, "--out", tmp_path / "x.npz"]
        assert call("edit", discrete_run, points, *words, *SHORT).code == 0
        assert np.isfinite(arrays(tmp_path / "x.npz")["samples"]).all()


# ── interpolate ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["stochastic", "ode"])
def test_interpolations_in_every_form(method: str, image_run: Path, images: str, folder: Path, tmp_path: Path) -> None:
    """A strip, a film, arrays, files: of two files, or two examples of one DATA (M46)."""
    ends = [folder / "guide.png", folder / "other.png"]
    for name in ("x.png", "x.gif", "x.npz", "files"):
        words = ["--out", tmp_path / name, "--count", 4, "--method", method]
        assert call("interpolate", image_run, *ends, *words, *SHORT).code == 0
    found = arrays(tmp_path / "x.npz")
    assert list(found) == ["samples", "weights", "depths", "ends"] and found["samples"].shape == (4, 8, 8)
    with Image.open(tmp_path / "x.gif") as film:
        assert film.n_frames == 6  # type: ignore[attr-defined]
    assert len(list((tmp_path / "files").iterdir())) == 4
    words = ["--index", "1,4", "--depth", "0.2:0.8:2", "--out", tmp_path / "y.npz", "--json"]
    result = told(call("interpolate", image_run, images, images, "--method", method, *words, *SHORT))
    assert [row["depth"] for row in result["rows"]] == [0.2, 0.8] and result["rows"][0]["evaluations"] > 0
    held = arrays(tmp_path / "y.npz")
    assert held["samples"].shape == (18, 8, 8)
    rows = held["samples"].reshape(2, 9, 8, 8)[:, [0, -1]].astype(float)
    wanted = np.sqrt(((rows - held["ends"]) ** 2).mean((2, 3))).max()
    assert result["ends_apart"] == pytest.approx(wanted)
    answer = call(
        "interpolate", image_run, images, images, "--index", 3, "--method", method, "--out", tmp_path / "z.npz", *SHORT
    )
    assert answer.code == 2 and "one for each DATA, such as --index 3,8" in answer.text


# ── invert ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_come_back_from_their_latents(point_run: Path, points: str, tmp_path: Path) -> None:
    """There and back by the sampler that the file names, to the error that was told (M43)."""
    out = tmp_path / "latents.npz"
    result = told(call("invert", point_run, points, "-n", 6, "--out", out, "--threads", 1, "--float64", "--json"))
    assert result["count"] == 6 and result["round_trip"] < 1e-3
    assert arrays(out)["latents"].shape == (6, 2)
    assert call("invert", point_run, out, "--decode", "--out", tmp_path / "x.npz", "--threads", 1).code == 0
    back = arrays(tmp_path / "x.npz")["samples"]
    assert np.abs(back - np.load(points)[:6]).max() < 1e-2
    words = ["--decode", "--temperature", 0.5, "--out", tmp_path / "cool.npz"]
    assert call("invert", point_run, out, *words).code == 0
    cool = arrays(tmp_path / "cool.npz")["samples"]
    assert cool.std() < back.std()


def test_more_examples_than_there_are_cannot_be_inverted(point_run: Path, points: str, tmp_path: Path) -> None:
    """A number that is passed over would look like so many latents."""
    for words, said in (
        (["--index", 1, "-n", 2], "here is one example; leave -n out"),
        (["-n", 100_000], "give at most so many"),
    ):
        answer = call("invert", point_run, points, *words, "--out", tmp_path / "x.npz", "--threads", 1)
        assert answer.code == 2 and said in answer.text, answer.text


def test_a_picture_and_its_latent(image_run: Path, folder: Path, tmp_path: Path) -> None:
    """One picture has one latent; decoded it is a picture, in a grid or a folder."""
    out = tmp_path / "z.npz"
    words = ["--class", 1, "--sampler", "ddim", "--steps", 5]
    assert call("invert", image_run, folder / "guide.png", "--out", out, *words).code == 0
    assert arrays(out)["latents"].shape == (1, 1, 8, 8)
    for name in ("x.png", "files"):
        assert call("invert", image_run, out, "--decode", "--out", tmp_path / name).code == 0


def test_sampling_at_a_temperature(point_run: Path, tmp_path: Path) -> None:
    """Cooler samples vary less, and temperature 1 is no temperature (M43)."""
    drawn = {}
    for temperature in ("0.5", "1", None):
        words = [] if temperature is None else ["--temperature", temperature]
        assert call("sample", point_run, "-n", 200, "--out", tmp_path / "x.npz", *words, *SHORT).code == 0
        drawn[temperature] = arrays(tmp_path / "x.npz")["samples"]
    assert (drawn["1"] == drawn[None]).all() and drawn["0.5"].std() < 0.8 * drawn["1"].std()


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, tuple[list[str], str]] = {
    "strength above 1": (["edit", "guide.png", "--strength", "1.5"], "from 0 .* to 1 .*got 1.5"),
    "strength of words": (["edit", "guide.png", "--strength", "much"], "takes a number such as 0.5"),
    "strengths of no range": (["edit", "guide.png", "--strength", "0.2:0.8"], "FROM:TO:COUNT"),
    "too many strengths": (["edit", "guide.png", "--strength", "0:1:1000"], "at most 64 values"),
    "no guide": (["edit", "nothing.png"], "no file"),
    "guide of another size": (["edit", "large.png"], "12×10, the model's data are 8×8.*--resize"),
    "guide in colour": (["edit", "colour.png"], "in colour, and grey is wanted"),
    "guide of text": (["edit", "text.png"], "not an image"),
    "array of another shape": (["edit", "wrong.npy"], "needs|shape|holds"),
    "array out of range": (["edit", "high.npy"], "from 100 to 352, the model's data go from 0 to 255"),
    "array of fractions": (["edit", "fractions.npy"], "round them"),
    "array of nothing": (["edit", "nan.npy"], "no finite numbers"),
    "index of one picture": (["edit", "guide.png", "--index", "1"], "leave --index out"),
    "mask of many values": (["edit", "guide.png", "--mask", "many.png"], "64 values.*--threshold"),
    "mask of another size": (["edit", "guide.png", "--mask", "large.png"], "12×10, the model's data are 8×8"),
    "mask in colour": (["edit", "guide.png", "--mask", "colour.png"], "in colour"),
    "mask of channels": (
        ["edit", "guide.png", "--mask", "mask3.npy"],
        "8×8×3, of 3 channels, .*one value a pixel, 8×8; give mask\\[..., 0\\]",
    ),
    "mask that lets nothing change": (["edit", "guide.png", "--mask", "black.png"], "black everywhere"),
    "threshold without mask": (["edit", "guide.png", "--threshold", "3"], "give one with --mask"),
    "method without mask": (["edit", "guide.png", "--method", "dps"], "give one with --mask"),
    "unknown method": (["edit", "guide.png", "--mask", "mask.png", "--method", "dsp"], "did you mean 'dps'"),
    "unknown class": (["edit", "guide.png", "--class", "boot"], "unknown class 'boot'.*known: 0, 1"),
    "no repeat": (["edit", "guide.png", "--repeats", "0"], "repeats, got 0"),
    "no edit": (["edit", "guide.png", "-n", "0"], "-n must be between 1"),
    "guidance to nothing": (["edit", "guide.png", "--guidance", "3"], "give one with --class"),
    "unknown sampler": (["edit", "guide.png", "--sampler", "ddin"], "did you mean 'ddim'"),
    "table of another kind": (["edit", "guide.png", "--table", "x.txt"], "written as .csv"),
    "depth outside": (["interpolate", "guide.png", "other.png", "--depth", "-0.1"], "got -0.1"),
    "one end": (["interpolate", "guide.png", "other.png", "--count", "1"], "at least its two ends"),
    "noise along the flow": (
        ["interpolate", "guide.png", "other.png", "--method", "ode", "--sampler", "ancestral"],
        "deterministic sampler",
    ),
    "guidance along the flow": (
        ["interpolate", "guide.png", "other.png", "--method", "ode", "--guidance", "2", "--class", "1"],
        "leave it out with --method ode",
    ),
    "an index too many": (["interpolate", "guide.png", "other.png", "--index", "1,2"], "more examples than there are"),
    "an index of words": (["interpolate", "guide.png", "other.png", "--index", "a"], "whole numbers"),
    "noise inverted": (["invert", "guide.png", "--eta", "1", "--sampler", "ddim"], "draws noise"),
    "temperature upwards": (["invert", "guide.png", "--temperature", "0.5"], "add --decode"),
    "picture decoded": (["invert", "guide.png", "--decode"], "not a file of latents"),
    "array decoded": (["invert", "guide.npy", "--decode"], "not a file of latents"),
    "latents of nobody": (["invert", "nobody.npz", "--decode"], "not a file of latents"),
    "impossible temperature": (["sample", "--temperature", "-1"], "positive number"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_answered_with_the_fix(
    words: list[str], said: str, image_run: Path, folder: Path, tmp_path: Path
) -> None:
    """What, got, fix; exit code 2; nothing is written."""
    command, *rest = words
    given = [str(folder / word) if word.endswith((".png", ".npy", ".npz")) else word for word in rest]
    out = tmp_path / "x.npz"
    answer = call(command, image_run, *given, "--out", out)
    assert answer.code == 2 and re.search(said, answer.text), answer.text
    assert "Traceback" not in answer.text and not out.exists()


@pytest.mark.parametrize(
    ("command", "out", "said"),
    [
        ("edit", "x.gif", "cannot write '.gif'"),
        ("invert", "x.png", "cannot write '.png'"),
        ("edit", "no/x.png", "make it"),
    ],
)
def test_outputs_that_cannot_be_written(
    command: str, out: str, said: str, image_run: Path, folder: Path, tmp_path: Path
) -> None:
    """Before anything is drawn."""
    answer = call(command, image_run, folder / "guide.png", "--out", tmp_path / out)
    assert answer.code == 2 and said in answer.text


@pytest.mark.parametrize("command", ["edit", "inpaint", "interpolate"])
def test_what_is_read_is_not_written_over(command: str, image_run: Path, folder: Path, tmp_path: Path) -> None:
    """By another spelling of its name too; the picture is as it was."""
    picture = tmp_path / "mine.png"
    picture.write_bytes((folder / "guide.png").read_bytes())
    needed: dict[str, list[object]] = {
        "edit": [],
        "inpaint": ["--mask", folder / "mask.png"],
        "interpolate": [folder / "other.png"],
    }
    answer = call(command, image_run, picture, *needed[command], "--out", tmp_path / "." / "mine.png", *SHORT)
    assert answer.code == 2 and "file that is read" in answer.text, answer.text
    assert picture.read_bytes() == (folder / "guide.png").read_bytes()


def test_nothing_else_that_is_read_is_written_over(image_run: Path, images: str, folder: Path, tmp_path: Path) -> None:
    """Masks, the data of realism, a folder of examples, a numbered file in the folder that is written; and no name is no folder."""
    mask, data = tmp_path / "mask.png", tmp_path / "data.npz"
    mask.write_bytes((folder / "mask.png").read_bytes())
    data.write_bytes(b"theirs")
    numbered = tmp_path / "drawn" / "000000.png"
    numbered.parent.mkdir()
    numbered.write_bytes((folder / "guide.png").read_bytes())
    guide = folder / "guide.png"
    before = [file.read_bytes() for file in (mask, data, numbered)]
    for words in (
        ["inpaint", image_run, guide, "--mask", mask, "--out", mask],
        ["restore", image_run, guide, "--operator", f"mask={mask}", "--out", mask],
        ["edit", image_run, guide, "--mask", mask, "--out", mask],
        ["edit", image_run, guide, "--data", data, "--out", data],
        ["edit", image_run, numbered.parent, "--index", 0, "--out", numbered.parent],
        ["edit", image_run, numbered, "--out", numbered.parent],
        ["interpolate", image_run, guide, numbered, "--out", f"{numbered.parent}/"],
    ):
        answer = call(*words, *SHORT)
        assert answer.code == 2 and "would be lost; name another" in answer.text, (words, answer.text)
    assert [file.read_bytes() for file in (mask, data, numbered)] == before
    for words in (["edit", image_run, guide], ["sample", image_run]):
        answer = call(*words, *SHORT, "--out", "")
        assert answer.code == 2 and "--out is empty" in answer.text, (words, answer.text)
    answer = call("edit", image_run, guide, "--data", tmp_path / "none.npz", "--out", tmp_path / "new.png", *SHORT)
    assert answer.code == 2 and not (tmp_path / "new.png").exists(), answer.text


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_guides_are_read_in_the_datas_units(image_run: Path, images: str, folder: Path) -> None:
    """Equal channels are grey; a resized picture says so; a .npy file is taken as it is."""
    model, pixels = load(image_run), np.load(folder / "guide.npy")
    for name in ("guide.png", "equal.png", "guide.npy"):
        found = read_image(model, str(folder / name))
        assert (found == pixels).all() and found.dtype == np.uint8
    assert read_image(model, str(folder / "large.png"), resize=True).shape == (8, 8)
    found, label = read_example(model, str(image_run), images, 2)
    assert (found == arrays(Path(images))["images"][2]).all() and label == "0"


def test_masks_are_white_where_data_may_change(image_run: Path, folder: Path) -> None:
    """Black and white the other way round would change all but what was meant."""
    model = load(image_run)
    for name in ("mask.png", "mask.npy"):
        mask = read_mask(model, str(folder / name))
        assert mask[:3].all() and not mask[3:].any()
    assert read_mask(model, str(folder / "many.png"), threshold=128.0).sum() == 32
    large = read_mask(model, str(folder / "large.png"), resize=True)
    assert large.shape == (8, 8) and not large.any()


@pytest.mark.parametrize(
    ("text", "wanted"), [("0.5", [0.5]), ("0.3,0.6", [0.3, 0.6]), ("0:1:3", [0.0, 0.5, 1.0]), ("1:0:2", [1.0, 0.0])]
)
def test_numbers_along(text: str, wanted: list[float]) -> None:
    assert numbers_along(text, "--strength") == pytest.approx(wanted)


@pytest.mark.parametrize("run", [lambda: numbers_along("0:1:1", "--x"), lambda: numbers_along("0:1:2.5", "--x")])
def test_impossible_ranges(run: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match="FROM:TO:COUNT"):
        run()
