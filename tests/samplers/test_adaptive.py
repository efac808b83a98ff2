"""Adaptive Dormand–Prince: the tolerance is kept, neighbours do not matter, and what does not arrive is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers import Adaptive
from tests.samplers.flows import level
from tests.worlds import EVERY_PATH, Shrinking, exact_flow, gaussian, gaussian_flow, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


@every_path
def test_error_follows_the_tolerance(path: Path) -> None:
    """A tolerance a hundred times smaller leaves a far smaller error for at most four times the evaluations (M26, M35)."""
    world, t, s = mixture(path), level(path, 8.0), level(path, 0.05)
    x = path.alpha(t) * 8.0 * normal(6, 2)
    exact = exact_flow(world, x, t, s)
    scale = (path.alpha(s) ** 2 + path.sigma(s) ** 2) ** 0.5
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        *_, last = Adaptive(rtol=tolerance, atol=tolerance).trajectory(world, x, start=t, end=s)
        errors.append(float((last.x - exact).abs().max()) / scale)
        calls.append(last.evaluations)
    assert all(error < 100.0 * tolerance for error, tolerance in zip(errors, (1e-3, 1e-5, 1e-7), strict=True)), errors
    assert errors[2] < errors[0] / 100.0
    assert calls[0] < calls[1] < calls[2] < 4 * calls[1]


@every_path
def test_the_whole_way_both_ways(path: Path) -> None:
    """From noise to data, and from data to noise and back, on a Gaussian whose flow is a formula (M26, M43)."""
    world = gaussian(path, variances=(0.8, 0.3))
    x_T, sampler = path.prior_std * normal(8, 2), Adaptive(rtol=1e-6, atol=1e-6)
    exact = gaussian_flow(world, x_T, path.t_max, path.t_min)
    drawn = sampler.sample(world, x_T)
    assert float((drawn - exact).abs().max()) < 1e-4 + 3.0 * (path.sigma(path.t_min) / path.alpha(path.t_min)) ** 2
    low, high = level(path, 0.1), level(path, 6.0)
    x = path.perturb(world.means, low, 0.3 * normal(1, 2))
    back = sampler.sample(world, sampler.sample(world, x, start=low, end=high), start=high, end=low)
    assert float((back - x).abs().max()) < 1e-4


@pytest.mark.parametrize("compact", [True, False])
def test_a_sample_does_not_depend_on_its_neighbours(compact: bool) -> None:
    """One of a batch, next to one that is harder, is bit by bit what it is alone, and takes as many evaluations."""
    x = normal(5, 3) * torch.tensor([[0.1], [1.0], [30.0], [3.0], [0.0]])
    sampler = Adaptive(compact=compact, rtol=1e-5, atol=1e-5)
    *_, together = sampler.trajectory(Shrinking(VP()), x)
    counts = []
    for k in range(5):
        *_, alone = sampler.trajectory(Shrinking(VP()), x[k : k + 1])
        assert torch.equal(together.x[k : k + 1], alone.x)
        counts.append(alone.evaluations)
    assert together.evaluations == max(counts)
    assert together.info is not None
    if compact:
        assert together.info["evaluations"].tolist() == counts
    assert len(set(counts)) > 1


@dataclass(frozen=True, eq=False)
class Listening(Denoiser):
    """The mixture's denoiser, which keeps what it is asked for whom."""

    path: Path
    asked: list[tuple[int, list[int]]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """Predict, and remember for whom."""
        self.asked.append((len(x_t), condition.tolist()))
        return mixture(self.path)(x_t, t)


def test_who_has_arrived_is_asked_no_more() -> None:
    """The batch shrinks, and the labels with it: the rest keep their own."""
    denoiser = Listening(VP())
    x = normal(4, 2) * torch.tensor([[0.1], [1.0], [30.0], [3.0]])
    Adaptive(rtol=1e-5, atol=1e-5).sample(denoiser, x, condition=torch.arange(4))
    sizes = [size for size, _ in denoiser.asked]
    assert sizes[0] == 4
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 4
    assert all(len(labels) == size for size, labels in denoiser.asked)


def test_where_the_signal_ends_is_an_end_like_others() -> None:
    """At α = 0 the angle is π/2 and the slope −D: no step is refused for it (M26)."""
    path = Rectified()
    world, x = mixture(path), normal(6, 2)
    s = level(path, 0.05)
    end = Adaptive(rtol=1e-7, atol=1e-7).sample(world, x, end=s)
    assert float((end - exact_flow(world, x, 1.0, s)).abs().max()) < 1e-5


def test_what_does_not_arrive_is_refused_with_the_fix() -> None:
    """A result at some other time than the end's would be noise that is taken for data."""
    with pytest.raises(UsageError, match=r"within 3 attempts .*loosen the tolerances, raise attempts"):
        Adaptive(attempts=3, rtol=1e-8, atol=1e-8).sample(mixture(EDM()), 80.0 * normal(2, 2))


@pytest.mark.parametrize("settings", [{"rtol": 0.0}, {"atol": -1.0}, {"rtol": float("nan")}, {"attempts": 0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    """A tolerance of zero is never met."""
    with pytest.raises(UsageError, match="Adaptive needs"):
        Adaptive(**settings)
