"""The codec beside image formats, on pictures that the model has not seen: bytes, seconds, and what a prefix shows.

    python benchmarks/codec.py runs/mine test-images.idx.gz --count 1000 --image docs/images/codec.svg

Rivals get their best layout: every picture by itself, and all in one mosaic, which shares what files have in common. Lossy ones
are given the mosaic at several qualities, and every count of bytes is the whole file. JPEG XL needs `cjxl` and `djxl`
(Debian: libjxl-tools); without them it is left out. Pixels are what is kept: every file is decoded and compared.
"""

from __future__ import annotations

import argparse
import io
import lzma
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import scorefield as sf
from scorefield.coding.archive import Picture, pack, unpack
from scorefield.coding.bitstream import TruncatedHeaderError
from scorefield.data import open_data
from scorefield.evaluation.charts import Series, line_chart
from scorefield.model_codec import codec_of, values_of
from scorefield.storage import write_bytes


@dataclass(frozen=True)
class Point:
    """A lossy file: its bits a value and its PSNR in dB of the data's range."""

    bits: float
    psnr: float


def pil(pixels: np.ndarray) -> Image.Image:
    """(C, H, W) as a picture."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """A picture as a file of one of Pillow's formats."""
    buffer = io.BytesIO()
    pil(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, channels: int) -> np.ndarray:
    """The picture of a file, (C, H, W)."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)


def jxl(pixels: np.ndarray, *options: str) -> tuple[bytes, np.ndarray]:
    """A JPEG XL file, and what it decodes to."""
    with tempfile.TemporaryDirectory() as folder:
        before, file, after = (str(Path(folder, name)) for name in ("a.png", "a.jxl", "b.png"))
        pil(pixels).save(before)
        subprocess.run(["cjxl", before, file, "-e", "9", *options], check=True, capture_output=True)
        subprocess.run(["djxl", file, after], check=True, capture_output=True)
        back = np.asarray(Image.open(after).convert("L" if len(pixels) == 1 else "RGB"))
        return Path(file).read_bytes(), back[None] if len(pixels) == 1 else np.moveaxis(back, -1, 0)


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """(n, C, H, W) → one picture (C, rows·H, columns·W)."""
    count, channels, height, width = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    whole = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    whole[:count] = pixels
    tiles = whole.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(tiles.reshape(channels, rows * height, columns * width))


def lossless_rivals(pixels: np.ndarray) -> dict[str, int]:
    """Bytes by format and layout; what does not come back is an error."""
    whole, sizes = mosaic(pixels), {}
    for name, kind, options in (
        ("PNG", "PNG", {"optimize": True}),
        ("WebP", "WEBP", {"lossless": True, "quality": 100, "method": 6}),
    ):
        single = [encoded(picture, kind, **options) for picture in pixels]
        sizes[f"{name}, single files"] = sum(map(len, single))
        data = encoded(whole, kind, **options)
        if not np.array_equal(decoded(data, len(whole)), whole):
            raise RuntimeError(f"{name} did not come back")
        sizes[f"{name}, mosaic"] = len(data)
    sizes["xz of the pixels"] = len(lzma.compress(pixels.tobytes(), preset=9 | lzma.PRESET_EXTREME))
    if shutil.which("cjxl"):
        data, back = jxl(whole, "-d", "0")
        if not np.array_equal(back, whole):
            raise RuntimeError("JPEG XL did not come back")
        sizes["JPEG XL -e 9, mosaic"] = len(data)
        few = pixels[:: max(1, len(pixels) // 50)]
        sizes["JPEG XL -e 9, single files"] = round(
            sum(len(jxl(p, "-d", "0")[0]) for p in few) * len(pixels) / len(few)
        )
    return sizes


def lossy_rivals(pixels: np.ndarray, peak: float) -> dict[str, list[Point]]:
    """Rate and PSNR of the mosaic by format."""
    whole, curves = mosaic(pixels), {}

    def point(data: bytes, back: np.ndarray) -> Point:
        return Point(8 * len(data) / pixels.size, psnr(mosaic_error(back, whole, pixels.size), peak))

    for name, kind in (("JPEG", "JPEG"), ("WebP", "WEBP")):
        options = {"method": 6} if kind == "WEBP" else {"optimize": True, "subsampling": 0}
        files = [encoded(whole, kind, quality=quality, **options) for quality in (1, 5, 10, 20, 35, 50, 65, 80, 90, 95)]
        curves[name] = [point(data, decoded(data, len(whole))) for data in files]
    if shutil.which("cjxl"):
        curves["JPEG XL"] = [
            point(*jxl(whole, "-d", d)) for d in ("15", "10", "6", "4", "2.5", "1.5", "1", "0.5", "0.2")
        ]
    return curves


def mosaic_error(back: np.ndarray, whole: np.ndarray, size: int) -> float:
    """Mean squared error a value of the pictures (the mosaic's empty places do not count)."""
    return float(((back.astype(float) - whole) ** 2).sum() / size)


def psnr(error: float, peak: float) -> float:
    """10 log₁₀ (peak²/MSE)."""
    return 10.0 * math.log10(peak**2 / error) if error else math.inf


def prefixes(
    data: bytes, read: Callable[[bytes], np.ndarray], values: np.ndarray, peak: float, count: int
) -> list[Point]:
    """Rate and PSNR of an archive's fronts."""
    points = []
    for size in sorted({round(len(data) * share) for share in np.geomspace(0.004, 0.999, count)}):
        try:
            error = float(((read(data[:size]) - values).astype(float) ** 2).mean())
        except TruncatedHeaderError:
            continue
        points.append(Point(8 * size / values.size, psnr(error, peak)))
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--profile", default="small")
    parser.add_argument(
        "--progressive", type=int, default=24, help="pictures for the curve of prefixes, by the profile `progressive`"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--image", help="where the curve goes (.svg)")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    model = sf.load(settings.run, calibrated=False)
    values = values_of(model, open_data(settings.data).batch(np.arange(settings.count)))
    profile = sf.read_codec_profile(settings.run, settings.profile, model.tensors())
    if profile is None:
        raise SystemExit(f"no profile '{settings.profile}' in {settings.run}: scorefield codec-profile {settings.run}")
    codec = codec_of(model, profile)
    start = time.perf_counter()
    data, ledgers = pack(codec, [Picture(value) for value in values])
    encode = time.perf_counter() - start
    start = time.perf_counter()
    back = unpack(codec, data)
    decode = time.perf_counter() - start
    if not (back.lossless and all(np.array_equal(p.values, v) for p, v in zip(back.pictures, values, strict=True))):
        raise RuntimeError("the archive did not come back")
    ours, bound = len(data), sum(ledger.bound for ledger in ledgers)
    chain, last = sum(sum(ledger.ideal_chain) for ledger in ledgers), sum(ledger.ideal_last for ledger in ledgers)
    print(f"\n{len(values)} pictures of {model.config.shape}, {settings.threads} thread(s)\n")
    print("| format | bytes | bits a value | ours / it |\n|---|---|---|---|")
    for name, size in sorted(
        {"**scorefield**": ours, **lossless_rivals(values.astype(np.uint8))}.items(), key=lambda item: item[1]
    ):
        print(f"| {name} | {size:,} | {8 * size / values.size:.3f} | {ours / size:.2f} |")
    print(
        f"\npath's bound {bound / values.size:.3f} bits a value (chain {chain / values.size:.3f}, last stage {last / values.size:.3f}); overhead {8 * ours / bound - 1:.1%}"
    )
    print(f"encode {encode / len(values):.3f} s, decode {decode / len(values):.3f} s a picture")
    alone = [len(codec.encode(value[None])[0]) for value in values[:: max(1, len(values) // 20)]]
    print(
        f"single files: {np.mean(alone):.0f} bytes on average, {8 * np.mean(alone) / values[0].size:.3f} bits a value ({len(alone)} pictures)"
    )
    if settings.image:
        draw(model, settings, values[: settings.progressive])


def draw(model: sf.Model, settings: argparse.Namespace, values: np.ndarray) -> None:
    """The curve of prefixes beside lossy formats."""
    peak = float(model.config.representation.levels or 256) - 1.0
    series = []
    for name in ("progressive",):
        profile = sf.read_codec_profile(settings.run, name, model.tensors())
        if profile is None:
            continue
        codec = codec_of(model, profile)
        data, _ = pack(codec, [Picture(value) for value in values])

        def read(front: bytes, codec: sf.Codec = codec) -> np.ndarray:
            return np.stack([picture.values for picture in unpack(codec, front).pictures])

        series.append((f"scorefield, {name}", prefixes(data, read, values, peak, 14)))
    series += list(lossy_rivals(values.astype(np.uint8), peak).items())
    curves = [Series(name, [p.bits for p in points], [p.psnr for p in points]) for name, points in series]
    chart = line_chart(
        curves, title="Prefixes beside lossy formats", x_label="bits a value", y_label="PSNR (dB)", log_x=True
    )
    write_bytes(settings.image, chart.encode())
    for name, points in series:
        print(name, "  ".join(f"{p.bits:.3f}:{p.psnr:.1f}" for p in points))


if __name__ == "__main__":
    main()
