r"""Fitting the last stage's network to a model: in floating point by PyTorch, then rounded to whole numbers.

The loss is the code length itself, −log₂ P(k_j), of training examples noised to the place where the lossy chain ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.coding.neighbours import Neighbourhood
from scorefield.coding.pixels import (
    LOWEST_OCTAVE,
    OCTAVES,
    TOTAL,
    UNIT,
    WEIGHT_UNIT,
    PixelNetwork,
    causal_inputs,
    known_inputs,
    level_input,
    make_tables,
)

HIDDEN = (96, 64)
_LARGEST_WEIGHT = 2.0**15 / WEIGHT_UNIT


@final
@dataclass(frozen=True, eq=False)
class NoisedExamples:
    """What the last stage sees of examples: their values, the noised picture z/α and its denoised mean.

    Attributes:
        values: (n, C, *d) whole numbers from 0.
        denoised: D, (n, C, *d) from −1 to 1.
        noised: z/α, likewise.
    """

    values: np.ndarray
    denoised: np.ndarray
    noised: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> NoisedExamples:
        return NoisedExamples(self.values[rows], self.denoised[rows], self.noised[rows])

    def __len__(self) -> int:
        return len(self.values)


def fit_pixels(
    shape: tuple[int, ...],
    levels: int,
    examples: Callable[[int], NoisedExamples],
    *,
    steps: int,
    seed: int = 0,
    hidden: tuple[int, int] = HIDDEN,
    start: PixelNetwork | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> PixelNetwork:
    """Fit a network to noised examples by Adam on the mean code length.

    Args:
        shape: of one example.
        levels: V.
        examples: examples(step) are a few for one step.
        steps: of the optimiser.
        seed: of the first weights.
        hidden: the widths of its two layers.
        start: a network to go on from.
        progress: told of the step and its bits a value.
    """
    place = Neighbourhood(shape)
    mixtures = start.mixtures if start else min(4, max(2, levels // 4))
    weights = _initial(place, mixtures, seed, hidden) if start is None else _as_floats(start.tensors)
    peak = 4e-3 if start is None else 1.5e-3
    optimiser = torch.optim.Adam(weights.values(), lr=peak, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = peak * _share(step, steps)
        optimiser.zero_grad()
        with torch.enable_grad():
            bits = _bits(weights, place, levels, mixtures, examples(step))
            bits.backward()
        optimiser.step()
        with torch.no_grad():
            for weight in weights.values():
                weight.clamp_(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        if progress is not None:
            progress(step, float(bits.detach()))
    return PixelNetwork(shape, levels, mixtures, _as_integers(weights), make_tables())


def _share(step: int, steps: int) -> float:
    """The learning rate's share of its peak: a short warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / 20) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _initial(place: Neighbourhood, mixtures: int, seed: int, hidden: tuple[int, int]) -> dict[str, Tensor]:
    """A network that answers one wide logistic about the denoised value."""
    generator = torch.Generator().manual_seed(seed)
    channels, answers = place.channels, 3 * mixtures
    inputs = channels * (place.around.shape[1] + place.close.shape[1] + place.causal.shape[1] + 1)
    first, second = hidden
    shapes = {"first": (inputs, first), "second": (first, second)}
    weights = {
        name: torch.randn(shape, generator=generator) * math.sqrt(2.0 / shape[0]) for name, shape in shapes.items()
    }
    weights |= {"by_place": torch.zeros(place.positions, channels, first), "second_bias": torch.zeros(second)}
    weights |= {"last": torch.zeros(second, answers), "linear": torch.zeros(inputs, answers)}
    spread = torch.linspace(-0.1, 0.1, mixtures)
    start = torch.cat([torch.zeros(mixtures), spread, spread.abs() * 20.0 + 1.0])
    weights["by_channel"] = start.expand(channels, answers).clone()
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def _bits(
    weights: Mapping[str, Tensor], place: Neighbourhood, levels: int, mixtures: int, examples: NoisedExamples
) -> Tensor:
    """The mean code length of a value in bits, as `PixelNetwork` will have it but for the rounding."""
    known = _tensor(known_inputs(place, examples.denoised, examples.noised))
    centre = _tensor(place.by_position(np.floor(examples.denoised * UNIT + 0.5)))
    values = place.by_position(examples.values)
    inputs = level_input(np.pad(values, ((0, 0), (0, 1), (0, 0))), levels)
    inputs[:, -1] = -UNIT
    total = torch.zeros(())
    for channel in range(place.channels):
        causal = _tensor(causal_inputs(place, inputs, slice(None), channel))
        told = torch.cat([known, causal], dim=-1)
        hidden = F.relu(told @ weights["first"] + weights["by_place"][:, channel])
        hidden = F.relu(hidden @ weights["second"] + weights["second_bias"])
        answer = hidden @ weights["last"] + told @ weights["linear"] + weights["by_channel"][channel]
        chosen = torch.from_numpy(values[..., channel])
        total = total + _code_length(answer, centre[..., channel], chosen, levels, mixtures).mean()
    return total / place.channels


def _tensor(scaled: np.ndarray) -> Tensor:
    return torch.from_numpy(scaled.astype(np.float32)) / UNIT


def _code_length(answer: Tensor, centre: Tensor, values: Tensor, levels: int, mixtures: int) -> Tensor:
    """−log₂ of the mixture's mass on a value's bin, with the least frequency that every value has."""
    logit, shift, octave = answer.split(mixtures, dim=-1)
    weight = torch.softmax(logit * math.log(2.0), dim=-1)
    mean = (centre[..., None] + shift + 1.0) * (0.5 * (levels - 1))
    scale = 2.0 ** octave.clamp(LOWEST_OCTAVE, LOWEST_OCTAVE + OCTAVES)
    distance = values[..., None] - mean
    above = torch.sigmoid((distance + 0.5) / scale).where(values[..., None] < levels - 1, 1.0)
    below = torch.sigmoid((distance - 0.5) / scale).where(values[..., None] > 0, 0.0)
    mass = (weight * (above - below)).sum(-1)
    return -torch.log2(mass * (1.0 - levels / TOTAL) + 1.0 / TOTAL)


def _as_integers(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Weights in whole numbers: matrices at scale 2¹², what is added to their products at 2²²."""
    biases = ("by_place", "second_bias", "by_channel")
    return {
        # + 0.0: no whole number has a negative zero, and the profile's digest would see one
        name: np.rint(weight.detach().double().numpy() * WEIGHT_UNIT * (UNIT if name in biases else 1.0)) + 0.0
        for name, weight in weights.items()
    }


def _as_floats(tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The inverse of `_as_integers`, for going on."""
    biases = ("by_place", "second_bias", "by_channel")
    return {
        name: torch.from_numpy(tensor / (WEIGHT_UNIT * (UNIT if name in biases else 1.0))).float().requires_grad_()
        for name, tensor in tensors.items()
    }
