"""Decoding: every mode's pixels are known exactly, and what cannot be used is refused from its header."""

from __future__ import annotations

import io
import time
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from scorefield.data.images import ImageError, decode, read_header, resized, strict_pillow
from tests.data.zoo import noise, png, png_bomb


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


GREY = noise(5, 7)
RGB = noise(5, 7, 3)


def decoded(image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    """Through a file and back, as the kind that its header says."""
    with strict_pillow():
        file = encoded(image, kind, **options)
        header = read_header(file)
        file.seek(0)
        pixels = decode(file, header.kind)
    assert pixels.shape[1:] == (header.height, header.width)
    return pixels


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The composite in exact arithmetic: the nearest integer to c·a/255 + (255 − a)."""
    exact = (2 * (colour.astype(int) * alpha + 255 * (255 - alpha.astype(int))) + 255) // 510
    return exact.astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
def test_grey_pixels_are_kept(kind: str) -> None:
    pixels = decoded(Image.fromarray(GREY), kind)
    assert (pixels == GREY).all()  # a GIF's grey palette is colour: three equal channels
    assert pixels.shape[0] == (3 if kind == "GIF" else 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_colour_pixels_are_kept(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decoded(Image.fromarray(RGB), kind, **options), RGB.transpose(2, 0, 1))


def test_one_bit_becomes_0_and_255() -> None:
    bits = GREY > 127
    assert np.array_equal(decoded(Image.fromarray(bits))[0], np.where(bits, 255, 0))


def test_palette_becomes_its_colours() -> None:
    image = Image.fromarray(noise(5, 7) % 4, mode=None).convert("L")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 250, 251, 252])
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [250, 251, 252]], np.uint8)
    assert np.array_equal(decoded(image), table[np.asarray(image)].transpose(2, 0, 1))


def test_palette_transparency_becomes_white() -> None:
    image = Image.fromarray(noise(5, 7) % 2).convert("L")
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decoded(image, transparency=0)
    table = np.array([[255, 255, 255], [40, 50, 60]], np.uint8)
    assert np.array_equal(pixels, table[np.asarray(image)].transpose(2, 0, 1))


def test_alpha_is_composited_on_white_exactly() -> None:
    """Every pair of a colour and an alpha, against exact arithmetic."""
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    grey = decoded(Image.fromarray(np.dstack([colour, alpha]), mode=None))
    assert np.array_equal(grey[0], on_white(colour, alpha))
    rgba = decoded(Image.fromarray(np.dstack([colour, colour, colour, alpha])))
    assert np.array_equal(rgba, np.broadcast_to(on_white(colour, alpha), (3, 256, 256)))


def test_cmyk_becomes_rgb() -> None:
    """C, M, Y, K = 0, 64, 128, 32 is (255 − K)(255 − C)/255 and so on."""
    image = Image.new("CMYK", (4, 4), (0, 64, 128, 32))
    pixels = decoded(image, "TIFF")[:, 0, 0].astype(int)
    assert np.abs(pixels - [223, 167, 111]).max() <= 1


def test_16_bits_are_kept_or_scaled_never_clipped() -> None:
    values = noise(5, 7, dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(Image.fromarray(values), kind)[0], values)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), "grey")[0], values >> 8)
    assert np.array_equal(decode(encoded(Image.fromarray(values)), "colour")[2], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_turns_images_upright(kind: str, orientation: int) -> None:
    """Against Pillow's own turning, for all eight orientations; the header's size is that of the upright image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(GREY if kind != "WEBP" else RGB)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    pixels = decoded(image, kind, exif=exif, **options)
    with Image.open(encoded(image, kind, exif=exif, **options)) as again:
        upright = np.asarray(ImageOps.exif_transpose(again))
    assert np.array_equal(pixels, upright[None] if upright.ndim == 2 else upright.transpose(2, 0, 1))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_header(file).animated
    assert decode(file, "colour")[:, 0, 0].tolist() == [255, 0, 0]


def test_bombs_are_refused_from_the_header() -> None:
    """A decoder that read the pixels first would need gigabytes; this takes a blink."""
    start = time.monotonic()
    for width, height in ((8001, 8001), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        with strict_pillow(), pytest.raises(ImageError, match="too large|damaged"):
            read_header(io.BytesIO(png_bomb(width, height)))
    assert time.monotonic() - start < 0.8


@pytest.mark.parametrize("cut", [0, 1, 8, 30, 60, 500, -40])
def test_cut_files_are_refused(cut: int) -> None:
    content = png(noise(32, 32))[:cut]
    with strict_pillow(), pytest.raises(ImageError, match="damaged|not an image"):
        decode(io.BytesIO(content), "grey")


@pytest.mark.parametrize("kind", ["ICO", "PPM", "PDF", "EPS"])
def test_formats_off_the_list_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="not an image of PNG, JPEG"):
        read_header(encoded(Image.fromarray(noise(16, 16, 3)), kind))


def test_float_and_32_bit_pixels_are_refused_with_the_fix() -> None:
    with pytest.raises(ImageError, match=r"saved as \.npy"):
        read_header(encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"))
    with pytest.raises(ImageError, match=r"more than 16 bits, to be saved as \.npy"):
        decode(encoded(Image.fromarray(GREY.astype(np.int32) * 70_000), "TIFF"), "grey16")


def test_flipped_bytes_never_escape_as_anything_else() -> None:
    """Whatever a damaged file makes Pillow raise, one type comes out."""
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        content = encoded(Image.fromarray(RGB), kind).getvalue()
        for _ in range(60):
            damaged = bytearray(content)
            for position in generator.integers(len(content), size=3):
                damaged[position] = generator.integers(256)
            with strict_pillow():
                try:
                    decode(io.BytesIO(bytes(damaged)), "colour")
                except ImageError as error:
                    assert str(error)


def test_resizing_covers_and_crops_the_centre() -> None:
    """A wide image with a white middle keeps its middle; 16 bits keep their values; a constant stays constant."""
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    assert (resized(pixels, (4, 4))[:, 1:3] == 255).all()
    assert (resized(np.full((9, 7), 40_000, np.uint16), (4, 5)) == 40_000).all()
    assert resized(noise(5, 7, 3), (11, 3)).shape == (11, 3, 3)


def test_resizing_is_antialiased() -> None:
    """A fine checkerboard becomes its mean, not a pattern, at 8 and at 16 bits."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(resized(board, (8, 8)).astype(int) - 127).max() <= 3
    assert np.abs(resized(board.astype(np.uint16) * 257, (8, 8)).astype(int) - 32767).max() <= 3 * 257


def test_pillow_warns_of_nothing_else() -> None:
    """Odd metadata pass silently: warnings are for the user's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded(Image.fromarray(RGB))
