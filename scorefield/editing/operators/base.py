r"""What a measurement's operator answers: A x, Aᵀ y, and by its decomposition the spectral coordinates z = Vᵀx."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from scorefield.shapes import Float, Tensor

NOTHING = 1e-10
"""Singular values below this share of the largest are 0."""


class LinearOperator(ABC):
    """y = A x for batches. A subclass is final.

    Attributes:
        shape: *d, the shape of one x.
        measured_shape: *m, the shape of one y.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """*d, the shape of one x."""

    @property
    @abstractmethod
    def measured_shape(self) -> tuple[int, ...]:
        """*m, the shape of one y."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Aᵀ y."""


class Decomposed(LinearOperator, ABC):
    """An operator whose singular value decomposition A = U S Vᵀ is known."""

    @property
    @abstractmethod
    def singular_values(self) -> Float[Tensor, "*d"]:
        """S in spectral coordinates, float64; 0 where nothing is measured."""

    @abstractmethod
    def to_spectrum(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Vᵀ x."""

    @abstractmethod
    def from_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """V z."""

    @abstractmethod
    def measured_spectrum(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Uᵀ y, each coordinate where its singular value is; 0 elsewhere."""

    @abstractmethod
    def from_measured_spectrum(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """U z."""

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """A x = U S Vᵀ x."""
        return self.from_measured_spectrum(self.singular_values.to(x) * self.to_spectrum(x))

    def adjoint(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Aᵀ y = V S Uᵀ y."""
        return self.from_spectrum(self.singular_values.to(y) * self.measured_spectrum(y))

    def pseudo_inverse(self, y: Float[Tensor, "b *m"], cutoff: float = 1e-3) -> Float[Tensor, "b *d"]:
        """A⁺ y = V S⁺ Uᵀ y; singular values below `cutoff` of the largest count as zero, for their inverse is all noise."""
        values = self.singular_values.to(y)
        inverse = torch.where(values > cutoff * values.max(), 1.0 / values.clamp(min=NOTHING), 0.0)
        return self.from_spectrum(inverse * self.measured_spectrum(y))


@final
@dataclass(frozen=True, eq=False)
class Matrixless(LinearOperator):
    """Any linear operator by A and Aᵀ as functions of batches; systems with it are solved by conjugate gradients.

    Attributes:
        forward: x (b, *d) → y (b, *m), linear.
        transposed: y (b, *m) → x (b, *d), its adjoint.
        sides: *d.
        measured_sides: *m.
    """

    forward: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor]
    sides: tuple[int, ...]
    measured_sides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one x."""
        return self.sides

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """That of one y."""
        return self.measured_sides

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """A x."""
        return self.forward(x)

    def adjoint(self, y: Float[Tensor, "b *m"]) -> Float[Tensor, "b *d"]:
        """Aᵀ y."""
        return self.transposed(y)
