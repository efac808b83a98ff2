"""EDM's stochastic sampler: the paper's algorithm line by line, its law by exact moments, and what it does at a path's end."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.paths import EDM, Path
from scorefield.samplers import Churn, Heun, Karras, LogSNR
from scorefield.streams import SampleStreams
from tests.samplers.flows import level, orders
from tests.samplers.impulses import law_error
from tests.worlds import EVERY_PATH, Shrinking, mixture, normal, seeded, sliced_wasserstein

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


@pytest.mark.parametrize("s_noise", [1.0, 1.003])
def test_on_its_own_path_it_is_edms_algorithm(s_noise: float) -> None:
    """Algorithm 2 of the paper, line by line, with S_churn = 40, S_min = 0.05, S_max = 50: 1e-9 at every step (M4, M26)."""
    world, x, streams = mixture(EDM()), 80.0 * normal(5, 2), SampleStreams.numbered(4, 0, 5)
    sampler = Churn(steps=18, s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=s_noise)
    states, draw = list(sampler.trajectory(world, x, generator=streams)), 0
    for (t, s), state in zip(pairwise(Karras().times(EDM(), 18)), states, strict=True):
        gamma = min(40.0 / 18, math.sqrt(2.0) - 1.0) if 0.05 <= t <= 50.0 else 0.0
        t_hat = t + gamma * t
        if gamma > 0.0:
            draw += 1
            x = x + math.sqrt(t_hat**2 - t**2) * s_noise * streams.normal(x, draw)
        d = (x - world(x, t_hat).x0) / t_hat
        after = x + (s - t_hat) * d
        if s != 0.0:
            d_end = (after - world(after, s).x0) / s
            after = x + (s - t_hat) * 0.5 * (d + d_end)
        x = after
        assert torch.allclose(state.x, x, rtol=1e-9, atol=1e-9)


@every_path
def test_law_falls_at_second_order(path: Path) -> None:
    """Exact moments on a Gaussian: noise of the forward process leaves only Heun's error, S_churn/K of it a step (M4, M26)."""
    t, s = level(path, 3.0), level(path, 0.3)
    found = [law_error(Churn(steps=n, grid=LogSNR(), s_churn=2.0), path, t, s) for n in (24, 48, 96)]
    assert found[-1] < 1e-3
    assert all(order > 1.5 for order in orders(found)) or found[-1] < 1e-6 or _is_chain(path), (found, orders(found))


def _is_chain(path: Path) -> bool:
    """Whether the noise goes up to whole steps, of which there are more or fewer than γ asks for."""
    return path.snap(0.12345 * path.t_max) != 0.12345 * path.t_max


@pytest.mark.parametrize("name", ["EDM", "VP", "Rectified"])
def test_the_mixture_is_drawn(name: str) -> None:
    """From noise to data, within the noise floor of exact draws in sliced Wasserstein distance (M26)."""
    path, count = EVERY_PATH[name], 1_000
    world = mixture(path)
    floor = [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    x_T = path.prior_std * normal(count, 2, seed=7)
    drawn = Churn(steps=40, s_churn=10.0).sample(world, x_T, generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    spread = torch.tensor(floor)
    assert found < float(spread.mean() + 3.0 * spread.std()), (found, floor)


@every_path
def test_without_churn_it_is_heun(path: Path) -> None:
    """S_churn = 0, or levels out of reach, draw no noise at all (M26)."""
    x = path.prior_std * normal(3, 2)
    wanted = Heun(steps=8).sample(mixture(path), x)
    assert torch.equal(Churn(steps=8, s_churn=0.0).sample(mixture(path), x), wanted)
    assert torch.equal(Churn(steps=8, s_min=1e6, s_max=1e9).sample(mixture(path), x, generator=seeded()), wanted)


@every_path
def test_no_noise_beyond_the_path(path: Path) -> None:
    """Above t_max no network was trained and no α exists; a chain is asked at its own steps after noise (M4)."""
    denoiser = Shrinking(path)
    sampler = Churn(steps=12, s_churn=100.0, s_min=0.0, s_max=math.inf)
    sampler.sample(denoiser, path.prior_std * normal(2, 3), generator=seeded())
    assert max(denoiser.asked) <= path.t_max
    assert not sampler.needs_noise(path, path.t_max, path.snap(0.9 * path.t_max))
    assert sampler.needs_noise(path, path.snap(0.5 * path.t_max), path.snap(0.4 * path.t_max))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"s_churn": -1.0}, "s_churn ≥ 0"),
        ({"s_churn": math.nan}, "s_churn ≥ 0"),
        ({"s_min": 2.0, "s_max": 1.0}, "s_min < s_max"),
        ({"s_noise": 0.0}, "positive s_noise"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    """Negative noise would be a square root of a negative number, or nothing without a word."""
    with pytest.raises(UsageError, match=said):
        Churn(**settings)
