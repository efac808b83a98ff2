"""The bound: DDPM's terms against an independent implementation, continuous time against integrals, and the order of all bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from scorefield.denoisers import GaussianMixture, NetworkDenoiser, Noise
from scorefield.errors import UsageError
from scorefield.likelihood import Reference, Subject, VariationalBound, measure
from scorefield.likelihood.bound import (
    Control,
    Ladder,
    LastStep,
    Variance,
    bound,
    chain,
    integral,
    ladder,
    prior_divergence,
)
from scorefield.likelihood.decoders import Density
from scorefield.likelihood.strata import Cells, strata
from scorefield.likelihood.subject import last_time, squared_error
from scorefield.paths import EDM, VP, Discrete, Path, Rectified
from tests.likelihood.worlds import BITS, Discretised, batch_of, frame_of
from tests.worlds import dummy_network, float64, gaussian, mixture, normal, seeded

LEVELS, STEPS = 256, 30


def doubled(x: Tensor, label: Tensor) -> Tensor:
    """The dummy network with an answer for the variance."""
    answer = dummy_network(x, label)
    return torch.cat([answer, torch.cos(2.0 * answer)], 1)


def chain_denoiser(variance: Variance) -> NetworkDenoiser:
    learned = variance == "learned"
    network = doubled if learned else dummy_network
    return NetworkDenoiser(network, Discrete(steps=STEPS), Noise(label="time", learned_variance=learned))


def reference_terms(
    variance: Variance, x_0: np.ndarray, noises: np.ndarray, last: np.ndarray
) -> tuple[float, list[float], float]:
    """(L_T, L_1 … L_{T−1}, L_0) in nats of one sample as DDPM's and iDDPM's papers write them, in NumPy."""
    beta = np.linspace(1e-4, 0.02, STEPS)
    alpha_bar = np.cumprod(1.0 - beta)
    before = np.append(1.0, alpha_bar[:-1])
    small = beta * (1.0 - before) / (1.0 - alpha_bar)

    def step(t: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x_t = np.sqrt(alpha_bar[t - 1]) * x_0 + np.sqrt(1.0 - alpha_bar[t - 1]) * noise
        label = torch.tensor([t - 1.0]).double()
        network = doubled if variance == "learned" else dummy_network
        answer = network(torch.from_numpy(x_t)[None], label)[0].numpy()
        predicted = answer[: len(x_0)]
        mean = (x_t - beta[t - 1] / np.sqrt(1.0 - alpha_bar[t - 1]) * predicted) / np.sqrt(1.0 - beta[t - 1])
        low = np.log(small[max(t, 2) - 1])
        log_variance = {"small": low, "large": np.log(beta[t - 1])}.get(variance)
        if log_variance is None:
            v = 0.5 * (answer[len(x_0) :] + 1.0)
            log_variance = v * np.log(beta[t - 1]) + (1.0 - v) * low
        return x_t, mean, np.broadcast_to(log_variance, x_0.shape)

    divergences = []
    for t in range(2, STEPS + 1):
        x_t, mean, log_variance = step(t, noises[t - 2])
        true = np.sqrt(before[t - 1]) * beta[t - 1] / (1.0 - alpha_bar[t - 1]) * x_0
        true = true + np.sqrt(1.0 - beta[t - 1]) * (1.0 - before[t - 1]) / (1.0 - alpha_bar[t - 1]) * x_t
        ratio = small[t - 1] / np.exp(log_variance)
        divergences.append(
            float(np.sum(0.5 * (ratio - 1.0 - np.log(ratio) + (true - mean) ** 2 / np.exp(log_variance))))
        )
    _, mean, log_variance = step(1, last)
    std = np.exp(0.5 * log_variance)
    upper = np.where(x_0 > 0.999, 1.0, norm.cdf((x_0 + 1.0 / 255.0 - mean) / std))
    lower = np.where(x_0 < -0.999, 0.0, norm.cdf((x_0 - 1.0 / 255.0 - mean) / std))
    prior = 0.5 * np.sum(alpha_bar[-1] * x_0**2 + (1.0 - alpha_bar[-1]) - 1.0 - np.log(1.0 - alpha_bar[-1]))
    return float(prior), divergences, float(-np.sum(np.log(upper - lower)))


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ddpms_and_iddpms_terms_one_by_one(variance: Variance) -> None:
    """L_T, every L_{t−1} and L₀ of one sample, by the same noise (M15, M16, M17, M18, M19)."""
    x_0 = float64([[-1.0, 0.2 + 1.0 / 255.0, 1.0]]).mul(127.5).add(127.5).round().sub(127.5).div(127.5)
    batch = batch_of(x_0)
    path = Discrete(steps=STEPS)
    walk, decoder = chain(path, variance), LastStep(LEVELS, variance)
    found = bound(Subject(chain_denoiser(variance), LEVELS), walk, decoder, batch)
    noises = np.stack([batch.normal(0, row + 1)[0].numpy() for row in range(STEPS - 1)])
    lasts = [batch.normal(0, (1 << 22) + number)[0].numpy() for number in range(walk.decodings)]
    terms = [reference_terms(variance, x_0[0].numpy(), noises, last) for last in lasts]
    assert float(found.prior) == pytest.approx(terms[0][0], rel=1e-9)
    assert found.profile.nats[1:].tolist() == pytest.approx(terms[0][1], rel=1e-7)
    assert float(found.decoder) == pytest.approx(np.mean([term[2] for term in terms]), rel=1e-6)
    assert float(found.steps) == pytest.approx(sum(terms[0][1]), rel=1e-9)
    assert found.evaluations == STEPS - 1 + walk.decodings


def test_prior_term_of_the_linear_schedule() -> None:
    """ᾱ_T = 4.036e-5 of DDPM's chain: L_T of data at ±1 is 2.911e-5 bits/dim, to four digits (M15)."""
    x = torch.ones(1, 5, dtype=torch.float64)
    got = float(prior_divergence(Discrete(), x, 1.0)) / 5.0 * BITS
    log_alpha_bar = math.fsum(math.log1p(-(1e-4 + (0.02 - 1e-4) * i / 999)) for i in range(1000))
    assert math.exp(log_alpha_bar) == pytest.approx(4.036e-5, rel=1e-4)
    assert got == pytest.approx(0.5 * math.exp(log_alpha_bar) * BITS, rel=1e-4)
    assert got == pytest.approx(2.911e-5, rel=1e-3)


@pytest.mark.parametrize("path", [EDM(), VP(), Rectified()], ids=["EDM", "VP", "Rectified"])
def test_a_step_is_half_the_gain_in_snr_times_the_error(path: Path) -> None:
    """KL = ½ (SNR_s − SNR_t)‖x₀ − D‖² with Σ_θ = β̃: what makes the bound in continuous time an integral (M17, M21)."""
    world = mixture(path)
    batch = batch_of(world.draw(3, seeded()))
    times = path.time_of(float64([2.0, 1.2, -0.5]))
    total, profile, asked = Ladder(times).measured(Subject(world), batch, 0)
    wanted = torch.zeros(3).double()
    for k in (1, 2):
        t = float(times[k])
        prediction = batch.prediction(world, t, k, 0)
        gain = math.exp(2.0 * path.log_snr(float(times[k - 1]))) - math.exp(2.0 * path.log_snr(t))
        wanted += 0.5 * gain * squared_error(prediction, batch.precise)
    assert torch.allclose(total, wanted) and asked == 2
    assert float(profile.nats.sum()) == pytest.approx(float(wanted.sum()))


def test_the_continuous_bound_of_a_gaussian_is_its_negative_log_density_on_average() -> None:
    """With the exact denoiser nothing is lost but what the noise at the end point hides: E[L] = E[−log p] (M21)."""
    world = gaussian(EDM())
    subject, x = Subject(world, None, frame_of(world)), world.draw(400, seeded())
    walk, decoder = integral(world.path, 0.01, 32, frame_of(world)), Density()
    found = bound(subject, walk, decoder, batch_of(x))
    off = found.nats + world.log_density(x, 0.0)
    assert abs(float(off.mean())) < 4.0 * float(off.std()) / 20.0 and float(off.std()) < 2.0


def test_the_control_takes_noise_and_leaves_the_mean() -> None:
    """‖ε‖² − D has mean zero: half the variance may go, the estimate may not (M21)."""
    world = Discretised.of(VP(), 256).world
    frame, x = frame_of(world), world.draw(300, seeded())
    subject, start = Subject(world, None, frame), world.path.time_of(4.0)
    plain = integral(world.path, start, 16, frame)
    parts = [torch.cat(rows) for rows in zip(*plain.parts(subject, batch_of(x), 7), strict=True)]
    control = Control.learned(parts[0], (2.0 * parts[0]).exp() * parts[2], 4)
    walks = [integral(world.path, start, 16, frame, chosen) for chosen in (None, control)]
    without, held = (torch.stack([walk.measured(subject, batch_of(x), r)[0] for r in range(8)]) for walk in walks)
    assert float(held.var(0).mean()) < 0.75 * float(without.var(0).mean())
    off = (held.mean(0) - without.mean(0)).mean()
    assert abs(float(off)) < 4.0 * float((without.var(0).mean() / 8 / 300).sqrt())


def test_some_terms_estimate_all_of_them() -> None:
    """Strata weighted by 1/(K p): the mean over seeds is the whole sum, of a chain and of a profile (M15)."""
    path = Discrete(steps=40)
    world = mixture(path)
    subject, batch = Subject(world, None, frame_of(world)), batch_of(world.draw(200, seeded()))
    whole = torch.stack([chain(path).measured(subject, batch, r)[0] for r in range(4)]).mean()
    found = [chain(path, "small", 6).measured(subject, batch, r) for r in range(12)]
    some = torch.stack([nats for nats, _, _ in found])
    assert abs(float(some.mean() - whole)) < 5.0 * float(some.std()) / (12 * 200) ** 0.5
    assert found[0][2] == 6


def test_cells_turn_uniform_numbers_into_their_density() -> None:
    """E[1/density] is the range: the weights would otherwise bias every bound."""
    cells = Cells.even(-5.0, 4.0, 64, Reference.isotropic(3))
    u = strata(torch.rand(2000, generator=seeded(), dtype=torch.float64), 4)
    log_snr, weights = cells.log_snrs(u)
    assert float(weights.mean()) == pytest.approx(9.0, rel=0.05)
    assert float((weights * log_snr).mean()) == pytest.approx(0.5 * (4.0**2 - 5.0**2), rel=0.15)
    assert float(log_snr.min()) >= -5.0 and float(log_snr.max()) <= 4.0
    assert bool((u.sort(0).values == u).all()) and bool((u < 1.0).all())


@pytest.mark.parametrize("levels", [17, 256])
def test_bounds_stand_in_their_order_and_come_within_three_hundredths(levels: int) -> None:
    """exact ≤ continuous ≤ T steps, fewer steps above more, and continuous − exact < 0.03 bits/dim (M15, M21)."""
    world = Discretised.of(EDM(), levels)
    x = world.draw(300)
    exact = world.bits(x)
    tight = measure(VariationalBound(terms=64), world.subject, x, repeats=4)
    noise = tight.noise_error or math.inf
    assert -4.0 * noise < tight.value - exact < 0.03 and noise < 0.01
    end = tight.settings["end"]
    chains = [measure(VariationalBound(steps=T, end=end), world.subject, x, repeats=1) for T in (8, 16, 32, 64)]
    values = [found.value for found in chains]
    assert all(more < fewer for fewer, more in zip(values, values[1:], strict=False))
    assert tight.value < values[-1] + 2.0 * noise
    assert chains[0].profile is not None and len(chains[0].profile.nats) == 9


def test_finer_ladders_contain_coarser_ones() -> None:
    """Which is why their bounds fall."""
    frame = Reference.isotropic(2)
    coarse, fine = (ladder(VP(), 0.01, steps, frame).times for steps in (8, 16))
    assert torch.allclose(coarse, fine[::2], rtol=1e-9)
    assert float(coarse[0]) == 0.01 and float(coarse[-1]) == last_time(VP())


def test_rectified_ends_where_nothing_is_left() -> None:
    """α(1) = 0 has no log-SNR: the prior is met at λ = −10, where it is as good as exact."""
    path = Rectified()
    assert path.log_snr(last_time(path)) == pytest.approx(-10.0)
    assert float(prior_divergence(path, normal(1, 2), last_time(path))) < 1e-7


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        (VariationalBound(steps=5), Discrete(steps=10), "whose bound has no other steps"),
        (VariationalBound(end=3.0), Discrete(steps=10), "no end point"),
        (VariationalBound(variance="learned"), Discrete(steps=10), "no learned variance"),
        (VariationalBound(variance="large"), EDM(), "every variance is the same"),
        (VariationalBound(end=30.0), EDM(), "between"),
    ],
)
def test_what_does_not_fit_the_path_is_refused(method: VariationalBound, path: Path, said: str) -> None:
    """An option that is ignored would be believed."""
    world = mixture(path)
    with pytest.raises(UsageError, match=said):
        measure(method, Subject(world), world.draw(3, seeded()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"terms": 0}, "terms"),
        ({"steps": 0}, "steps"),
        ({"terms": 2, "steps": 2}, "found whole"),
    ],
)
def test_impossible_options_are_refused(options: dict, said: str) -> None:
    """Before anything is asked."""
    with pytest.raises(UsageError, match=said):
        VariationalBound(**options)


def test_a_mixture_measured_as_a_chain_of_any_rank() -> None:
    """Pictures are flattened nowhere but in the sums."""
    world = GaussianMixture(Discrete(steps=10), float64([1.0]), float64([[0.0] * 4]), torch.eye(4).double()[None])
    x = world.draw(5, seeded())
    flat = measure(VariationalBound(), Subject(world), x)
    shaped = measure(VariationalBound(), Subject(world), x.view(5, 1, 2, 2))
    assert torch.allclose(flat.nats, shaped.nats)
