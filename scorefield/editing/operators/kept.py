r"""Operators that keep a part of coordinates: of the values themselves, or of a fast transform of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F

from scorefield.editing.operators.base import Decomposed
from scorefield.errors import UsageError
from scorefield.shapes import Bool, Float, Tensor


@final
@dataclass(frozen=True, eq=False)
class Mask(Decomposed):
    """Some values are seen and the others are not: y = x where kept, 0 elsewhere.

    Attributes:
        keep: which values are seen, of one x's shape.
    """

    keep: Bool[Tensor, "*d"]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the mask."""
        return tuple(self.keep.shape)

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """That of x: what is not seen is 0."""
        return tuple(self.keep.shape)

    @cached_property
    def singular_values(self) -> Float[Tensor, "*d"]:
        """1 where kept."""
        return self.keep.double()

    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """x itself."""
        return x

    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """z itself."""
        return z

    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """y where kept."""
        return y * self.singular_values.to(y)

    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """z where kept."""
        return z * self.singular_values.to(z)


@final
@dataclass(frozen=True, eq=False)
class Diagonal(Decomposed):
    """y = w x, value by value: what is seen in units of its own; 0 is not seen.

    Attributes:
        weights: w ≥ 0, (*d).

    Raises:
        UsageError: a weight that is negative or not finite.
    """

    weights: Float[Tensor, "*d"]

    def __post_init__(self) -> None:
        if not bool(((self.weights >= 0.0) & self.weights.isfinite()).all()):
            raise UsageError("Diagonal needs finite weights ≥ 0; give a sign to the measurement instead")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one x."""
        return tuple(self.weights.shape)

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """That of x: what is hidden is 0."""
        return self.shape

    @cached_property
    def singular_values(self) -> Float[Tensor, "*d"]:
        """w."""
        return self.weights.double()

    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """x: V = I."""
        return x

    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """z: V = I."""
        return z

    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """y where it is seen."""
        return y.where(self.weights.to(y) > 0.0, 0.0)

    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """z where it is seen."""
        return self.measured_spectrum(z)


@final
@dataclass(frozen=True, eq=False)
class Projection(Decomposed):
    """Compressed sensing: `count` of the coordinates of a random orthogonal transform, y = R H E x, (b, count).

    E flips random signs, H is the orthonormal Hartley transform (the sum of a Fourier transform's real part and the negative of its
    imaginary part, any length), R keeps random coordinates: rows are orthonormal, and nothing is ever stored but signs and
    places, which makes it work at any size (a subsampled randomised transform: Ailon & Chazelle 2009).

    Attributes:
        sides: *d, the shape of one x.
        count: how many numbers are measured, 1 … D.
        seed: of the signs and places.

    Raises:
        UsageError: no such count.
    """

    sides: tuple[int, ...]
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= math.prod(self.sides):
            raise UsageError(
                f"a projection of {math.prod(self.sides)} values measures 1 to {math.prod(self.sides)} numbers, got {self.count}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one x."""
        return self.sides

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """(count,)."""
        return (self.count,)

    @cached_property
    def _signs(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(2, (math.prod(self.sides),), generator=generator).double() * 2.0 - 1.0

    @cached_property
    def _places(self) -> Tensor:
        """The kept coordinates first: a permutation of all."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randperm(math.prod(self.sides), generator=generator)

    @cached_property
    def singular_values(self) -> Float[Tensor, "*d"]:
        """1 for the kept coordinates."""
        values = torch.zeros(math.prod(self.sides), dtype=torch.float64)
        values[: self.count] = 1.0
        return values.view(self.sides)

    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """All coordinates of the transform, the kept ones first."""
        transformed = _hartley(x.flatten(1) * self._signs.to(x))
        return transformed[:, self._places.to(x.device)].view(x.shape)

    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The transform is its own inverse, and the signs theirs."""
        placed = torch.empty_like(z.flatten(1)).index_copy(1, self._places.to(z.device), z.flatten(1))
        return (_hartley(placed) * self._signs.to(z)).view(z.shape)

    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """y, and zeros."""
        return F.pad(y, (0, math.prod(self.sides) - self.count)).view(len(y), *self.sides)

    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """The kept coordinates."""
        return z.flatten(1)[:, : self.count]


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform of rows, its own inverse: Re F − Im F, over √n."""
    spectrum = torch.fft.fft(x, norm="ortho")
    return spectrum.real - spectrum.imag
