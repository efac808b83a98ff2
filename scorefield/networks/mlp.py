"""A residual perceptron for points (D,): what toys and tabular data need."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.networks.layers import Embedding, zeroed
from scorefield.networks.specs import MLPSpec
from scorefield.shapes import Float

__all__ = ["MLP"]


class Block(nn.Module):
    """x → x + W₂ silu(γ·norm(W₁ silu(x)) + β), with γ, β linear in the embedding."""

    def __init__(self, spec: MLPSpec) -> None:
        super().__init__()
        self.first = nn.Linear(spec.width, spec.width)
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.modulation = nn.Linear(spec.embedding, 2 * spec.width)
        self.dropout = nn.Dropout(spec.dropout) if spec.dropout else nn.Identity()
        self.second = zeroed(nn.Linear(spec.width, spec.width))

    def forward(self, x: Float[Tensor, "b w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b w"]:
        """One block."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        hidden = self.norm(self.first(F.silu(x)))
        return x + self.second(self.dropout(F.silu(torch.addcmul(hidden + shift, hidden, scale))))


class MLP(nn.Module):
    """The network of an `MLPSpec` for points of one dimension.

    Args:
        spec: width, depth and the rest.
        inputs: features of a point.
        outputs: features of the result.
        classes: number of classes, 0 for none.
        conditions: numbers that a sample is conditioned on, 0 for none.

    """

    def __init__(self, spec: MLPSpec, inputs: int, outputs: int, classes: int, conditions: int = 0) -> None:
        super().__init__()
        self.embedding = Embedding(spec.embedding, classes, conditions)
        self.stem = nn.Linear(inputs, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.head = zeroed(nn.Linear(spec.width, outputs))

    def hidden_matrices(self) -> list[Tensor]:
        """The weights that map features to features: what an optimiser that orthogonalises its updates is for."""
        return [layer.weight for block in self.blocks for layer in block.children() if isinstance(layer, nn.Linear)]

    def forward(
        self, x: Float[Tensor, "b d"], noise_label: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b k"]:
        """The network's output for points `x` (b, D), their noise labels (b,) and their classes (b,) or conditions (b, k), if any."""
        embedding = self.embedding(noise_label, condition)
        hidden = self.stem(x)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.head(F.silu(hidden))
