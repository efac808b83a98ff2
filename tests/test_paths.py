"""Paths against 50-digit references, autograd, linear-Gaussian algebra and their own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

from scorefield.errors import UsageError
from scorefield.paths import EDM, PATHS, VE, VP, Discrete, Path, Rectified, SubVP, VPCosine
from tests.worlds import (
    EVERY_PATH,
    RANKS,
    assert_moments,
    inner_times,
    mixture,
    mixture_moments,
    normal,
    reference_marginal,
    relative_error,
    seeded,
)

FUNCTIONS = ("alpha", "sigma", "alpha_rate", "variance_rate", "sigma_rate", "log_snr", "drift", "diffusion")

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


def close_pairs(path: Path) -> list[tuple[float, float]]:
    """Pairs s < t: neighbours a millionth apart at every place, and pairs far apart."""
    times = list(inner_times(path))
    gap = 1e-6 * path.t_max
    return (
        [(t, t + gap) for t in times[:-1]]
        + [(t - gap / 2, t) for t in times[-1:]]
        + list(pairwise(times))
        + [(times[0], times[-1])]
    )


def reference_pair(path: Path, s: float, t: float) -> tuple[Any, Any, Any, Any, Any, Any]:
    """(α_s, σ²_s, α_t, σ²_t, α_{t|s}, σ²_{t|s}) at 50 digits."""
    (alpha_s, variance_s), (alpha_t, variance_t) = reference_marginal(path, s), reference_marginal(path, t)
    scale = alpha_t / alpha_s
    return alpha_s, variance_s, alpha_t, variance_t, scale, variance_t - scale**2 * variance_s


# ── every path ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_marginal_is_the_papers(path: Path) -> None:
    """A wrong coefficient, or a 1 − ᾱ that cancels near data, would leave the 50-digit reference (M1)."""
    for t in inner_times(path):
        alpha, variance = reference_marginal(path, t)
        assert relative_error(path.alpha(t), alpha) < 1e-9
        assert relative_error(path.sigma(t), mp.sqrt(variance)) < 1e-12


@every_path
def test_log_snr_is_half_the_log_of_the_ratio(path: Path) -> None:
    """A missing half, or α and σ swapped, would show at every time (M2)."""
    for t in inner_times(path):
        alpha, variance = reference_marginal(path, t)
        wanted = mp.log(alpha / mp.sqrt(variance))
        assert abs(path.log_snr(t) - float(wanted)) < 1e-12 * max(1.0, abs(float(wanted))) + (
            1e-9 if t > 0.99 * path.t_max else 0.0
        )


@every_path
def test_rates_are_derivatives(path: Path) -> None:
    """A rate with a wrong factor would differ from the numerical derivative of the reference at 50 digits (M3)."""
    for t in inner_times(path):
        alpha_rate = mp.diff(lambda u: reference_marginal(path, u)[0], mpf(t), h=mpf(10) ** -20)
        variance_rate = mp.diff(lambda u: reference_marginal(path, u)[1], mpf(t), h=mpf(10) ** -20)
        assert relative_error(path.alpha_rate(t), alpha_rate) < 1e-8
        assert relative_error(path.variance_rate(t), variance_rate) < 1e-8
        assert relative_error(path.sigma_rate(t), variance_rate / (2 * mp.sqrt(reference_marginal(path, t)[1]))) < 1e-8


@every_path
def test_drift_and_diffusion_of_the_forward_sde(path: Path) -> None:
    """f = d log α/dt and g² = dσ²/dt − 2 f σ²: a sign or a factor of two is another process (M3)."""
    for t in inner_times(path):
        alpha, variance = reference_marginal(path, t)
        drift = mp.diff(lambda u: reference_marginal(path, u)[0], mpf(t), h=mpf(10) ** -20) / alpha
        variance_rate = mp.diff(lambda u: reference_marginal(path, u)[1], mpf(t), h=mpf(10) ** -20)
        assert relative_error(path.drift(t), drift) < 1e-8
        assert relative_error(path.diffusion(t), mp.sqrt(variance_rate - 2 * drift * variance)) < 1e-8


@every_path
def test_rates_are_autograds(path: Path) -> None:
    """The tensor branch has derivatives too: autograd through it must agree with the formulas (M3)."""
    t = torch.tensor([0.0213, 0.2501, 0.7001], dtype=torch.float64).mul(path.t_max).requires_grad_()
    for value, rate in (
        (path.alpha(t), path.alpha_rate(t)),
        (path.sigma(t) ** 2, path.variance_rate(t)),
        (path.sigma(t), path.sigma_rate(t)),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), t)
        assert torch.allclose(gradient, rate, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(path.alpha(t).log().sum(), t)
    assert torch.allclose(gradient, path.drift(t), rtol=1e-9, atol=1e-12)


@every_path
@pytest.mark.parametrize("name", FUNCTIONS)
def test_floats_and_tensors_agree(path: Path, name: str) -> None:
    """A formula that is right for a sampler's floats and wrong for a batch's tensor would train one model and draw another."""
    function = getattr(path, name)
    times = [*inner_times(path), path.t_min]
    together = function(torch.tensor(times, dtype=torch.float64))
    assert together.dtype == torch.float64
    assert torch.allclose(
        together, torch.tensor([function(t) for t in times], dtype=torch.float64), rtol=1e-12, atol=0.0
    )


@every_path
def test_both_ends_agree_for_floats_and_tensors(path: Path) -> None:
    """At t = 0 and t_max logarithms are infinite: one branch may raise or give NaN where the other does not."""
    ends = torch.tensor([0.0, path.t_max], dtype=torch.float64)
    for name in ("alpha", "sigma", "log_snr", "alpha_rate", "variance_rate"):
        function = getattr(path, name)
        assert torch.allclose(
            function(ends),
            torch.tensor([function(0.0), function(path.t_max)], dtype=torch.float64),
            rtol=1e-12,
            atol=1e-15,
        )


@every_path
def test_bridges_and_posteriors_agree_for_floats_and_tensors(path: Path) -> None:
    """As above, for pairs of times."""
    pairs = close_pairs(path)
    s, t = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    for together, one_by_one in (
        (path.bridge(s, t), [path.bridge(*pair) for pair in pairs]),
        (path.posterior(s, t), [path.posterior(*pair) for pair in pairs]),
    ):
        for name in vars(together):
            wanted = torch.tensor([getattr(one, name) for one in one_by_one], dtype=torch.float64)
            assert torch.allclose(getattr(together, name), wanted, rtol=1e-8, atol=0.0), name


@every_path
def test_data_at_one_end_and_prior_at_the_other(path: Path) -> None:
    """t = 0 is data and t_max is the prior that sampling starts from, for every path."""
    assert path.alpha(0.0) == 1.0
    assert path.sigma(0.0) <= getattr(path, "sigma_min", 0.0)
    assert path.sigma(path.t_max) == pytest.approx(path.prior_std, rel=1e-4)
    assert path.alpha(path.t_max) * 1.0 <= max(0.01, 1.0 * (path.prior_std > 10.0))
    assert 0.0 < path.t_min < path.t_max


@every_path
def test_signal_to_noise_falls_strictly(path: Path) -> None:
    """λ is the clock of everything: where it stands still or rises, a step has no noise to remove (M2)."""
    times = [path.t_max * k / 4096 for k in range(1, 4097)]
    values = path.log_snr(torch.tensor(times, dtype=torch.float64))
    assert bool((values[1:] < values[:-1]).all())


@every_path
def test_time_of_is_the_inverse_of_log_snr(path: Path) -> None:
    """Grids in λ and samplers in σ/α stand on this inverse; its error may not exceed what λ's own rounding allows (M2)."""
    times = torch.tensor(list(inner_times(path)), dtype=torch.float64)
    log_snr = path.log_snr(times)
    rate = (path.drift(times) - path.sigma_rate(times) / path.sigma(times)).abs()
    allowed = 1e-12 * times + 1e-9 * times * (times > 0.99 * path.t_max) + 8 * 2.2e-16 * log_snr.abs() / rate
    assert bool(((path.time_of(log_snr) - times).abs() <= allowed).all())
    for t, value in zip(times.tolist(), path.time_of(log_snr).tolist(), strict=True):
        assert path.time_of(path.log_snr(t)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
@given(part=st.floats(1e-4, 0.999))
def test_every_level_between_the_ends_is_found(path: Path, part: float) -> None:
    """log_snr(time_of(λ)) = λ for any λ that the path passes, not only for those of chosen times (M2)."""
    level = path.log_snr(path.t_min) * (1 - part) + path.log_snr(0.999 * path.t_max) * part
    assert path.log_snr(path.time_of(level)) == pytest.approx(level, abs=1e-9)
    as_tensor = torch.tensor([level], dtype=torch.float64)
    assert float(path.log_snr(path.time_of(as_tensor))) == pytest.approx(level, abs=1e-9)


@every_path
def test_bridge_keeps_its_digits(path: Path) -> None:
    """σ_t² − α²_{t|s} σ_s² as it is written loses all digits between neighbours; half of float32's are not enough (M4)."""
    for s, t in close_pairs(path):
        *_, scale, variance = reference_pair(path, s, t)
        bridge = path.bridge(s, t)
        assert relative_error(bridge.scale, scale) < 1e-9
        assert relative_error(bridge.std, mp.sqrt(variance)) < 1e-9


@every_path
def test_posterior_keeps_its_digits(path: Path) -> None:
    """All three coefficients, between neighbours and across the path, next to data and next to noise (M5)."""
    for s, t in close_pairs(path):
        alpha_s, variance_s, _, variance_t, scale, variance = reference_pair(path, s, t)
        posterior = path.posterior(s, t)
        assert relative_error(posterior.from_x_t, scale * variance_s / variance_t) < 1e-9
        assert relative_error(posterior.from_x_0, alpha_s * variance / variance_t) < 1e-9
        assert relative_error(posterior.std, mp.sqrt(variance * variance_s / variance_t)) < 1e-9


@every_path
def test_posterior_is_bayes_rule(path: Path) -> None:
    """Prior p(x_s | x₀) and likelihood p(x_t | x_s) multiply to it: precision adds, means are weighed by precision (M5)."""
    for s, t in ((0.2 * path.t_max, 0.7 * path.t_max), (0.5 * path.t_max, 0.9 * path.t_max)):
        bridge, posterior = path.bridge(s, t), path.posterior(s, t)
        precision = 1.0 / path.sigma(s) ** 2 + bridge.scale**2 / bridge.std**2
        assert posterior.std == pytest.approx(precision**-0.5, rel=1e-12)
        assert posterior.from_x_t == pytest.approx(bridge.scale / bridge.std**2 / precision, rel=1e-12)
        assert posterior.from_x_0 == pytest.approx(path.alpha(s) / path.sigma(s) ** 2 / precision, rel=1e-12)


@pytest.mark.parametrize("path", [path for path in EVERY_PATH.values() if path.sigma(0.0) == 0.0], ids=repr)
def test_posterior_of_data_is_data(path: Path) -> None:
    """At s = 0 the last step must return x₀ itself, without noise and without NaN (M5)."""
    posterior = path.posterior(0.0, path.t_min)
    assert (posterior.from_x_t, posterior.from_x_0, posterior.std) == (0.0, 1.0, 0.0)


@every_path
def test_bridges_compose(path: Path) -> None:
    """From s to m and from m to t is from s to t; a bridge that is not Markov fails for sub-VP first (M4)."""
    s, m, t = 0.113 * path.t_max, 0.457 * path.t_max, 0.891 * path.t_max
    first, second, whole = path.bridge(s, m), path.bridge(m, t), path.bridge(s, t)
    assert second.scale * first.scale == pytest.approx(whole.scale, rel=1e-12)
    assert math.hypot(second.scale * first.std, second.std) == pytest.approx(whole.std, rel=1e-12)


@every_path
def test_bridge_from_data_is_the_marginal(path: Path) -> None:
    """p(x_t | x_0) is both: at s = 0 the bridge has α(t) and, where σ(0) = 0, σ(t) (M1, M4)."""
    bridge = path.bridge(0.0, 0.4 * path.t_max)
    alpha, sigma = path.alpha(0.4 * path.t_max), path.sigma(0.4 * path.t_max)
    assert bridge.scale == pytest.approx(alpha, rel=1e-12)
    assert bridge.std == pytest.approx(math.sqrt(sigma**2 - (alpha * path.sigma(0.0)) ** 2), rel=1e-12)


@every_path
@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_perturb_is_the_formula_at_every_rank(path: Path, shape: tuple[int, ...]) -> None:
    """One time a sample must reach that sample alone, whatever the rank (M1)."""
    x_0, noise = normal(4, *shape), normal(4, *shape, seed=1)
    times = torch.tensor([0.01, 0.3, 0.6, 1.0], dtype=torch.float64) * path.t_max
    x_t = path.perturb(x_0, times, noise)
    for k, t in enumerate(times.tolist()):
        wanted = path.alpha(t) * x_0[k] + path.sigma(t) * noise[k]
        assert torch.allclose(x_t[k], wanted, rtol=1e-13, atol=1e-15)
        assert torch.allclose(path.perturb(x_0, t, noise)[k], wanted, rtol=1e-13, atol=1e-15)


@every_path
def test_perturb_in_float32_is_as_good_as_float32(path: Path) -> None:
    """Coefficients computed in float32 would be wrong by thousands of its ε next to data (M1)."""
    x_0, noise = normal(6, 50), normal(6, 50, seed=1)
    times = torch.tensor([1e-6, 1e-4, 0.01, 0.5, 0.99, 1.0], dtype=torch.float64) * path.t_max
    exact = path.perturb(x_0, times, noise)
    single = path.perturb(x_0.float(), times, noise.float())
    assert single.dtype == torch.float32
    scale = path.alpha(times)[:, None] * x_0.abs() + path.sigma(times)[:, None] * noise.abs()
    assert bool(((single.double() - exact).abs() <= 4 * 2.0**-24 * scale + 1e-30).all())


@every_path
def test_perturbed_data_have_the_marginals_moments(path: Path) -> None:
    """200,000 draws of a mixture at two times: mean α m, covariance α² C + σ² I, within 4 standard errors (M1)."""
    world = mixture(path)
    mean, covariance = mixture_moments(world)
    x_0, noise = world.draw(200_000, seeded(1)), normal(200_000, 2, seed=2)
    for t in (0.05 * path.t_max, 0.6 * path.t_max):
        alpha, sigma = path.alpha(t), path.sigma(t)
        assert_moments(path.perturb(x_0, t, noise), alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2))


@every_path
def test_a_chain_of_bridges_has_the_marginals_moments(path: Path) -> None:
    """Twelve small forward steps must arrive at the law that one perturbation gives (M4)."""
    world = mixture(path)
    mean, covariance = mixture_moments(world)
    times = [path.t_max * 0.8 * k / 12 for k in range(1, 13)]
    x = path.perturb(world.draw(100_000, seeded(3)), times[0], normal(100_000, 2, seed=4))
    for k, (s, t) in enumerate(pairwise(times)):
        bridge = path.bridge(s, t)
        x = bridge.scale * x + bridge.std * normal(100_000, 2, seed=5 + k)
    alpha, sigma = path.alpha(times[-1]), path.sigma(times[-1])
    assert_moments(x, alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2))


@every_path
def test_posterior_draws_have_the_joint_moments(path: Path) -> None:
    """x₀, then x_t, then x_s by the posterior: (x_s, x_t) must have the law of (x_s, bridge of x_s) (M5)."""
    s, t = 0.3 * path.t_max, 0.7 * path.t_max
    x_0 = mixture(path).draw(200_000, seeded(6))[:, :1]
    x_t = path.perturb(x_0, t, normal(200_000, 1, seed=7))
    posterior, bridge = path.posterior(s, t), path.bridge(s, t)
    x_s = posterior.from_x_t * x_t + posterior.from_x_0 * x_0 + posterior.std * normal(200_000, 1, seed=8)
    variance = float(mixture_moments(mixture(path))[1][0, 0])
    spread_s = path.alpha(s) ** 2 * variance + path.sigma(s) ** 2
    spread_t = path.alpha(t) ** 2 * variance + path.sigma(t) ** 2
    covariance = torch.tensor(
        [[spread_s, bridge.scale * spread_s], [bridge.scale * spread_s, spread_t]], dtype=torch.float64
    )
    mean = mixture_moments(mixture(path))[0][0] * torch.tensor([path.alpha(s), path.alpha(t)], dtype=torch.float64)
    assert_moments(torch.cat([x_s, x_t], dim=1), mean, covariance)


# ── single paths ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [VP(), VPCosine(), Discrete(), Discrete(schedule="cosine")], ids=repr)
def test_variance_is_preserved(path: Path) -> None:
    """α² + σ² = 1 is what makes these paths what their name says (M1)."""
    for t in (0.0, *inner_times(path), 1.0):
        assert path.alpha(t) ** 2 + path.sigma(t) ** 2 == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("path", [VP(), VPCosine(), Discrete()], ids=repr)
def test_variance_preserving_sde_has_one_rate(path: Any) -> None:
    """f = −½ β and g = √β; two formulas of g that differ would give two processes (M3)."""
    for t in (0.1003, 0.5001, 0.9003):
        assert path.drift(t) == pytest.approx(-0.5 * path.rate(t), rel=1e-12)
        assert path.diffusion(t) == pytest.approx(math.sqrt(path.rate(t)), rel=1e-12)


def test_vp_has_the_papers_rate() -> None:
    """β(t) = 0.1 + 19.9 t by default (score SDE, eq. 32) (M3)."""
    assert VP().rate(0.25) == pytest.approx(0.1 + 19.9 * 0.25)
    assert VP(beta_min=0.3, beta_max=3.3).rate(0.5) == pytest.approx(1.8)


def test_sub_vp_has_less_noise_than_vp() -> None:
    """σ = 1 − α², so σ < √(1 − α²) everywhere between the ends (M1)."""
    for t in (0.05, 0.5, 0.95):
        assert SubVP().alpha(t) == VP().alpha(t)
        assert SubVP().sigma(t) == pytest.approx(VP().sigma(t) ** 2, rel=1e-12)


def test_ve_is_geometric_and_pure_starts_at_zero() -> None:
    """σ(½) is the geometric mean of the ends; pure VE subtracts σ_min², as the SDE does (M1)."""
    assert VE().sigma(0.5) == pytest.approx(math.sqrt(0.01 * 50.0))
    assert VE(pure=True).sigma(0.0) == 0.0
    assert VE(pure=True).sigma(0.5) ** 2 == pytest.approx(VE().sigma(0.5) ** 2 - 0.01**2)
    assert VE(pure=True).diffusion(0.5) == pytest.approx(VE().diffusion(0.5))


def test_names_of_the_parameters_are_what_they_do() -> None:
    """A default that hides an argument would ignore what a user chose."""
    assert EDM(sigma_min=0.01, sigma_max=20.0).t_min == 0.01
    assert EDM(sigma_min=0.01, sigma_max=20.0).t_max == EDM(sigma_max=20.0).prior_std == 20.0
    assert VE(sigma_max=9.0).prior_std == pytest.approx(VE(sigma_max=9.0).sigma(1.0))
    assert VPCosine(offset=0.02).alpha(0.5) == pytest.approx(
        math.cos(0.5 * math.pi * 0.52 / 1.02) / math.cos(0.5 * math.pi * 0.02 / 1.02)
    )


def test_cosine_ends_without_signal_and_with_a_finite_rate_of_it() -> None:
    """At t = 1 β is infinite, α is zero and dα/dt is neither: a product ∞ · 0 there would be NaN or noise (M3)."""
    path = VPCosine()
    wanted = -0.5 * math.pi / 1.008 / math.cos(0.5 * math.pi * 0.008 / 1.008)
    for rate in (path.alpha_rate(1.0), float(path.alpha_rate(torch.ones(1, dtype=torch.float64)))):
        assert rate == pytest.approx(wanted, rel=1e-9)


# ── the discrete chain ───────────────────────────────────────────────────────────────────────────────────────────────


def linear_betas() -> list[Any]:
    """β₁ … β₁₀₀₀ of DDPM at 50 digits."""
    return [mpf("0.0001") + (mpf("0.02") - mpf("0.0001")) * i / 999 for i in range(1000)]


def test_ddpm_table_is_the_papers() -> None:
    """β from 1e-4 to 0.02 in 1000 steps, ᾱ the product of 1 − β; a step off by one moves every ᾱ (M11)."""
    path, alpha_bar = Discrete(), mpf(1)
    for i, beta in enumerate(linear_betas(), start=1):
        alpha_bar *= 1 - beta
        assert relative_error(path.table[i - 1], beta) < 1e-14
        assert relative_error(path.alpha(i / 1000) ** 2, alpha_bar) < 1e-12
        assert relative_error(path.sigma(i / 1000) ** 2, 1 - alpha_bar) < 1e-12


def test_one_step_of_the_chain_is_ddpms() -> None:
    """q(x_t | x_{t−1}) = N(√(1−β_t) x_{t−1}, β_t I): the bridge of neighbours is the table (M11)."""
    path = Discrete()
    for i in (1, 2, 10, 500, 999, 1000):
        bridge, beta = path.bridge((i - 1) / 1000, i / 1000), path.table[i - 1]
        assert bridge.scale == pytest.approx(math.sqrt(1 - beta), rel=1e-12)
        assert bridge.std**2 == pytest.approx(beta, rel=1e-9)


def test_posterior_of_the_chain_is_ddpms() -> None:
    """μ̃_t and β̃_t from β and ᾱ as the paper writes them, ᾱ₀ = 1 (M12)."""
    path, alpha_bar = Discrete(), mpf(1)
    for i, beta in enumerate(linear_betas(), start=1):
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        posterior = path.posterior((i - 1) / 1000, i / 1000)
        assert relative_error(posterior.from_x_0, mp.sqrt(before) * beta / (1 - alpha_bar)) < 1e-9
        assert relative_error(posterior.from_x_t, mp.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar)) < 1e-9
        assert relative_error(posterior.std, mp.sqrt((1 - before) / (1 - alpha_bar) * beta)) < 1e-9


def test_ddpm_forgets_the_data() -> None:
    """L_T of one unit-variance coordinate, the KL of q(x_T | x₀) from N(0, 1), is about 1e-5 bits as the paper says (M11)."""
    path = Discrete()
    kl = 0.5 * (path.alpha(1.0) ** 2 + path.sigma(1.0) ** 2 - 1.0 - 2.0 * math.log(path.sigma(1.0)))
    assert kl / math.log(2.0) == pytest.approx(2.9e-5, rel=0.02)


def test_cosine_betas_are_clipped() -> None:
    """β_i = min(1 − ᾱ_i/ᾱ_{i−1}, 0.999): without the clip the last step would erase everything (iDDPM, eq. 17) (M11)."""
    table = Discrete(schedule="cosine").table
    cosine = [mp.cos((mpf(i) / 1000 + mpf("0.008")) / mpf("1.008") * mp.pi / 2) ** 2 for i in range(1001)]
    for i in range(1000):
        assert relative_error(table[i], min(1 - cosine[i + 1] / cosine[i], mpf("0.999"))) < 1e-9
    assert table[-1] == 0.999
    assert max(table[:-1]) < 0.999


@pytest.mark.parametrize("betas", [(0.1, 0.2, 0.05, 0.4), (0.5, 0.5)])
def test_any_table_of_betas(betas: tuple[float, ...]) -> None:
    """A user's table is taken as it is, at the nodes and, with log ᾱ linear, in between (M11)."""
    path, alpha_bar = Discrete.from_betas(betas), 1.0
    for i, beta in enumerate(betas, start=1):
        middle = path.alpha((i - 0.5) / len(betas)) ** 2
        assert middle == pytest.approx(alpha_bar * math.sqrt(1 - beta), rel=1e-12)
        alpha_bar *= 1 - beta
        assert path.alpha(i / len(betas)) ** 2 == pytest.approx(alpha_bar, rel=1e-12)
    assert (path.t_min, path.t_max, path.steps) == (1.0 / len(betas), 1.0, len(betas))


@given(step=st.integers(1, 1000))
def test_a_node_is_found_whatever_its_rounding(step: int) -> None:
    """i/T · T may fall short of i: a floor without tolerance would take the step before."""
    path = Discrete()
    for t in (step / 1000, math.nextafter(step / 1000, 0.0), step * 0.001):
        assert path.snap(t) == step / 1000
        assert path.alpha(t) == pytest.approx(path.alpha(step / 1000), rel=1e-12)
        assert float(path.time_of(path.log_snr(t))) == pytest.approx(step / 1000, rel=1e-12)


def test_only_chains_snap() -> None:
    """A continuous path was made for every time."""
    assert Discrete(steps=10).snap(0.34) == 0.3
    assert all(cls().snap(0.123456) == 0.123456 for cls in PATHS if cls is not Discrete)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


IMPOSSIBLE: list[tuple[Callable[[], Path], str]] = [
    (lambda: VP(beta_min=0.0), "beta_min=0"),
    (lambda: VP(beta_min=2.0, beta_max=1.0), "beta_max=1"),
    (lambda: VP(beta_max=math.inf), "inf"),
    (lambda: VP(beta_min=math.nan), "nan"),
    (lambda: SubVP(beta_min=-1.0), "beta_min=-1"),
    (lambda: VPCosine(offset=0.0), "positive offset"),
    (lambda: VPCosine(offset=math.inf), "inf"),
    (lambda: VE(sigma_min=0.0), "sigma_min=0"),
    (lambda: VE(sigma_min=2.0, sigma_max=2.0), "sigma_max=2"),
    (lambda: VE(sigma_max=math.inf), "inf"),
    (lambda: EDM(sigma_min=-1.0), "sigma_min=-1"),
    (lambda: EDM(sigma_min=90.0), "sigma_min=90"),
    (lambda: EDM(sigma_max=math.inf), "inf"),
    (lambda: Rectified(t_max=1.5), "1.5"),
    (lambda: Rectified(t_min=0.0), "t_min"),
    (lambda: Rectified(t_min=0.9, t_max=0.8), "0.9"),
    (lambda: Discrete(steps=1), "between 2 and 1,000,000 steps"),
    (lambda: Discrete(schedule="linaer"), "linear, cosine, table"),
    (lambda: Discrete(schedule="table"), "1000 betas"),
    (lambda: Discrete(beta_start=0.0), "strictly between 0 and 1"),
    (lambda: Discrete(beta_end=1.0), "strictly between 0 and 1"),
    (lambda: Discrete.from_betas((0.1, -0.1)), "strictly between 0 and 1"),
    (lambda: VP(t_min=1.0), "fall strictly"),
    (lambda: VPCosine(t_max=1.5), "fall strictly"),
]


@pytest.mark.parametrize(("build", "said"), IMPOSSIBLE, ids=[said for _, said in IMPOSSIBLE])
def test_impossible_parameters_are_refused(build: Callable[[], Path], said: str) -> None:
    """A path with a negative variance somewhere would only be noticed as NaN in a picture."""
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        build()


def test_possible_limits_are_not_refused() -> None:
    """A check that is too strict turns away a constant rate, or a straight line to its very end."""
    assert VP(beta_min=5.0, beta_max=5.0).alpha(1.0) == pytest.approx(math.exp(-2.5))
    assert Rectified(t_max=1.0).alpha(1.0) == 0.0
    assert Discrete(steps=2).t_min == 0.5
