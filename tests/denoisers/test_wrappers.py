"""Denoisers around a denoiser keep its path, its question and its condition, and change only what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import (
    Centred,
    ClassifierFree,
    Clipped,
    Denoiser,
    GaussianMixture,
    NetworkDenoiser,
    Noise,
    Preconditioned,
    Prediction,
)
from scorefield.errors import UsageError
from scorefield.paths import VP, Path
from tests.worlds import EVERY_PATH, RANKS, Shrinking, float64, gaussian, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


@every_path
@pytest.mark.parametrize(
    "wrap", [Clipped, Centred, lambda inner: Clipped(Centred(inner))], ids=["Clipped", "Centred", "both"]
)
@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_wrapping_keeps_everything_else(path: Path, wrap: type, shape: tuple[int, ...]) -> None:
    """A wrapper that drops the condition, the path or x_t is wrong for every denoiser but the plainest."""
    inner, x_t, condition = Shrinking(path), normal(2, *shape), torch.tensor([1, 0])
    wrapped: Denoiser = wrap(inner)
    prediction = wrapped(x_t, 0.3 * path.t_max, condition)
    assert wrapped.path is path
    assert prediction.x_t is x_t
    assert (prediction.t, prediction.path) == (0.3 * path.t_max, path)
    assert inner.conditions[-1] is condition
    assert inner.asked == [0.3 * path.t_max]
    assert prediction.x0.shape == x_t.shape


def test_clipped_clips_the_data_and_so_the_noise() -> None:
    """x̂₀ within [low, high]; ε̂ follows from the clipped x̂₀, not from the network's (M6)."""
    x_t = torch.tensor([[-9.0, -0.3, 0.2, 9.0]], dtype=torch.float64)
    prediction = Clipped(Shrinking(VP()), low=-0.5, high=1.0)(x_t, 0.5)
    assert torch.allclose(prediction.x0[0], float64([-0.5, -0.2, 0.2 / 1.5, 1.0]), rtol=1e-14)
    assert torch.allclose(prediction.noise, (x_t - VP().alpha(0.5) * prediction.x0) / VP().sigma(0.5))


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.5, 0.5)])
def test_empty_range_is_refused(low: float, high: float) -> None:
    """Clamping to an empty range returns one constant picture."""
    with pytest.raises(UsageError, match="low < high"):
        Clipped(Shrinking(VP()), low=low, high=high)


@every_path
def test_centred_shifts_data_and_question(path: Path) -> None:
    """A Gaussian of mean m is a centred one shifted: x_t moves by α m, the answer by m (M1)."""
    x_t, t = normal(5, 2), torch.linspace(0.1, 0.9, 5, dtype=torch.float64) * path.t_max
    mean = (0.3, -0.7)
    centred = Centred(gaussian(path, (0.0, 0.0)), float64(mean))
    assert torch.allclose(centred(x_t, t).x0, gaussian(path, mean)(x_t, t).x0, rtol=1e-12, atol=1e-12)
    assert torch.allclose(centred(x_t, t).noise, gaussian(path, mean)(x_t, t).noise, rtol=1e-9, atol=1e-9)


@every_path
def test_zero_network_is_the_best_linear_denoiser_of_data_with_a_mean(path: Path) -> None:
    """Centred and preconditioned, a network that answers zero is E[x₀ | x_t] of N(m, σ_d² I) at every level (M9)."""
    start = Centred(NetworkDenoiser(lambda x, label: torch.zeros_like(x), path, Preconditioned(sigma_data=0.6)), 0.4)
    best = gaussian(path, (0.4, 0.4), (0.36, 0.36))
    x_t = normal(4, 2)
    for t in (path.t_min, 0.5 * path.t_max, path.t_max):
        assert torch.allclose(start(x_t, t).x0, best(x_t, t).x0, rtol=1e-9, atol=1e-9)


class _Labelled(Denoiser):
    """The exact denoiser of each component of a mixture by its label, and of the whole mixture by the label 2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        means, one = float64([[-1.0, 0.0], [1.0, 0.5]]), float64([1.0])
        covariances = torch.stack([0.1 * torch.eye(2, dtype=torch.float64), torch.diag(float64([0.3, 0.05]))])
        self.parts = [GaussianMixture(path, one, means[k : k + 1], covariances[k : k + 1]) for k in range(2)]
        self.parts.append(GaussianMixture(path, float64([0.5, 0.5]), means, covariances))

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        answers = torch.stack([part(x_t, t).x0 for part in self.parts])
        return Prediction(answers[condition, torch.arange(len(x_t))], x_t, t, self.path)


@every_path
@pytest.mark.parametrize("per_sample", [False, True])
def test_classifier_free_follows_its_formula(path: Path, per_sample: bool) -> None:
    """D_∅ + w (D_y − D_∅), and at w = 1 the conditional denoiser itself (M42); halves swapped or a wrong null go red."""
    inner, x_t, labels = _Labelled(path), normal(4, 2), torch.tensor([0, 1, 1, 0])
    t: Any = torch.full((4,), 0.4 * path.t_max, dtype=torch.float64) if per_sample else 0.4 * path.t_max
    conditional, free = inner(x_t, t, labels).x0, inner(x_t, t, torch.full((4,), 2)).x0
    for scale in (0.0, 0.5, 1.0, 2.5):
        guided = ClassifierFree(inner, 2, scale)(x_t, t, labels)
        assert torch.allclose(guided.x0, free + scale * (conditional - free), rtol=1e-12, atol=1e-12)
        assert guided.x_t is x_t


def test_classifier_free_needs_a_possible_scale() -> None:
    """A negative or infinite scale is a slip."""
    for scale in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="scale"):
            ClassifierFree(_Labelled(VP()), 2, scale)


@pytest.mark.parametrize(
    "wrap",
    [Clipped, Centred, lambda inner: Clipped(Centred(inner, 0.3))],
    ids=["clipped", "centred", "clipped-centred"],
)
def test_a_learned_variance_is_passed_on(wrap: Any) -> None:
    """A wrapper that drops v draws with another variance than was learned (M14)."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x)], dim=1)

    learned = NetworkDenoiser(network, VP(), Noise(learned_variance=True))
    mix = wrap(learned)(normal(2, 3), 0.4).variance_mix
    assert mix is not None
    assert torch.equal(mix, torch.ones(2, 3, dtype=torch.float64))


def test_guided_variance_is_the_labels() -> None:
    """v of the conditional half; the two halves swapped would give the null label's (M14, M42)."""

    def network(x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        return torch.cat([x, condition[:, None] * torch.ones_like(x)], dim=1)

    learned = NetworkDenoiser(network, VP(), Noise(learned_variance=True))
    mix = ClassifierFree(learned, 9, 2.0)(normal(2, 3), 0.4, torch.tensor([0, 1])).variance_mix
    assert mix is not None
    assert mix[:, 0].tolist() == [0.5, 1.0]
