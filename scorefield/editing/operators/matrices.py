r"""Operators that are matrices, decomposed as they are: one for all values, or one for each axis, A = A₁ ⊗ A₂ ⊗ …"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F

from scorefield.editing.operators.base import NOTHING, Decomposed, LinearOperator
from scorefield.errors import UsageError
from scorefield.shapes import Float, Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as image programs convert."""

_MOST_DENSE = 1 << 27


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis's matrix by its decomposition: left (m, k), values (n,), right (n, n), k = min(m, n)."""

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> _Axis:
        rows, columns = matrix.shape
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=True)
        rank = min(rows, columns)
        return cls(left[:, :rank], F.pad(values, (0, columns - rank)), right.mT)


@final
@dataclass(frozen=True, eq=False)
class Separable(Decomposed):
    """A matrix an axis: A = A₁ ⊗ A₂ ⊗ …, where None leaves an axis as it is.

    Attributes:
        sides: *d, the shape of one x.
        matrices: (m_i, n_i) or None, one an axis.

    Raises:
        UsageError: the matrices do not fit the shape.
    """

    sides: tuple[int, ...]
    matrices: tuple[Float[Tensor, "_ _"] | None, ...]

    def __post_init__(self) -> None:
        fits = len(self.matrices) == len(self.sides) and all(
            matrix is None or matrix.shape[1] == side for matrix, side in zip(self.matrices, self.sides, strict=True)
        )
        if not fits:
            got = [None if matrix is None else tuple(matrix.shape) for matrix in self.matrices]
            raise UsageError(f"Separable needs a matrix (m, n) or None for each side n of {self.sides}, got {got}")

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Separable:
        """All is seen: with noise, what denoising is."""
        return cls(shape, (None,) * len(shape))

    @classmethod
    def downsampling(cls, shape: tuple[int, ...], factor: int) -> Separable:
        """Averages of cells of `factor` positions along every side; a last cell may be shorter. Raises UsageError."""
        sides = _positions(shape)
        if not 2 <= factor <= max(sides):
            raise UsageError(f"downsample={factor} does not fit sides {sides}; give a factor from 2 to {max(sides)}")
        return cls(shape, _along_positions(shape, [_averages(side, min(factor, side)) for side in sides]))

    @classmethod
    def blur(cls, shape: tuple[int, ...], std: float) -> Separable:
        """A Gaussian blur of standard deviation `std` in positions along every side, mirrored at the edges. Raises UsageError."""
        if not 0.0 < std < math.inf:
            raise UsageError(f"blur={std} must be a positive standard deviation in pixels, such as blur=1.5")
        return cls(shape, _along_positions(shape, [_gaussian(side, std) for side in _positions(shape)]))

    @classmethod
    def grey(cls, shape: tuple[int, ...], weights: tuple[float, ...] | None = None) -> Separable:
        """One weighted mean of the channels; the luma's weights for three, equal ones for other counts. Raises UsageError."""
        channels = shape[0]
        if len(shape) < 2 or channels < 2:
            raise UsageError(f"grey needs data of two channels or more, got shape {shape}")
        weights = weights or (LUMA if channels == 3 else (1.0 / channels,) * channels)
        if len(weights) != channels or not math.isclose(sum(weights), 1.0, rel_tol=1e-6):
            raise UsageError(f"grey needs {channels} weights that sum to 1, got {weights}")
        return cls(shape, (torch.tensor([weights], dtype=torch.float64), *(None,) * (len(shape) - 1)))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one x."""
        return self.sides

    @cached_property
    def measured_shape(self) -> tuple[int, ...]:
        """One row of each axis's matrix."""
        pairs = zip(self.matrices, self.sides, strict=True)
        return tuple(side if matrix is None else matrix.shape[0] for matrix, side in pairs)

    @cached_property
    def _axes(self) -> tuple[_Axis | None, ...]:
        return tuple(None if matrix is None else _Axis.of(matrix) for matrix in self.matrices)

    @cached_property
    def singular_values(self) -> Float[Tensor, "*d"]:
        """The products of the axes'."""
        product = torch.ones(self.sides, dtype=torch.float64)
        for number, axis in enumerate(self._axes):
            if axis is not None:
                product = product * axis.values.to(product).reshape(-1, *(1,) * (len(self.sides) - 1 - number))
        return torch.where(product > NOTHING * product.max(), product, 0.0)

    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Vᵀ along every axis."""
        return self._each(x, lambda axis: axis.right.mT)

    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """V along every axis."""
        return self._each(z, lambda axis: axis.right)

    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Uᵀ along every axis, with zeros for what has no singular value."""
        return self._each(y, lambda axis: F.pad(axis.left.mT, (0, 0, 0, len(axis.values) - axis.left.shape[1])))

    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """U along every axis."""
        return self._each(z, lambda axis: F.pad(axis.left, (0, len(axis.values) - axis.left.shape[1])))

    def _each(self, x: Tensor, matrix: Callable[[_Axis], Tensor]) -> Tensor:
        """Multiply every axis that has a matrix by one that is made of it."""
        for number, axis in enumerate(self._axes, start=1):
            if axis is not None:
                x = torch.tensordot(x, matrix(axis).to(x), dims=([number], [1])).movedim(-1, number)
        return x


@final
@dataclass(frozen=True, eq=False)
class Dense(Decomposed):
    """Any matrix of moderate size, y = M x with x flattened, (b, m).

    Attributes:
        matrix: M, (m, D).
        sides: *d, the shape of one x; (D,) where None.

    Raises:
        UsageError: it does not fit the shape, or is too large to be decomposed.
    """

    matrix: Float[Tensor, "m n"]
    sides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        rows, columns = self.matrix.shape
        if columns != math.prod(self.shape):
            raise UsageError(
                f"a matrix for data of shape {self.shape} has {math.prod(self.shape)} columns, got {columns}"
            )
        if not is_moderate(rows, columns):
            raise UsageError(
                f"a dense matrix of {rows}×{columns} is too large to decompose; use Matrixless with A and Aᵀ"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one x."""
        return self.sides or (self.matrix.shape[1],)

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """(m,)."""
        return (self.matrix.shape[0],)

    @cached_property
    def _axis(self) -> _Axis:
        return _Axis.of(self.matrix)

    @cached_property
    def singular_values(self) -> Float[Tensor, "*d"]:
        """The matrix's."""
        values = self._axis.values
        return torch.where(values > NOTHING * values.max(), values, 0.0).view(self.shape)

    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Vᵀ x."""
        return (x.flatten(1) @ self._axis.right.to(x)).view(x.shape)

    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """V z."""
        return (z.flatten(1) @ self._axis.right.mT.to(z)).view(z.shape)

    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Uᵀ y, and zeros."""
        left = self._axis.left.to(y)
        return F.pad(y @ left, (0, len(self._axis.values) - left.shape[1])).view(len(y), *self.shape)

    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """U z."""
        left = self._axis.left.to(z)
        return z.flatten(1)[:, : left.shape[1]] @ left.mT


def is_moderate(rows: int, columns: int) -> bool:
    """Whether a matrix is small enough to be decomposed as a whole."""
    return columns * max(rows, columns) <= _MOST_DENSE


def matrix_of(operator: LinearOperator, device: torch.device | str = "cpu") -> Float[Tensor, "m n"]:
    """Any A as a matrix, column by column, float64."""
    columns = torch.eye(math.prod(operator.shape), dtype=torch.float64, device=device)
    return operator(columns.view(-1, *operator.shape)).flatten(1).mT


def _positions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides that are places, not channels: of (C, *d) d, of points (D,) D."""
    return shape[1:] or shape


def _along_positions(shape: tuple[int, ...], matrices: list[Tensor]) -> tuple[Tensor | None, ...]:
    """One matrix a side, and None for the channels."""
    return (*(None,) * (len(shape) - len(matrices)), *matrices)


def _averages(side: int, factor: int) -> Tensor:
    """(⌈n/f⌉, n): the mean of each f neighbours."""
    cells = torch.arange(side) // factor
    matrix = F.one_hot(cells).double().mT
    return matrix / matrix.sum(1, keepdim=True)


def _gaussian(side: int, std: float) -> Tensor:
    """(n, n): weights e^{−(i−j)²/2s²}, what falls over the edge mirrored back, rows that sum to one."""
    far = min(3 * side, math.ceil(9.0 * std))  # beyond nine deviations a weight is less than rounding
    reach = torch.arange(-far, far + 1)
    weights = (-0.5 * (reach / std) ** 2).double().exp()
    places = torch.arange(side)[:, None] + reach
    folded = places % (2 * side)  # … 1 0 | 0 1 2 … n−1 | n−1 …
    folded = torch.where(folded < side, folded, 2 * side - 1 - folded)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    matrix.scatter_add_(1, folded, weights.expand(side, -1))
    return matrix / matrix.sum(1, keepdim=True)
