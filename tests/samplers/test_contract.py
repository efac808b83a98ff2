"""What holds for every public sampler: on every path, at every rank, for every start; facts are measured, not believed."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Data, NetworkDenoiser
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Path
from scorefield.samplers import (
    DDIM,
    PNDM,
    SAMPLERS,
    AdamsBashforth,
    Adaptive,
    Ancestral,
    AnnealedLangevin,
    Churn,
    DPMSolver,
    DPMSolverMultistep,
    EulerMaruyama,
    Heun,
    Karras,
    Langevin,
    Leading,
    Linear,
    PredictorCorrector,
    Restart,
    RungeKutta,
    Sampler,
    State,
    UniPC,
)
from scorefield.samplers.base import Memoryless
from scorefield.streams import SampleStreams
from tests.worlds import EVERY_PATH, RANKS, Shrinking, normal, seeded

VARIANTS: dict[str, Sampler] = {cls.__name__: cls() for cls in SAMPLERS} | {  # type: ignore[call-arg]  # each has defaults
    "DDIM-half": DDIM(eta=0.5),
    "DDIM-one": DDIM(eta=1.0),
    "Ancestral-large": Ancestral(variance="large"),
    "EulerMaruyama-flow": EulerMaruyama(ell=0.0),
    "EulerMaruyama-half": EulerMaruyama(ell=0.5),
    "PredictorCorrector-annealed": PredictorCorrector(predictor="euler-maruyama", corrector="annealed-langevin"),
    "Corrector": PredictorCorrector(predictor="none"),
    "Predictor": PredictorCorrector(corrector="none"),
    "DPMSolverMultistep-stochastic": DPMSolverMultistep(order=3, stochastic=True),
    "UniPC-noise": UniPC(order=3, prediction="noise", variant="bh1"),
    "RungeKutta-noise": RungeKutta(method="kutta3", quantity="noise"),
    "RungeKutta-data": RungeKutta(method="midpoint", quantity="data"),
    "DPMSolver-2S": DPMSolver(order=2, prediction="data"),
    "Churn-none": Churn(s_churn=0.0),
    "AdamsBashforth-data": AdamsBashforth(order=4, quantity="data", variable="log-snr"),
    "AdamsBashforth-straight": AdamsBashforth(order=2, quantity="straight"),
}

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_sampler = pytest.mark.parametrize("sampler", VARIANTS.values(), ids=VARIANTS)
MEMORYLESS = {name: sampler for name, sampler in VARIANTS.items() if isinstance(sampler, Memoryless)}
WANDERERS: tuple[type[Sampler], ...] = (Adaptive, AnnealedLangevin, Langevin, PNDM, Restart)
"""Samplers that yield more than one state for a step of the grid, or states between its times."""

ASKING_BETWEEN: tuple[type[Sampler], ...] = (Churn, DPMSolver, RungeKutta)
"""Samplers whose states are the grid's, and whose questions lie between them too."""

memoryless_sampler = pytest.mark.parametrize("sampler", MEMORYLESS.values(), ids=MEMORYLESS)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)


def short(sampler: Sampler, steps: int = 5) -> Sampler:
    """The sampler with few steps."""
    return replace(sampler, steps=steps)


def start(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Noise to start from, for three samples."""
    return path.prior_std * normal(3, *shape)


# ── shapes, types, purity ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "shape"),
    [*((path, (4,)) for path in EVERY_PATH.values()), *((VP(), shape) for shape in RANKS.values())],
    ids=[*EVERY_PATH, *RANKS],
)
@every_sampler
def test_shape_and_dtype_are_kept_and_nothing_is_mutated(path: Path, shape: tuple[int, ...], sampler: Sampler) -> None:
    """An in-place step on the caller's noise, or float64 coefficients that leak, would show here; so would a NaN."""
    for dtype in (torch.float32, torch.float64):
        x_T = start(path, shape).to(dtype)
        before = x_T.clone()
        states = list(short(sampler).trajectory(Shrinking(path), x_T, generator=seeded()))
        assert torch.equal(x_T, before)
        for state in states:
            assert (state.x.shape, state.x.dtype) == (x_T.shape, dtype)
            assert (state.x0.shape, state.x0.dtype) == (x_T.shape, dtype)
            assert bool(state.x.isfinite().all())


@every_sampler
def test_states_are_not_touched_afterwards(sampler: Sampler) -> None:
    """A sampler that reuses a buffer would rewrite the film while it is being kept."""
    kept: list[tuple[State, Tensor, Tensor]] = []
    for state in short(sampler).trajectory(Shrinking(VP()), normal(2, 3), generator=seeded()):
        kept.append((state, state.x.clone(), state.x0.clone()))
    for state, x, x0 in kept:
        assert torch.equal(state.x, x)
        assert torch.equal(state.x0, x0)


@every_sampler
def test_answer_of_the_denoiser_is_not_touched(sampler: Sampler) -> None:
    """A denoiser may keep what it answered, as a cache or a constant; an in-place step on it would corrupt that."""
    answer = normal(2, 3)
    denoiser = NetworkDenoiser(lambda x, label: answer, VP(), Data())
    before = answer.clone()
    short(sampler).sample(denoiser, normal(2, 3, seed=1), generator=seeded())
    assert torch.equal(answer, before)


# ── randomness ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@every_sampler
def test_same_generator_same_bits(path: Path, sampler: Sampler) -> None:
    """A global generator or a set's order anywhere would make two runs differ."""
    for make in (lambda: seeded(3), lambda: SampleStreams.numbered(3, 0, 3)):
        one, other = (short(sampler).sample(Shrinking(path), start(path, (4,)), generator=make()) for _ in range(2))
        assert torch.equal(one, other)


@every_path
@every_sampler
def test_is_deterministic_is_true(path: Path, sampler: Sampler) -> None:
    """Declared deterministic: the end does not depend on the generator and none is needed. Declared stochastic: it does."""
    one, other = (short(sampler).sample(Shrinking(path), start(path, (4,)), generator=seeded(seed)) for seed in (1, 2))
    assert torch.equal(one, other) is sampler.is_deterministic
    if sampler.is_deterministic:
        assert torch.equal(short(sampler).sample(Shrinking(path), start(path, (4,))), one)


@every_sampler
@every_rank
def test_sample_does_not_depend_on_its_batch(sampler: Sampler, shape: tuple[int, ...]) -> None:
    """Sample 3 of a batch of 5 equals sample 3 alone, so that memory and processes do not change a seed's pictures."""
    x_T = SampleStreams.numbered(9, 0, 5).normal(torch.zeros(5, *shape, dtype=torch.float64), 0)
    together = short(sampler).sample(Shrinking(VP()), x_T, generator=SampleStreams.numbered(9, 0, 5))
    alone = short(sampler).sample(Shrinking(VP()), x_T[3:4], generator=SampleStreams.numbered(9, 3, 1))
    assert torch.equal(together[3:4], alone)


@every_sampler
def test_every_step_has_noise_of_its_own(sampler: Sampler) -> None:
    """One draw used at every step would pass every test of shapes and bits."""
    asked: list[int] = []

    class Source:
        def normal(self, like: Tensor, draw: int) -> Tensor:
            asked.append(draw)
            return torch.zeros_like(like)

    short(sampler, 6).sample(Shrinking(VP()), normal(2, 3), generator=Source())
    assert asked == list(range(1, len(asked) + 1))
    assert (
        len(asked) == 0
        if sampler.is_deterministic
        else len(asked) >= (2 if isinstance(sampler, (Churn, Restart)) else 5)
    )


# ── what is declared ─────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_evaluations_are_counted_right(path: Path, sampler: Sampler, steps: int) -> None:
    """`evaluations()` is the price that benchmarks compare; the states' running count must agree with it."""
    denoiser, sampler = Shrinking(path), short(sampler, steps)
    states = list(sampler.trajectory(denoiser, start(path, (3,)), generator=seeded()))
    assert len(denoiser.asked) == states[-1].evaluations
    assert sampler.evaluations() in (len(denoiser.asked), None)
    assert len(states) == steps or isinstance(sampler, WANDERERS)
    assert all(earlier.evaluations < later.evaluations for earlier, later in pairwise(states))


@every_path
@every_sampler
def test_states_are_at_the_times_of_the_grid(path: Path, sampler: Sampler) -> None:
    """A state's t, x and x0 belong together: x0 is what the denoiser last said, and the last x is data (M25)."""
    denoiser, sampler = Shrinking(path), short(sampler)
    states = list(sampler.trajectory(denoiser, start(path, (3,)), generator=seeded()))
    times = sampler.times(path)
    assert denoiser.asked[0] == times[0] == path.t_max
    assert states[-1].t == 0.0
    assert torch.equal(states[-1].x, states[-1].x0)
    if not isinstance(sampler, WANDERERS):
        assert tuple(state.t for state in states) == times[1:]
        assert set(denoiser.asked) == set(times[:-1]) or isinstance(sampler, ASKING_BETWEEN)


@every_path
@every_sampler
def test_sample_is_the_end_of_the_trajectory(path: Path, sampler: Sampler) -> None:
    """The loop and its last value are one thing."""
    options: dict[str, Any] = {"start": path.snap(0.7 * path.t_max), "end": path.snap(0.2 * path.t_max)}
    *_, last = short(sampler).trajectory(Shrinking(path), start(path, (3,)), generator=seeded(), **options)
    assert torch.equal(short(sampler).sample(Shrinking(path), start(path, (3,)), generator=seeded(), **options), last.x)
    assert last.t == options["end"]


@every_path
@memoryless_sampler
def test_trajectory_is_its_steps(path: Path, sampler: Memoryless) -> None:
    """`step` is pure: called by hand with the same noise it gives the trajectory, and a stop half-way can be taken up."""
    sampler, denoiser, streams = replace(sampler, steps=6), Shrinking(path), SampleStreams.numbered(1, 0, 3)
    x = start(path, (3,))
    end = sampler.sample(denoiser, x, generator=streams)
    numbers = count(1)
    for t, s in pairwise(sampler.times(path)):
        noise = streams.normal(x, next(numbers)) if sampler.needs_noise(path, t, s) else None
        x = sampler.step(denoiser, x, t, s, noise).x
    assert torch.equal(x, end)


@every_sampler
def test_condition_reaches_the_denoiser_at_every_question(sampler: Sampler) -> None:
    """A second evaluation without the label would draw half of another class."""
    denoiser, labels = Shrinking(VP()), torch.tensor([1, 0])
    short(sampler).sample(denoiser, normal(2, 3), generator=seeded(), condition=labels)
    assert all(condition is labels for condition in denoiser.conditions) or isinstance(sampler, Adaptive)
    assert all(set(condition.tolist()) <= {0, 1} and len(condition) for condition in denoiser.conditions)


@every_sampler
def test_trajectory_can_be_left_early(sampler: Sampler) -> None:
    """A generator asks for nothing that is not taken: stopping after a state costs no more than that state."""
    denoiser = Shrinking(VP())
    trajectory = short(sampler).trajectory(denoiser, normal(2, 3), generator=seeded())
    state = next(iter(trajectory))
    assert len(denoiser.asked) == state.evaluations


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_sampler
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(sampler: Sampler, steps: int) -> None:
    """A loop of nothing would return the noise as a sample."""
    with pytest.raises(UsageError, match=f"at least 1 step .*got {steps}"):
        short(sampler, steps)


@every_sampler
@pytest.mark.parametrize(
    ("begin", "end", "said"), [(1.5, 0.0, "start=1.5"), (0.5, -0.2, "end=-0.2"), (-1.0, 0.0, "start=")]
)
def test_times_outside_of_the_path_are_refused(sampler: Sampler, begin: float, end: float, said: str) -> None:
    """Beyond its ends a path's formulas still give numbers."""
    with pytest.raises(UsageError) as refused:
        short(sampler).sample(Shrinking(VP()), normal(2, 3), generator=seeded(), start=begin, end=end)
    assert said in str(refused.value) or "from data to noise" in str(refused.value)


@every_sampler
def test_too_many_steps_for_a_chain_are_refused_with_the_fix(sampler: Sampler) -> None:
    """A thousand-step model has no two-thousandth."""
    path = EVERY_PATH["Discrete"]
    with pytest.raises(UsageError, match="use at most 1000 or train with a continuous path"):
        short(sampler, 2000).sample(Shrinking(path), normal(2, 3), generator=seeded())


@pytest.mark.parametrize(
    "sampler", [sampler for sampler in VARIANTS.values() if not sampler.is_deterministic], ids=repr
)
def test_noise_without_a_source_is_refused_with_the_fix(sampler: Sampler) -> None:
    """Falling back to a global generator would break reproducibility without a word; running upwards would be nonsense."""
    with pytest.raises(UsageError, match=r"pass generator=.*torch.Generator or SampleStreams"):
        short(sampler).sample(Shrinking(VP()), normal(2, 3))
    with pytest.raises(UsageError, match="use a deterministic sampler"):
        short(sampler).sample(Shrinking(VP()), normal(2, 3), generator=seeded(), start=0.1, end=0.9)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: DDIM(eta=-0.1), "eta ≥ 0"),
        (lambda: DDIM(eta=float("inf")), "eta ≥ 0"),
        (lambda: DDIM(eta=float("nan")), "eta ≥ 0"),
        (lambda: Ancestral(variance="medium"), "'small' .* 'large' .* or 'learned'"),
        (lambda: EulerMaruyama(ell=-1.0), "ell ≥ 0"),
        (lambda: EulerMaruyama(ell=float("nan")), "ell ≥ 0"),
        (lambda: PredictorCorrector(predictor="ancestor"), "did you mean 'ancestral'"),
        (lambda: PredictorCorrector(corrector="langevine"), "did you mean 'langevin'"),
        (lambda: PredictorCorrector(predictor="none", corrector="none"), "choose one"),
        (lambda: PredictorCorrector(snr=0.0), "snr between 0 and 1"),
        (lambda: PredictorCorrector(corrector_steps=0), "corrector_steps"),
        (lambda: Langevin(step_size=4.0), r"\(0, 4\)"),
        (lambda: Langevin(step_size=0.0), r"\(0, 4\)"),
        (lambda: Langevin(time=0.0), "time above 0"),
        (lambda: AnnealedLangevin(inner_steps=0), "inner_steps"),
        (lambda: AnnealedLangevin(epsilon=-1e-5), "positive, finite epsilon"),
    ],
)
def test_impossible_settings_are_refused(build: Any, said: str) -> None:
    """A misspelt variance would silently be the other one."""
    with pytest.raises(UsageError, match=said):
        build()


def test_more_noise_than_there_is_is_refused() -> None:
    """With a large η, σ_s² − κ² is negative: the message says which way out."""
    with pytest.raises(UsageError, match="smaller eta or more steps"):
        DDIM(steps=3, eta=3.0).sample(Shrinking(VP()), normal(2, 3), generator=seeded())


def test_defaults_are_the_papers() -> None:
    """DDPM takes all of T = 1000 steps with β̃, EDM 18 on its own grid; DDIM is deterministic."""
    assert (Ancestral().steps, Ancestral().variance) == (1000, "small")
    assert (Heun().steps, Heun().grid) == (18, Karras())
    assert (DDIM().eta, DDIM().is_deterministic, DDIM(eta=1e-3).is_deterministic) == (0.0, True, False)


@pytest.mark.parametrize(
    "sampler", [DDIM(steps=7), Heun(steps=7), DDIM(steps=7, grid=Leading()), DDIM(steps=7, grid=Linear())], ids=repr
)
@every_path
def test_a_way_upwards_is_the_grid_reversed_from_t_min(sampler: Sampler, path: Path) -> None:
    """At t = 0 there is no noise to tell apart: encoding starts at t_min, rises strictly and ends where it is asked to (M26)."""
    end = path.snap(0.8 * path.t_max)
    times = sampler.times(path, 0.0, end)
    assert times[0] >= path.t_min
    assert all(earlier < later for earlier, later in pairwise(times))
    assert times == tuple(sorted({max(t, path.t_min) for t in sampler.times(path, end, 0.0)}))


def test_step_with_noise_given_by_hand() -> None:
    """An SDE solver's path of noise can be injected: twice the noise is twice the deviation."""
    denoiser, x_t, z = Shrinking(EDM()), normal(2, 3), normal(2, 3, seed=1)
    sampler = DDIM(eta=0.7)
    plain, once, twice = (sampler.step(denoiser, x_t, 2.0, 1.0, noise).x for noise in (None, z, 2.0 * z))
    assert torch.allclose(twice - plain, 2.0 * (once - plain), rtol=1e-12)
    assert torch.allclose(once - plain, 0.7 * EDM().posterior(1.0, 2.0).std * z, rtol=1e-12)
