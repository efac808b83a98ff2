"""SDEdit: its law where that is a formula, what a strength means, masks, repeats; on every path, at every rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture, Inpainting
from scorefield.editing.methods import MomentMatching, Replacement
from scorefield.editing.posterior import Method
from scorefield.editing.sdedit import SDEdit, editor, share_below, time_of_strength
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path
from scorefield.samplers import (
    DDIM,
    GRIDS,
    SAMPLERS,
    Ancestral,
    Calibrated,
    DPMSolverMultistep,
    Heun,
    Karras,
    Langevin,
    Leading,
    Levels,
    LogSNR,
    Sampler,
    Trailing,
    UniPC,
)
from scorefield.streams import SampleStreams
from tests.worlds import (
    EVERY_PATH,
    RANKS,
    Shrinking,
    assert_mean,
    assert_moments,
    float64,
    gaussian,
    mixture,
    mixture_moments,
    normal,
    seeded,
    sliced_wasserstein,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
EVERY_SAMPLER = [pytest.param(replace(kind(), steps=12), id=kind.__name__) for kind in SAMPLERS]  # type: ignore[call-arg]
FLOW, SDE = UniPC(steps=80, order=2, grid=Karras()), DPMSolverMultistep(steps=300, grid=Karras(), stochastic=True)


def ratio(path: Path, t: float) -> float:
    """σ/α."""
    return math.exp(-path.log_snr(t))


# ── what a strength means ────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("strength", [0.2, 0.35, 0.5, 0.65])
def test_a_strength_is_one_noise_to_signal_ratio_on_every_path(path: Path, strength: float) -> None:
    """A strength that were a share of t would be hardly any noise on one path and nothing but noise on another (M44, M2)."""
    t = time_of_strength(path, strength)
    integrated = 0.1 * strength + 0.5 * 19.9 * strength**2
    wanted = math.sqrt(math.expm1(integrated))
    step = 2e-2 if isinstance(path, Discrete) else 1e-9
    assert ratio(path, t) == pytest.approx(wanted, rel=step)
    assert t == path.snap(t)


def test_the_usual_sampler_has_no_more_steps_than_a_chain() -> None:
    """Fifty, or a short chain's own; more would ask at times that it has not."""
    assert [editor(path).steps for path in (VP(), Discrete(), Discrete(12))] == [50, 50, 12]


def test_strength_is_the_papers_time_on_its_path() -> None:
    """On VP with β from 0.1 to 20 it is t₀ itself, so that the paper's figures can be asked for (M44)."""
    assert time_of_strength(VP(), 0.37) == pytest.approx(0.37, rel=1e-12)


@every_path
def test_strength_stays_within_the_path(path: Path) -> None:
    """Beyond its ends a path's formulas still give times, at which no network was ever trained (M44)."""
    assert time_of_strength(path, 0.0) == 0.0 and time_of_strength(path, 1.0) == path.t_max
    for strength in (1e-9, 1e-4, 0.97, 1.0 - 1e-9):
        assert path.t_min <= time_of_strength(path, strength) <= path.t_max
    times = [time_of_strength(path, k / 50) for k in range(51)]
    assert times == sorted(times)


@every_path
@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid is not Levels])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.3, 0.6, 0.9])
def test_an_edit_takes_its_share_of_the_steps(path: Path, grid: Any, strength: float) -> None:
    """Steps that counted the edit alone would make a chain's weak edits impossible, and cost as much as a whole sample (M44)."""
    whole = DDIM(steps=20, grid=grid())
    t = time_of_strength(path, strength)
    shared = share_below(whole, path, t)
    assert 1 <= shared.steps <= 20
    times = shared.times(path, t)
    assert (times[-1], len(times)) == (0.0, shared.steps + 1)
    assert times[0] == t or (grid is Leading and 0.0 < times[0] < t * (1.0 + 1e-9))
    assert share_below(whole, path, path.t_max) == whole


def test_an_edit_of_given_levels_takes_those_below() -> None:
    """`Levels` has as many steps as levels: with fewer it refuses."""
    sampler = DDIM(steps=3, grid=Levels((20.0, 2.0, 0.3)))
    t = time_of_strength(EDM(), 0.5)
    assert share_below(sampler, EDM(), t).times(EDM(), t) == pytest.approx((t, 2.0, 0.3, 0.0))


# ── its law ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [VP(), EDM(), EVERY_PATH["Rectified"], EVERY_PATH["SubVP"]], ids=repr)
@pytest.mark.parametrize(("sampler", "repeats"), [(FLOW, 1), (SDE, 1), (SDE, 2)], ids=["flow", "sde", "sde twice"])
def test_law_of_an_edit_of_a_gaussian(path: Path, sampler: Sampler, repeats: int) -> None:
    """With data N(m, V) everything is Gaussian: a wrong start, or repeats that share their noise, miss mean or covariance (M44).

    From x_t the SDE returns to m + w (x_t − α m), w = αV/(α²V+σ²), and noise of variance Vσ²/(α²V+σ²); the flow to
    m + √(V/(α²V+σ²)) (x_t − α m) and none.
    """
    world, strength = gaussian(path), 0.45
    t, guide = time_of_strength(path, strength), torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    alpha, variance = path.alpha(t), path.sigma(t) ** 2
    mean, spread = world.means[0], torch.diagonal(world.covariances[0])
    total = alpha**2 * spread + variance
    if sampler is FLOW:
        shrink, fresh = (spread / total).sqrt(), torch.zeros(2, dtype=torch.float64)
    else:
        shrink, fresh = alpha * spread / total, spread * variance / total
    wanted, covariance = guide[0], torch.zeros(2, dtype=torch.float64)
    for _ in range(repeats):
        wanted = mean + shrink * alpha * (wanted - mean)
        covariance = shrink**2 * (alpha**2 * covariance + variance) + fresh
    x = SDEdit(strength, repeats).sample(world, guide.expand(4000, 2), sampler, generator=seeded(3))
    assert_moments(x, wanted, torch.diag(covariance))


@every_path
def test_strength_one_is_an_unconditional_sample(path: Path) -> None:
    """At strength 1 nothing of the guide may be left: the law is the data's, and the bits are those of the sampler's own start (M44)."""
    world, sampler = mixture(path), Heun(steps=30)
    far = torch.full((1500, 2), 40.0, dtype=torch.float64)
    x = SDEdit(1.0).sample(world, far, sampler, generator=SampleStreams.numbered(5, 0, 1500))
    streams = SampleStreams.numbered(5, 0, 1500)
    start = path.prior_std * streams.normal(far, 0)
    assert torch.equal(x, sampler.sample(world, start, generator=streams))
    mean, _ = mixture_moments(world)
    assert_mean(x, mean, errors=4.5)


@every_path
def test_strength_zero_is_the_guide_itself(path: Path) -> None:
    """No step, no question, the same bits: and towards it, ever nearer (M44)."""
    denoiser, guide = Shrinking(path), normal(3, 4)
    assert torch.equal(SDEdit(0.0).sample(denoiser, guide, DDIM(steps=9), generator=seeded()), guide)
    assert denoiser.asked == []
    world = mixture(path)
    x_0 = world.means.clone()
    off = [
        float((SDEdit(strength).sample(world, x_0, DDIM(steps=40), generator=seeded()) - x_0).norm())
        for strength in (0.3, 0.1, 0.03)
    ]
    assert off[0] > off[1] > off[2]


def test_repeats_come_nearer_to_the_data() -> None:
    """From a guide where no data are, each repeat goes on to where there are some: one that starts from the guide again would not (M44)."""
    world = mixture(EDM())
    guide = torch.full((2000, 2), 3.0, dtype=torch.float64)
    data, _ = mixture_moments(world)
    off = [
        float(
            (SDEdit(0.35, repeats).sample(world, guide, Ancestral(steps=40), generator=seeded(1)).mean(0) - data).norm()
        )
        for repeats in (1, 2, 4)
    ]
    assert off[0] > off[1] > off[2]


def test_edits_of_strength_follow_their_guide() -> None:
    """The trade of SDEdit: the stronger, the farther from the guide and the nearer to the data's law (M44)."""
    world = mixture(EDM())
    guide = torch.full((1500, 2), 1.5, dtype=torch.float64)
    data = UniPC(steps=60).sample(world, 80.0 * normal(1500, 2, seed=9))
    runs = [SDEdit(s).sample(world, guide, SDE, generator=seeded(2)) for s in (0.1, 0.3, 0.6)]
    faithful = [float((x - guide).square().sum(1).mean()) for x in runs]
    real = [sliced_wasserstein(x, data) for x in runs]
    assert faithful == sorted(faithful) and real == sorted(real, reverse=True)


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_changes_is_joined_to_what_stays_by_a_method() -> None:
    """Correlated coordinates, one kept, at strength 1: moment matching draws Bayes' rule, and the guide put in its place does not (M42, M44)."""
    correlation, kept = 0.9, 1.5
    covariance = float64([[[1.0, correlation], [correlation, 1.0]]])
    world = GaussianMixture(VP(), float64([1.0]), float64([[0.0, 0.0]]), covariance)
    guide, changes = float64([[kept, 0.0]]).expand(2000, 2), torch.tensor([[False, True]])

    def drawn(method: Method | None) -> Tensor:
        streams = SampleStreams.numbered(3, 0, 2000)
        sampler = Ancestral(steps=150, grid=LogSNR())
        with torch.no_grad():
            return SDEdit(1.0).sample(world, guide, sampler, generator=streams, changes=changes, method=method)[:, 1:]

    mean, variance = float64([correlation * kept]), float64([[1.0 - correlation**2]])
    assert_moments(drawn(MomentMatching(iterations=1)), mean, variance, errors=5.0)
    assert float((drawn(None).mean() - mean).abs()) > 0.2


def test_a_method_without_a_mask_is_refused() -> None:
    """It would join nothing."""
    with pytest.raises(UsageError, match="give a mask"):
        SDEdit(0.5).sample(mixture(VP()), normal(2, 2), DDIM(steps=3), generator=seeded(), method=MomentMatching())


@every_path
def test_what_is_kept_is_a_sample_of_the_guides_own_marginal(path: Path) -> None:
    """Told a part of x₀, every step of DDIM leaves that part at α x_g + σ z, with the z of the start: (M22) with x₀ known (M44)."""
    guide, changes = normal(2, 4), torch.tensor([True, False, False, True])
    t = time_of_strength(path, 0.6)
    z = seeded(4)
    first = torch.randn(2, 4, generator=z, dtype=torch.float64)
    sampler = DDIM(steps=8)
    for state in SDEdit(0.6).trajectory(Shrinking(path), guide, sampler, generator=seeded(4), changes=changes):
        alpha, sigma = (1.0, 0.0) if state.t == 0.0 else (path.alpha(state.t), path.sigma(state.t))
        assert torch.allclose(state.x[:, 1:3], (alpha * guide + sigma * first)[:, 1:3], atol=1e-9)
    assert t > 0.0


def test_a_stochastic_sampler_renoises_what_is_kept_at_every_step() -> None:
    """As the paper says: the known part is drawn anew, x_s ~ q(x_s | x_g), and not dragged along with its first noise (M44)."""
    path, count = VP(), 4000
    guide = torch.tensor([[0.7, -1.1]], dtype=torch.float64).expand(count, 2)
    states = list(
        SDEdit(0.6).trajectory(
            mixture(path), guide, Ancestral(steps=9), generator=seeded(6), changes=torch.tensor([True, False])
        )
    )
    before = None
    for state in states[:-1]:
        alpha, sigma = path.alpha(state.t), path.sigma(state.t)
        noise = (state.x[:, 1] - alpha * guide[:, 1]) / sigma
        assert_moments(noise[:, None], torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
        if before is not None:
            assert float((noise * before).mean()) < 0.95
        before = noise


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
@pytest.mark.parametrize("repeats", [1, 2])
def test_what_is_kept_comes_back_with_every_sampler(sampler: Sampler, repeats: int) -> None:
    """The last step returns D', in which the known part is the guide's own bits (M44)."""
    guide, changes = normal(3, 2, 5), (torch.arange(10) % 3 == 0).view(2, 5)
    if isinstance(sampler, Langevin):
        sampler = replace(sampler, time=0.05)
    x = SDEdit(0.7, repeats).sample(Shrinking(VP()), guide, sampler, generator=seeded(), changes=changes)
    assert torch.equal(x.where(~changes, 0.0), guide.where(~changes, 0.0))
    assert not torch.isclose(x, guide).where(changes, False).any()


def test_known_part_of_a_denoiser() -> None:
    """D' = x_g where it is known and D elsewhere, whatever the mask's shape; the question stays what it was (M42)."""
    inner, x_t = Shrinking(VP()), normal(2, 3, 4)
    known = normal(1, 3, 4, seed=1)
    for keep in (torch.tensor([True, False, False, True]), torch.tensor([[True], [False], [True]])):
        answer = Inpainting(inner, known, keep)(x_t, 0.5, "label")
        assert torch.equal(answer.x0, torch.where(keep, known, inner(x_t, 0.5).x0)) and answer.x_t is x_t
    assert inner.conditions[0] == "label"


# ── the contract ─────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@every_rank
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept_and_nothing_is_mutated(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """One in-place step on the guide would change the user's picture (M44)."""
    guide = normal(3, *shape).to(dtype)
    before, changes = guide.clone(), torch.ones(shape, dtype=torch.bool)
    for sampler in (Calibrated(steps=6), DDIM(steps=6, eta=1.0, grid=Trailing())):
        x = SDEdit(0.5, 2).sample(Shrinking(path), guide, sampler, generator=seeded(), changes=changes)
        assert (x.shape, x.dtype) == (guide.shape, dtype) and bool(x.isfinite().all())
    assert torch.equal(guide, before)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER)
def test_sample_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    """Sample 3 of a batch of 5 is sample 3 alone, in the second repeat too (M44)."""
    guide, plan = normal(1, 4), SDEdit(0.6, 2)
    together = plan.sample(Shrinking(VP()), guide.expand(5, 4), sampler, generator=SampleStreams.numbered(9, 0, 5))
    alone = plan.sample(Shrinking(VP()), guide, sampler, generator=SampleStreams.numbered(9, 3, 1))
    assert torch.equal(together[3:4], alone)


def test_every_repeat_has_noise_of_its_own() -> None:
    """A second pass with the first one's noise would undo nothing (M44)."""
    drawn: list[int] = []

    class Source:
        def normal(self, like: Tensor, draw: int) -> Tensor:
            drawn.append(draw)
            return torch.zeros_like(like)

    SDEdit(0.5, 3).sample(Shrinking(VP()), normal(2, 3), Ancestral(steps=10), generator=Source())
    assert len(set(drawn)) == len(drawn) and len(drawn) > 3


def test_the_guide_is_noised_to_where_the_walk_begins() -> None:
    """`Leading` begins below the time that it is given: noise of more than that time's is never removed (M44)."""
    path, guide = VP(), torch.full((4000, 1), 0.5, dtype=torch.float64)
    sampler = DDIM(steps=20, grid=Leading())
    denoiser = Shrinking(path)
    first = next(iter(SDEdit(0.5).trajectory(denoiser, guide, sampler, generator=seeded())))
    t = denoiser.asked[0]
    alpha, sigma = path.alpha(t), path.sigma(t)
    x_t = first.x0 * (1.0 + t)
    assert t < 0.5
    assert_moments(x_t, alpha * guide[0], sigma**2 * torch.eye(1, dtype=torch.float64))


def test_a_method_takes_one_mask_for_all() -> None:
    """Sample 0's mask served everyone: what others wanted kept was edited."""
    guide, masks = normal(2, 3), torch.tensor([[True, False, False], [False, False, True]])
    options: dict[str, Any] = {"generator": seeded(), "method": Replacement()}
    with pytest.raises(UsageError, match="one mask for all samples"):
        SDEdit(0.5).sample(Shrinking(VP()), guide, DDIM(steps=4), changes=masks, **options)
    found = SDEdit(0.5).sample(Shrinking(VP()), guide, DDIM(steps=4), changes=masks[:1].expand(2, 3), **options)
    assert torch.allclose(found[:, 1:], guide[:, 1:], atol=1e-9)


def test_condition_and_evaluations_of_all_repeats() -> None:
    """The price that is told is of all repeats, and the label is told in all."""
    denoiser, label = Shrinking(VP()), torch.tensor([1, 0])
    *_, last = SDEdit(0.5, 3).trajectory(denoiser, normal(2, 3), DDIM(steps=10), generator=seeded(), condition=label)
    assert last.evaluations == len(denoiser.asked) and all(told is label for told in denoiser.conditions)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SDEdit(1.2), "0 .*to 1 .*got 1.2"),
        (lambda: SDEdit(-0.1), "got -0.1"),
        (lambda: SDEdit(math.nan), "got nan"),
        (lambda: SDEdit(0.5, 0), "repeats, got 0"),
    ],
)
def test_impossible_edits_are_refused(build: Any, said: str) -> None:
    """A strength in per cent would be clipped to a whole new picture."""
    with pytest.raises(UsageError, match=said):
        build()
