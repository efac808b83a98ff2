"""The parts of twisted sequential Monte Carlo: who is drawn anew, by which weights, and how the walk ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import PiGDM
from scorefield.editing.methods.twisted import Particles, _Cloud, _systematic, _uniform
from scorefield.editing.operators import Mask
from scorefield.editing.posterior import Posterior
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP
from tests.worlds import float64, mixture, normal, seeded

KEEP = torch.tensor([True, False])


def cloud(noise: float = 0.3, t: float = 0.4) -> _Cloud:
    """Two islands of four particles in the plane, one coordinate seen."""
    measurement = Measurement(Mask(KEEP), float64([[0.7, 0.0]]), noise)
    posterior = Posterior(mixture(VP()), measurement, PiGDM())
    return _Cloud.around(posterior, normal(2, 2), t, Particles(steps=3, particles=4), _draw, None)


def _draw(like: Tensor) -> Tensor:
    return normal(*like.shape, seed=9)


def test_the_uniform_number_is_the_normals_own() -> None:
    """Φ(z): any other scale would be no uniform law."""
    z = float64([[-1.5], [0.0], [0.4]])
    found = _uniform(lambda _: z, torch.zeros(3, 4).double())
    assert torch.allclose(found, torch.distributions.Normal(0.0, 1.0).cdf(z), atol=1e-12)


@pytest.mark.parametrize("u", [0.01, 0.3, 0.99])
def test_drawn_anew_each_comes_as_often_as_it_weighs(u: float) -> None:
    """Systematic: K w, rounded up or down (Kitagawa 1996)."""
    weights = float64([[0.1, 0.55, 0.05, 0.3], [0.25, 0.25, 0.25, 0.25]])
    chosen = _systematic(weights, float64([[u], [u]]))
    for island, own in zip(chosen, weights, strict=True):
        counts = torch.bincount(island, minlength=4)
        assert bool(((counts - 4 * own).abs() < 1.0).all())


def test_islands_below_half_of_their_number_are_drawn_anew() -> None:
    """1/Σ w² below K/2, each by itself: drawn anew always, what is well off would lose its variety; never, all would hang on one."""
    before = cloud()
    uneven = float64([[0.45, 0.45, 0.05, 0.05], [0.97, 0.01, 0.01, 0.01]])  # 2.4 and 1.06 of 4
    after = replace(before, log_weights=uneven.log() + 3.0).resampled(_draw)
    assert torch.equal(after.x[:4], before.x[:4]) and torch.equal(after.log_weights[0], uneven[0].log() + 3.0)
    assert torch.equal(after.x[4:], before.x[4:5].expand(4, 2)) and torch.equal(
        after.log_weights[1], torch.zeros(4).double()
    )
    assert torch.equal(after.twist.log_density[4:], before.twist.log_density[4:5].expand(4))


@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_the_end_weighs_by_the_measurement_itself(noise: float) -> None:
    """log p(y | x₀) takes the place of log p̃(y | x_t); without noise what is seen is y, and nothing is weighed anew."""
    last = cloud(noise)
    state = last.ended(_draw)
    assert state.info is not None
    x_0 = last.twist.prediction.x0
    wanted: Any = last.log_weights
    if noise > 0.0:
        density = -0.5 * ((0.7 - x_0[:, 0]) / noise) ** 2
        wanted = wanted + (density - last.twist.log_density).view(2, 4)
    assert torch.allclose(state.info["log_weights"], wanted, atol=1e-10)
    seen = state.info["particles"][..., 0]
    assert torch.allclose(seen, float64(0.7).expand(2, 4) if noise == 0.0 else x_0[:, 0].view(2, 4), atol=1e-10)


def test_one_is_drawn_by_weight_and_the_heaviest_is_shown() -> None:
    """Place u in the cumulated weights; a preview shows the island's heaviest."""
    weights = float64([[0.2, 0.5, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    weighed = replace(cloud(), log_weights=weights.log())
    z = torch.distributions.Normal(0.0, 1.0).icdf(float64([[0.69], [0.71]]))
    assert weighed.drawn(lambda _: z).tolist() == [1, 1]
    assert torch.equal(weighed.shown(0.4).x, weighed.x[[1, 4]])


def test_islands_begin_with_the_start_and_draws_of_the_prior() -> None:
    """x's own first, the others of the prior's deviation, 80 here; from the middle of the way all are x."""
    path, x = EDM(), 80.0 * normal(2, 2)
    posterior = Posterior(mixture(path), Measurement(Mask(KEEP), float64([[0.7, 0.0]]), 0.3), PiGDM())
    sampler = Particles(steps=3, particles=4)
    starts = _Cloud.around(posterior, x, path.t_max, sampler, _draw, None).x.view(2, 4, 2)
    assert torch.equal(starts[:, 0], x)
    assert torch.allclose(starts[:, 1:], 80.0 * normal(2, 3, 2, seed=9))
    middle = _Cloud.around(posterior, x, 0.5 * path.t_max, sampler, _draw, None).x.view(2, 4, 2)
    assert torch.equal(middle, x[:, None].expand(2, 4, 2))


def test_on_the_way_the_heaviest_is_shown() -> None:
    """Every state but the last: a particle that was drawn would jump about from state to state."""
    posterior = Posterior(mixture(VP()), Measurement(Mask(KEEP), float64([[0.7, 0.0]]), 0.3), PiGDM())
    *others, last = Particles(steps=6, particles=4).trajectory(posterior, normal(2, 2), generator=seeded())
    for state in others:
        assert state.info is not None
        heaviest = state.info["log_weights"].argmax(1)
        assert torch.equal(state.x, state.info["particles"][torch.arange(2), heaviest])
    assert len(others) == 5 and last.t == 0.0


@pytest.mark.parametrize("settings", [{"particles": 0}, {"at_once": 0}])
def test_impossible_numbers_are_refused(settings: dict[str, Any]) -> None:
    """No particles, or none at a time, is no walk."""
    with pytest.raises(UsageError, match="particles ≥ 1 and at_once ≥ 1"):
        Particles(**settings)
