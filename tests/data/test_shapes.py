"""The built-in pictures of shapes: what they are said to be, on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from scorefield.data import open_data, shapes


def test_pictures_are_a_function_of_the_seed_alone() -> None:
    """A generator shared between chunks, or a clock, would make a longer set begin otherwise."""
    images, labels = shapes.pictures(1500, 3)
    again, numbers = shapes.pictures(1200, 3)
    assert images.dtype == np.uint8 and images.shape == (1500, 3, 32, 32)
    assert np.array_equal(images[:1000], again[:1000]) and np.array_equal(labels[:1000], numbers[:1000])


def test_the_two_parts_share_no_picture() -> None:
    """The same seed for both would measure a model by what it was trained on."""
    train, test = open_data("shapes"), open_data("shapes-test")
    assert (len(train), len(test)) == (12_000, 1_000)
    assert train.shape == (3, 32, 32) and train.layout == "image" and train.class_names == shapes.NAMES
    seen = {image.tobytes() for image in train.batch(np.arange(len(train)))}
    assert not any(image.tobytes() in seen for image in test.batch(np.arange(len(test))))


@pytest.mark.parametrize(
    ("number", "area"),
    [
        (0, np.pi * 8.0**2),
        (1, 4 * 8.5 * 5 - 25),
        (2, 2 * np.pi * 6.5 * 4.4),
        (3, 13.0**2),
        (4, 10 * 0.5 * 9.5 * 3.8 * np.sin(np.pi / 5)),
    ],
    ids=shapes.NAMES[:5],
)
def test_a_shape_has_its_area(number: int, area: float) -> None:
    """A wrong sign or side in a signed distance changes the area inside it."""
    rows, columns = np.mgrid[-12:12:0.02, -12:12:0.02]
    distance = shapes._SHAPES[number](columns, rows)
    assert (distance < 0.0).sum() * 0.02**2 == pytest.approx(area, rel=0.01)


def test_a_triangle_has_three_equal_corners() -> None:
    """A slope that is not √3 makes it another triangle: it must look the same turned by a third of a turn."""
    points = np.random.default_rng(0).uniform(-9.0, 9.0, (2, 4000))
    cos, sin = np.cos(2.0 * np.pi / 3.0), np.sin(2.0 * np.pi / 3.0)
    turned = cos * points[0] - sin * points[1], sin * points[0] + cos * points[1]
    assert np.abs(shapes._triangle(*points) - shapes._triangle(*turned)).max() < 1e-12


def test_a_shape_stands_out_from_its_ground() -> None:
    """A shape off the picture, or of its ground's colour, would be a picture of nothing."""
    images, _ = shapes.pictures(200, 5)
    flat = images.astype(float).reshape(200, 3, -1)
    assert ((flat.max(2) - flat.min(2)).max(1) > 60.0).all()
