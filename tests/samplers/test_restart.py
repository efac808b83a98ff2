"""Restart sampling: its plan, the paper's algorithm, its law, and intervals that do not fit."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.paths import EDM, Path
from scorefield.samplers import Heun, Karras, LogSNR, Restart
from scorefield.samplers.restart import restart_plan
from scorefield.streams import SampleStreams
from tests.samplers.flows import level
from tests.samplers.impulses import law_error
from tests.worlds import EVERY_PATH, mixture, normal, seeded, sliced_wasserstein

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
INTERVAL = (0.06, 0.3, 2, 3)


def test_on_edms_path_it_is_the_papers_algorithm() -> None:
    """Algorithm 2: down by Heun; at the grid's time nearest to t_min, twice: noise up to t_max, three steps of Heun down (M4)."""
    world, x, streams = mixture(EDM()), 80.0 * normal(5, 2), SampleStreams.numbered(4, 0, 5)
    got = Restart(steps=18, intervals=(INTERVAL,)).sample(world, x, generator=streams)
    times = Karras().times(EDM(), 18)
    low = min(times[1:-1], key=lambda t: abs(math.log(t / 0.06)))
    heun, draw = Heun(), 0
    for t, s in zip(times, times[1:], strict=False):
        x = heun.step(world, x, t, s).x
        if s != low:
            continue
        for _ in range(2):
            draw += 1
            x = x + math.sqrt(0.3**2 - low**2) * streams.normal(x, draw)
            way = [(0.3 ** (1 / 7) + k / 3 * (low ** (1 / 7) - 0.3 ** (1 / 7))) ** 7 for k in range(4)]
            for high, below in zip(way, way[1:], strict=False):
                x = heun.step(world, x, high, below).x
    assert draw == 2
    assert torch.allclose(got, x, rtol=1e-8, atol=1e-9)


@every_path
@pytest.mark.parametrize("steps", [2, 3, 18])
def test_every_whole_way_restarts(path: Path, steps: int) -> None:
    """On a coarse grid the interval moves to where the grid has a time: asked for, it is not left out without a word."""
    plan = restart_plan(path, Karras().times(path, steps), (INTERVAL,))
    ups = [(up, t) for t, _, up in plan if up]
    assert len(ups) == 2
    assert all(0.0 < up < t <= path.t_max for up, t in ups)
    assert len(plan) == steps + 6
    assert sum(2 for _, s, _ in plan if s > 0.0) + 1 == Restart(steps=steps, intervals=(INTERVAL,)).evaluations()


def test_a_part_of_the_way_that_has_no_interval() -> None:
    """A way that stays above the interval is Heun's."""
    x = 10.0 * normal(3, 2)
    ends = {"start": 10.0, "end": 1.0}
    wanted = Heun(steps=6).sample(mixture(EDM()), x, **ends)
    assert torch.equal(Restart(steps=6).sample(mixture(EDM()), x, generator=seeded(), **ends), wanted)
    assert torch.equal(Restart(steps=6, intervals=()).sample(mixture(EDM()), x, **ends), wanted)


@every_path
def test_law_falls_at_second_order(path: Path) -> None:
    """Exact moments on a Gaussian, the interval's steps growing with the way's (M4, M26)."""
    t, s = level(path, 3.0), level(path, 0.3)

    def error(factor: int) -> float:
        interval = (0.6, 1.5, 2, 4 * factor)
        return law_error(Restart(steps=12 * factor, grid=LogSNR(), intervals=(interval,)), path, t, s)

    found = [error(factor) for factor in (1, 2, 4)]
    assert found[2] < found[0] / 9.0, found
    assert found[2] < 1e-3


@pytest.mark.parametrize("name", ["EDM", "VP", "Rectified"])
def test_the_mixture_is_drawn(name: str) -> None:
    """From noise to data, within the noise floor of exact draws in sliced Wasserstein distance (M26)."""
    path, count = EVERY_PATH[name], 1_000
    world = mixture(path)
    floor = [sliced_wasserstein(world.draw(count, seeded(k)), world.draw(count, seeded(100 + k))) for k in range(12)]
    x_T = path.prior_std * normal(count, 2, seed=7)
    drawn = Restart(steps=30).sample(world, x_T, generator=seeded(8))
    found = sum(sliced_wasserstein(drawn, world.draw(count, seeded(200 + k))) for k in range(5)) / 5
    spread = torch.tensor(floor)
    assert found < float(spread.mean() + 3.0 * spread.std()), (found, floor)


@pytest.mark.parametrize("interval", [(0.3, 0.1, 1, 1), (0.0, 0.1, 1, 1), (0.1, 0.3, 0, 1), (0.1, 0.3, 1, 0)])
def test_impossible_intervals_are_refused(interval: tuple[float, float, int, int]) -> None:
    """Down before up, or never, is no restart."""
    with pytest.raises(UsageError, match="0 < low < high"):
        Restart(intervals=(interval,))
