r"""The last stage's law of each value: p(k_j | z, D(z), the values before j), computed in integers.

What the noised picture z still leaves open is coded without loss, value by value. A small network reads the windows of
`neighbours` and answers a mixture of discretised logistics (Salimans et al. 2017, section 2.1) about the denoised value:

    P(k_j ≤ b) = Σ_m w_m sigmoid((b + ½ − μ_m)/e^{s_m}),   open at both ends

Sender and receiver must agree to the last bit on machines of any kind. So the network's weights and activations are
integers held in float64: every product and sum is exact (below 2⁵³), in whatever order a machine adds. What follows is
table look-ups and elementwise operations that IEEE 754 rounds in one way. Scales: inputs and activations 2¹⁰, weights 2¹².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from scorefield.coding.neighbours import Neighbourhood

UNIT = 1024.0
"""An activation of one."""

WEIGHT_UNIT = 4096.0
LARGEST_ACTIVATION = 2.0**17
TOTAL = 1 << 16
"""The sum of the integer frequencies."""

MEAN_STEPS = 16
"""Steps of μ within one level."""

SCALES_AN_OCTAVE, LOWEST_OCTAVE, OCTAVES = 8, -4, 14
"""The logistic's scale in levels: 2⁻⁴ to 2¹⁰."""

_SIGMOID_STEPS, _SIGMOID_REACH = 64, 20
_WEIGHT_STEPS, _WEIGHT_REACH = 64, 24


@final
@dataclass(frozen=True, eq=False)
class PixelNetwork:
    """An integer network: two hidden layers of rectified units, with a linear path beside them.

    Attributes:
        shape: of one example.
        levels: V, how many values the data have.
        mixtures: M, logistics a value.
        tensors: its weights, whole numbers, by name: `by_place` (positions, C, H₁) is the first layer's bias; `first` (inputs, H₁),
            `second` (H₁, H₂) and its bias, `last` (H₂, 3M), `linear` (inputs, 3M) and `by_channel` (C, 3M).
        tables: the exponential's and the sigmoid's values as whole numbers.
    """

    shape: tuple[int, ...]
    levels: int
    mixtures: int
    tensors: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]

    @cached_property
    def neighbourhood(self) -> Neighbourhood:
        """The windows that the network reads."""
        return Neighbourhood(self.shape)

    def cumulative(self, law: Law) -> np.ndarray:
        """(rows, V + 1) integer cumulative frequencies from 0 to 2¹⁶, every value's at least 1."""
        edges = np.arange(1, self.levels, dtype=np.float64)
        inner = self._mass_below(law, np.broadcast_to(edges, (len(law.mean), len(edges))))
        result = np.zeros((len(inner), self.levels + 1), dtype=np.int64)
        result[:, 1:-1] = inner
        result[:, -1] = TOTAL
        return result

    def interval(self, law: Law, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cumulative frequencies below and above given values (rows,)."""
        below, above = values.astype(np.float64), values + 1.0
        edges = np.stack([np.maximum(below, 1.0), np.minimum(above, self.levels - 1.0)], axis=1)
        low, high = self._mass_below(law, edges).T
        return np.where(values == 0, 0, low), np.where(values == self.levels - 1, TOTAL, high)

    def _mass_below(self, law: Law, edges: np.ndarray) -> np.ndarray:
        """The integer frequency of the values below each edge: the floor of the mixture's share of 2¹⁶ − V, and one a value."""
        reach = _SIGMOID_STEPS * _SIGMOID_REACH
        total = np.zeros(edges.shape)
        for m in range(self.mixtures):
            distance = (edges - 0.5) * MEAN_STEPS - law.mean[:, m, None]
            place = np.floor(distance * self.tables["inverse_scales"][law.scale[:, m], None])
            index = np.clip(place, -reach, reach - 1).astype(np.int64) + reach
            total += self.tables["sigmoid"][index] * law.weight[:, m, None]
        share = total / (law.weight.sum(axis=1) * self.tables["sigmoid_one"])[:, None]
        return (np.floor(share * (TOTAL - self.levels)) + edges).astype(np.int64)

    def static(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the pictures that both sides know give to the first layer and to the answer, at scale 2²².

        Args:
            known: (n, positions, inputs) of `known_inputs`.

        Returns:
            (n, positions, H₁) and (n, positions, 3M).
        """
        size = known.shape[-1]
        return known @ self.tensors["first"][:size], known @ self.tensors["linear"][:size]

    def law(
        self,
        first: np.ndarray,
        linear: np.ndarray,
        causal: np.ndarray,
        centre: np.ndarray,
        positions: slice,
        channel: int,
    ) -> Law:
        """The laws of one channel's values at some positions.

        Args:
            first: of `static`, (n, k, H₁) for those positions.
            linear: of `static`, likewise.
            causal: (n, k, inputs) of `causal_inputs`.
            centre: (n, k) the denoised value at scale 2¹⁰, −1 to 1.
            positions: which.
            channel: c.

        Returns:
            n·k rows.
        """
        size, tensors = causal.shape[-1], self.tensors
        sums = first + causal @ tensors["first"][-size:] + tensors["by_place"][positions, channel]
        hidden = _rectified(sums).reshape(-1, sums.shape[-1])
        hidden = _rectified(hidden @ tensors["second"] + tensors["second_bias"])
        beside = (linear + causal @ tensors["linear"][-size:]).reshape(len(hidden), -1)
        answer = hidden @ tensors["last"] + beside + tensors["by_channel"][channel]
        return self._read(np.floor(answer / WEIGHT_UNIT), centre.ravel())

    def _read(self, answer: np.ndarray, centre: np.ndarray) -> Law:
        """The answer at scale 2¹⁰ as weights 2^a, means about the centre in half the data's range, and scales 2^a in levels."""
        logit, shift, octave = np.split(answer, 3, axis=-1)
        behind = np.floor((logit.max(axis=-1, keepdims=True) - logit) * (_WEIGHT_STEPS / UNIT))
        weight = self.tables["weight"][np.minimum(behind, _WEIGHT_STEPS * _WEIGHT_REACH - 1).astype(np.int64)]
        half_range = 0.5 * (self.levels - 1)
        mean = np.floor(((centre[:, None] + shift) / UNIT + 1.0) * (half_range * MEAN_STEPS))
        bound = 4.0 * MEAN_STEPS * self.levels
        steps = np.floor(octave * (SCALES_AN_OCTAVE / UNIT)) - LOWEST_OCTAVE * SCALES_AN_OCTAVE
        scale = np.clip(steps, 0, SCALES_AN_OCTAVE * OCTAVES - 1).astype(np.int64)
        return Law(weight, np.clip(mean, -bound, bound), scale)


@final
@dataclass(frozen=True, eq=False)
class Law:
    """Mixtures of logistics, (rows, M) each.

    Attributes:
        weight: whole numbers, not normalised.
        mean: in sixteenths of a level.
        scale: the number of a tabulated scale.
    """

    weight: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def _rectified(scaled: np.ndarray) -> np.ndarray:
    """max(0, a) at scale 2¹⁰ from sums at scale 2²²."""
    return np.clip(np.floor(scaled / WEIGHT_UNIT), 0.0, LARGEST_ACTIVATION)


def make_tables() -> dict[str, np.ndarray]:
    """The tables, made once and stored: a receiver never computes an exponential."""
    reach = np.arange(-_SIGMOID_STEPS * _SIGMOID_REACH, _SIGMOID_STEPS * _SIGMOID_REACH) + 0.5
    one = float(1 << 24)
    sigmoid = np.rint(one / (1.0 + np.exp(-reach / _SIGMOID_STEPS)))
    scales = 2.0 ** (LOWEST_OCTAVE + (np.arange(SCALES_AN_OCTAVE * OCTAVES) + 0.5) / SCALES_AN_OCTAVE)
    weight = np.rint(2.0**20 * 2.0 ** (-np.arange(_WEIGHT_STEPS * _WEIGHT_REACH) / _WEIGHT_STEPS))
    return {
        "sigmoid": sigmoid,
        "sigmoid_one": np.array(one),
        "inverse_scales": _SIGMOID_STEPS / (MEAN_STEPS * scales),
        "weight": np.maximum(weight, 1.0),
    }


def level_input(values: np.ndarray, levels: int) -> np.ndarray:
    """Values 0 … V − 1 as inputs from −2¹⁰ to 2¹⁰, whole numbers."""
    return np.floor(values * (2.0 * UNIT / max(1, levels - 1))) - UNIT


def known_inputs(place: Neighbourhood, denoised: np.ndarray, noised: np.ndarray) -> np.ndarray:
    """The windows of D and of z/α around every position: (n, positions, inputs) whole numbers.

    Args:
        place: the windows.
        denoised: D, (n, C, *d), from −1 to 1.
        noised: z/α, likewise.
    """
    parts = []
    for picture, windows in ((denoised, place.around), (noised, place.close)):
        values = np.floor(np.clip(picture, -8.0, 8.0) * UNIT + 0.5)
        parts.append(_gathered(place.by_position(values), windows, edge=-UNIT))
    return np.concatenate(parts, axis=-1)


def _gathered(values: np.ndarray, windows: np.ndarray, edge: float) -> np.ndarray:
    """(n, positions, C) → (n, windows, k·C), `edge` beyond the edges."""
    padded = np.concatenate([values, np.full((len(values), 1, values.shape[2]), edge)], axis=1)
    return padded[:, windows].reshape(len(values), len(windows), -1)


def causal_inputs(place: Neighbourhood, inputs: np.ndarray, positions: slice, channel: int) -> np.ndarray:
    """What is known of the values before channel c of some positions: (n, positions, (k + 1)·C) whole numbers.

    Args:
        place: the windows.
        inputs: `level_input` of the values, (n, positions + 1, C); the last position stands for all beyond the edge.
        positions: which.
        channel: c; the channels from c on of a position itself are told as 0.
    """
    window = inputs[:, place.causal[positions]]
    own = inputs[:, :-1][:, positions].copy()
    own[..., channel:] = 0.0
    return np.concatenate([window.reshape(*window.shape[:2], -1), own], axis=-1)
