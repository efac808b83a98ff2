"""Where a method's posterior is known in closed form: Gaussians, mixtures in the plane, and the papers' own formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Data, GaussianMixture, Guided, MixtureClassifier, NetworkDenoiser
from scorefield.editing.exact import conditioned
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import (
    DDRM,
    DPS,
    DiffPIR,
    MomentMatching,
    PiGDM,
    RePaint,
    Replacement,
    Resampled,
    TwistedSMC,
)
from scorefield.editing.methods.diffpir import Renoising
from scorefield.editing.methods.linearised import Linearised
from scorefield.editing.operators import Dense, Mask, Matrixless
from scorefield.editing.posterior import Method, Posterior
from scorefield.paths import EDM, VP, Discrete, Path, Rectified
from scorefield.samplers import DDIM, Ancestral, Linear, LogSNR
from scorefield.streams import SampleStreams
from tests.worlds import (
    EVERY_PATH,
    assert_moments,
    float64,
    inner_times,
    mixture,
    mixture_moments,
    normal,
    seeded,
    sliced_wasserstein,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)


def correlated(path: Path, dimension: int = 4) -> GaussianMixture:
    """One Gaussian with a full covariance."""
    root = 0.5 * normal(1, dimension, dimension, seed=3)
    return GaussianMixture(path, float64([1.0]), 0.3 * normal(1, dimension, seed=4), root @ root.mT)


def white(path: Path, std: float = 0.5) -> GaussianMixture:
    """One Gaussian of one deviation."""
    return GaussianMixture(path, float64([1.0]), 0.3 * normal(1, 4, seed=4), std**2 * torch.eye(4).double()[None])


def known(noise: float = 0.3) -> Measurement:
    """Two of four coordinates' mixtures."""
    return Measurement(Dense(normal(2, 4, seed=5)), normal(1, 2, seed=6), noise)


def of(world: GaussianMixture, measurement: Measurement, method: Method, x_t: Tensor, t: float) -> Tensor:
    """E[x₀ | x_t, y] as the method has it."""
    return Posterior(world, measurement, method)(x_t, t).x0


# ── the answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
def test_moment_matching_is_exact_for_a_gaussian(path: Path, noise: float) -> None:
    """E[x₀ | x_t, y] is the denoiser of the posterior's own Gaussian: V, the solver and the gain must all be right  (M42)."""
    world, measurement = correlated(path), known(noise)
    exact = conditioned(world, measurement)
    for wanted in inner_times(path):
        t = max(path.snap(wanted), path.t_min)
        x_t = path.alpha(t) * world.draw(3, seeded(1)) + path.sigma(t) * normal(3, 4)
        found = of(world, measurement, MomentMatching(iterations=2), x_t, t)
        is_sharp = (
            noise == 0.0 and path.log_snr(t) > 8.0
        )  # the closed form's own zero eigenvalues are then rounding over σ²
        in_sight = path.log_snr(t) > math.log(1e-3)
        assert torch.allclose(found, exact(x_t, t).x0, rtol=0.0, atol=1e-4 if is_sharp else 1e-8 if in_sight else 1e-2)
        assert noise > 0.0 or measurement.residual(found).abs().max() < 1e-10


@every_path
def test_pigdm_is_exact_for_white_data(path: Path) -> None:
    """With σ_d the data's own, r² I is V: any other scaling of the gradient is wrong  (M42; Song et al. 2023)."""
    world, measurement = white(path), known()
    exact = conditioned(world, measurement)
    for wanted in (0.03, 0.3, 0.8):
        t = path.snap(wanted * path.t_max)
        x_t = path.alpha(t) * world.draw(3, seeded(1)) + path.sigma(t) * normal(3, 4)
        assert torch.allclose(of(world, measurement, PiGDM(0.5), x_t, t), exact(x_t, t).x0, atol=1e-8)


def test_covariance_is_the_worlds() -> None:
    """V v against Cov[x₀ | x_t] v in closed form, for a mixture whose Jacobian is not constant."""
    world, x_t, v = mixture(VP()), normal(5, 2), normal(5, 2, seed=1)
    wanted = torch.einsum("bde,be->bd", world.covariance(x_t, 0.4), v)
    assert torch.allclose(Linearised.at(world, x_t, 0.4).covariance(v), wanted, atol=1e-10)


def test_one_iteration_solves_white_data_whatever_the_operator() -> None:
    """The preconditioner is the system then; unpreconditioned it would take as many as there are singular values."""
    world, measurement = white(VP()), known()
    x_t = normal(3, 4)
    exact = conditioned(world, measurement)(x_t, 0.5).x0
    assert torch.allclose(of(world, measurement, MomentMatching(iterations=1), x_t, 0.5), exact, atol=1e-8)


def test_two_measurements_one_around_the_other_are_both() -> None:
    """A `Posterior` is a denoiser: wrapped again it is differentiated through, products and all."""
    world, first, second = correlated(VP()), known(), Measurement(Mask(torch.tensor([True, *[False] * 3])), float64([[0.7, 0, 0, 0]]), 0.1)  # fmt: skip
    exact = conditioned(conditioned(world, first), second)
    x_t = normal(3, 4)
    inner = Posterior(world, first, MomentMatching(iterations=2))
    found = Posterior(inner, second, MomentMatching(iterations=1))(x_t, 0.4).x0
    assert torch.allclose(found, exact(x_t, 0.4).x0, atol=1e-8)


def test_dps_is_the_papers_update_on_its_chain() -> None:
    """x'_s − ζ' ∇‖y − A D‖ with ζ' = ζ (√m/s) (α_s/α_t) σ²_{t|s}, the gradient by autograd alone  (Chung et al. 2023, algorithm 1)."""
    path = Discrete()
    world, measurement, x_t, z = mixture(path), Measurement(Dense(normal(1, 2)), float64([[0.8]]), 0.1), normal(5, 2), normal(5, 2, seed=1)  # fmt: skip
    t, s = path.snap(0.5), path.snap(0.499)
    stepped = Ancestral().step(Posterior(world, measurement, DPS(zeta=0.7)), x_t, t, s, z).x
    point = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(measurement.residual(world(point, t).x0).flatten(1).norm(dim=1).sum(), point)
    alpha, variance = path.alpha(t), path.sigma(t) ** 2
    spread = variance * 0.25 / (alpha**2 * 0.25 + variance) + 0.01
    zeta = 0.7 / math.sqrt(spread) * path.alpha(s) / alpha * path.bridge(s, t).std ** 2
    assert torch.allclose(stepped, Ancestral().step(world, x_t, t, s, z).x - zeta * gradient, atol=1e-10)


def test_diffpir_minimises_what_it_says() -> None:
    """The gradient of ‖y − A x‖²/σ_y² + λ‖x − D‖²/σ̄² is zero at D'."""
    world, measurement, x_t, path = mixture(VP()), Measurement(Dense(normal(3, 2)), normal(1, 3), 0.2), normal(4, 2), VP()  # fmt: skip
    x = of(world, measurement, DiffPIR(weight=3.0), x_t, 0.3).requires_grad_()
    pull = 3.0 * (path.alpha(0.3) / path.sigma(0.3)) ** 2
    cost = (measurement.residual(x) ** 2).sum() / 0.04 + pull * ((x - world(x_t, 0.3).x0) ** 2).sum()
    assert torch.autograd.grad(cost, x)[0].abs().max() < 1e-9


@pytest.mark.parametrize("path", [VP(), EDM()], ids=repr)
def test_diffpir_keeps_the_share_of_the_noise_it_says(path: Path) -> None:
    """x_s = α_s x₀ + σ_s (√(1−ζ) ε + √ζ z) for a prediction that is right: one step, noise by noise."""
    x_0, noise, z = (normal(5, 3, seed=k) for k in (1, 2, 3))
    certain = NetworkDenoiser(lambda x, label: x_0, path, Data())
    s, *_, t = inner_times(path)
    found = Renoising(zeta=0.3).step(certain, path.perturb(x_0, t, noise), t, s, z).x
    wanted = path.perturb(x_0, s, math.sqrt(0.7) * noise + math.sqrt(0.3) * z)
    assert torch.allclose(found, wanted, atol=1e-9)


def test_ddrm_without_noise_is_replacement_where_it_is_measured() -> None:
    """Both end with the measurement itself, on measured coordinates, whatever η."""
    world, measurement = correlated(EDM()), known(0.0)
    x_T = 80.0 * normal(4, 4)
    for method in (DDRM(), DDRM(eta=1.0), Replacement(), RePaint(jump=4, repeats=2)):
        sampler = method.sampler(DDIM(steps=8, eta=1.0))
        found = sampler.sample(Posterior(world, measurement, method), x_T, generator=seeded())
        assert measurement.residual(found).abs().max() < 1e-9


@pytest.mark.parametrize("path", [VP(), EDM()], ids=repr)
def test_ddrm_keeps_the_marginals_of_the_path(path: Path) -> None:
    """For a prediction that is right, x_s ~ N(α_s x₀, σ_s²) in every coordinate at every time, however well it is measured  (theorem 3.2)."""
    x_0 = float64([[0.3, -0.2, 0.5]])
    certain = NetworkDenoiser(lambda x, label: x_0.expand_as(x), path, Data())
    operator = Dense(float64([[2.0, 0.0, 0.0], [0.0, 0.25, 0.0]]))
    y = operator(x_0) + 0.2 * normal(20_000, 2, seed=1)
    method = DDRM()
    states = method.sampler(Ancestral(steps=8, grid=LogSNR())).trajectory(
        Posterior(certain, Measurement(operator, y, 0.2), method),
        path.prior_std * normal(20_000, 3, seed=7),
        generator=seeded(9),
    )
    for state in list(states)[:-1]:
        wanted = path.sigma(state.t) ** 2 * torch.eye(3).double()
        assert_moments(state.x, path.alpha(state.t) * x_0[0], wanted, errors=4.5)


# ── the exact posterior ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_conditioned_is_bayes_rule(noise: float) -> None:
    """log p(x|y) − log p(x) − log p(y|x) is the same at every x; without noise the measurement holds  (M42)."""
    world = mixture(VP())
    measurement = Measurement(Dense(float64([[1.0, 0.5]])), float64([[0.4]]), noise)
    exact = conditioned(world, measurement)
    draws = exact.draw(50, seeded())
    if noise == 0.0:
        assert measurement.residual(draws).abs().max() < 1e-6
        return
    constant = exact.log_density(draws, 0.0) - world.log_density(draws, 0.0) - measurement.log_likelihood(draws)
    assert torch.allclose(constant, constant[:1].expand(50), atol=1e-8)


def test_conditioned_knows_no_unit() -> None:
    """A measurement in other units says the same: what counts as nothing is a share of the largest singular value."""
    world, matrix = mixture(VP()), float64([[1.0, 0.5], [2.0, 1.0]])
    one, other = (conditioned(world, Measurement(Dense(u * matrix), u * float64([[0.4, 0.8]]))) for u in (1.0, 1e-12))
    assert torch.allclose(one.means, other.means, atol=1e-9)
    assert torch.allclose(one.weights, other.weights, atol=1e-9)


# ── the draws ────────────────────────────────────────────────────────────────────────────────────────────────────────


def starts(path: Path, count: int, dimension: int) -> Tensor:
    """Noise to start from."""
    return path.prior_std * SampleStreams.numbered(3, 0, count).normal(torch.zeros(count, dimension).double(), 0)


def draws(world: GaussianMixture, measurement: Measurement, method: Method, count: int, steps: int) -> Tensor:
    """By the method's own sampler on a grid uniform in log-SNR."""
    sampler = method.sampler(Ancestral(steps=steps, grid=LogSNR()))
    x_T = starts(world.path, count, world.means.shape[1])
    with torch.no_grad():
        return sampler.sample(Posterior(world, measurement, method), x_T, generator=SampleStreams.numbered(3, 0, count))


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=repr)
def test_moment_matching_draws_from_a_gaussians_posterior(path: Path) -> None:
    """Mean and covariance within four standard errors, on 200 steps."""
    world, measurement = correlated(path, 3), Measurement(Dense(normal(2, 3, seed=5)), normal(1, 2, seed=6), 0.3)
    exact = conditioned(world, measurement)
    found = draws(world, measurement, MomentMatching(iterations=2), 2000, 200)
    assert_moments(found, *mixture_moments(exact))


def test_particles_approach_the_posterior_of_a_mixture() -> None:
    """The distance to exact draws falls with the particles to that of two exact sets; one particle's proposal stays away from it  (M42)."""
    world, measurement = mixture(VP()), Measurement(Dense(float64([[1.0, 0.6]])), float64([[0.1]]), 0.2)
    exact, count = conditioned(world, measurement), 400
    reference = exact.draw(count, seeded(1))
    floors = [sliced_wasserstein(exact.draw(count, seeded(2 + k)), exact.draw(count, seeded(50 + k))) for k in range(8)]
    found = {
        particles: sliced_wasserstein(
            draws(world, measurement, TwistedSMC(particles, data_std=1.0, at_once=1 << 20), count, 100), reference
        )
        for particles in (1, 64)
    }
    floor, deviation = float64(floors).mean(), float64(floors).std()
    assert found[64] < floor + 4.0 * deviation
    assert found[1] > floor + 8.0 * deviation
    assert found[64] < 0.5 * found[1]


def test_repeats_bring_replacement_nearer_to_the_posterior() -> None:
    """What RePaint is for: correlated data of which one half is seen."""
    world = GaussianMixture(VP(), float64([1.0]), float64([[0.0, 0.0]]), float64([[[1.0, 0.9], [0.9, 1.0]]]))
    measurement = Measurement(Mask(torch.tensor([True, False])), float64([[1.5, 0.0]]), 0.0)
    exact = conditioned(world, measurement).draw(1000, seeded(1))
    plain, repeated = (
        sliced_wasserstein(draws(world, measurement, RePaint(jump=5, repeats=repeats), 1000, 30), exact)
        for repeats in (1, 8)
    )
    assert repeated < 0.5 * plain


def test_resampled_with_one_repeat_is_its_inner_sampler() -> None:
    """Parts of a memoryless way are the way."""
    x_T = starts(VP(), 4, 2)
    inner = Ancestral(steps=12)
    one = Resampled(12, inner.grid, inner, jump=5, repeats=1).sample(mixture(VP()), x_T, generator=seeded())
    assert torch.equal(one, inner.sample(mixture(VP()), x_T, generator=seeded()))


def test_particles_start_apart_and_the_first_where_it_is_told() -> None:
    """From the prior's end each has noise of its own, or K of them are worth one; from the middle of a path all start at x."""
    world, measurement, method = mixture(VP()), Measurement(Dense(float64([[1.0, 0.6]])), normal(1, 1), 0.2), TwistedSMC(3)  # fmt: skip
    x = starts(VP(), 2, 2)
    for start, apart in ((None, True), (0.5, False)):
        states = method.sampler(Ancestral(steps=4)).trajectory(
            Posterior(world, measurement, method), x, generator=SampleStreams.numbered(3, 0, 2), start=start
        )
        info = next(iter(states)).info
        assert info is not None
        particles = info["particles"]
        assert particles.shape == (2, 3, 2)
        assert bool(((particles[:, 0] - particles[:, 1]).norm(dim=1) > 0.3).all()) == apart


def test_particles_are_the_same_however_many_are_asked_at_once() -> None:
    """Chunks bound memory and change nothing."""
    world, measurement = mixture(VP()), Measurement(Dense(float64([[1.0, 0.6]])), normal(4, 1), 0.2)
    one, other = (
        draws(world, measurement, TwistedSMC(8, data_std=1.0, at_once=at_once), 4, 10) for at_once in (7, 1000)
    )
    assert torch.allclose(one, other, atol=1e-10)


def test_matrixless_operators_are_solved_as_decomposed_ones() -> None:
    """Without a decomposition the preconditioner is solved by conjugate gradients."""
    world, dense, x_t = correlated(VP()), Dense(normal(2, 4, seed=5)), normal(3, 4)
    loose = Measurement(Matrixless(dense, dense.adjoint, (4,), (2,)), normal(1, 2, seed=6), 0.3)
    for method in (MomentMatching(iterations=2), PiGDM(), DPS(), DiffPIR()):
        assert torch.allclose(of(world, loose, method, x_t, 0.4), of(world, known(), method, x_t, 0.4), atol=1e-4)


def test_measurements_may_be_one_a_sample() -> None:
    """Each sample's own y moves it alone."""
    world, y = correlated(VP()), normal(3, 2)
    x_t = normal(3, 4)
    together = of(world, Measurement(Dense(normal(2, 4, seed=5)), y, 0.3), MomentMatching(), x_t, 0.4)
    for k in range(3):
        alone = of(world, Measurement(Dense(normal(2, 4, seed=5)), y[k : k + 1], 0.3), MomentMatching(), x_t[k : k + 1], 0.4)  # fmt: skip
        assert torch.allclose(together[k : k + 1], alone, atol=1e-10)


@pytest.mark.parametrize("method", [MomentMatching(1), MomentMatching(2), TwistedSMC(4)], ids=repr)
def test_a_guided_denoiser_does_not_throw_samples_away(method: Method) -> None:
    """Of D + w (…) no law is known, and its V is nothing or negative here and there: solved for all the same, samples went to 15,000."""
    eye = torch.eye(2).double()
    world = GaussianMixture(
        EDM(sigma_max=40.0),
        float64([0.5, 0.5]),
        float64([[-0.9, -0.9], [0.9, 0.9]]),
        torch.stack([0.15 * eye, 0.15 * eye]),
    )
    guided = Guided(world, MixtureClassifier(world, torch.tensor([0, 1])), 2.0)
    known = Measurement(Mask(torch.tensor([True, False])), float64([[-0.5, 0.0]]))
    streams, labels = SampleStreams.numbered(0, 0, 400), torch.ones(400, dtype=torch.long)
    x_T = 40.0 * streams.normal(torch.zeros(400, 2).double(), 0)
    sampler = method.sampler(DDIM(steps=50, eta=1.0, grid=LogSNR()))
    with torch.no_grad():
        x = sampler.sample(Posterior(guided, known, method), x_T, generator=streams, condition=labels)
    assert float(x[:, 1].abs().max()) < 5.0


@pytest.mark.parametrize("steps", [20, 100])
def test_particles_outlive_a_leap_to_the_end(steps: int) -> None:
    """A grid uniform in time leaps to t_min in its last step: the proposal's mean is then many of the step's deviations off, and one particle's luck outweighed all others (a deviation of 0.2 for 0.54)."""
    path = VP()
    world = GaussianMixture(
        path,
        float64([0.5, 0.5]),
        float64([[-1.0, -0.6], [1.0, 0.6]]),
        torch.stack([0.05 * torch.eye(2).double()] * 2),
    )
    known = Measurement(Dense(float64([[0.0, 1.0]])), float64([[0.05]]), 0.5)
    exact, streams = conditioned(world, known), SampleStreams.numbered(0, 0, 600)
    method = TwistedSMC(16, at_once=1 << 15)
    with torch.no_grad():
        x = method.sampler(Ancestral(steps=steps, grid=Linear())).sample(
            Posterior(world, known, method), streams.normal(torch.zeros(600, 2).double(), 0), generator=streams
        )
    wanted = exact.draw(600, seeded(1))
    assert float((x[:, 0] > 0.0).double().mean()) == pytest.approx(
        float((wanted[:, 0] > 0.0).double().mean()), abs=0.08
    )
    assert torch.allclose(x.std(0), wanted.std(0), rtol=0.12)
