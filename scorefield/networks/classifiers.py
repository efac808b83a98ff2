"""Classifiers of noisy samples: the way down of the networks that denoise, and one row of logits at its end."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.networks.layers import (
    Embedding,
    channels_last,
    convolution,
    fold,
    group_norm,
    halve,
    with_waves,
    zeroed,
)
from scorefield.networks.mlp import Block
from scorefield.networks.specs import MLPSpec, UNetSpec
from scorefield.networks.unet import descent
from scorefield.shapes import Float

__all__ = ["MLPClassifier", "UNetClassifier"]

_CELLS = 4
_POOLS: dict[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class UNetClassifier(nn.Module):
    """The descent of a `UNetSpec`, means over at most four cells a side, a hidden layer, and logits  (Dhariwal & Nichol 2021, section 4.1).

    Cells, and not one mean over all: where something is tells classes apart.

    Args:
        spec: widths, depths and the rest.
        shape: shape (C, *d) of one sample; it binds.
        classes: how many.

    """

    def __init__(self, spec: UNetSpec, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        rank = len(shape) - 1
        self.cell, self.periods = spec.fold, spec.periods
        self.embedding = Embedding(spec.embedding, 0)
        inputs = shape[0] * (1 + 2 * len(spec.periods))
        self.stem = convolution(rank, inputs * self.cell**rank, spec.widths[0])
        self.down, _ = descent(spec, rank)
        self.norm = group_norm(spec.widths[-1])
        cells = [min(_CELLS, _halved(side, spec)) for side in shape[1:]]
        self.pool = _POOLS[rank](tuple(cells))
        self.hidden = nn.Linear(spec.widths[-1] * math.prod(cells), spec.widths[-1])
        self.dropout = nn.Dropout(spec.dropout)
        self.head = zeroed(nn.Linear(spec.widths[-1], classes))

    def forward(self, x: Float[Tensor, "b c *d"], noise_label: Float[Tensor, "b"]) -> Float[Tensor, "b classes"]:
        """The logits of samples `x` (b, C, *d), with noise labels (b,) of order one."""
        embedding = self.embedding(noise_label, None)
        hidden = self.stem(channels_last(fold(with_waves(x, self.periods), self.cell)))
        for i, level in enumerate(self.down):
            hidden = halve(hidden) if i else hidden
            for block in level.children():
                hidden = block(hidden, embedding)
        pooled = self.pool(F.silu(self.norm(hidden))).flatten(1)
        logits: Tensor = self.head(self.dropout(F.silu(self.hidden(pooled))))
        return logits


def _halved(side: int, spec: UNetSpec) -> int:
    """How many positions of a side are left at the lowest level."""
    side = math.ceil(side / spec.fold)
    for _ in spec.widths[1:]:
        side = math.ceil(side / 2)
    return side


class MLPClassifier(nn.Module):
    """The blocks of an `MLPSpec`, and logits.

    Args:
        spec: width, depth and the rest.
        inputs: features of a point.
        classes: how many.

    """

    def __init__(self, spec: MLPSpec, inputs: int, classes: int) -> None:
        super().__init__()
        self.embedding = Embedding(spec.embedding, 0)
        self.stem = nn.Linear(inputs, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.head = zeroed(nn.Linear(spec.width, classes))

    def forward(self, x: Float[Tensor, "b d"], noise_label: Float[Tensor, "b"]) -> Float[Tensor, "b classes"]:
        """The logits of points `x` (b, D), with noise labels (b,) of order one."""
        embedding = self.embedding(noise_label, None)
        hidden = self.stem(x)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        logits: Tensor = self.head(F.silu(hidden))
        return logits
