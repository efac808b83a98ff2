"""The data report: every number against the plain formula over all data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scorefield.data import moments as moments_module
from scorefield.data import open_data, report
from scorefield.data.moments import moments
from scorefield.data.statistics import statistics
from tests.data.zoo import noise


def model_space(array: np.ndarray) -> np.ndarray:
    """8-bit images (N, H, W) in model space, (N, D)."""
    return array.reshape(len(array), -1) / 127.5 - 1.0


def test_numbers_are_those_of_the_whole_data() -> None:
    pixels = noise(40, 6, 5, 3)
    pixels[7] = pixels[3]
    pixels[:, 2, 2, 1] = 9
    found = report(open_data(pixels, labels=np.arange(40) % 3))
    assert (found.count, found.shape, found.dtype) == (40, (3, 6, 5), "uint8")
    assert (found.minimum, found.maximum) == (float(pixels.min()), float(pixels.max()))
    assert (found.duplicates, found.constant_values) == (1, 1)
    assert found.label_counts == {"0": 14, "1": 13, "2": 13}
    z = pixels / 127.5 - 1.0
    assert np.isclose(found.model_mean, z.mean()) and np.isclose(found.sigma_data, z.std())
    assert np.allclose(found.model_channel_means, z.mean(axis=(0, 1, 2)))
    assert np.allclose(found.sigma_data_by_channel, z.std(axis=(0, 1, 2)))


def test_statistics_do_not_cancel() -> None:
    """A mean of 1e8 and a deviation of 1: the square of the mean must never be subtracted."""
    x = 1e8 + np.random.default_rng(0).normal(size=(300_000, 5))
    found = statistics(open_data(x))
    assert np.allclose(np.sqrt(found.variance), x.std(axis=0), rtol=1e-6)
    assert np.allclose(found.mean, x.mean(axis=0), rtol=1e-12)


def test_moments_are_those_of_the_data() -> None:
    pixels = noise(300, 6, 5)
    found = report(open_data(pixels)).moments
    z = model_space(pixels)
    covariance = np.cov(z.T)
    assert np.allclose(found.mean, z.mean(axis=0))
    assert np.allclose(found.eigenvalues, np.sort(np.linalg.eigvalsh(covariance))[::-1], rtol=1e-4)
    assert np.allclose(found.eigenvectors.T * found.eigenvalues @ found.eigenvectors, covariance, atol=1e-4)
    assert np.isclose(found.variance, np.trace(covariance) / 30, rtol=1e-5) and found.residual_variance == 0.0


@pytest.mark.parametrize("count", [300, 2000])
def test_large_examples_keep_64_directions_and_the_rest_as_one_number(count: int) -> None:
    """The short cuts for large D (few and many examples) find what the full decomposition finds; no variance is lost."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(100, 100)))[0]
    x = (generator.normal(size=(count, 100)) * (1.0 + np.arange(100)) ** -1.0) @ basis
    data = open_data(x.reshape(count, 1, 10, 10))
    full = report(data).moments
    z = report(data).representation.to_model(data.batch(range(count))).numpy().reshape(count, 100)
    short_cut = moments_module._principal_by_iteration if count > 1000 else moments_module._principal_by_examples
    fast = short_cut(z - z.mean(axis=0), 64)
    assert len(full.eigenvalues) == len(fast[0]) == 64
    assert np.allclose(fast[0][:32], full.eigenvalues[:32], rtol=1e-3)
    assert np.isclose(full.eigenvalues.sum() + 36 * full.residual_variance, 100 * full.variance, rtol=1e-5)
    overlap = np.abs(np.einsum("kd,kd->k", fast[1], full.eigenvectors))[:10]
    assert (overlap > 0.999).all()


def test_sigma_max_is_the_largest_distance_rounded_up() -> None:
    """Song & Ermon 2020, technique 1."""
    pixels = noise(50, 6, 5)
    z = model_space(pixels)
    largest = max(float(np.linalg.norm(a - b)) for a in z for b in z)
    found = report(open_data(pixels))
    assert np.isclose(found.moments.largest_distance, largest, rtol=1e-5)
    assert largest <= found.sigma_max <= 1.1 * largest


def test_a_sample_of_the_data_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "MAX_EXAMPLES", 300)
    data = open_data("mixture-2d")
    found = report(data)
    assert found.moments.examples == 300 and found.count == 50_000
    again = moments(data, found.representation, np.zeros(2))
    assert np.array_equal(again.eigenvalues, found.moments.eigenvalues)


@pytest.mark.parametrize(
    "array", [noise(1, 4, 4), np.full((3, 4, 4), 7, np.uint8), np.zeros((1, 3)), np.full((4, 2, 9), 2.5)]
)
def test_one_example_or_no_variation_is_reported_without_a_warning(array: np.ndarray) -> None:
    found = report(open_data(array))
    assert found.sigma_max > 0.0 and np.isfinite(found.sigma_data)
    json.dumps(found.to_dict(), allow_nan=False)


def test_it_is_plain_json_and_readable_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples=noise(20, 6, 5), y=np.arange(20) % 2)
    found = report(open_data(tmp_path / "x.npz"))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["count"] == 20 and plain["shape"] == [1, 6, 5] and plain["label_counts"] == {"0": 10, "1": 10}
    assert plain["representation"]["levels"] == 256 and len(plain["eigenvalues"]) == 19
    text = found.to_text()
    for part in (
        "20 examples of 1×6×5 uint8",
        "2: 0 (10), 1 (10)",
        "256 values from 0 to 255",
        "sigma_data",
        "skipped",
    ):
        assert part in text
