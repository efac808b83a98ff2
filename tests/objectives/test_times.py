"""Laws of training times: each is the law it is called, and covers it evenly where it is stratified."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.objectives import (
    TIME_SAMPLINGS,
    ImportanceSampled,
    LogitNormal,
    LogNormal,
    LogUniform,
    LossHistory,
    NoiseLevels,
    TimeSampling,
    Uniform,
)
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified
from scorefield.samplers import LogSNR
from tests.worlds import EVERY_PATH, assert_mean, float64, seeded

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_law = pytest.mark.parametrize("cls", TIME_SAMPLINGS, ids=lambda cls: cls.__name__)


def even(count: int) -> Tensor:
    """The middles of `count` equal parts of (0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@every_path
@every_law
def test_times_are_where_a_denoiser_may_be_asked(path: Path, cls: type[TimeSampling]) -> None:
    """u next to 0 or 1, too, gives a time from t_min to t_max; importance is positive and finite."""
    u = float64([0.0, 1e-300, 1e-17, 0.3, 0.5, 0.99999, 1.0 - 1e-16])
    t, importance = cls().times(path, u)
    assert t.dtype == importance.dtype == torch.float64
    assert bool(((t >= path.t_min * (1 - 1e-9)) & (t <= path.t_max * (1 + 1e-9))).all())
    assert bool((importance > 0.0).all())
    assert bool(importance.isfinite().all())


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=repr)
def test_uniform_is_uniform(path: Path) -> None:
    """t = t_min + (t_max − t_min) u; an inverted or squared u has the same range and another law."""
    t, importance = Uniform().times(path, even(1000))
    assert torch.allclose(t, path.t_min + (path.t_max - path.t_min) * even(1000), rtol=1e-12)
    assert bool((importance == 1.0).all())


@pytest.mark.parametrize("cls", [Uniform, ImportanceSampled], ids=lambda cls: cls.__name__)
def test_every_step_of_a_chain_is_equally_likely(cls: type[TimeSampling]) -> None:
    """A rounding that halves the first and the last step, or asks step 0, would show as a count."""
    t, _ = cls().times(Discrete(steps=40), even(40_000))
    steps, counts = (t * 40).round().unique(return_counts=True)
    assert steps.tolist() == list(range(1, 41))
    assert bool((counts == 1000).all())
    assert torch.allclose(t * 40, (t * 40).round(), rtol=1e-12)


@pytest.mark.parametrize("path", [EDM(), VP(), Rectified()], ids=repr)
def test_log_normal_is_edms_law(path: Path) -> None:
    """log σ/α ~ N(P_mean, P_std²) on any path; variance for deviation, or λ for −λ, is another law."""
    t, _ = LogNormal(mean=-0.9, std=0.8).times(path, even(2001))
    log_sigma = -path.log_snr(t)
    assert float(log_sigma[1000]) == pytest.approx(-0.9, abs=1e-9)
    quantiles = torch.distributions.Normal(-0.9, 0.8).icdf(even(2001))
    inside = (t > path.t_min * 1.01) & (t < path.t_max * 0.99)
    assert int(inside.sum()) > 1900
    assert torch.allclose(log_sigma[inside], quantiles[inside], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", [EDM(), VP(), Rectified()], ids=repr)
def test_logit_normal_is_the_flows_law(path: Path) -> None:
    """log of t's share over the rest ~ N(m, s²), as Esser et al. 2024 write it; a lost sign favours the other end."""
    t, importance = LogitNormal(mean=0.5, std=0.8).times(path, even(1001))
    share = (t - path.t_min) / (path.t_max - path.t_min)
    quantiles = torch.distributions.Normal(0.5, 0.8).icdf(even(1001))
    assert torch.allclose(share.logit(), quantiles, rtol=1e-6, atol=1e-6)
    assert bool((importance == 1.0).all())


@every_path
def test_log_uniform_is_uniform_in_log_snr(path: Path) -> None:
    """Every octave of noise gets the same share, from t_min to t_max or to λ = −10."""
    t, importance = LogUniform().times(path, even(100))
    gaps = path.log_snr(t).diff()
    assert torch.allclose(gaps, gaps[:1].expand(99), rtol=1e-6)
    low = max(path.log_snr(path.t_max), -10.0)
    assert float(gaps[0]) == pytest.approx((low - path.log_snr(path.t_min)) / 100, rel=1e-6)
    assert bool((importance == 1.0).all())


# ── stratification ───────────────────────────────────────────────────────────────────────────────────────────────────


@every_law
@pytest.mark.parametrize("count", [1, 7, 64])
def test_stratified_numbers_cover_evenly(cls: type[TimeSampling], count: int) -> None:
    """Exactly one u in each of b equal parts, in every batch; without the modulus one part would be empty."""
    for seed in range(20):
        u = torch.rand(count, generator=seeded(seed), dtype=torch.float64)
        spread = cls().spread(u)
        assert bool(((spread >= 0.0) & (spread < 1.0)).all())
        offsets = (spread.sort().values * count) % 1.0
        assert float((offsets - offsets[0]).abs().max()) < 1e-9
        assert (spread * count - offsets[0]).round().long().remainder(count).unique().numel() == count
        assert cls(stratified=False).spread(u) is u


def test_every_stratified_number_is_uniform_alone() -> None:
    """Each sample's own u is uniform over batches, so that the loss stays unbiased."""
    spread = torch.stack(
        [Uniform().spread(torch.rand(4, generator=seeded(seed), dtype=torch.float64)) for seed in range(4000)]
    )
    assert_mean(spread, 0.5)
    assert_mean(spread.square(), 1.0 / 3.0)


@pytest.mark.parametrize("path", [VE(sigma_max=1.0), EDM(), VP()], ids=repr)
def test_levels_are_a_ladders_and_equally_likely(path: Path) -> None:
    """NCSN trains at the levels that its sampler walks down: the grid uniform in log-SNR, each as often (M31)."""
    t, importance = NoiseLevels(count=8).times(path, even(8_000))
    rungs, counts = t.unique(return_counts=True)
    assert bool((counts == 1000).all())
    assert bool((importance == 1.0).all())
    wanted = float64(LogSNR().times(path, 8)[:-1]).flip(0)
    assert torch.allclose(path.log_snr(rungs), path.log_snr(wanted), rtol=1e-6, atol=1e-9)


# ── importance sampling ──────────────────────────────────────────────────────────────────────────────────────────────


def full_history(strata: int = 5) -> LossHistory:
    """Three losses in each stratum, larger in later ones."""
    losses = float64([[1.0, 2.0, 3.0]]).repeat(strata, 1) * torch.arange(1, strata + 1)[:, None]
    return LossHistory(losses, torch.full((strata,), 3))


def test_probability_is_the_root_of_the_second_moment() -> None:
    """p ∝ √E[L²], 0.1 % uniform: the mean in place of the root mean square ignores how losses scatter (iDDPM, eq. 18)."""
    losses = float64([[1.0, 1.0], [0.0, 2.0]])
    p = LossHistory(losses, torch.tensor([2, 2])).probabilities()
    share = math.sqrt(2.0) / (1.0 + math.sqrt(2.0))
    assert p.tolist() == pytest.approx([0.999 * (1 - share) + 0.0005, 0.999 * share + 0.0005])
    assert float(full_history().probabilities().sum()) == pytest.approx(1.0)


def test_uniform_until_every_history_is_full() -> None:
    """A stratum seen once by chance with a small loss must not starve."""
    losses = float64([[1.0, 1.0], [0.0, 9.0]])
    assert LossHistory(losses, torch.tensor([2, 1])).probabilities().tolist() == [0.5, 0.5]


def test_history_keeps_the_last_losses_in_order() -> None:
    """Each ring holds its last losses, depth at most, in the batch's order; the old history is untouched."""
    history = ImportanceSampled(strata=3, depth=2).empty_history()
    assert history.losses.shape == (3, 2)
    after = history.updated(torch.tensor([0, 2, 0, 0]), float64([1.0, 5.0, 2.0, 3.0]))
    assert after.losses.tolist() == [[3.0, 2.0], [0.0, 0.0], [5.0, 0.0]]
    assert after.counts.tolist() == [3, 0, 1]
    assert history.counts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("path", [VP(), EDM(), Discrete(steps=40)], ids=lambda path: type(path).__name__)
def test_importance_keeps_every_mean(path: Path) -> None:
    """E[importance · f(t)] is the uniform mean of f; p inverted or forgotten would shift it."""
    law, u = ImportanceSampled(strata=5, depth=3), even(200_000)
    t, importance = law.times(path, u, full_history())
    plain, _ = Uniform().times(path, u)
    for f in (torch.ones_like, torch.square, torch.sin):
        assert float((importance * f(t)).mean()) == pytest.approx(float(f(plain).mean()), rel=1e-4)


@pytest.mark.parametrize("path", [VP(), EDM(), Discrete(steps=40), Discrete(steps=5)], ids=repr)
def test_stratum_is_found_again(path: Path) -> None:
    """The share of times in stratum k is p_k, and its importance 1/(K p_k); an edge off by one would mix neighbours."""
    law, history = ImportanceSampled(strata=5, depth=3), full_history()
    t, importance = law.times(path, even(100_000), history)
    strata = law.stratum(path, t)
    p = history.probabilities()
    assert (torch.bincount(strata, minlength=5) / 100_000).tolist() == pytest.approx(p.tolist(), abs=2e-4)
    assert torch.allclose(importance, 1.0 / (5 * p[strata]), rtol=1e-9)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: LogNormal(std=0.0), "std=0"),
        (lambda: LogNormal(std=math.inf), "std=inf"),
        (lambda: LogitNormal(std=0.0), "std=0"),
        (lambda: LogitNormal(mean=math.nan), "mean=nan"),
        (lambda: LogNormal(mean=math.nan), "mean=nan"),
        (lambda: ImportanceSampled(strata=1), "strata=1"),
        (lambda: ImportanceSampled(depth=0), "depth=0"),
        (lambda: NoiseLevels(count=1), "between 2 and"),
    ],
)
def test_impossible_laws_are_refused(build: Callable[[], TimeSampling], said: str) -> None:
    """A law of one point, or of none, would train one level only."""
    with pytest.raises(UsageError, match=said):
        build()
