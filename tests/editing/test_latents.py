"""Latents: round trips and their order, arcs, what lies between two, temperature."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.editing.latents import between, decode, encode, inverter, lerp, slerp, weights
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path
from scorefield.samplers import (
    DDIM,
    Ancestral,
    DPMSolverMultistep,
    EulerMaruyama,
    Heun,
    Karras,
    LogSNR,
    RungeKutta,
    Sampler,
    UniPC,
)
from scorefield.streams import SampleStreams, Shifted, Tempered
from tests.worlds import EVERY_PATH, RANKS, Shrinking, gaussian, gaussian_flow, mixture, normal, seeded

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)


def data(count: int = 6) -> Tensor:
    """Points of the mixture."""
    world = mixture(EDM())
    return world.means.repeat(count // 3, 1) + 0.3 * normal(count, 2, seed=3)


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_a_code_is_where_the_exact_flow_ends(path: Path) -> None:
    """A code of a Gaussian is a formula; starting at 0 instead of t_min, or without α, would miss it (M43)."""
    world = gaussian(path)
    x_0 = world.means + normal(5, 2) * torch.diagonal(world.covariances[0]).sqrt()
    exact = gaussian_flow(world, path.alpha(path.t_min) * x_0, path.t_min, path.t_max)
    found = encode(world, x_0, replace(inverter(path), steps=400))
    assert float((found - exact).abs().max()) < 2e-2 * path.prior_std
    middle = path.snap(0.4 * path.t_max)
    exact = gaussian_flow(world, path.alpha(path.t_min) * x_0, path.t_min, middle)
    assert torch.allclose(encode(world, x_0, RungeKutta(steps=200), end=middle), exact, atol=1e-4)


@every_path
def test_round_trip_returns_the_data(path: Path) -> None:
    """Up and down by the same sampler between the same two times: ends that differ would leave an error no step count removes (M43)."""
    world, x_0 = mixture(path), data()
    errors = [
        float((decode(world, encode(world, x_0, sampler), sampler) - x_0).abs().max())
        for sampler in (inverter(path), replace(inverter(path), steps=300))
    ]
    assert errors[0] < 2e-2 and errors[1] < 1e-4


def round_trips(sampler: Sampler, steps: tuple[int, ...]) -> list[float]:
    """Root mean square errors of round trips with these numbers of steps."""
    world, x_0 = mixture(EDM(sigma_min=0.02, sigma_max=20.0)), data()
    samplers = [replace(sampler, steps=count) for count in steps]
    return [float((decode(world, encode(world, x_0, s), s) - x_0).square().mean().sqrt()) for s in samplers]


@pytest.mark.parametrize(
    ("sampler", "steps", "order"),
    [
        (DDIM(grid=LogSNR()), (100, 200, 400), 1),
        (Heun(grid=LogSNR()), (50, 100, 200), 3),  # a method of even order is nearly its own inverse: one order more
        (RungeKutta(method="kutta3", grid=LogSNR()), (50, 100, 200), 3),
        (RungeKutta(grid=LogSNR()), (25, 50, 100), 5),
        (DPMSolverMultistep(grid=LogSNR()), (50, 100, 200), 2),
        (UniPC(grid=LogSNR(), order=3), (50, 100, 200), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Sampler) else "",
)
def test_order_of_a_round_trip(sampler: Sampler, steps: tuple[int, ...], order: int) -> None:
    """DDIM's inversion is of first order, high-order ones of theirs: one that fell back upwards would be seen here (M26, M43)."""
    found = round_trips(sampler, steps)
    seen = [math.log2(coarse / fine) for coarse, fine in zip(found, found[1:], strict=False)]
    assert all(value > order - 0.4 for value in seen), (found, seen)
    assert seen[-1] < order + 1.2


def test_the_default_inverts_ten_times_better_than_ddim() -> None:
    """Fifty questions up and fifty down: what `invert` promises (M43)."""
    assert inverter(EDM()).evaluations() == 50
    (ours,), (first_order,) = round_trips(inverter(EDM()), (50,)), round_trips(DDIM(grid=Karras()), (50,))
    assert 10.0 * ours < first_order


def test_a_chain_is_inverted_within_its_steps() -> None:
    """A chain of twenty steps has no fifty (M43)."""
    path = Discrete(steps=20)
    world, x_0 = gaussian(path), normal(4, 2)
    assert inverter(path).steps == 19
    assert torch.allclose(decode(world, encode(world, x_0)), x_0, atol=0.05)


@every_path
@every_rank
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_path_and_rank_has_codes(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """Shape and dtype are kept, nothing is mutated, the label is told both ways (M43)."""
    denoiser, x_0, label = Shrinking(path), normal(3, *shape).to(dtype), torch.tensor([1, 0, 2])
    before = x_0.clone()
    code = encode(denoiser, x_0, condition=label)
    back = decode(denoiser, code, condition=label)
    for x in (code, back):
        assert (x.shape, x.dtype) == (x_0.shape, dtype) and bool(x.isfinite().all())
    assert torch.equal(x_0, before) and all(told is label for told in denoiser.conditions)
    assert torch.equal(encode(denoiser, x_0[1:2], condition=label[1:2]), code[1:2])


def test_codes_of_no_time_are_the_data() -> None:
    """At t_min there is no way to go."""
    path, x_0 = VP(), normal(3, 2)
    code = encode(mixture(path), x_0, end=path.t_min)
    assert torch.allclose(decode(mixture(path), code, start=path.t_min), x_0, rtol=1e-14)


def test_stochastic_samplers_have_no_codes() -> None:
    """Drawn noise is not to be had back."""
    for run in (encode, decode):
        with pytest.raises(UsageError, match="use a deterministic sampler"):
            run(mixture(VP()), normal(2, 2), Ancestral(steps=5))


# ── arcs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_rank
def test_slerp_keeps_the_length_and_goes_evenly(shape: tuple[int, ...]) -> None:
    """A mean of two normal vectors has half of their squared length, where no data are; an arc has all of it (M43)."""
    a, b = normal(4, *shape), normal(4, *shape, seed=1)
    a, b = (x / x.flatten(1).norm(dim=1).view(-1, *(1,) * len(shape)) for x in (a, b))
    whole = (a * b).flatten(1).sum(1).acos()
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        x = slerp(a, b, share)
        assert torch.allclose(x.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-12)
        assert torch.allclose((a * x).flatten(1).sum(1).clamp(-1, 1).acos(), share * whole, atol=1e-6)


def test_slerp_has_its_ends_and_a_share_for_each() -> None:
    """λ = 0 and 1 are the ends to the bit, of any length; a (b,) λ is each sample's own (M43)."""
    a, b = normal(5, 3), 3.0 * normal(5, 3, seed=1)
    assert torch.equal(slerp(a, b, 0.0), a) and torch.equal(slerp(a, b, 1.0), b)
    shares = weights(5)
    assert torch.equal(slerp(a, b, shares)[2], slerp(a[2:3], b[2:3], 0.5)[0])
    assert slerp(a.float(), b.float(), shares).dtype == torch.float32


def test_slerp_of_one_line_is_the_line() -> None:
    """Between x and 2x there is no angle, between x and −x no one way: no division by zero (M43)."""
    x = normal(3, 4)
    assert torch.allclose(slerp(x, 2.0 * x, 0.5), 1.5 * x)
    assert torch.allclose(slerp(x, -x, 0.25), 0.5 * x)
    assert torch.equal(slerp(torch.zeros(1, 3), torch.ones(1, 3), 1.0), torch.ones(1, 3))


@every_path
def test_between_two_codes_noise_keeps_its_length(path: Path) -> None:
    """x̄ = α lerp(x₀) + σ slerp(ε): its ends are the codes, and its noise is as long as theirs (M46, M43)."""
    t = path.snap(0.6 * path.t_max)
    alpha, sigma = path.alpha(t), path.sigma(t)
    ends = (normal(2, 400, seed=1), normal(2, 400, seed=2))
    noises = (normal(2, 400, seed=3), normal(2, 400, seed=4))
    codes = (alpha * ends[0] + sigma * noises[0], alpha * ends[1] + sigma * noises[1])
    for share, code in zip((0.0, 1.0), codes, strict=True):
        assert torch.allclose(between(path, t, ends, codes, share), code, rtol=1e-12)
    middle = between(path, t, ends, codes, 0.5)
    assert torch.allclose(middle, alpha * lerp(*ends, 0.5) + sigma * slerp(*noises, 0.5), atol=1e-9)
    noise = (middle - alpha * lerp(*ends, 0.5)) / sigma
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.15)


def test_weights_go_from_one_end_to_the_other() -> None:
    """Ends left out would make a film that begins in the middle (M46)."""
    assert weights(3).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(UsageError, match="at least its two ends, got count=1"):
        weights(1)


# ── temperature ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sampler",
    [DDIM(steps=20), Ancestral(steps=20), EulerMaruyama(steps=40), DPMSolverMultistep(steps=20, stochastic=True)],
    ids=repr,
)
def test_temperature_scales_all_noise(sampler: Sampler) -> None:
    """Of a Gaussian every sampler is affine in its noise: x(τ) − x(0) = τ (x(1) − x(0)), so that its deviation is τ times as large (M43)."""
    world = gaussian(VP())

    def drawn(temperature: float) -> Tensor:
        source = Tempered(SampleStreams.numbered(1, 0, 50), temperature)
        return sampler.sample(world, source.normal(torch.zeros(50, 2, dtype=torch.float64), 0), generator=source)

    still = drawn(1e-12)
    assert torch.allclose(drawn(0.6) - still, 0.6 * (drawn(1.0) - still), atol=1e-9)
    assert torch.allclose(still, still[:1].expand(50, 2), atol=1e-9)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    """A negative one would be another sample's mirror image."""
    with pytest.raises(UsageError, match="positive number"):
        Tempered(SampleStreams.numbered(0, 0, 1), temperature)


def test_parts_of_a_source() -> None:
    """A shifted source gives other draws of the same stream; a tempered one at 1 is the source itself."""
    streams, like = SampleStreams.numbered(2, 0, 3), torch.zeros(3, 4)
    assert torch.equal(Shifted(streams, 7).normal(like, 2), streams.normal(like, 9))
    assert Tempered.of(streams, 1.0) is streams
    assert seeded().initial_seed() == 0
