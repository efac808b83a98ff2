"""The Gaussian frame: its functions of C are those of the matrix, whether all of it is kept or 64 directions and a rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.likelihood.reference import Reference, log_normal
from tests.worlds import float64, normal


def low_rank() -> tuple[Reference, Tensor]:
    """Two directions and a rest in five dimensions, and the covariance as a matrix."""
    directions = torch.linalg.qr(normal(5, 2))[0].mT
    reference = Reference(normal(5, seed=1), float64([2.0, 0.5]), directions, 0.1)
    rest = torch.eye(5).double() - directions.mT @ directions
    return reference, directions.mT @ torch.diag(reference.variances) @ directions + 0.1 * rest


def full() -> tuple[Reference, Tensor]:
    """A whole covariance."""
    root = normal(5, 5)
    return Reference.of(normal(5, seed=1), root @ root.mT), root @ root.mT


@pytest.mark.parametrize("make", [low_rank, full])
def test_every_function_is_that_of_the_matrix(make) -> None:
    """A wrong share of the residual directions would move the density of every picture, whose rank is above 64."""
    reference, covariance = make()
    s, points = float64([0.3, 1.0, 7.0]), normal(3, 5, seed=2)
    for k, level in enumerate(s):
        total = covariance + level**2 * torch.eye(5).double()
        values, vectors = torch.linalg.eigh(total)
        root = vectors @ torch.diag(values.sqrt()) @ vectors.mT
        assert torch.allclose(reference.colour(points, s)[k], root @ points[k])
        assert torch.allclose(reference.whiten(points, s)[k], torch.linalg.solve(root, points[k]))
        assert torch.allclose(reference.kept(points, s)[k], covariance @ torch.linalg.solve(total, points[k]))
        assert torch.allclose(reference.trace(s)[k], torch.trace(covariance @ torch.linalg.inv(total)))
        assert torch.allclose(reference.log_volume(s)[k], 0.5 * torch.logdet(total))
    assert torch.allclose(reference.spectrum.sort().values, torch.linalg.eigvalsh(covariance))


def test_information_is_half_the_log_determinant_of_the_channel() -> None:
    """I(λ) = ½ log det(I + e^{2λ} C); its slope is what chooses where a bound is asked."""
    reference, covariance = full()
    for log_snr in (-3.0, 0.0, 2.5):
        wanted = 0.5 * torch.logdet(torch.eye(5).double() + torch.tensor(2.0 * log_snr).exp() * covariance)
        assert torch.allclose(reference.information(float64([log_snr]))[0], wanted)


def test_stored_moments_become_orthonormal() -> None:
    """Directions stored in 32 bits are off by 1e-7, and way and return would not be the identity."""
    reference, _ = low_rank()
    stored = {"mean": reference.mean.float(), "eigenvalues": reference.variances.float()}
    stored |= {"eigenvectors": reference.directions.float(), "residual_variance": torch.tensor(0.1)}
    read = Reference.of_moments(stored)
    assert torch.allclose(read.directions @ read.directions.mT, torch.eye(2).double(), atol=1e-14)
    assert torch.allclose(read.directions, reference.directions, atol=1e-6)
    x = normal(4, 5)
    assert torch.allclose(read.whiten(read.colour(x, float64([1.0] * 4)), float64([1.0] * 4)), x, atol=1e-13)


def test_isotropic_is_the_standard_normal_and_negative_variances_are_refused() -> None:
    """What stands in where a denoiser brings no moments."""
    frame = Reference.isotropic(3)
    assert frame.spectrum.tolist() == [1.0] * 3
    with pytest.raises(UsageError, match="variances"):
        Reference.isotropic(3, -1.0)


def test_log_normal_is_torchs() -> None:
    """A lost constant would move every likelihood by as much."""
    x = normal(4, 3)
    assert torch.allclose(log_normal(x, 2.5), torch.distributions.Normal(0.0, 2.5).log_prob(x).sum(1))
