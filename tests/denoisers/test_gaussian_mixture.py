"""The exact mixture against autograd, quadrature on the line, Monte Carlo, and linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path, Rectified
from tests.worlds import (
    EVERY_PATH,
    assert_mean,
    assert_moments,
    float64,
    gaussian,
    line_mixture,
    mixture,
    mixture_moments,
    normal,
    seeded,
)

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
LEVELS = (0.5, 1e-3, -2.0)


def questions(path: Path, count: int = 20) -> tuple[Tensor, Tensor]:
    """Points where the density is, at times from almost data to almost noise."""
    world = mixture(path)
    times = torch.linspace(0.05, 0.95, count, dtype=torch.float64) * path.t_max
    return path.perturb(world.draw(count, seeded(1)), times, normal(count, 2, seed=2)), times


@every_path
def test_score_is_the_gradient_of_the_log_density(path: Path) -> None:
    """Tweedie's formula with a sign, an α or a σ wrong is not the gradient of log p_t (M6)."""
    world = mixture(path)
    x, t = questions(path)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(world.log_density(x, t).sum(), x)
    assert torch.allclose(world(x, t).score, gradient, rtol=1e-9, atol=1e-10)


@every_path
def test_covariance_is_the_derivative_of_the_denoiser(path: Path) -> None:
    """Cov[x₀ | x_t] = σ²/α · ∂D/∂x_t for every law of data: the law of total covariance must come to the same (M6)."""
    world = mixture(path)
    x, t = questions(path, 8)
    for k in range(8):
        jacobian = torch.autograd.functional.jacobian(
            lambda point, k=k: world(point, t[k : k + 1]).x0[0], x[k : k + 1]
        )[:, 0]
        ratio = float(path.sigma(t[k]) ** 2 / path.alpha(t[k]))
        assert torch.allclose(world.covariance(x[k : k + 1], t[k : k + 1])[0], ratio * jacobian, rtol=1e-9, atol=1e-11)


@every_path
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_on_the_line_everything_is_an_integral(path: Path, part: float) -> None:
    """Posterior mean, variance and density by sums over x₀ of prior · kernel, which know nothing of the closed form (M1)."""
    world, t = line_mixture(path), part * path.t_max
    grid = torch.linspace(-5.0, 5.0, 200_001, dtype=torch.float64)
    x_t = path.alpha(t) * float64([[-1.3], [0.1], [0.9]]) + 0.4 * path.sigma(t)
    log_kernel = -0.5 * ((x_t - path.alpha(t) * grid) / path.sigma(t)) ** 2 - math.log(
        path.sigma(t) * math.sqrt(2 * math.pi)
    )
    joint = (
        (world.log_density(grid[:, None], 0.0) + log_kernel).exp()
        if path.sigma(0.0) == 0.0
        else (_line_log_density(grid) + log_kernel).exp()
    )
    width = float(grid[1] - grid[0])
    weights = joint / joint.sum(1, keepdim=True)
    mean = weights @ grid
    assert torch.allclose(world.log_density(x_t, t), (joint.sum(1) * width).log(), rtol=1e-6, atol=1e-6)
    assert torch.allclose(world(x_t, t).x0[:, 0], mean, rtol=1e-5, atol=1e-6)
    assert torch.allclose(world.covariance(x_t, t)[:, 0, 0], weights @ grid**2 - mean**2, rtol=1e-4, atol=1e-6)


def _line_log_density(x: Tensor) -> Tensor:
    """log density of the data of `line_mixture`, written out."""
    parts = [(0.3, -1.0, 0.2), (0.7, 0.8, 0.4)]
    return torch.stack(
        [math.log(w / math.sqrt(2 * math.pi * v)) - (x - m) ** 2 / (2 * v) for w, m, v in parts]
    ).logsumexp(0)


@every_path
@pytest.mark.parametrize("part", [0.05, 0.5, 1.0])
def test_density_integrates_to_one(path: Path, part: float) -> None:
    """A missing normaliser of a component would pass every test of the score (M1)."""
    world, t = line_mixture(path), part * path.t_max
    reach = 8.0 * (1.0 + path.sigma(t))
    grid = torch.linspace(-reach, reach, 100_001, dtype=torch.float64)
    assert float(torch.trapezoid(world.log_density(grid[:, None], t).exp(), grid)) == pytest.approx(1.0, abs=1e-9)


def test_posterior_moments_by_drawing() -> None:
    """A million draws weighed by the kernel, in the plane: mean and covariance of x₀ given x_t within 4 standard errors (M1)."""
    world, t = mixture(VP()), 0.35
    x_t = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    x_0 = world.draw(1_000_000, seeded(5))
    distance = (x_t - world.path.alpha(t) * x_0).square().sum(1)
    weights = (-0.5 * distance / world.path.sigma(t) ** 2).exp()
    weights = weights / weights.mean()
    mean = world(x_t, t).x0[0]
    assert_mean(weights[:, None] * (x_0 - mean), 0.0)
    centred = x_0 - mean
    products = centred[:, :, None] * centred[:, None, :] - world.covariance(x_t, t)[0]
    assert_mean(weights[:, None, None] * products, 0.0)


@every_path
def test_draws_have_the_data_moments(path: Path) -> None:
    """Eigenvectors applied transposed, or variances for deviations, change the covariance; π the mean."""
    world = mixture(path)
    mean, covariance = mixture_moments(world)
    draws = world.draw(200_000, seeded(4))
    assert draws.dtype == torch.float64
    assert_moments(draws, mean, covariance)
    chosen = world.draw_components(200_000, seeded(4))
    assert_mean(torch.nn.functional.one_hot(chosen, 3).double(), world.weights)


def test_draws_are_of_the_density() -> None:
    """The probability of being left of a point, by counting and by integrating, agrees at many points."""
    world = line_mixture(EDM())
    draws = world.draw(100_000, seeded(7))[:, 0]
    grid = torch.linspace(-6.0, 6.0, 60_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(_line_log_density(grid).exp(), grid)
    empirical = torch.searchsorted(draws.sort().values, grid[1:]) / len(draws)
    assert float((cumulative - empirical).abs().max()) < 1.95 / len(draws) ** 0.5  # Kolmogorov–Smirnov at 0.1 %


def test_responsibilities_are_bayes_rule() -> None:
    """p(k | x) ∝ π_k N(x; α m_k, α² C_k + σ² I), by the distribution of another library."""
    path = VP()
    world, (x, t) = mixture(path), questions(path, 6)
    for k in range(6):
        alpha, sigma = path.alpha(t[k]), path.sigma(t[k])
        spread = alpha**2 * world.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        joint = world.weights.log() + torch.distributions.MultivariateNormal(alpha * world.means, spread).log_prob(x[k])
        assert torch.allclose(world.responsibilities(x, t)[k], joint.softmax(0), rtol=1e-9)
        assert float(world.log_density(x, t)[k]) == pytest.approx(float(joint.logsumexp(0)), rel=1e-9)


def test_one_gaussian_is_the_linear_formula() -> None:
    """E[x₀ | x_t] = m + α C (α² C + σ² I)⁻¹ (x_t − α m), Cov = σ² C (α² C + σ² I)⁻¹, for a full covariance."""
    path, t = Rectified(), 0.4
    root = torch.tensor([[0.7, 0.2, 0.0], [-0.1, 0.4, 0.3], [0.0, 0.5, 0.2]], dtype=torch.float64)
    covariance, mean = root @ root.T, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    world = GaussianMixture(path, torch.ones(1).double(), mean[None], covariance[None])
    gain = 0.6 * covariance @ torch.linalg.inv(0.36 * covariance + 0.16 * torch.eye(3, dtype=torch.float64))
    x_t = normal(5, 3)
    assert torch.allclose(world(x_t, t).x0, mean + (x_t - 0.6 * mean) @ gain.T, rtol=1e-11)
    assert torch.allclose(world.covariance(x_t, t), (0.16 / 0.6) * gain.expand(5, 3, 3), rtol=1e-10, atol=1e-13)


def test_weights_are_relative() -> None:
    """Counts are as good as probabilities."""
    world = mixture(EDM())
    counts = GaussianMixture(world.path, world.weights * 250, world.means, world.covariances)
    x = normal(4, 2)
    assert torch.allclose(counts.log_density(x, 1.0), world.log_density(x, 1.0), rtol=1e-12)


@every_path
def test_one_time_or_one_a_sample(path: Path) -> None:
    """A batch of times that is broadcast over components instead of samples mixes up the answers."""
    world, (x, t) = mixture(path), questions(path, 5)
    for function in (lambda x, t: world(x, t).x0, world.covariance, world.log_density, world.responsibilities):
        together = function(x, t)
        alone = torch.cat([function(x[k : k + 1], float(t[k])) for k in range(5)])
        assert torch.allclose(together, alone, rtol=1e-11, atol=1e-13)


def test_any_rank_and_dtype_is_answered_in_kind() -> None:
    """An image in float32 gets an image in float32, computed in float64."""
    world = mixture(Discrete())
    x = normal(6, 2)
    answer = world(x.float().view(6, 1, 2, 1), 0.5)
    assert (answer.x0.shape, answer.x0.dtype) == ((6, 1, 2, 1), torch.float32)
    assert torch.allclose(answer.x0.view(6, 2).double(), world(x.float().double(), 0.5).x0, rtol=1e-6)


def test_a_point_mass_is_a_gaussian_of_no_width() -> None:
    """Data without variance in some direction are data: the answer there is the mean."""
    world = gaussian(VP(), (0.3, -0.7), (0.8, 0.0))
    assert torch.allclose(world(normal(4, 2), 0.5).x0[:, 1], float64([-0.7] * 4))


@every_path
def test_a_mixture_given_its_components_follows_from_the_joint(path: Path) -> None:
    """log p(x | k ∈ K) = log Σ_K p(x, k) − log Σ_K π_k: weights not scaled anew, or a joint without π, break it."""
    world, (x, t) = mixture(path), questions(path, 6)
    chosen = torch.tensor([2, 0])
    share = (world.weights[chosen].sum() / world.weights.sum()).log()
    joint = world.log_joint(x, t)
    assert torch.allclose(joint.logsumexp(1), world.log_density(x, t), rtol=1e-12)
    assert torch.allclose(world.given(chosen).log_density(x, t), joint[:, chosen].logsumexp(1) - share, rtol=1e-9)


def test_a_product_of_mixtures_has_the_moments_of_one_weighed_by_the_other() -> None:
    """E_{pq/Z}[f] = E_p[q f]/E_p[q], by 400,000 draws of p within 4 standard errors; components weighed without Z_ij are elsewhere."""
    one, other = mixture(VP()), mixture(VP()).given(torch.tensor([0, 1]))
    draws = one.draw(400_000, seeded(6))
    weights = other.log_density(draws, 0.0).exp()
    mean, covariance = mixture_moments(one.times(other))
    centred, weights = draws - mean, weights / weights.mean()
    assert_mean(weights[:, None] * centred, 0.0)
    assert_mean(weights[:, None, None] * (centred[:, :, None] * centred[:, None, :] - covariance), 0.0)


def test_a_power_of_several_components_is_refused() -> None:
    """(Σ_k p_k)^w is no mixture; a formula that took it componentwise would be wrong without a word."""
    with pytest.raises(UsageError, match="take a power of one Gaussian"):
        gaussian(VP()).times(mixture(VP()), 0.5)


ONES, MEANS, EYES = torch.ones(2), torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "said"),
    [
        (ONES, MEANS, EYES[:, :2, :2], r"covariances \(2, 3, 3\)"),
        (ONES, MEANS, torch.eye(3).expand(3, 3, 3), r"covariances \(2, 3, 3\)"),
        (torch.ones(3), MEANS, EYES, r"weights \(2,\)"),
        (torch.tensor([1.0, 0.0]), MEANS, EYES, "positive weights"),
        (ONES, MEANS, -EYES, "negative eigenvalue"),
    ],
)
def test_wrong_mixtures_are_refused(weights: Tensor, means: Tensor, covariances: Tensor, said: str) -> None:
    """A mixture that broadcasts by accident is another mixture; the message says what fits."""
    with pytest.raises(UsageError, match=said):
        _build(weights, means, covariances)


def _build(weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
    """Construct as a user does, where nobody but the class itself checks shapes."""
    world = object.__new__(GaussianMixture)
    for name, value in (("path", VP()), ("weights", weights), ("means", means), ("covariances", covariances)):
        object.__setattr__(world, name, value)
    world.__post_init__()
    return world
