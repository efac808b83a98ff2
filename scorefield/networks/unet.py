"""A U-Net for series, images and volumes of any size (Ronneberger et al. 2015; Ho et al. 2020), written for speed.

Time goes into wide 3ᵈ convolutions and little else: cells of pixels are folded into channels first, so that the finest
level is wide instead of long; activations are channels-last; a residual block has two normalisations over few groups;
attention stays on the lowest levels. An odd side is halved upwards (⌈d/2⌉) and restored, so no size is special.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.networks.layers import (
    Attention,
    Embedding,
    channels_last,
    convolution,
    enlarge,
    fold,
    group_norm,
    halve,
    is_convolution,
    unfold,
    with_waves,
    zeroed,
)
from scorefield.networks.specs import UNetSpec
from scorefield.shapes import Float

__all__ = ["UNet", "descent"]


class ResidualBlock(nn.Module):
    """x → skip(x) + conv(silu(γ·norm(conv(silu(norm(x)))) + β)); γ, β linear in the embedding (Perez et al. 2018)."""

    def __init__(self, rank: int, inputs: int, outputs: int, spec: UNetSpec, attends: bool) -> None:
        super().__init__()
        self.norm = group_norm(inputs)
        self.first = convolution(rank, inputs, outputs)
        self.modulated_norm = group_norm(outputs, affine=False)
        self.modulation = nn.Linear(spec.embedding, 2 * outputs)
        self.dropout = nn.Dropout(spec.dropout) if spec.dropout else nn.Identity()
        self.second = zeroed(convolution(rank, outputs, outputs))
        self.skip = convolution(rank, inputs, outputs, size=1) if inputs != outputs else nn.Identity()
        self.attention = Attention(rank, outputs, spec.head_width) if attends else nn.Identity()

    def forward(self, x: Float[Tensor, "b c *d"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b k *d"]:
        """One block at one resolution."""
        hidden = self.modulated_norm(self.first(F.silu(self.norm(x))))
        modulation = self.modulation(embedding)
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        hidden = F.silu(torch.addcmul(hidden + shift, hidden, scale), inplace=True)
        return self.attention(self.skip(x) + self.second(self.dropout(hidden)))


class UNet(nn.Module):
    """The network of a `UNetSpec` for samples of one shape.

    Args:
        spec: widths, depths and the rest.
        shape: shape (C, *d) of one sample; C and the number of sides bind, the sides may differ from call to call.
        out_channels: channels of the result.
        classes: number of classes, 0 for none.
        conditions: numbers that a sample is conditioned on, 0 for none.

    """

    def __init__(
        self, spec: UNetSpec, shape: tuple[int, ...], out_channels: int, classes: int, conditions: int = 0
    ) -> None:
        super().__init__()
        rank = len(shape) - 1
        self.cell = spec.fold
        self.embedding = Embedding(spec.embedding, classes, conditions)
        self.periods = spec.periods
        inputs = shape[0] * (1 + 2 * len(spec.periods))
        self.stem = convolution(rank, inputs * self.cell**rank, spec.widths[0])
        self.down, skips = descent(spec, rank)
        self.up = _ascent(spec, rank, skips)
        self.norm = group_norm(spec.widths[0])
        self.head = zeroed(convolution(rank, spec.widths[0], out_channels * self.cell**rank))

    def hidden_matrices(self) -> list[Tensor]:
        """The kernels that map features to features: what an optimiser that orthogonalises its updates is for."""
        convolutions = [layer for part in (self.down, self.up) for layer in part.modules() if is_convolution(layer)]
        return [layer.weight for layer in convolutions]

    def forward(
        self, x: Float[Tensor, "b c *d"], noise_label: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b k *d"]:
        """The network's output for samples `x`.

        Args:
            x: samples (b, C, *d).
            noise_label: how noisy each is (b,), of order one.
            condition: their classes (b,), where the number of classes means no label, or the numbers (b, k) they are
                conditioned on, where a row of NaN means none; None means none for all.

        """
        embedding = self.embedding(noise_label, condition)
        hidden = self.stem(channels_last(fold(with_waves(x, self.periods), self.cell)))
        skips = []
        for i, level in enumerate(self.down):
            hidden = halve(hidden) if i else hidden
            for block in level.children():
                hidden = block(hidden, embedding)
                skips.append(hidden)
        for level in self.up:
            hidden = enlarge(hidden, skips[-1].shape[2:])
            for block in level.children():
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), embedding)
        return unfold(self.head(F.silu(self.norm(hidden))), self.cell, x.shape[2:])


def descent(spec: UNetSpec, rank: int) -> tuple[nn.ModuleList, list[int]]:
    """The levels from the finest to the lowest, and the width that each block leaves for its skip connection."""
    levels, skips, width = nn.ModuleList(), [], spec.widths[0]
    for i, (outputs, depth) in enumerate(zip(spec.widths, spec.depths, strict=True)):
        level = nn.ModuleList()
        for _ in range(depth):
            level.append(ResidualBlock(rank, width, outputs, spec, _attends(spec, i)))
            width = outputs
            skips.append(width)
        levels.append(level)
    return levels, skips


def _ascent(spec: UNetSpec, rank: int, skips: list[int]) -> nn.ModuleList:
    """The levels from the lowest to the finest; each block also takes what its mirror image on the way down left."""
    levels, width, skips = nn.ModuleList(), spec.widths[-1], list(skips)
    for i, (outputs, depth) in reversed(list(enumerate(zip(spec.widths, spec.depths, strict=True)))):
        level = nn.ModuleList()
        for _ in range(depth):
            level.append(ResidualBlock(rank, width + skips.pop(), outputs, spec, _attends(spec, i)))
            width = outputs
        levels.append(level)
    return levels


def _attends(spec: UNetSpec, level: int) -> bool:
    return level >= len(spec.widths) - spec.attention
