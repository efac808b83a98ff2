"""The parts networks share: cells folded into channels, resampling, attention, embeddings; any rank."""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.shapes import Float

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_GROUP = 32  # channels normalised together: few groups cost a third of the time of many


def channels_last(x: Tensor) -> Tensor:
    """`x` with its channels innermost in memory, where convolutions run fastest; series stay as they are."""
    memory_format = _CHANNELS_LAST.get(x.ndim)
    return x if memory_format is None else x.contiguous(memory_format=memory_format)


def convolution(rank: int, inputs: int, outputs: int, size: int = 3) -> nn.Module:
    """A convolution of odd `size` over `rank` dimensions that keeps the resolution."""
    layer = _CONVOLUTIONS[rank](inputs, outputs, size, padding=size // 2)
    layer.weight.data = channels_last(layer.weight.data)
    return layer


def is_convolution(layer: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """Whether `layer` is a convolution of any rank."""
    return isinstance(layer, tuple(_CONVOLUTIONS.values()))


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation over groups of about 32 channels (Wu & He 2018)."""
    groups = math.gcd(channels, max(1, channels // _GROUP))
    return nn.GroupNorm(groups, channels, affine=affine)


def zeroed(layer: nn.Module) -> nn.Module:
    """`layer` with all parameters set to zero, so that what it is added to starts unchanged."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def with_waves(x: Float[Tensor, "b c *d"], periods: tuple[float, ...]) -> Float[Tensor, "b k *d"]:
    """`x` and sin(2πx/p), cos(2πx/p) for every period p, as channels  (Kingma et al. 2021, appendix C)."""
    turns = [x * (2.0 * math.pi / period) for period in periods]
    return torch.cat([x, *(wave for turn in turns for wave in (turn.sin(), turn.cos()))], dim=1) if turns else x


def fold(x: Float[Tensor, "b c *d"], cell: int) -> Float[Tensor, "b k *e"]:
    """Turn each cell of `cell`ᵈ positions into channels: (b, c, *d) → (b, c·cellᵈ, *⌈d/cell⌉), padded with zeros."""
    if cell == 1:
        return x
    x = F.pad(x, [pad for side in reversed(x.shape[2:]) for pad in (0, -side % cell)])
    rank = x.ndim - 2
    x = x.reshape(*x.shape[:2], *(n for side in x.shape[2:] for n in (side // cell, cell)))
    x = x.permute(0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2))
    return x.flatten(1, 1 + rank)


def unfold(x: Float[Tensor, "b k *e"], cell: int, sides: torch.Size) -> Float[Tensor, "b c *d"]:
    """Undo `fold` for data of these `sides`, padding included."""
    if cell == 1:
        return x
    rank = x.ndim - 2
    x = x.unflatten(1, (-1, *[cell] * rank))
    x = x.permute(0, 1, *(n for i in range(rank) for n in (2 + rank + i, 2 + i)))
    x = x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * cell for i in range(rank)))
    for axis, side in enumerate(sides, start=2):
        x = x.narrow(axis, 0, side)
    return x


def halve(x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *e"]:
    """Average cells of two positions a side; an odd side keeps its last, shorter cell: d → ⌈d/2⌉."""
    return _AVERAGES[x.ndim - 2](x, 2, ceil_mode=True, count_include_pad=False)


def enlarge(x: Float[Tensor, "b c *d"], sides: torch.Size) -> Float[Tensor, "b c *e"]:
    """Repeat positions up to these `sides`."""
    return F.interpolate(x, size=sides, mode="nearest")


class Attention(nn.Module):
    """Residual self-attention over all positions (Vaswani et al. 2017), normalised first; starts as the identity."""

    def __init__(self, rank: int, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = group_norm(width)
        self.project = convolution(rank, width, 3 * width, size=1)
        self.merge = zeroed(convolution(rank, width, width, size=1))

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        """Mix the positions of each sample."""
        heads = self.project(self.norm(x)).flatten(2).unflatten(1, (3, -1, self.head_width))
        mixed = _attend(heads.transpose(-1, -2)).transpose(-1, -2)
        return x + self.merge(channels_last(mixed.reshape(x.shape)))


def _attend(heads: Float[Tensor, "b 3 h n k"]) -> Float[Tensor, "b h n k"]:
    if heads.device.type != "cpu" or heads.dtype != torch.bfloat16:
        query, key, value = heads.unbind(1)
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):  # the backward pass is five times as fast in float32 there
        query, key, value = heads.float().unbind(1)
        return F.scaled_dot_product_attention(query, key, value).to(heads.dtype)


def _frequencies(count: int, dtype: torch.dtype) -> Tensor:
    """Labels are of order one (¼ log σ, or t): a quarter of a turn to sixteen turns over a unit tell levels apart."""
    return 2 * math.pi * torch.logspace(-2, 4, count, base=2, dtype=dtype)


class _ByValue(nn.Module):
    """W c + b of a condition c of k numbers; a vector of its own for "no condition", which a NaN stands for."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(conditions, width)
        self.without = nn.Parameter(torch.zeros(width))

    def forward(self, values: Float[Tensor, "b k"] | None) -> Tensor:
        """The vectors of a batch, or the one of all where there is no condition."""
        if values is None:
            return self.without
        is_absent = values.isnan().any(dim=1, keepdim=True)
        # A NaN must be in no product: its gradient would be NaN even where the result is not taken.
        known = torch.where(is_absent, 0.0, values).to(self.without.dtype)
        return torch.where(is_absent, self.without, self.linear(known))


class Embedding(nn.Module):
    """Noise level and condition as one vector: a perceptron of cos and sin of the level, plus what stands for the condition.

    That is one vector a class, or a linear map of a condition of k numbers; and a vector of its own for "no condition".

    Args:
        width: features of the vector; even.
        classes: number of classes; the label `classes` stands for "no label".
        conditions: k; a row with a NaN stands for "no condition".

    """

    frequencies: Tensor

    def __init__(self, width: int, classes: int, conditions: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("frequencies", _frequencies(width // 2, torch.float32), persistent=False)
        self.perceptron = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.by_class = nn.Embedding(classes + 1, width) if classes else None
        self.by_value = _ByValue(conditions, width) if conditions else None

    def make_exact(self) -> None:
        """Compute the frequencies in float64: float32's last digit differs between machines, and is no weight."""
        self.frequencies = _frequencies(len(self.frequencies), torch.float64).to(self.frequencies.device)

    def forward(self, noise_label: Float[Tensor, "b"], condition: Tensor | None) -> Float[Tensor, "b e"]:
        """The vectors of a batch; a condition of None means none."""
        angles = noise_label.to(self.frequencies.dtype)[:, None] * self.frequencies
        vector = self.perceptron(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.by_class is not None:
            labels = torch.full_like(noise_label, self.classes, dtype=torch.long) if condition is None else condition
            vector = vector + self.by_class(labels)
        if self.by_value is not None:
            vector = vector + self.by_value(condition)
        return F.silu(vector)
