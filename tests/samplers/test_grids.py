"""Grids: every rule on every path, and the rules of the papers by their own formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified, VPCosine
from scorefield.samplers import (
    GRIDS,
    Asinh,
    Grid,
    Karras,
    Leading,
    Levels,
    Linear,
    LogSNR,
    Native,
    Quadratic,
    Rational,
    Trailing,
)
from tests.worlds import EVERY_PATH

IN_LEVELS = (LogSNR, Karras, Asinh, Rational)
"""Grids that fall between a chain's steps."""

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_grid = pytest.mark.parametrize("cls", [cls for cls in GRIDS if cls is not Levels], ids=lambda cls: cls.__name__)


@every_path
@every_grid
@pytest.mark.parametrize(("start", "end"), [(None, 0.0), (0.6, 0.0), (0.9, 0.3), (None, 0.2)])
def test_times_fall_strictly_and_the_ends_are_exact(
    path: Path, cls: type[Grid], start: float | None, end: float
) -> None:
    """One time twice, a time out of order or an end that is missed would skip noise or leave it in (M25)."""
    start_time, end_time = None if start is None else path.snap(start * path.t_max), path.snap(end * path.t_max)
    for steps in (1, 2, 3, 7, 50):
        times = cls().times(path, steps, start_time, end_time)
        assert len(times) == steps + 1
        assert all(later < earlier for earlier, later in pairwise(times))
        assert times[-1] == end_time
        if cls is not Leading:
            assert times[0] == (path.t_max if start_time is None else start_time)
        assert 0.0 < times[-2] <= times[0] <= path.t_max


@every_path
@every_grid
def test_a_way_to_data_asks_no_earlier_than_t_min(path: Path, cls: type[Grid]) -> None:
    """Below t_min there is nothing to denoise, and no network was trained there (M25)."""
    assert cls().times(path, 40)[-2] >= path.t_min


@every_grid
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 333, 500, 999, 1000])
def test_a_chain_is_asked_at_its_own_steps(cls: type[Grid], steps: int) -> None:
    """Sub-sequences of a discrete path are of its steps; rules in σ/α fall between them, and up to T of them fit (M25)."""
    path = Discrete()
    times = cls().times(path, steps)
    assert len(times) == steps + 1
    if cls not in IN_LEVELS:
        assert all(path.snap(t) == pytest.approx(t, rel=1e-12) for t in times)


@settings(max_examples=50)
@given(chain=st.integers(2, 120), data=st.data())
def test_quadratic_always_finds_room(chain: int, data: st.DataObject) -> None:
    """Squares of few steps fall on the same node; pushed apart they must still start at T and end at 1 (M25)."""
    steps = data.draw(st.integers(1, chain))
    times = Quadratic().times(Discrete(steps=chain), steps)
    nodes = [round(t * chain) for t in times]
    assert (nodes[0], nodes[-1]) == (chain, 0)
    assert steps == 1 or nodes[-2] == 1
    assert all(later < earlier for earlier, later in pairwise(nodes))


# ── the papers' formulas ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_karras_is_edms_formula(steps: int) -> None:
    """σ_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, σ_N = 0 (EDM, eq. 5) (M25)."""
    wanted = [(80.0 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7 for i in range(steps)]
    assert Karras().times(EDM(), steps) == pytest.approx([*wanted, 0.0], rel=1e-12)
    assert Karras(rho=3.0).times(EDM(), 3)[1] == pytest.approx(((80.0 ** (1 / 3) + 0.002 ** (1 / 3)) / 2) ** 3)


@pytest.mark.parametrize("path", [VP(), VE(), VPCosine(), Rectified()], ids=repr)
def test_karras_is_uniform_in_a_root_of_sigma_on_every_path(path: Path) -> None:
    """It is σ/α that the rule spreads, not t, and not σ (M25)."""
    times = Karras().times(path, 12, 0.9 * path.t_max)
    roots = np.diff([(path.sigma(t) / path.alpha(t)) ** (1 / 7) for t in times[:-1]])
    assert np.allclose(roots, roots[0], rtol=1e-6)


@pytest.mark.parametrize("path", [VP(), VE(), Rectified()], ids=repr)
@pytest.mark.parametrize("kappa", [0.02, 1.0])
def test_asinh_and_rational_are_uniform_in_their_functions(path: Path, kappa: float) -> None:
    """Equal steps of arsinh(s/κ), and of s/(κ+s), in σ/α on every path (M25)."""
    for grid, function in ((Asinh(kappa), np.arcsinh), (Rational(kappa), lambda ratio: ratio / (1.0 + ratio))):
        times = grid.times(path, 12, 0.9 * path.t_max)
        gaps = np.diff([function(path.sigma(t) / path.alpha(t) / kappa) for t in times[:-1]])
        assert np.allclose(gaps, gaps[0], rtol=1e-6)


def test_rational_with_one_is_uniform_on_the_straight_path() -> None:
    """σ/(α+σ) is that path's own time (M25)."""
    path = Rectified(t_max=0.99)
    assert Rational().times(path, 9) == pytest.approx(Linear().times(path, 9), rel=1e-9)


@every_path
def test_levels_are_taken_as_they_are(path: Path) -> None:
    """A measured grid means σ/α; on a chain its nearest steps (M25)."""
    levels = (9.0, 2.5, 0.7, 0.11)
    times = Levels(levels).times(path, 4)
    assert times == (*(path.snap(path.time_of(-math.log(level))) for level in levels), 0.0)
    assert Levels(levels).times(path, 4, times[1], times[2]) == times[1:3]
    between = path.snap(path.time_of(-math.log(5.0)))
    assert Levels(levels).times(path, 4, between) == (between, *times[1:])


def test_levels_that_do_not_fit_are_refused() -> None:
    """Another number of steps would leave out what was measured; a level that the path does not reach has no time (M25)."""
    with pytest.raises(UsageError, match="2 levels.*got steps=3; make the two equal"):
        Levels((2.0, 1.0)).times(EDM(), 3)
    with pytest.raises(UsageError, match=r"begins at σ/α = 90.*ends at 80"):
        Levels((90.0, 1.0)).times(EDM(), 2)
    for levels in ((1.0, 2.0), (1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (math.inf, 1.0), (math.nan,)):
        with pytest.raises(UsageError, match="fall strictly"):
            Levels(levels)


@pytest.mark.parametrize("path", [VP(), VE(), EDM(), Discrete()], ids=lambda path: type(path).__name__)
def test_log_snr_is_uniform_in_log_snr(path: Path) -> None:
    """Equal steps of λ (DPM-Solver's) (M25)."""
    gaps = np.diff([path.log_snr(t) for t in LogSNR().times(path, 12)[:-1]])
    assert np.allclose(gaps, gaps[0], rtol=1e-9)


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_quadratic_is_ddims(steps: int) -> None:
    """τ_i = c i² above the first step, rounded; next to data squares collide on a chain and are pushed apart (M25)."""
    wanted = (1.0 + 999.0 * (np.arange(steps) / (steps - 1)) ** 2).round()[::-1]
    nodes = np.array([round(t * 1000) for t in Quadratic().times(Discrete(), steps)[:-1]])
    apart = np.arange(steps) < steps // 2
    assert np.array_equal(nodes[apart], wanted[apart])
    path = Rectified()
    roots = np.sqrt(np.array(Quadratic().times(path, steps)[:-1]) - path.t_min)
    assert np.allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 1000])
def test_leading_is_ddims_linear(steps: int) -> None:
    """Steps 1, 1 + c, 1 + 2c, … of T = 1000 with c = ⌊T/K⌋, whether or not K divides T (M25)."""
    wanted = [1 + (1000 // steps) * k for k in range(steps)][::-1]
    assert [round(t * 1000, 6) for t in Leading().times(Discrete(), steps)] == [*wanted, 0]
    assert [round(t * 1000, 6) for t in Leading().times(VP(), steps)] == [*wanted, 0]
    assert Leading(chain=10).times(EDM(), 5) == pytest.approx([8.0 * node for node in (9, 7, 5, 3, 1, 0)])
    assert Leading().times(EDM(), 1, start=0.01) == (0.01, 0.0)  # below the chain's first step, 0.08


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 1000])
def test_trailing_starts_at_pure_noise(steps: int) -> None:
    """T, T − T/K, … rounded: the last step of the chain is asked first (M25)."""
    wanted = [round(1000 - 1000 / steps * k) for k in range(steps)]
    assert [round(t * 1000) for t in Trailing().times(Discrete(), steps)] == pytest.approx([*wanted, 0], abs=1)
    assert Trailing().times(Rectified(), steps) == pytest.approx([1 - k / steps for k in range(steps + 1)], abs=1e-12)


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_linear_holds_both_ends(steps: int) -> None:
    """linspace over the questions: T first, 1 last, then data (M25)."""
    assert [round(t * 1000) for t in Linear().times(Discrete(), steps)] == [
        *np.linspace(1000, 1, steps).round().astype(int),
        0,
    ]
    assert Linear().times(EDM(), steps) == pytest.approx([*np.linspace(80.0, 0.002, steps), 0.0])


@every_path
def test_native_is_the_papers_own(path: Path) -> None:
    """Karras for EDM, geometric σ for VE, uniform steps of t for the others (M25)."""
    own = Karras() if isinstance(path, EDM) else LogSNR() if isinstance(path, VE) else Trailing()
    assert Native().times(path, 20) == own.times(path, 20)
    if isinstance(path, VE):
        ratios = [math.log(path.sigma(s) / path.sigma(t)) for t, s in pairwise(Native().times(path, 20)[:-1])]
        assert ratios == pytest.approx([ratios[0]] * 19)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_grid
@pytest.mark.parametrize(
    ("steps", "start", "end", "said"),
    [
        (0, None, 0.0, "at least 1 step, got 0"),
        (1001, None, 0.0, "use at most 1000 or train with a continuous path"),
        (5, 1.1, 0.0, "start=1.1"),
        (5, 0.5, 0.5, "end=0.5"),
        (5, 0.5, 0.7, "end=0.7"),
        (5, 0.5, -0.1, "end=-0.1"),
        (5, math.nan, 0.0, "start=nan"),
        (20, 0.01, 0.0, "cannot place 20 distinct steps"),
    ],
)
def test_wrong_requests_are_refused(cls: type[Grid], steps: int, start: float | None, end: float, said: str) -> None:
    """Steps that a chain does not have, or times outside of the path, would ask the network where it was never trained."""
    if "cannot place" in said and cls in IN_LEVELS:
        assert len(cls().times(Discrete(), steps, start, end)) == steps + 1
        return
    with pytest.raises(UsageError, match=said):
        cls().times(Discrete(), steps, start, end)


@pytest.mark.parametrize("rho", [0.0, -1.0, math.inf, math.nan])
def test_impossible_rho_is_refused(rho: float) -> None:
    """ρ = 0 divides by zero; a negative one reverses the grid."""
    with pytest.raises(UsageError, match="positive rho"):
        Karras(rho=rho)
    with pytest.raises(UsageError, match="positive kappa"):
        Asinh(kappa=rho)
    with pytest.raises(UsageError, match="positive kappa"):
        Rational(kappa=rho)
