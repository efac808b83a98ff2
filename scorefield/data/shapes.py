"""Pictures in colour, made here: six shapes before a shaded ground, 32×32, the same on every machine.

Each picture has one shape (its class) of one colour, anywhere, of any size and turned by any angle, before a ground that goes
from one colour to another. What can go wrong with a picture is so to be seen at a glance: an edge, a colour, a corner.
"""

from __future__ import annotations

import numpy as np

SIDE = 32
COUNT, HELD_OUT = 12_000, 1_000
NAMES = ("circle", "cross", "ring", "square", "star", "triangle")
_CHUNK = 1_000
_SOFT = 0.7  # of a pixel: how soft an edge is


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures: (n, 3, 32, 32) uint8, and the number of each one's shape (n,) int64."""
    parts = [
        _drawn(min(_CHUNK, count - start), np.random.default_rng((seed, start))) for start in range(0, count, _CHUNK)
    ]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _drawn(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.integers(len(NAMES), size=count)
    x, y = _places(count, generator)
    distance = np.select([labels[:, None, None] == k for k in range(len(NAMES))], [shape(x, y) for shape in _SHAPES])
    inside = np.clip(0.5 - distance / _SOFT, 0.0, 1.0)[:, None]
    picture = inside * _colours(count, generator)[:, :, None, None] + (1.0 - inside) * _ground(count, generator)
    return np.rint(255.0 * picture).astype(np.uint8), labels.astype(np.int64)


def _places(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel's place in the shape's own frame, in units of which its radius is that of `_radius` pixels."""
    radius = generator.uniform(7.0, 11.0, (count, 1, 1))
    centre = generator.uniform(-1.0, 1.0, (2, count, 1, 1)) * (SIDE / 2 - radius - 1.0)
    angle = generator.uniform(0.0, 2.0 * np.pi, (count, 1, 1))
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2.0
    right, down = columns[None] - centre[0], rows[None] - centre[1]
    scale = 9.0 / radius  # every shape is drawn with a radius of 9
    return scale * (np.cos(angle) * right + np.sin(angle) * down), scale * (
        np.cos(angle) * down - np.sin(angle) * right
    )


def _colours(count: int, generator: np.random.Generator) -> np.ndarray:
    """Bright colours (n, 3): one channel full, one empty, one between."""
    levels = np.stack([np.full(count, 0.95), np.full(count, 0.08), generator.uniform(0.1, 0.9, count)], axis=1)
    return generator.permuted(levels, axis=1)


def _ground(count: int, generator: np.random.Generator) -> np.ndarray:
    """Pale grounds (n, 3, H, W) that go evenly from one colour to another in some direction."""
    ends = generator.uniform(0.35, 1.0, (2, count, 3, 1, 1))
    angle = generator.uniform(0.0, 2.0 * np.pi, (count, 1, 1))
    rows, columns = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
    along = 0.5 + (np.cos(angle) * columns + np.sin(angle) * rows) / np.sqrt(2.0)
    return np.asarray(ends[0] + (ends[1] - ends[0]) * along[:, None])


# Signed distances to the edge of each shape, about a radius of 9: negative inside.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(x, y) - 8.0)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, across = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.maximum(along - 8.5, across - 2.5)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(abs(np.hypot(x, y) - 6.5) - 2.2)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(abs(x), abs(y)) - 6.5)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: the line from a tip (radius 9.5) to the next notch (radius 3.8), mirrored into all ten sectors."""
    sector = np.pi / 5.0
    angle = abs((np.arctan2(x, -y) + sector) % (2.0 * sector) - sector)
    right, up = np.hypot(x, y) * np.sin(angle), np.hypot(x, y) * np.cos(angle)
    notch = 3.8 * np.sin(sector), 3.8 * np.cos(sector)
    normal = np.array([9.5 - notch[1], notch[0]]) / np.hypot(9.5 - notch[1], notch[0])
    return np.asarray(right * normal[0] + (up - 9.5) * normal[1])


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, abs(x) * np.sqrt(0.75) - 0.5 * y) - 4.6


_SHAPES = (_circle, _cross, _ring, _square, _star, _triangle)
