r"""What a value is told of its neighbours: the order in which values are coded, and the windows that are known at each.

An example of shape (C, *d) is coded position by position in reading order, its channels one after the other within a
position, so value j = (p, c) may be predicted from every position before p and every channel before c: its causal window.
The denoised picture and the noised one are known as a whole, so their windows lie all around.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np

_REACH = 3
"""How far the causal window reaches, in positions."""

_LARGEST_WINDOW = 25
_LARGEST_CAUSAL_WINDOW = 24


@final
@dataclass(frozen=True)
class Neighbourhood:
    """The windows of every position of examples of one shape.

    Attributes:
        shape: (C, *d) or (D,).
    """

    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """C; 1 for points (D,)."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def sides(self) -> tuple[int, ...]:
        """*d; (D,) for points."""
        return self.shape[1:] if len(self.shape) > 1 else self.shape

    @property
    def positions(self) -> int:
        """How many positions an example has."""
        return math.prod(self.sides)

    def by_position(self, batch: np.ndarray) -> np.ndarray:
        """(n, C, *d) → (n, positions, C), the order of coding."""
        return np.ascontiguousarray(np.moveaxis(batch.reshape(len(batch), self.channels, self.positions), 1, 2))

    def as_examples(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `by_position`."""
        return np.ascontiguousarray(np.moveaxis(values, 2, 1)).reshape(len(values), *self.shape)

    @property
    def causal(self) -> np.ndarray:
        """(positions, k): the positions before each within reach; `positions` where the window is beyond the edge."""
        return _windows(self.sides, _offsets(len(self.sides), causal=True))

    @property
    def around(self) -> np.ndarray:
        """(positions, k): the positions around each, itself first."""
        return _windows(self.sides, _offsets(len(self.sides), causal=False))

    @property
    def close(self) -> np.ndarray:
        """The first of `around`: each position and those next to it."""
        return self.around[:, : min(self.around.shape[1], 9)]


def _offsets(rank: int, *, causal: bool) -> tuple[tuple[int, ...], ...]:
    """The offsets of a window, nearest first."""
    reach, most = (_REACH, _LARGEST_CAUSAL_WINDOW) if causal else (2, _LARGEST_WINDOW)
    box = itertools.product(range(-reach, reach + 1), repeat=rank)
    wanted = [offset for offset in box if not causal or offset < (0,) * rank]
    wanted.sort(key=lambda offset: (sum(step * step for step in offset), offset))
    return tuple(wanted[:most])


@lru_cache(maxsize=8)
def _windows(sides: tuple[int, ...], offsets: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """(positions, len(offsets)) of positions; their number where an offset leads beyond the edge."""
    count = math.prod(sides)
    places = np.stack(np.unravel_index(np.arange(count), sides), axis=-1)[:, None] + np.array(offsets)
    inside = ((places >= 0) & (places < np.array(sides))).all(axis=-1)
    held = np.clip(places, 0, np.array(sides) - 1)
    windows = np.where(inside, np.ravel_multi_index(tuple(np.moveaxis(held, -1, 0)), sides), count)
    windows.flags.writeable = False
    return windows
