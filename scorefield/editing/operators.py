r"""What a measurement sees of x: linear operators A, most of them with their singular value decomposition.

    y = A x + σ_y n,   A = U S Vᵀ

x is one batch (b, *d) in model space. *Spectral coordinates* z = Vᵀx are laid out in x's own shape, S is diagonal there, and
zero where nothing is measured; so A⁺ = V S⁺ Uᵀ, and (r² A Aᵀ + σ_y²)⁻¹, are elementwise. An operator that acts on each axis by
itself (averages, blurs, the grey of colours) has the decompositions of small matrices, one an axis; a random projection is a
fast transform of which a part is kept; a dense matrix is decomposed as it is; anything else needs A and Aᵀ alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F

from scorefield.errors import UsageError, unknown_name
from scorefield.shapes import Bool, Float, Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as image programs convert."""

_MOST_DENSE = 1 << 27
_NOTHING = 1e-10


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
        inverse = torch.where(values > cutoff * values.max(), 1.0 / values.clamp(min=_NOTHING), 0.0)
        return self.from_spectrum(inverse * self.measured_spectrum(y))


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
        return torch.where(product > _NOTHING * product.max(), product, 0.0)

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
        if columns * max(rows, columns) > _MOST_DENSE:
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
        return torch.where(values > _NOTHING * values.max(), values, 0.0).view(self.shape)

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


OPERATORS: dict[str, Callable[[tuple[int, ...], str], LinearOperator]] = {
    "denoise": lambda shape, text: _whole(text, shape),
    "downsample": lambda shape, text: Separable.downsampling(shape, int(text)),
    "blur": lambda shape, text: Separable.blur(shape, float(text)),
    "grey": lambda shape, text: Separable.grey(shape, _grey_weights(shape, text)),
    "project": lambda shape, text: Projection(shape, _measured_count(shape, float(text))),
}
"""Operators by name: what makes each for a shape, from its parameter as text."""

_USUAL = {"downsample": "4", "blur": "1.5", "project": "0.25"}


def completed(text: str) -> str:
    """`blur` as `blur=1.5`: a name without a parameter with the usual one, where it takes one."""
    return text if "=" in text or text not in _USUAL else f"{text}={_USUAL[text]}"


def operator_named(text: str, shape: tuple[int, ...]) -> LinearOperator:
    """The operator that a text such as `downsample=4`, `blur=1.5`, `grey`, `grey=mean`, `project=0.25` or `denoise` names.

    Raises:
        UsageError: no such operator, or a parameter that it or the shape does not take.
    """
    name, _, parameter = completed(text).partition("=")
    if name not in OPERATORS:
        raise unknown_name("operator", name, OPERATORS)
    try:
        return OPERATORS[name](shape, parameter)
    except (ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"operator {name} takes a number, such as {name}=2; got '{parameter}'") from None


def _grey_weights(shape: tuple[int, ...], text: str) -> tuple[float, ...] | None:
    if text in ("", "luma"):
        return None
    if text == "mean":
        return (1.0 / shape[0],) * shape[0]
    raise UsageError(f"grey takes luma or mean, got '{text}'")


def _whole(text: str, shape: tuple[int, ...]) -> Separable:
    if text:
        raise UsageError(
            f"denoise takes no parameter, got '{text}'; the noise is a number of its own, such as --noise 25"
        )
    return Separable.identity(shape)


def _measured_count(shape: tuple[int, ...], share: float) -> int:
    """How many numbers a share of all is, at least one."""
    if not 0.0 < share <= 1.0:
        raise UsageError(f"project={share:g} must be the share of the numbers that is measured, above 0 up to 1")
    return max(1, round(share * math.prod(shape)))


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
    reach = torch.arange(-3 * side, 3 * side + 1)
    weights = (-0.5 * (reach / std) ** 2).double().exp()
    places = torch.arange(side)[:, None] + reach
    folded = places % (2 * side)  # … 1 0 | 0 1 2 … n−1 | n−1 …
    folded = torch.where(folded < side, folded, 2 * side - 1 - folded)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    matrix.scatter_add_(1, folded, weights.expand(side, -1))
    return matrix / matrix.sum(1, keepdim=True)


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform of rows, its own inverse: Re F − Im F, over √n."""
    spectrum = torch.fft.fft(x, norm="ortho")
    return spectrum.real - spectrum.imag
