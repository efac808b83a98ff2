"""One encoded image → pixels, by rules that are stated here and tested pixel by pixel.

- Formats: PNG, JPEG, WebP, BMP, GIF, TIFF. At most 64 million pixels and 256 MB of decoded bytes, by the header.
- Turned as EXIF says. Of an animation, the first frame.
- Grey: 1-bit (0 and 255), L, LA. Grey of 16 bits: I;16, and 32-bit containers of 16-bit values. All else is colour:
  palettes, RGB, RGBA, CMYK, YCbCr.
- Transparency is composited on white: v = (c·a + 255·(255 − a) + 127) // 255.
- 16 bits become 8, where they must, as v >> 8 (as Pillow does for 16-bit colour); grey becomes colour by repetition.
- Resizing is bicubic with antialiasing, the shorter side to the size asked for, then a centred crop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000
MAX_BYTES = 256_000_000

Stream = BufferedReader | BytesIO
"""What an image is read from: an open file, or bytes in memory."""

Kind = Literal["grey", "grey16", "colour"]
CHANNELS: dict[Kind, int] = {"grey": 1, "grey16": 1, "colour": 3}

_GREY = frozenset({"1", "L", "LA", "La"})
_GREY_16 = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "LA": 2, "La": 2, "PA": 2, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_SIDEWAYS = (5, 6, 7, 8)


class ImageError(Exception):
    """An image that cannot be used; the message is the reason, short enough to be counted by."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself before a pixel is decoded: its size as it will be seen, its kind, its frames."""

    height: int
    width: int
    kind: Kind
    animated: bool


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning of a decompression bomb an error, and silence what it says of odd metadata.

    Warning filters belong to the whole process: enter this once around a batch of work, not in each thread.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_header(file: Stream) -> Header:
    """Read what an image says of itself.

    Raises:
        ImageError: Not an image of the formats above, damaged, too large, or of a kind that cannot be used.
    """
    with _opened(file) as image:
        width, height = image.size
        if _orientation(image) in _SIDEWAYS:
            width, height = height, width
        animated = getattr(image, "is_animated", False) and image.format != "MPO"
        return Header(height, width, _kind(image), animated)


def decode(file: Stream, kind: Kind, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image to pixels (C, H, W): uint16 for "grey16", uint8 else; resized and cropped where a size is given.

    Raises:
        ImageError: Not an image of the formats above, damaged, too large, or of a kind that cannot be used.
    """
    with _opened(file) as image:
        orientation = _orientation(image)
        image.load()
        pixels = _turned(_as_kind(_pixels(image), kind), orientation)
    if size is not None and pixels.shape[:2] != size:
        pixels = resized(pixels, size)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


@contextmanager
def _opened(file: Stream) -> Iterator[Image.Image]:
    """Open an image and check what its header says; every way in which Pillow can fail on it becomes a ImageError."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_limits(image)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image of " + ", ".join(FORMATS)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too large: more than 64 million pixels") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in type on damaged files
        raise ImageError("damaged or cut short") from error


def _check_limits(image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ImageError("too large: more than 64 million pixels")
    if pixels * _PIXEL_BYTES.get(image.mode, 4) > MAX_BYTES:
        raise ImageError("too large: more than 256 MB of decoded bytes")


def _kind(image: Image.Image) -> Kind:
    if image.mode in _GREY:
        return "grey"
    if image.mode in _GREY_16:
        return "grey16"
    if image.mode in _COLOUR:
        return "colour"
    raise ImageError(f"pixels of mode {image.mode}, to be converted to RGB or saved as .npy")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, as far as the header knows it. Pillow turns TIFF files itself while it decodes them."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return int(image.getexif().get(0x0112, 1))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, …) upright; Exif 2.32, table 6, tag 274."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a decoded image: (H, W) uint8 or uint16, or (H, W, 3) uint8, without transparency."""
    if _kind(image) == "grey16":
        return _sixteen_bits(np.asarray(image))
    transparent = image.has_transparency_data
    if image.mode in _GREY:
        return _on_white(np.asarray(image.convert("LA"))) if transparent else np.asarray(image.convert("L"))
    return _on_white(np.asarray(image.convert("RGBA"))) if transparent else np.asarray(image.convert("RGB"))


def _sixteen_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError("pixels of more than 16 bits, to be saved as .npy")
    return values.astype(np.uint16)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Composite (H, W, c + 1), the last channel being alpha, on white: (H, W) for c = 1, else (H, W, c)."""
    colour, alpha = pixels[..., :-1].astype(np.uint16), pixels[..., -1:].astype(np.uint16)
    flat = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return flat[..., 0] if flat.shape[-1] == 1 else flat


def _as_kind(pixels: np.ndarray, kind: Kind) -> np.ndarray:
    """Bring pixels to the kind that a whole dataset has."""
    if kind == "grey16":
        if pixels.dtype != np.uint16 or pixels.ndim != 2:
            raise ImageError("changed while it was read")
        return pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if kind == "colour":
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim == 3:
        raise ImageError("changed while it was read")
    return pixels


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) so that it covers `size` (antialiased, bicubic), and crop its centre."""
    height, width = pixels.shape[:2]
    ratio = max(size[0] / height, size[1] / width)
    covering = max(size[0], round(height * ratio)), max(size[1], round(width * ratio))
    # Pillow resizes 16-bit grey without antialiasing; as 32-bit floats it is exact and antialiased
    image = Image.fromarray(pixels.astype(np.float32) if pixels.dtype == np.uint16 else pixels)
    larger = np.asarray(image.resize(covering[::-1], Image.Resampling.BICUBIC))
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    crop = larger[top : top + size[0], left : left + size[1]]
    return np.clip(np.rint(crop), 0, 0xFFFF).astype(np.uint16) if pixels.dtype == np.uint16 else crop
