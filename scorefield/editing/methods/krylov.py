"""GMRES: the vector of a Krylov space that leaves the least residual, for every sample of a batch by itself  (Saad & Schultz 1986)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.shapes import Float, Tensor

_NOTHING = {torch.float32: 1e-5, torch.float64: 1e-12}


def gmres(
    product: Callable[[Tensor], Tensor], wanted: Float[Tensor, "b *m"], iterations: int
) -> list[Float[Tensor, " b"]]:
    """The shares c_j with which products M v_j of an orthonormal basis v_1 = y/‖y‖, v_2, … come nearest to y.

    Args:
        product: v ↦ M v on batches; asked once for each v_j, in order, so that the caller can keep what it made of them.
        wanted: y.
        iterations: n, how many; no more are taken than y has elements.

    Returns:
        c_1 … c_n; 0 from where the space has no further direction.
    """
    size = _norm(wanted)
    basis, columns = [_divided(wanted, size, size)], []
    for _ in range(min(iterations, wanted[0].numel())):
        image = product(basis[-1])
        before, column = _norm(image), []
        for vector in basis:
            column.append(per_sample_sum(image * vector))
            image = image - along_batch(column[-1], image) * vector
        column.append(_norm(image))
        columns.append(column)
        basis.append(_divided(image, column[-1], before))
    return _shares(columns, size)


def _norm(x: Tensor) -> Tensor:
    """‖x‖ of every sample, with a derivative where it is 0."""
    return per_sample_sum(x * x).clamp(min=1e-60 if x.dtype == torch.float64 else 1e-36).sqrt()


def _divided(x: Tensor, size: Tensor, before: Tensor) -> Tensor:
    """x/‖x‖, and 0 where x is what rounding left of something larger."""
    is_something = size > _NOTHING.get(x.dtype, 1e-5) * before
    return torch.where(along_batch(is_something, x) > 0, x / along_batch(size, x), 0.0)


def _shares(columns: list[list[Tensor]], size: Tensor) -> list[Tensor]:
    """argmin_c ‖ ‖y‖ e₁ − H c ‖ with H the Hessenberg matrix of these columns: Givens' rotations make it triangular."""
    right: list[Tensor] = [size]
    rotations: list[tuple[Tensor, Tensor]] = []
    triangle: list[list[Tensor]] = []
    for given in columns:
        column = list(given)
        for i, (cos, sin) in enumerate(rotations):
            column[i], column[i + 1] = cos * column[i] + sin * column[i + 1], cos * column[i + 1] - sin * column[i]
        length = (column[-2] ** 2 + column[-1] ** 2).clamp(min=1e-60 if size.dtype == torch.float64 else 1e-36).sqrt()
        rotations.append((column[-2] / length, column[-1] / length))
        triangle.append([*column[:-2], length])
        right[-1:] = [rotations[-1][0] * right[-1], -rotations[-1][1] * right[-1]]
    return _back(triangle, right)


def _back(triangle: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """R c = g for upper triangular R, by columns; 0 where a column is nothing."""
    found: list[Tensor] = []
    for i in reversed(range(len(triangle))):
        known = [triangle[i + 1 + k][i] * share for k, share in enumerate(found)]
        left = right[i] - sum(known[1:], known[0]) if known else right[i]
        is_something = triangle[i][i] > 1e-15
        found.insert(0, torch.where(is_something, left / triangle[i][i], 0.0))
    return found
