"""What is known of x, beside dense linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.editing.measurement import Measurement, conjugate_gradients
from scorefield.editing.operators import Dense, Diagonal, Mask, Matrixless, Separable
from scorefield.errors import UsageError
from tests.editing.test_operators import DECOMPOSED, every_operator, matrix_of
from tests.worlds import float64, normal


def loose(known: Measurement) -> Measurement:
    """The same with a decomposition that nobody knows."""
    operator = known.operator
    return Measurement(
        Matrixless(operator, operator.adjoint, operator.shape, operator.measured_shape), known.y, known.noise
    )


def system(matrix: Tensor, variance: float, noise: float) -> Tensor:
    """r² A Aᵀ + σ_y² I."""
    return variance * matrix @ matrix.mT + noise**2 * torch.eye(len(matrix)).double()


@every_operator
@pytest.mark.parametrize("variance", [0.7, float64([0.2, 3.0])], ids=["one", "one a sample"])
def test_correction_is_the_normal_equations(operator: Dense, variance: float | Tensor) -> None:
    """Aᵀ (A Aᵀ + (σ_y²/r²) I)⁻¹ (y − A x), by the decomposition and without."""
    x, matrix = normal(2, *operator.shape), matrix_of(operator)
    known = Measurement(operator, normal(2, *operator.measured_shape, seed=1), 0.3)
    residual = (known.y - operator(x)).flatten(1)
    for found in (known.correction(x, variance), loose(known).correction(x, variance)):
        for k in range(2):
            ratio = 0.3**2 / (variance if isinstance(variance, float) else float(variance[k]))
            wanted = matrix.mT @ torch.linalg.solve(system(matrix, 1.0, math.sqrt(ratio)), residual[k])
            assert torch.allclose(found[k].flatten(), wanted, atol=1e-5)


@every_operator
def test_correction_without_noise_is_the_pseudo_inverse(operator: Dense) -> None:
    """A⁺ (y − A x), whatever r²: colours and cells are pasted."""
    x = normal(2, *operator.shape)
    known = Measurement(operator, normal(2, *operator.measured_shape, seed=1))
    wanted = known.residual(x).flatten(1) @ torch.linalg.pinv(matrix_of(operator), rtol=1e-3).mT
    for found in (known.correction(x), known.correction(x, 0.3), known.corrected_by(x, 0.0)):
        assert torch.allclose(found.flatten(1), wanted, atol=1e-8)


@every_operator
def test_log_likelihood_is_the_gaussians_up_to_a_constant(operator: Dense) -> None:
    """Differences between two x of log N(y; A x, r² A Aᵀ + σ_y² I)."""
    matrix, known = matrix_of(operator), Measurement(operator, normal(1, *operator.measured_shape), 0.3)
    x = normal(2, *operator.shape)
    apart = known.residual(x).flatten(1)
    solved = torch.linalg.solve(system(matrix, 0.7, 0.3), apart.mT).mT
    wanted = -0.5 * (apart * solved).sum(1)
    for measurement in (known, loose(known)):
        found = measurement.log_likelihood(x, 0.7)
        assert torch.allclose(found[0] - found[1], wanted[0] - wanted[1], atol=1e-4)


def test_what_rounding_drowns_stays_out_for_every_times_one_a_sample_too() -> None:
    """Times as a tensor ask for A⁺ as one time does: a blur's small singular values would blow rounding up."""
    known = Measurement(Separable.blur((1, 32, 32), 3.0), normal(1, 1, 32, 32).float())
    x = normal(2, 1, 32, 32).float()
    assert torch.equal(known.correction(x, 0.3), known.correction(x, torch.tensor([0.3, 0.3])))


def test_values_seen_one_by_one_have_deviations_of_their_own() -> None:
    """√(r² w² + σ²) where w > 0; of another operator one number for all."""
    known, y = Measurement(Diagonal(float64([2.0, 0.0, 0.5])), normal(1, 3), 0.3), normal(2, 3)
    wanted = float64([math.sqrt(0.7 * 4.0 + 0.09), 1.0, math.sqrt(0.7 * 0.25 + 0.09)])
    assert torch.allclose(known.deviation(0.7, y), wanted)
    each = known.deviation(float64([0.7, 0.0]), y)
    assert torch.allclose(each, torch.stack([wanted, float64([0.3, 1.0, 0.3])]))
    assert Measurement(Dense(normal(2, 3)), normal(1, 2), 0.3).deviation(0.7, normal(1, 2)) == pytest.approx(
        math.sqrt(0.79)
    )


def test_likelihood_without_noise_leaves_out_what_rounding_drowns() -> None:
    """Singular values below a thousandth of the largest, whatever the unit: 0.9 of 1000 is left out, 2 is not."""
    x = normal(3, 3)
    known = Measurement(Dense(torch.diag(float64([1000.0, 2.0, 0.9]))), normal(1, 3))
    apart = known.residual(x)[:, :2]
    wanted = -0.5 * (apart**2 / (0.7 * float64([1e6, 4.0]))).sum(1)
    assert torch.allclose(known.log_likelihood(x, 0.7), wanted, rtol=1e-10)


def test_weighed_and_reached_without_noise_leave_it_out_too() -> None:
    """0.9 of 1000 is left out, 2 is not: its inverse square would outweigh all else."""
    known, v = Measurement(Dense(torch.diag(float64([1000.0, 2.0, 0.9]))), normal(1, 3)), normal(2, 3)
    kept = v * float64([1.0, 1.0, 0.0])
    assert torch.allclose(known.weighed(v, 0.7), kept / (0.7 * float64([1e6, 4.0, 1.0])), rtol=1e-10, atol=0.0)
    assert torch.allclose(known.reached(v), kept, atol=1e-12)


@every_operator
def test_weighed_is_the_inverse_on_what_is_reached(operator: Dense) -> None:
    """What moment matching's solver is preconditioned by."""
    matrix, known = matrix_of(operator), Measurement(operator, normal(1, *operator.measured_shape), 0.3)
    v = operator(normal(2, *operator.shape))
    wanted = torch.linalg.solve(system(matrix, 0.7, 0.3), v.flatten(1).mT).mT
    for measurement in (known, loose(known)):
        assert torch.allclose(measurement.weighed(v, 0.7).flatten(1), wanted, atol=1e-4)
    assert torch.allclose(known.reached(v), v, atol=1e-10)


def test_what_is_not_reached_is_left_out() -> None:
    """A tall matrix measures more numbers than it can explain."""
    known = Measurement(DECOMPOSED["tall"], normal(1, 240), 0.3)
    v = normal(2, 240)
    reached = known.reached(v)
    assert torch.allclose(known.operator.adjoint(reached), known.operator.adjoint(v), atol=1e-9)
    assert (v - reached).norm() > 1.0
    assert known.rank == 105
    assert Measurement(Mask(torch.tensor([True, False])), float64([[1.0, 0.0]])).rank == 1
    assert loose(known).rank == 240


def test_float32_stays_float32() -> None:
    """A measurement in float64 of data in float32."""
    known = Measurement(Dense(normal(2, 4)), normal(1, 2), 0.1)
    x = normal(3, 4).float()
    assert known.correction(x, 0.5).dtype == known.residual(x).dtype == known.log_likelihood(x, 0.5).dtype == x.dtype


def test_conjugate_gradients_solve_each_sample_by_itself() -> None:
    """One that is solved stands still while its neighbour goes on; two batches are one."""
    root = normal(6, 6)
    matrix, y = root @ root.mT + 0.1 * torch.eye(6).double(), normal(3, 6)
    y[1] = 0.0
    found = conjugate_gradients(lambda v: v @ matrix, y, tolerance=1e-12)
    assert torch.allclose(found, torch.linalg.solve(matrix, y.mT).mT, atol=1e-8)
    alone = conjugate_gradients(lambda v: v @ matrix, y[2:], tolerance=1e-12)
    assert torch.allclose(found[2:], alone, rtol=1e-12)


def test_impossible_measurements_are_refused() -> None:
    """Another operator's picture, a negative deviation, a density that is none."""
    operator = Dense(normal(2, 4))
    with pytest.raises(UsageError, match=r"measures \(2,\) of \(4,\), got measurements of \(3,\)"):
        Measurement(operator, normal(1, 3))
    with pytest.raises(UsageError, match="noise ≥ 0, got -1"):
        Measurement(operator, normal(1, 2), -1.0)
    with pytest.raises(UsageError, match="only with variance > 0"):
        Measurement(operator, normal(1, 2)).log_likelihood(normal(1, 4))
