"""Toys: samples agree with the moments that their formulas give, within four standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from scorefield.data import toys
from scorefield.data.toys import MIXTURE_2D, MIXTURE_64D, MIXTURES

CIRCLE = 1.0 / 2.0  # E cos² of a uniform angle


def swissroll_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and E x² of (r cos r, r sin r), r uniform: by quadrature."""
    r = np.linspace(1.5 * np.pi, 4.5 * np.pi, 200_001)
    spiral = np.stack([r * np.cos(r), r * np.sin(r)])
    return spiral.mean(axis=1), (spiral**2).mean(axis=1) + toys.SWISSROLL_NOISE**2


def ring_second_moment() -> float:
    """E x² = ½ Σ r³/Σ r + noise², as a ring is drawn in proportion to r."""
    radii = np.array(toys.RING_RADII)
    return float(CIRCLE * (radii**3).sum() / radii.sum() + toys.RINGS_NOISE**2)


MOMENTS = {
    # E cos θ = 0 and E sin θ = 2/π over half a circle; the halves are joined with weights ½
    "moons": (
        np.array([0.5, 0.25]),
        np.array([CIRCLE / 2 + (1 + CIRCLE) / 2, CIRCLE / 2 + (0.25 - 2 / np.pi + CIRCLE) / 2]) + toys.MOONS_NOISE**2,
    ),
    "checkerboard": (np.zeros(2), np.full(2, 16.0 / 3.0)),
    "rings": (np.zeros(2), np.full(2, ring_second_moment())),
    "swissroll": swissroll_moments(),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_points_in_the_plane_have_their_moments(name: str) -> None:
    x = toys.points(name, seed=3).astype(np.float64)
    mean, second = MOMENTS[name]
    for values, expected in ((x, mean), (x**2, second)):
        error = values.std(axis=0) / np.sqrt(len(x))
        assert (np.abs(values.mean(axis=0) - expected) < 4 * error).all()


def test_the_checkerboard_fills_every_second_square() -> None:
    x = toys.points("checkerboard")
    square = np.floor((x + 4.0) / 2.0).astype(int).clip(0, 3)
    assert (square.sum(axis=1) % 2 == 0).all()
    counts = np.unique(square, axis=0, return_counts=True)[1]
    assert len(counts) == 8 and (np.abs(counts - 6250) < 5 * np.sqrt(6250)).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_have_their_exact_moments(name: str) -> None:
    """Weights, means and covariance of the samples against the constants, every entry within 4.5 standard errors."""
    mixture = MIXTURES[name]
    x, components = mixture.sample(50_000, np.random.default_rng(1))
    share = np.bincount(components, minlength=len(mixture.weights)) / len(x)
    assert (np.abs(share - mixture.weights) < 4.5 * np.sqrt(mixture.weights / len(x))).all()
    centred = x - mixture.mean
    assert (np.abs(centred.mean(axis=0)) < 4.5 * x.std(axis=0) / np.sqrt(len(x))).all()
    covariance = centred.T @ centred / len(x)
    error = np.sqrt(((centred**2).T @ centred**2 / len(x) - covariance**2) / len(x))
    assert (np.abs(covariance - mixture.covariance) < 4.5 * error).all()


@pytest.mark.parametrize("mixture", [MIXTURE_2D, MIXTURE_64D], ids=["2d", "64d"])
def test_constants_are_a_mixture(mixture: toys.Mixture) -> None:
    assert np.isclose(mixture.weights.sum(), 1.0, rtol=1e-15)
    assert np.array_equal(mixture.covariances, mixture.covariances.transpose(0, 2, 1))
    assert np.linalg.eigvalsh(mixture.covariances).min() > 0.0


def test_the_64_dimensional_spectra_span_decades() -> None:
    """As those of images do: this is what separates samplers."""
    spectrum = np.sort((1.0 + np.arange(64.0)) ** -1.5)
    assert np.allclose(np.linalg.eigvalsh(MIXTURE_64D.covariances), spectrum, atol=1e-12)
    assert spectrum[-1] / spectrum[0] > 500


def test_the_same_seed_gives_the_same_points() -> None:
    assert np.array_equal(toys.points("mixture-2d", 10, seed=4), toys.points("mixture-2d", 10, seed=4))
    assert not np.array_equal(toys.points("mixture-2d", 10, seed=4), toys.points("mixture-2d", 10, seed=5))


def test_a_standardised_mixture_is_that_of_standardised_points() -> None:
    """Moments of z = (x − a)/b, with one b a feature."""
    shift, scale = np.array([1.0, -2.0]), np.array([2.0, 0.5])
    z = MIXTURE_2D.standardised(shift, scale)
    assert np.allclose(z.mean, (MIXTURE_2D.mean - shift) / scale)
    assert np.allclose(z.covariance, MIXTURE_2D.covariance / np.outer(scale, scale))
    assert np.allclose(MIXTURE_2D.standardised(0.0, 2.0).covariance, MIXTURE_2D.covariance / 4.0)
