r"""The last stage: every value, exactly, by the laws of `pixels` and the range coder.

Examples are gone through in blocks, side by side; within a block position after position, channel after channel, so that one
evaluation of the network gives the laws of one value of all examples of the block. The sender knows all values and
evaluates everything at once; integers make sure that it comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scorefield.coding.neighbours import Neighbourhood
from scorefield.coding.pixels import TOTAL, UNIT, PixelNetwork, causal_inputs, known_inputs, level_input
from scorefield.coding.range_coder import Decoder, Encoder

_VALUES_AT_A_TIME = 1 << 17


def encode_values(
    network: PixelNetwork, values: np.ndarray, denoised: np.ndarray, noised: np.ndarray
) -> tuple[bytes, np.ndarray]:
    """The last stage's bytes, and the bits of each example's values: −log₂ P.

    Args:
        network: the laws.
        values: (n, C, *d) whole numbers from 0.
        denoised: D, (n, C, *d).
        noised: z/α, likewise.
    """
    coder, bits = Encoder(), np.zeros(len(values))
    for block in _blocks(network.neighbourhood, len(values)):
        low, high = _intervals(network, values[block], denoised[block], noised[block])
        bits[block] = -np.log2((high - low) / TOTAL).sum(axis=(0, 1))
        coder.encode_many(low.ravel(), high.ravel())
    return coder.finish(), bits


def _blocks(place: Neighbourhood, count: int) -> Iterator[slice]:
    """Examples side by side, as many as memory should hold."""
    size = max(1, min(128, _VALUES_AT_A_TIME // (place.positions * place.channels)))
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _intervals(
    network: PixelNetwork, values: np.ndarray, denoised: np.ndarray, noised: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cumulative frequencies below and above every value, (positions, C, n): in the order of coding."""
    place = network.neighbourhood
    first, linear = network.static(known_inputs(place, denoised, noised))
    chosen, centre = place.by_position(values), _centre(place, denoised)
    inputs = _inputs(network, chosen)
    low = np.empty((place.positions, place.channels, len(values)), dtype=np.int64)
    high = np.empty_like(low)
    for channel in range(place.channels):
        causal = causal_inputs(place, inputs, slice(None), channel)
        law = network.law(first, linear, causal, centre[..., channel], slice(None), channel)
        below, above = network.interval(law, chosen[..., channel].ravel())
        low[:, channel] = below.reshape(len(values), -1).T
        high[:, channel] = above.reshape(len(values), -1).T
    return low, high


def _centre(place: Neighbourhood, denoised: np.ndarray) -> np.ndarray:
    """D at scale 2¹⁰, (n, positions, C)."""
    return place.by_position(np.floor(denoised * UNIT + 0.5))


def _inputs(network: PixelNetwork, by_position: np.ndarray) -> np.ndarray:
    """The values as inputs, with one more position that stands for all beyond the edge."""
    padded = np.pad(by_position, ((0, 0), (0, 1), (0, 0)))
    inputs = level_input(padded, network.levels)
    inputs[:, -1] = -UNIT
    return inputs


def decode_values(
    network: PixelNetwork, data: bytes, denoised: np.ndarray, noised: np.ndarray, *, whole: bool = True
) -> tuple[np.ndarray, int]:
    """The values, and how many of them are certain.

    Args:
        network: the laws.
        data: of `encode_values`, or the front of them.
        denoised: D, (n, C, *d).
        noised: z/α, likewise.
        whole: whether the data are all there; else reading ends at the first value that needs what is not.

    Returns:
        (n, C, *d): values that are not known are D's nearest.
    """
    coder, certain = Decoder(data), 0
    values = nearest_levels(denoised, network.levels)
    for block in _blocks(network.neighbourhood, len(values)):
        values[block], read = _decode_block(network, coder, denoised[block], noised[block], whole)
        certain += read
        if read < values[block].size:
            break
    return values, certain


def _decode_block(
    network: PixelNetwork, coder: Decoder, denoised: np.ndarray, noised: np.ndarray, whole: bool
) -> tuple[np.ndarray, int]:
    place, read = network.neighbourhood, 0
    first, linear = network.static(known_inputs(place, denoised, noised))
    values, centre = place.by_position(nearest_levels(denoised, network.levels)), _centre(place, denoised)
    inputs = _inputs(network, values)
    for position in range(place.positions):
        here = slice(position, position + 1)
        for channel in range(place.channels):
            causal = causal_inputs(place, inputs, here, channel)
            law = network.law(first[:, here], linear[:, here], causal, centre[:, here, channel], here, channel)
            found = coder.decode_rows(network.cumulative(law), strict_prefix=not whole)
            values[: len(found), position, channel] = found
            inputs[: len(found), position, channel] = level_input(found, network.levels)
            read += len(found)
            if len(found) < len(values):
                return place.as_examples(values), read
    return place.as_examples(values), read


def nearest_levels(denoised: np.ndarray, levels: int) -> np.ndarray:
    """D from −1 to 1 as whole numbers from 0 to V − 1."""
    return np.clip(np.floor((denoised + 1.0) * (0.5 * (levels - 1)) + 0.5), 0, levels - 1).astype(np.int64)
