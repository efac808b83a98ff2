"""Operators beside dense matrices, which leave nothing to be clever about."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.editing.operators import (
    LUMA,
    OPERATORS,
    Decomposed,
    Dense,
    Diagonal,
    LinearOperator,
    Mask,
    Matrixless,
    Projection,
    Separable,
    completed,
    operator_named,
)
from scorefield.errors import UsageError
from tests.worlds import RANKS, float64, normal

COLOUR = (3, 7, 5)
DECOMPOSED: dict[str, Decomposed] = {
    "mask": Mask(normal(*COLOUR) > 0.2),
    "diagonal": Diagonal(normal(*COLOUR).clamp(min=0.0)),
    "identity": Separable.identity(COLOUR),
    "downsampling": Separable.downsampling(COLOUR, 2),
    "blur": Separable.blur(COLOUR, 1.2),
    "grey": Separable.grey(COLOUR),
    "projection": Projection(COLOUR, 30, seed=4),
    "wide": Dense(normal(20, 105), COLOUR),
    "tall": Dense(normal(240, 105), COLOUR),
    "line": Separable.downsampling((9,), 4),
    "series": Separable.blur((2, 8), 0.7),
    "volume": Separable.downsampling((2, 3, 4, 5), 2),
}
every_operator = pytest.mark.parametrize("operator", DECOMPOSED.values(), ids=DECOMPOSED)


def matrix_of(operator: LinearOperator) -> Tensor:
    """A, column by column."""
    units = torch.eye(math.prod(operator.shape), dtype=torch.float64).view(-1, *operator.shape)
    return operator(units).flatten(1).mT


@every_operator
def test_operator_is_its_matrix(operator: Decomposed) -> None:
    """A transform that is not linear, or mixes a batch, is no matrix."""
    x = normal(3, *operator.shape)
    y = operator(x)
    assert y.shape == (3, *operator.measured_shape)
    assert torch.allclose(y.flatten(1), x.flatten(1) @ matrix_of(operator).mT, atol=1e-12)


@every_operator
def test_adjoint_is_the_transposed_matrix(operator: Decomposed) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩; an average's adjoint is no repetition."""
    y = normal(3, *operator.measured_shape, seed=1)
    assert torch.allclose(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix_of(operator), atol=1e-12)


@every_operator
def test_decomposition_is_one(operator: Decomposed) -> None:
    """V is orthogonal, U has orthonormal columns where S > 0, and A = U S Vᵀ."""
    units = torch.eye(math.prod(operator.shape), dtype=torch.float64).view(-1, *operator.shape)
    right = operator.from_spectrum(units).flatten(1).mT
    assert torch.allclose(right.mT @ right, torch.eye(len(right)).double(), atol=1e-12)
    assert torch.allclose(operator.to_spectrum(operator.from_spectrum(units)), units, atol=1e-12)
    seen = operator.singular_values.flatten() > 0.0
    left = operator.from_measured_spectrum(units).flatten(1).mT[:, seen]
    assert torch.allclose(left.mT @ left, torch.eye(left.shape[1]).double(), atol=1e-12)
    product = left * operator.singular_values.flatten()[seen] @ right[:, seen].mT
    assert torch.allclose(product, matrix_of(operator), atol=1e-12)


@every_operator
def test_singular_values_are_the_matrixs(operator: Decomposed) -> None:
    """They decide what is trusted, and how far."""
    wanted = torch.linalg.svdvals(matrix_of(operator))
    found = operator.singular_values.flatten().sort(descending=True).values[: len(wanted)]
    assert torch.allclose(found, wanted, atol=1e-9)


@every_operator
def test_pseudo_inverse_is_the_matrixs(operator: Decomposed) -> None:
    """Moore and Penrose's, with the same cutoff."""
    y = normal(3, *operator.measured_shape, seed=1)
    wanted = y.flatten(1) @ torch.linalg.pinv(matrix_of(operator), rtol=1e-3).mT
    assert torch.allclose(operator.pseudo_inverse(y).flatten(1), wanted, atol=1e-9)


@every_operator
def test_dtype_is_kept_and_nothing_is_mutated(operator: Decomposed) -> None:
    """Singular values are float64, data need not be."""
    x, y = normal(2, *operator.shape).float(), normal(2, *operator.measured_shape).float()
    before = x.clone(), y.clone()
    found = (operator(x), operator.adjoint(y), operator.pseudo_inverse(y), operator.to_spectrum(x))
    assert all(one.dtype == torch.float32 for one in found)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert torch.allclose(operator(x), operator(x.double()).float(), atol=1e-5)


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("name", OPERATORS)
def test_every_named_operator_fits_every_rank_or_says_why_not(name: str, shape: tuple[int, ...]) -> None:
    """What the command line offers works on every kind of data, but for colours."""
    if name == "grey" and (len(shape) == 1 or shape[0] == 1):
        with pytest.raises(UsageError, match=r"grey|colour"):
            operator_named(name, shape)
        return
    operator = operator_named(f"{name}=2" if name == "downsample" else name, shape)
    x = normal(2, *shape)
    y = operator(x)
    assert y.shape == (2, *operator.measured_shape)
    assert torch.allclose((y * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10)


def test_a_name_alone_has_its_usual_parameter_said() -> None:
    """What a log names is what was measured; a parameter that is given stays."""
    assert [completed(text) for text in ("blur", "blur=2", "grey", "denoise")] == [
        "blur=1.5",
        "blur=2",
        "grey",
        "denoise",
    ]
    x = normal(1, 1, 12, 12)
    assert torch.equal(operator_named("blur", (1, 12, 12))(x), operator_named(completed("blur"), (1, 12, 12))(x))


def test_downsampling_is_the_mean_of_cells() -> None:
    """Four neighbours; the last cell of an odd side is shorter."""
    x = torch.arange(15.0).double().view(1, 1, 3, 5)
    wanted = float64([[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]])
    assert torch.allclose(operator_named("downsample=2", (1, 3, 5))(x), wanted)


def test_blur_keeps_what_is_flat_and_is_the_weights_inside() -> None:
    """Mirrored edges lose nothing; a point in the middle becomes the kernel."""
    operator = Separable.blur((41,), 2.0)
    assert torch.allclose(operator(torch.ones(1, 41).double()), torch.ones(1, 41).double())
    point = torch.zeros(1, 41).double()
    point[0, 20] = 1.0
    kernel = (-0.5 * ((torch.arange(41).double() - 20) / 2.0) ** 2).exp()
    assert torch.allclose(operator(point)[0], kernel / kernel.sum(), atol=1e-6)


def test_a_blur_of_a_long_series_looks_no_farther_than_it_reaches() -> None:
    """Nine deviations are all that there is of it; weights for every distance would be six matrices of 1,500 × 1,500."""
    near, far = Separable.blur((60,), 1.5).matrices[0], Separable.blur((1500,), 1.5).matrices[0]
    assert near is not None and far is not None
    assert torch.allclose(near[10:50, 10:50], far[10:50, 10:50], atol=1e-15)
    assert torch.allclose(far.sum(1), torch.ones(1500).double())


def test_grey_is_what_image_programs_make() -> None:
    """The weights of red, green and blue; the mean where it is asked for."""
    x = normal(2, *COLOUR)
    assert torch.allclose(operator_named("grey", COLOUR)(x)[:, 0], torch.einsum("bchw,c->bhw", x, float64(LUMA)))
    assert torch.allclose(operator_named("grey=mean", COLOUR)(x)[:, 0], x.mean(1))


def test_a_projection_by_name_measures_a_share_of_the_numbers() -> None:
    """Of all the numbers, not of one; at least one."""
    assert operator_named("project=0.25", (2, 5, 6)).measured_shape == (15,)
    assert operator_named("project=0.001", (5,)).measured_shape == (1,)


def test_projection_is_random_by_its_seed_alone() -> None:
    """The same seed measures the same; another measures something else."""
    x = normal(1, 20)
    one, same, other = (Projection((20,), 5, seed=seed)(x) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    fixed = Projection((2, 3), 3)(torch.arange(6.0).double().view(1, 2, 3))
    assert torch.allclose(
        fixed, float64([[-0.8966, 3.3461, -4.3813]]), atol=1e-4
    )  # measurements in files stay readable


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: operator_named("blurr", COLOUR), "did you mean 'blur'"),
        (lambda: operator_named("blur=x", COLOUR), "takes a number"),
        (lambda: operator_named("blur=0", COLOUR), "positive standard deviation"),
        (lambda: operator_named("downsample=1", COLOUR), "from 2 to 7"),
        (lambda: operator_named("grey=green", COLOUR), "luma or mean"),
        (lambda: operator_named("project=2", COLOUR), "above 0 up to 1"),
        (lambda: Dense(normal(2, 3), (4,)), "has 4 columns, got 3"),
        (lambda: Separable((3,), (normal(2, 4),)), "for each side"),
        (lambda: Diagonal(float64([1.0, -1.0])), "finite weights ≥ 0"),
    ],
)
def test_impossible_operators_are_refused(build: Any, said: str) -> None:
    """In words, with what would do."""
    with pytest.raises(UsageError, match=said):
        build()


def test_matrixless_takes_its_functions_as_they_are() -> None:
    """A user's own A and Aᵀ."""
    dense = Dense(normal(2, 5))
    loose = Matrixless(dense, dense.adjoint, (5,), (2,))
    x, y = normal(3, 5), normal(3, 2)
    assert torch.equal(loose(x), dense(x))
    assert torch.equal(loose.adjoint(y), dense.adjoint(y))
    assert (loose.shape, loose.measured_shape) == ((5,), (2,))
