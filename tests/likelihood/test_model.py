"""A model's likelihood in the data's own units: scale, levels, classes, precision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import scorefield as sf
from scorefield.errors import UsageError
from scorefield.model_likelihood import shown_at, subject_of

SHORT = {"steps": 2, "seed": 0}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Grey pictures of 17 levels."""
    return np.random.default_rng(0).integers(0, 17, size=(12, 4, 4), dtype=np.uint8)


def test_floats_are_measured_in_their_own_units() -> None:
    """The same points ten times as large have log₂ 10 bits more in each dimension (M41)."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    small, large = (sf.fit(data, **SHORT) for data in (x, 10.0 * x))
    one, other = (
        model.likelihood(data[:16], "flow", float64=True).value for model, data in ((small, x), (large, 10.0 * x))
    )
    assert other - one == pytest.approx(math.log2(10.0), abs=2e-3)


def test_integers_are_measured_as_probabilities(pictures: np.ndarray) -> None:
    """An untrained model of 17 levels is near log₂ 17 bits, by bound and by flow (M41)."""
    model = sf.fit(pictures, **SHORT)
    bound, flow = model.likelihood(pictures, "bound"), model.likelihood(pictures, "flow", tolerance=1e-3)
    for found in (bound, flow):
        assert 3.0 < found.value < math.log2(17.0) + 2.0
        assert found.per_sample.shape == (12,)
    assert "units" not in bound.terms and flow.settings["dequantisation"] == "truncated-normal"


def test_guidance_is_off_and_clipping_is_the_bounds_alone(pictures: np.ndarray) -> None:
    """A guided or clipped flow is another flow without a density; a bound is of the chain as it is drawn from."""
    labels = np.arange(12) % 2
    model = sf.fit(sf.open_data(pictures, labels=labels), **SHORT).with_guidance(3.0)
    plain = model.with_guidance(1.0)
    for method in (sf.VariationalBound(terms=4), sf.FlowLikelihood(1e-2)):
        one, other = (each.likelihood(pictures[:3], method, classes=labels[:3]) for each in (model, plain))
        assert torch.equal(one.nats, other.nats)
    assert type(subject_of(model, clip=False).denoiser).__name__ != "Clipped"


def test_what_is_shown_at_little_noise_is_the_data(pictures: np.ndarray) -> None:
    """x̂₀ in the data's own units and layout (M45)."""
    model = sf.fit(pictures, **SHORT)
    shown = shown_at(model, pictures[:3], 5.0, seed=0)
    assert shown.shape == (3, 4, 4) and shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - pictures[:3]).max() <= 1


@pytest.mark.parametrize(
    ("x", "method", "options", "said"),
    [
        (np.zeros((2, 5, 4), np.uint8), "bound", {}, "shape"),
        (np.full((2, 4, 4), 0.5), "bound", {}, "give integers"),
        (np.full((2, 4, 4), 40, np.uint8), "bound", {}, "integers from 0 to 16, got values from 40"),
        (np.zeros((2, 4, 4), np.uint8), "bond", {}, "did you mean 'bound'"),
        (np.zeros((2, 4, 4), np.uint8), "flow", {"terms": 3}, "unknown option"),
        (np.zeros((2, 4, 4), np.uint8), sf.FlowLikelihood(), {"probes": 3}, "method's record"),
        (np.zeros((2, 4, 4), np.uint8), "bound", {"classes": "cat"}, "without classes"),
    ],
)
def test_what_does_not_fit_is_refused(pictures: np.ndarray, x, method, options, said: str, tmp_path: Path) -> None:
    """With the fix in the message."""
    with pytest.raises(UsageError, match=said):
        sf.fit(pictures, **SHORT).likelihood(x, method, **options)
