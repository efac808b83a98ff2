"""Pictures: decoded again, they show the samples' own pixels."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.evaluation.pictures import as_bytes, gif, picture, png


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def levels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_in_the_grid(channels: int):
    """Tiles of 56 × 64 lie in rows of 2, with gaps of 2: nothing enlarged, nothing resampled."""
    images = levels(3, channels, 56, 64)
    shown = np.asarray(opened(png(images, columns=2)))
    shown = shown[..., None] if channels == 1 else shown
    assert shown.shape == (2 * 58 + 2, 2 * 66 + 2, channels)
    for i, (top, left) in enumerate([(2, 2), (2, 68), (60, 2)]):
        assert np.array_equal(shown[top : top + 56, left : left + 64], images[i].permute(1, 2, 0).numpy())


def test_small_images_are_enlarged_by_whole_pixels():
    image = levels(1, 1, 8, 8)
    shown = np.asarray(opened(png(image)))[2:-2, 2:-2]
    assert np.array_equal(shown[::7, ::7], image[0, 0].numpy())
    assert np.array_equal(shown, np.kron(image[0, 0].numpy(), np.ones((7, 7), np.uint8)))


def test_floats_are_mapped_from_their_range_and_clipped():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, math.nan, math.inf, 3.0])
    assert as_bytes(x, (-1.0, 1.0)).tolist()[:4] == [0, 0, 128, 255]
    assert as_bytes(x, (-1.0, 1.0)).tolist()[4:] == [0, 255, 255]
    assert as_bytes(torch.full((3,), 7.0)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "shape", [(4, 2), (4, 1), (4, 7), (4, 2, 30), (4, 1, 6, 5), (4, 2, 6, 5), (4, 4, 6, 5), (4, 1, 3, 6, 5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int16])
def test_samples_of_every_shape_have_a_picture(shape: tuple[int, ...], dtype: torch.dtype):
    samples = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 200).to(dtype)
    before = samples.clone()
    assert opened(png(samples)).size[0] > 20
    assert torch.equal(samples, before)


def test_a_volume_shows_its_middle_slice():
    volume = levels(2, 1, 5, 60, 60)
    assert png(volume) == png(volume[:, :, 2])


def test_points_are_drawn_where_they_are():
    """One crowd above right, one point below left: the dark pixels are above right and y points upwards."""
    points = torch.cat([torch.tensor([[-1.0, -1.0]]), torch.ones(50, 2)])
    darkness = 255 - np.asarray(picture(points).convert("L")).astype(int)
    top, left = np.unravel_index(darkness.argmax(), darkness.shape)
    assert top < 100
    assert left > 300
    assert darkness[-100:, :100].max() > 0


def test_points_outside_the_window_or_not_finite_are_left_out():
    points = torch.tensor([[5.0, 5.0], [math.nan, 0.0], [math.inf, 1.0]])
    assert np.asarray(picture(points, value_range=(-1.0, 1.0)).convert("L")).min() == 255


def test_series_share_one_scale():
    """A series of half the height is drawn at half the height."""
    ramp = torch.linspace(0, 1, 50)
    tall, low = torch.stack([ramp, ramp / 2])[:, None]
    shown = np.asarray(picture(torch.stack([tall, low]), columns=2).convert("L")) < 150
    first, second = shown[:, :152], shown[:, 154:]
    heights = [np.ptp(np.nonzero(tile.any(1))[0]) for tile in (first, second)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=3)


def test_a_grey_film_keeps_its_levels_and_holds_its_last_frame():
    frames = [levels(1, 1, 60, 60), levels(1, 1, 60, 60).flip(2)]
    film = opened(gif(frames, milliseconds=40, hold=1500))
    assert sum(1 for _ in ImageSequence.Iterator(film)) == 2
    durations = []
    for i, frame in enumerate(frames):
        film.seek(i)
        durations.append(film.info["duration"])
        assert np.array_equal(np.asarray(film.convert("L"))[2:-2, 2:-2], frame[0, 0].numpy())
    assert durations == [40, 1500]
    assert film.info["loop"] == 0


def test_a_colour_film_ends_in_nearly_the_right_colours():
    y, x = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    last = torch.stack([4 * x, 4 * y, 200 - x - y])[None].to(torch.uint8)
    film = opened(gif([levels(1, 3, 60, 60), last]))
    film.seek(1)
    error = np.asarray(film.convert("RGB"))[2:-2, 2:-2].astype(int) - last[0].permute(1, 2, 0).numpy()
    assert np.abs(error).mean() < 8


def test_a_film_of_floats_is_scaled_by_its_last_frame():
    noise, last = torch.full((1, 1, 60, 60), 80.0), torch.linspace(-1, 1, 3600).reshape(1, 1, 60, 60)
    film = opened(gif([noise, last]))
    assert np.asarray(film.convert("L"))[2:-2, 2:-2].min() == 255
    film.seek(1)
    assert np.asarray(film.convert("L"))[2, 2] == 0


@pytest.mark.parametrize("samples", [torch.zeros(0, 1, 8, 8), torch.zeros(5), torch.zeros(1, 1, 2, 2, 2, 2)])
def test_what_has_no_picture_is_refused(samples: Tensor):
    with pytest.raises(UsageError, match="rank 2 to 5"):
        png(samples)


def test_an_empty_film_is_refused():
    with pytest.raises(UsageError, match="at least one frame"):
        gif([])
