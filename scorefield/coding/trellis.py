r"""Selecting noise: of 2ⁿ noises that both sides know, the sender names one that looks like a draw of N(u, I).

A receiver that must see z + u + ε, ε ~ N(0, I), needs no more than KL(N(u, I) ‖ N(0, I)) = ½|u|² nats to do so. A trellis comes
near it: the state is the last L bits, each state has labels of shared normal numbers, and Viterbi's algorithm (1967) finds the n
bits whose labels e have the largest ⟨u, e⟩. At n = ½|u|²/(ln 2 · efficiency) the selected e is distributed as N(u, I): mean u,
and what is left has unit variance. The efficiency is corr²/(2 n ln 2), corr = ⟨u, e⟩/|u|, and 1 would be perfect.

Long sections are cut into chunks that are searched side by side. The vector is permuted and rotated by blocks of 64 before (an
involution of Hadamard's), so that its energy is spread evenly over the trellis. The receiver only looks up, adds and
multiplies, element by element: it computes the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np

from scorefield.coding.generator import Stream
from scorefield.errors import UsageError

_CHUNK = 512
"""The least bits of a chunk, where there are several."""

_SIDE_BY_SIDE = 1 << 18
"""Scores at a time: chunks × states."""

_LABELS_AT_ONCE = 1 << 22
"""Label numbers at a time where they are more than the scores."""

_BLOCK = 64
_LABELS, _SIGNS, _ORDER = 1, 2, 3

LARGEST_MEMORY = 16


@final
@dataclass(frozen=True)
class Layout:
    """How the bits of a section are laid over its dimensions.

    Attributes:
        dimensions: D.
        bits: n; those that no chunk takes (less than one a chunk) are 0.
        memory: L, bits of the state.
    """

    dimensions: int
    bits: int
    memory: int

    def __post_init__(self) -> None:
        if not 1 <= self.memory <= LARGEST_MEMORY:
            raise UsageError(f"a trellis needs a memory of 1 to {LARGEST_MEMORY} bits, got {self.memory}; 12 is usual")
        if self.dimensions < 0 or self.bits < 0:
            raise UsageError(
                f"a section cannot have {self.dimensions} dimensions and {self.bits} bits; give numbers ≥ 0"
            )

    @property
    def chunks(self) -> int:
        """How many trellises there are."""
        return max(1, min(self.bits // _CHUNK, self.dimensions))

    @property
    def chunk_bits(self) -> int:
        """The bits of each."""
        return self.bits // self.chunks

    @property
    def chunk_dimensions(self) -> int:
        """The dimensions of each; the last one's are filled up with nothing."""
        return -(-self.dimensions // self.chunks)

    @property
    def bytes(self) -> int:
        """The bytes of the section."""
        return (self.bits + 7) // 8

    @cached_property
    def starts(self) -> np.ndarray:
        """(chunk_bits + 1,) where in a chunk the dimensions of each bit begin."""
        return np.arange(self.chunk_bits + 1, dtype=np.int64) * self.chunk_dimensions // max(1, self.chunk_bits)

    @property
    def span(self) -> int:
        """The most dimensions of a bit."""
        return int(np.diff(self.starts).max())


def encode(direction: np.ndarray, layout: Layout, stream: Stream) -> tuple[bytes, np.ndarray]:
    """The bits that select a noise for a direction, and the noise.

    Args:
        direction: u, (D,).
        layout: of the section.
        stream: the shared randomness.

    Returns:
        the section, and e (D,) as `decode` gives it.
    """
    if layout.bits == 0 or layout.dimensions == 0:
        return b"", decode(b"", layout, stream)
    order = Stream.of(stream.seed, _ORDER).permutation(layout.dimensions)
    spread = _padded(_rotated(direction[order]), layout) * _signs(layout, stream)
    bits = np.zeros(8 * layout.bytes, dtype=np.uint8)
    found = [_viterbi(part.astype(np.float32), layout, stream) for part in _groups(spread, layout)]
    bits[: layout.chunks * layout.chunk_bits] = np.concatenate(found).ravel()
    data = np.packbits(bits).tobytes()
    return data, decode(data, layout, stream)


def decode(data: bytes, layout: Layout, stream: Stream) -> np.ndarray:
    """The noise e (D,) that a section selects; any bytes select one.

    Args:
        data: `layout.bytes` of them.
        layout: of the section.
        stream: the shared randomness.
    """
    if layout.bits == 0 or layout.dimensions == 0:
        return Stream.of(stream.seed, _LABELS).normal(layout.dimensions)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))[: layout.chunks * layout.chunk_bits]
    states = _states(bits.reshape(layout.chunks, layout.chunk_bits), layout.memory)
    owner = np.searchsorted(layout.starts, np.arange(layout.chunk_dimensions), side="right") - 1
    offset = np.arange(layout.chunk_dimensions) - layout.starts[owner]
    labels = Stream.of(stream.seed, _LABELS).normal_at(states[:, owner] * layout.span + offset)
    spread = labels * _signs(layout, stream)
    noise = np.empty(layout.dimensions)
    noise[Stream.of(stream.seed, _ORDER).permutation(layout.dimensions)] = _rotated(spread.ravel()[: layout.dimensions])
    return noise


def _labels(layout: Layout, stream: Stream, first: int, last: int) -> np.ndarray:
    """(last − first, span) shared normal numbers of some states, those of state s from place s·span of their row on."""
    numbers = Stream.of(stream.seed, _LABELS).normal((last - first) * layout.span, first * layout.span)
    return numbers.reshape(last - first, layout.span).astype(np.float32)


def _signs(layout: Layout, stream: Stream) -> np.ndarray:
    """(chunks, chunk_dimensions) of ±1: they make the code another one at every bit."""
    shape = (layout.chunks, layout.chunk_dimensions)
    return Stream.of(stream.seed, _SIGNS).signs(shape[0] * shape[1]).reshape(shape)


def _padded(values: np.ndarray, layout: Layout) -> np.ndarray:
    """(D,) as (chunks, chunk_dimensions), with zeros at the end."""
    whole = np.zeros(layout.chunks * layout.chunk_dimensions)
    whole[: layout.dimensions] = values
    return whole.reshape(layout.chunks, layout.chunk_dimensions)


def _groups(spread: np.ndarray, layout: Layout) -> Iterator[np.ndarray]:
    """Chunks, as many at a time as memory should hold."""
    size = max(1, _SIDE_BY_SIDE >> layout.memory)
    return (spread[first : first + size] for first in range(0, len(spread), size))


def _states(bits: np.ndarray, memory: int) -> np.ndarray:
    """(chunks, n) bits → the state after each: the last L bits, zeros before the first."""
    states = np.zeros(bits.shape, dtype=np.int64)
    for back in range(min(memory, bits.shape[1])):
        states[:, back:] += bits[:, : bits.shape[1] - back].astype(np.int64) << back
    return states


def _gains(spread: np.ndarray, layout: Layout, stream: Stream) -> Iterator[np.ndarray]:
    """⟨u_i, label⟩ of every state at one bit after the other: (chunks, 2^L) each.

    What is kept is the labels or the gains of all bits, whichever is less: a few bits over many dimensions have long labels.
    """
    count, bounds = 1 << layout.memory, list(pairwise(layout.starts.tolist()))
    if layout.span <= layout.chunk_bits:
        labels = _labels(layout, stream, 0, count)
        for first, last in bounds:
            yield spread[:, first:last] @ labels[:, : last - first].T
        return
    gains = np.empty((layout.chunk_bits, len(spread), count), dtype=np.float32)
    size = max(1, _LABELS_AT_ONCE // layout.span)
    for state in range(0, count, size):
        labels = _labels(layout, stream, state, min(state + size, count))
        for gain, (first, last) in zip(gains, bounds, strict=True):
            gain[:, state : state + size] = spread[:, first:last] @ labels[:, : last - first].T
    yield from gains


def _viterbi(spread: np.ndarray, layout: Layout, stream: Stream) -> np.ndarray:
    """The best bits of several chunks: (chunks, n).

    A state s = (…, b₁, b₀) follows s>>1 and (s>>1) + 2^(L−1), so a step is one maximum over these two and one product with the labels;
    which of the two it was is one bit a pair of states.
    """
    count, half = 1 << layout.memory, 1 << (layout.memory - 1)
    score = np.full((len(spread), count), -np.inf, dtype=np.float32)
    score[:, 0] = 0.0
    chosen = np.empty((layout.chunk_bits, len(spread), max(1, half // 8)), dtype=np.uint8)
    for i, gain in enumerate(_gains(spread, layout, stream)):
        low, high = score[:, :half], score[:, half:]
        chosen[i] = np.packbits(high > low, axis=1)
        best = np.maximum(low, high)
        gain.reshape(len(spread), half, 2)[...] += best[:, :, None]
        score = gain
    return _traced(score.argmax(axis=1), chosen, layout)


def _traced(state: np.ndarray, chosen: np.ndarray, layout: Layout) -> np.ndarray:
    """The bits that led to each chunk's last state."""
    bits = np.empty((len(state), layout.chunk_bits), dtype=np.uint8)
    rows = np.arange(len(state))
    for i in range(layout.chunk_bits - 1, -1, -1):
        bits[:, i] = state & 1
        before = state >> 1
        from_high = (chosen[i, rows, before >> 3] >> (7 - (before & 7))) & 1
        state = before + (from_high.astype(np.int64) << (layout.memory - 1))
    return bits


def _rotated(values: np.ndarray) -> np.ndarray:
    """Hadamard's rotation by blocks of 64, and of smaller powers of two at the end: its own inverse."""
    result, first = np.empty_like(values), 0
    size = _BLOCK
    while first < len(values):
        count = (len(values) - first) // size
        if count:
            block = values[first : first + count * size].reshape(count, size)
            result[first : first + count * size] = _hadamard(block).ravel()
            first += count * size
        size //= 2
    return result


def _hadamard(block: np.ndarray) -> np.ndarray:
    """(k, 2^m) → the normalised Walsh–Hadamard transform of each row, by butterflies."""
    width = block.shape[1]
    step = 1
    while step < width:
        pairs = block.reshape(len(block), -1, 2, step)
        block = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        block = block.reshape(len(block), width)
        step *= 2
    return block * (1.0 / math.sqrt(width))


_MEASURED_BITS = (4, 8, 16, 32, 64, 128, 256, 512)
_MEASURED = {
    6: (0.48, 0.56, 0.65, 0.69, 0.72, 0.73, 0.74, 0.74),
    8: (0.48, 0.57, 0.66, 0.75, 0.79, 0.80, 0.81, 0.80),
    10: (0.51, 0.56, 0.69, 0.78, 0.83, 0.85, 0.86, 0.86),
    12: (0.51, 0.59, 0.69, 0.79, 0.845, 0.88, 0.89, 0.90),
    14: (0.51, 0.57, 0.70, 0.80, 0.86, 0.895, 0.915, 0.925),
    16: (0.51, 0.57, 0.70, 0.81, 0.88, 0.91, 0.93, 0.934),
}
"""Efficiency by memory and bits of a section, on white directions at 0.03 to 0.3 bits a dimension."""


def efficiency(memory: int, bits: int) -> float:
    """corr²/(2 n ln 2) of a section of so many bits, as measured: how many bits to spend on a divergence.

    Args:
        memory: L.
        bits: n, at least 1.
    """
    row = _MEASURED[min(_MEASURED, key=lambda known: (abs(known - memory), known))]
    place = np.log2(np.clip(bits, _MEASURED_BITS[0], _MEASURED_BITS[-1]))
    return float(np.interp(place, np.log2(_MEASURED_BITS), row))
