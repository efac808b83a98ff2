"""The reverse step's law: its variances lie between the papers', its divergence and its bins are exact at 50 digits."""

from __future__ import annotations

import math

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from scorefield.denoisers import NetworkDenoiser, Noise, Parameterisation, Prediction
from scorefield.denoisers.reverse import (
    Normal,
    kl_divergence,
    learned_log_variance,
    log_density,
    log_probability,
    log_variances,
    model_posterior,
    true_posterior,
)
from scorefield.networks import MLPSpec
from scorefield.paths import EDM, VP, Discrete, Path
from tests.worlds import EVERY_PATH, RANKS, float64, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
PAIRS = [(0.0, 0.01), (0.0, 0.37), (0.02, 0.03), (0.1, 0.6), (0.9, 1.0), (0.0, 1.0)]

# ── variances ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_variances_of_ddpms_chain() -> None:
    """β_t is the table's, β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t, and β̃₁ is β̃₂, on the whole chain (M12, M13)."""
    path = Discrete(steps=40)
    alpha_bar = [math.prod(1.0 - beta for beta in path.table[:i]) for i in range(41)]
    small = [(1.0 - alpha_bar[i - 1]) / (1.0 - alpha_bar[i]) * path.table[i - 1] for i in range(1, 41)]
    small[0] = small[1]
    for i in range(1, 41):
        got = log_variances(path, (i - 1) / 40, i / 40)
        assert got == pytest.approx((math.log(path.table[i - 1]), math.log(small[i - 1])), rel=1e-9)


@every_path
def test_floats_and_tensors_agree(path: Path) -> None:
    """A sampler asks with floats and the bound with a tensor of pairs (M13)."""
    pairs = [(s * path.t_max, t * path.t_max) for s, t in PAIRS]
    s, t = float64(pairs).T
    for together, wanted in zip(
        log_variances(path, s, t), zip(*[log_variances(path, *pair) for pair in pairs], strict=True), strict=True
    ):
        assert torch.allclose(together, float64(wanted), rtol=1e-10)
        assert bool(together.isfinite().all())


@every_path
def test_mix_of_one_is_large_and_of_zero_small(path: Path) -> None:
    """v = 1 is β = σ²_{t|s}, v = 0 is β̃ = σ²_{t|s} σ_s²/σ_t², v = ½ their geometric mean, for any pair of times (M14)."""
    s, t = 0.2 * path.t_max, 0.5 * path.t_max
    x = normal(3, 2)
    large, small = path.bridge(s, t).std ** 2, path.posterior(s, t).std ** 2
    for mix, wanted in ((1.0, large), (0.0, small), (0.5, math.sqrt(large * small))):
        got = learned_log_variance(path, s, t, torch.full_like(x, mix)).exp()
        assert torch.allclose(got, torch.full_like(x, wanted), rtol=1e-9)


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_network_gives_the_mix_beside_the_mean(shape: tuple[int, ...]) -> None:
    """The second half of the channels is 2v − 1, the first is read as without it: swapped, ε would be a variance (M14)."""

    def network(x: Tensor, label: Tensor) -> Tensor:
        return torch.cat([torch.sin(x), torch.cos(x)], dim=1)

    x_t = normal(2, *shape)
    prediction = NetworkDenoiser(network, VP(), Noise(learned_variance=True))(x_t, 0.3)
    assert prediction.variance_mix is not None
    assert torch.allclose(prediction.noise, torch.sin(x_t), rtol=1e-9, atol=1e-9)
    assert torch.allclose(prediction.variance_mix, 0.5 * (torch.cos(x_t) + 1.0), rtol=1e-12)


def test_parameterisation_says_how_many_channels_there_are() -> None:
    """A network with as many channels as the data has none for the variance (M14)."""
    plain, learned = Noise(), Noise(learned_variance=True)
    assert (plain.out_channels(3), learned.out_channels(3)) == (None, 6)
    network = MLPSpec(width=16, depth=1, embedding=16).build((3,), learned.out_channels(3))
    assert network(torch.zeros(2, 3), torch.zeros(2)).shape == (2, 6)


# ── the two laws ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_posterior_is_ddpms() -> None:
    """μ̃ = √ᾱ_{t−1}β_t/(1−ᾱ_t) x₀ + √α_t(1−ᾱ_{t−1})/(1−ᾱ_t) x_t, with one pair of times a sample (M12)."""
    path, x_0, x_t = Discrete(steps=40), normal(2, 3), normal(2, 3, seed=1)
    law = true_posterior(path, x_0, x_t, float64([4.0, 19.0]) / 40, float64([5.0, 20.0]) / 40)
    for k, i in enumerate((5, 20)):
        before, now = (math.prod(1.0 - beta for beta in path.table[:j]) for j in (i - 1, i))
        beta = path.table[i - 1]
        mean = math.sqrt(before) * beta * x_0[k] + math.sqrt(1.0 - beta) * (1.0 - before) * x_t[k]
        assert torch.allclose(law.mean[k], mean / (1.0 - now), rtol=1e-9)
        assert law.log_variance[k].exp().item() == pytest.approx((1.0 - before) / (1.0 - now) * beta, rel=1e-9)


@pytest.mark.parametrize("parameterisation", [Noise(), Noise(learned_variance=True)], ids=["fixed", "learned"])
def test_models_law_is_the_posterior_at_its_answer(parameterisation: Parameterisation) -> None:
    """μ_θ = (x_t − β ε̂/√(1−ᾱ))/√α_t, DDPM's other form of it; the variance is that of v, or β̃ (M13, M14)."""
    path, x_t, t = Discrete(steps=40), normal(2, 3), float64([0.5, 0.25])
    mix = 0.3 * torch.ones_like(x_t) if parameterisation.learned_variance else None
    noise = normal(2, 3, seed=1)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    law = model_posterior(Prediction((x_t - sigma * noise) / alpha, x_t, t, path, mix), t - 1 / 40)
    beta = float64([path.table[19], path.table[9]])[:, None]
    assert torch.allclose(law.mean, (x_t - beta / sigma * noise) / (1.0 - beta).sqrt(), rtol=1e-9)
    wanted = path.posterior(t - 1 / 40, t).std[:, None] ** 2
    wanted = wanted if mix is None else (0.3 * beta.log() + 0.7 * wanted.log()).exp()
    assert torch.allclose(law.log_variance.exp(), wanted.expand_as(law.log_variance), rtol=1e-9)


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_divergence_is_torchs_and_not_symmetric() -> None:
    """Against torch's own, both ways round, one variance a coordinate (M16)."""
    one, other = (Normal(normal(4, 5, seed=k), 0.7 * normal(4, 5, seed=k + 2)) for k in (0, 1))
    for p, q in ((one, other), (other, one)):
        laws = [torch.distributions.Normal(law.mean, (0.5 * law.log_variance).exp()) for law in (p, q)]
        wanted = torch.distributions.kl_divergence(*laws).sum(1)
        assert torch.allclose(kl_divergence(p, q), wanted, rtol=1e-10)
    assert torch.equal(kl_divergence(one, one), torch.zeros(4, dtype=torch.float64))


def test_density_is_torchs() -> None:
    """Against torch's own (M15)."""
    x, law = normal(4, 5), Normal(normal(4, 5, seed=1), 0.7 * normal(4, 5, seed=2))
    wanted = torch.distributions.Normal(law.mean, (0.5 * law.log_variance).exp()).log_prob(x).sum(1)
    assert torch.allclose(log_density(x, law), wanted, rtol=1e-12)


@pytest.mark.parametrize("std", [1e-4, 3e-3, 0.1, 3.0, 1e3])
@pytest.mark.parametrize("value", [-1.0, -253 / 255, 1 / 255, 1.0])
@pytest.mark.parametrize("mean", [-1.0, 0.004, 0.9, 40.0])
def test_bins_are_those_of_fifty_digits(std: float, value: float, mean: float) -> None:
    """log ∫ of the bin within 1e-7 of that at 50 digits, also 10⁵ deviations away, where a difference of Φ is log 0 (M18)."""
    law = Normal(float64([[mean]]), float64([[2.0 * math.log(std)]]))
    got = float(log_probability(float64([[value]]), law, 256))
    below = -mp.inf if value == -1.0 else (mpf(value) - mpf(1) / 255 - mpf(mean)) / mpf(std)
    above = mp.inf if value == 1.0 else (mpf(value) + mpf(1) / 255 - mpf(mean)) / mpf(std)
    low, high = (-above, -below) if above < 0 else (below, above)
    wanted = mp.log((mp.erfc(low / mp.sqrt(2)) - mp.erfc(high / mp.sqrt(2))) / 2)
    assert abs(got - wanted) <= 1e-7 * abs(wanted) + 1e-14


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_bins_are_all_there_is(levels: int) -> None:
    """The bins of all values together have the whole mass, for any law: no gap, no overlap (M18)."""
    values = torch.linspace(-1.0, 1.0, levels, dtype=torch.float64)[:, None]
    for mean, log_variance in ((0.3, -1.0), (0.0, -9.0), (-1.4, 2.0)):
        law = Normal(torch.full_like(values, mean), torch.full_like(values, log_variance))
        assert float(log_probability(values, law, levels).exp().sum()) == pytest.approx(1.0, rel=1e-9)


def test_gradient_of_the_bins_is_finite_in_the_tails() -> None:
    """A bin without end and a law far away may give no NaN to the weights (M18)."""
    x = float64([[-1.0, 1.0, 1.0, 1 / 255, 1 / 255]])
    mean = float64([[50.0, -50.0, 1.0, 60.0, 1 / 255]]).requires_grad_()
    log_variance = torch.full_like(x, -8.0).requires_grad_()
    log_probability(x, Normal(mean, log_variance), 256).sum().backward()
    for slope in (mean.grad, log_variance.grad):
        assert slope is not None
        assert bool(slope.isfinite().all())
    assert mean.grad is not None
    assert mean.grad.sign().tolist() == [[-1.0, 1.0, 1.0, -1.0, 0.0]]


def test_variance_of_a_path_that_ends_at_once() -> None:
    """One step over a whole path has no second step to borrow β̃ from: finite all the same (M14)."""
    for path in (EDM(), VP(), Discrete(steps=2)):
        large, small = log_variances(path, 0.0, path.t_max)
        assert small == large
        assert math.isfinite(small)
