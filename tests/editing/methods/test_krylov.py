"""GMRES beside dense linear algebra: systems that are not symmetric, and spaces that end early."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scorefield.editing.methods.krylov import gmres
from tests.worlds import float64, normal


def solved(matrix: Tensor, y: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Σ c_j M v_j, and the shares c (iterations, b), of the products that were asked for."""
    products: list[Tensor] = []

    def product(v: Tensor) -> Tensor:
        products.append(v @ matrix.mT)
        return products[-1]

    shares = gmres(product, y, iterations)
    return sum((c[:, None] * v for c, v in zip(shares, products, strict=True)), torch.zeros_like(y)), torch.stack(
        shares
    )


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_the_residual_is_the_least_of_the_krylov_space(iterations: int) -> None:
    """(Saad & Schultz 1986) Least squares over M y, M² y, …; with as many as there are numbers y itself."""
    matrix, y = torch.eye(4).double() + 0.5 * normal(4, 4), normal(3, 4, seed=1)
    found, _ = solved(matrix, y, iterations)
    for k in range(3):
        space = [y[k]]
        for _ in range(iterations):
            space.append(matrix @ space[-1])
        basis = torch.stack(space[1:], 1)
        wanted = basis @ torch.linalg.lstsq(basis, y[k]).solution
        assert torch.allclose(found[k], wanted, atol=1e-8)
    if iterations == 4:
        assert torch.allclose(found, y, atol=1e-8)


def test_a_space_that_ends_has_no_further_shares() -> None:
    """An eigenvector is solved by one product; what rounding leaves of the next direction must not be blown up, nor be another one."""
    found, shares = solved(torch.diag(float64([2.0, 3.0, 5.0])), float64([[0.0, 4.0, 0.0], [1.0, 1.0, 0.0]]), 3)
    assert torch.allclose(found, float64([[0.0, 4.0, 0.0], [1.0, 1.0, 0.0]]), atol=1e-12)
    assert torch.equal(shares[1:, 0], torch.zeros(2).double())
    assert float(shares[2, 1]) == 0.0


def test_nothing_wanted_is_nothing_found() -> None:
    """y = 0 has no direction: shares of 0, not 0/0."""
    found, shares = solved(torch.eye(3).double(), torch.zeros(1, 3).double(), 2)
    assert torch.equal(found, torch.zeros(1, 3).double()) and torch.equal(shares, torch.zeros(2, 1).double())
