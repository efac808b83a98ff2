"""Samples as pictures: PNG grids and GIF films of images, points, series and volumes, as bytes ready to be written.

`png` and `gif` take samples of any shape, in the data's own units:

- (n, C, H, W) images: a grid of tiles, small ones enlarged by whole factors, so that a pixel stays a pixel;
- (n, C, D, H, W) volumes: a grid of their middle slices;
- (n, C, L) series: a grid of small line plots, one colour a channel;
- (n, D) points: a scatter picture of the first two coordinates.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scorefield.errors import UsageError

Range = tuple[float, float]

TILE = 56
PAPER = (255, 255, 255)
INK = (38, 84, 150)
INKS = ((38, 84, 150), (214, 110, 20), (60, 140, 90), (140, 90, 180))
SCATTER = 420
PLOT = (150, 90)


def png(samples: Tensor, *, columns: int | None = None, value_range: Range | None = None) -> bytes:
    """A picture of all samples as a PNG file.

    Args:
        samples: (n, …), in the data's own units; 8-bit images are shown as they are.
        columns: of the grid; about √n without.
        value_range: the values shown as black and white (images), or as the edges (series, points); without, the
            samples'
            least and greatest.

    Raises:
        UsageError: no samples, or samples of no shape that has a picture.
    """
    buffer = io.BytesIO()
    picture(samples, columns=columns, value_range=value_range).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def lossless_png(image: np.ndarray) -> bytes:
    """One 8-bit image (H, W) or (H, W, C), or 16-bit image (H, W), as a PNG file with exactly its pixels.

    Raises:
        UsageError: pixels that PNG files of Pillow cannot hold.
    """
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if channels not in (1, 3, 4) or (image.dtype != np.uint8 and channels > 1):
        raise UsageError(f"no lossless PNG for {image.dtype} images of {channels} channels; write them as .npz")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def gif(
    frames: Sequence[Tensor],
    *,
    columns: int | None = None,
    value_range: Range | None = None,
    milliseconds: int = 60,
    hold: int = 2000,
) -> bytes:
    """A film of sampling, first frame to last, as an endless GIF whose last frame is held for `hold` milliseconds.

    The range of values, if not given, is the last frame's: the data's, not the noise's. Grey films keep all 256 levels;
    colour films share one palette, made from the last frame, where the colours matter.

    Raises:
        UsageError: no frames, or frames without a picture.
    """
    if not len(frames):
        raise UsageError("a film needs at least one frame, got none; draw with a sampler that takes at least one step")
    if value_range is None and frames[-1].dtype != torch.uint8:
        value_range = _range_of(frames[-1])
    pictures = _with_one_palette([picture(frame, columns=columns, value_range=value_range) for frame in frames])
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()


def picture(samples: Tensor, *, columns: int | None = None, value_range: Range | None = None) -> Image.Image:
    """The picture that `png` and `gif` encode; arguments and errors as there."""
    if samples.ndim < 2 or samples.ndim > 5 or not len(samples):
        raise UsageError(
            f"pictures are made of samples (n, …) of rank 2 to 5, got shape {tuple(samples.shape)}; draw some"
        )
    samples = samples.detach().cpu()
    if samples.ndim == 2:
        return _scatter(samples, value_range)
    if samples.ndim == 3:
        return _tiled(_plots(samples, value_range), columns)
    if samples.ndim == 5:
        samples = samples[:, :, samples.shape[2] // 2]
    return _tiled(_enlarged(as_bytes(samples, value_range)), columns)


def as_bytes(samples: Tensor, value_range: Range | None = None) -> Tensor:
    """Images as 8-bit levels: `value_range` becomes 0 … 255, the rest is clipped, NaN black; uint8 stays as it is."""
    if samples.dtype == torch.uint8:
        return samples
    low, high = value_range or _range_of(samples)
    levels = (samples.double() - low) * (255.0 / (high - low or 1.0))
    return levels.nan_to_num(0.0).round_().clamp_(0, 255).to(torch.uint8)


def _range_of(samples: Tensor) -> Range:
    finite = samples[torch.isfinite(samples)] if samples.is_floating_point() else samples
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)


# ------------------------------------------------------------------------------------------------- grids of tiles


def _enlarged(images: Tensor) -> np.ndarray:
    """(n, C, H, W) as tiles (n, h, w, 3 or 1). One channel is grey, three or four are RGB, others are averaged."""
    if images.shape[1] in (3, 4):
        images = images[:, :3]
    elif images.shape[1] != 1:
        images = images.float().mean(1, keepdim=True).to(torch.uint8)
    factor = max(1, math.ceil(TILE / max(images.shape[2:])))
    enlarged = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return enlarged.permute(0, 2, 3, 1).numpy()


def _tiled(tiles: np.ndarray, columns: int | None, gap: int = 2) -> Image.Image:
    count, height, width, channels = tiles.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def _plots(series: Tensor, value_range: Range | None) -> np.ndarray:
    """(n, C, L) as tiles (n, h, w, 3): every channel a line, all on one scale."""
    low, high = value_range or _range_of(series)
    width, height = PLOT
    x = np.linspace(3, width - 4, series.shape[2])
    levels = (series.double().nan_to_num(low).numpy() - low) / (high - low or 1.0)
    y = (height - 4) - levels.clip(-0.1, 1.1) * (height - 7)
    return np.stack([_plot(x, curves) for curves in y])


def _plot(x: np.ndarray, curves: np.ndarray) -> np.ndarray:
    tile = Image.new("RGB", PLOT, (246, 247, 249))
    draw = ImageDraw.Draw(tile)
    for i, y in enumerate(curves):
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=INKS[i % len(INKS)], width=1)
    return np.asarray(tile)


# --------------------------------------------------------------------------------------------------------- points


def _scatter(points: Tensor, value_range: Range | None) -> Image.Image:
    """Points as dots, darker where they crowd; one-dimensional points are spread evenly downwards."""
    xy = points[:, :2].double().numpy()
    if xy.shape[1] == 1:
        rows = np.linspace(*(value_range or _range_of(points)), len(xy))
        xy = np.column_stack([xy[:, 0], rows])
    low, high = _square(xy, value_range)
    with np.errstate(invalid="ignore"):
        cells = np.floor((xy - low) / (high - low) * SCATTER)
    cells = cells[((cells >= 1) & (cells < SCATTER - 1)).all(1)].astype(int)
    darkness = 1 - np.exp(-_dots(cells) * max(0.25, min(1.0, 1500 / len(xy))))
    return Image.fromarray(_blend(darkness[::-1]))


def _square(xy: np.ndarray, value_range: Range | None) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corners of a square that holds the points with some room around them."""
    if value_range is not None:
        low, high = np.full(2, value_range[0]), np.full(2, value_range[1])
    else:
        finite = xy[np.isfinite(xy).all(1)]
        low, high = (finite.min(0), finite.max(0)) if len(finite) else (np.zeros(2), np.ones(2))
    middle, reach = (low + high) / 2, max(float((high - low).max()) * 0.54, 1e-12)
    return middle - reach, middle + reach


def _dots(cells: np.ndarray) -> np.ndarray:
    """How many points cover each pixel, a point being a round dot of 3 by 3."""
    counts = np.zeros((SCATTER, SCATTER))
    np.add.at(counts, (cells[:, 1], cells[:, 0]), 1.0)
    padded = np.pad(counts, 1)
    kernel = np.array([[0.5, 0.9, 0.5], [0.9, 1.0, 0.9], [0.5, 0.9, 0.5]])
    return sum(kernel[i, j] * padded[i : i + SCATTER, j : j + SCATTER] for i in range(3) for j in range(3))


def _blend(darkness: np.ndarray) -> np.ndarray:
    paper, ink = np.array(PAPER, float), np.array(INK, float)
    return (paper + darkness[..., None] * (ink - paper)).round().astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------- films


def _with_one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    if pictures[0].mode == "L":
        return pictures
    palette = pictures[-1].quantize(256, method=Image.Quantize.MEDIANCUT)
    # Dithering would make still parts flicker from frame to frame.
    return [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
