"""The trace of the Jacobian: exact against autograd's Jacobian, probes without bias and with less variance than others'."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.likelihood.divergence import PROBINGS, Asker, Probing, exact_trace, transposed_products
from scorefield.likelihood.flow import chosen_probing
from scorefield.likelihood.reference import Reference
from scorefield.likelihood.subject import Subject
from scorefield.paths import EDM, VP
from scorefield.streams import SampleStreams
from tests.likelihood.worlds import batch_of, frame_of, toy
from tests.worlds import RANKS, dummy_denoiser, float64, mixture, normal, seeded


@pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
def test_exact_trace_is_that_of_the_jacobian_at_any_rank(shape: tuple[int, ...]) -> None:
    """By autograd's own Jacobian, sample by sample (M40)."""
    denoiser = dummy_denoiser(VP())
    x_t = normal(3, *shape).requires_grad_()
    x_0 = denoiser(x_t, 0.4).x0.flatten(1)
    got = exact_trace(x_0, x_t)
    for k in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda x: denoiser(x[None], 0.4).x0[0].flatten(), x_t[k].detach())
        assert torch.allclose(got[k], torch.trace(jacobian.flatten(1)))


def test_an_operation_without_a_batched_backward_pass_is_asked_one_by_one() -> None:
    """A network with such an operation must still have a likelihood."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return 2.0 * x

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return 2.0 * grad * float(grad.isfinite().all())

    x = normal(3, 2).requires_grad_()
    products = transposed_products(Doubled.apply(x), x, normal(4, 3, 2))
    assert torch.allclose(products, 2.0 * normal(4, 3, 2))


def asker(world: GaussianMixture, frame: Reference, probes: Tensor | None) -> Asker:
    return Asker(world, frame, tuple(world.means.shape[1:]), torch.float64, None, probes)


@pytest.mark.parametrize("path", [EDM(), VP()], ids=["EDM", "VP"])
def test_residual_trace_is_that_of_the_posterior_covariance(path) -> None:
    """tr ∂D/∂x̄ = tr Cov[x₀|x_t]/s², less the frame's, on a path that scales and one that does not (M40)."""
    world = mixture(path)
    frame, log_snr = frame_of(world), float64([-1.0, 0.3, 2.0])
    x_bar = normal(3, 2)
    got = asker(world, frame, None)(x_bar, log_snr, torch.arange(3))
    t, s = path.time_of(log_snr), (-log_snr).exp()
    wanted = torch.diagonal(world.covariance(path.alpha(t)[:, None] * x_bar, t), dim1=1, dim2=2).sum(1) / s**2
    assert torch.allclose(got.residual_trace, wanted - frame.trace(s))


@pytest.mark.parametrize("probing", PROBINGS)
def test_probes_have_the_identity_as_second_moment_and_belong_to_the_sample(probing: Probing) -> None:
    """E[v vᵀ] = I for a frame of few directions and for a whole one, or the trace is biased (M40)."""
    directions = torch.linalg.qr(normal(4, 2))[0].mT
    for frame in (Reference(normal(4), float64([2.0, 0.5]), directions, 0.1), frame_of(toy("mixture-2d", EDM()))):
        probes = probing.draw(frame, SampleStreams.numbered(3, 0, 4000), 2, 3)
        second = probes.flatten(0, 1).mT @ probes.flatten(0, 1) / (3 * 4000)
        assert torch.allclose(second, torch.eye(frame.dimension).double(), atol=0.05)
        alone = probing.draw(frame, SampleStreams.numbered(3, 5, 1), 2, 3)
        assert torch.allclose(probes[:, 5:6], alone, rtol=0.0, atol=1e-12)


def correlated() -> GaussianMixture:
    """Two modes that are near each other beside the width of their correlated noise, in 16 dimensions: as neighbours in pictures are."""
    places = torch.arange(16, dtype=torch.float64)
    covariance = 0.8 ** (places[:, None] - places).abs()
    means = torch.stack([0.3 * (0.4 * places).cos(), -0.3 * (0.4 * places).cos()])
    return GaussianMixture(EDM(), float64([0.4, 0.6]), means, covariance.expand(2, 16, 16))


def spread(world: GaussianMixture, s: float, probing: Probing) -> tuple[float, float]:
    """The variance of a probe's trace at noise s, and the largest distance of its mean from the exact trace in standard errors."""
    draws, frame = 200, frame_of(world)
    size = world.means.shape[1]
    x_bar = (world.draw(4, seeded()) + s * normal(4, size, seed=1)).repeat_interleave(draws, 0)
    log_snr, rows = torch.full((len(x_bar),), -math.log(s)).double(), torch.arange(len(x_bar))
    probes = probing.draw(frame, SampleStreams.numbered(0, 0, len(x_bar)), 0, 1)
    asker = Asker(world, frame, (size,), torch.float64, None, probes, probing.control)
    found = asker(x_bar, log_snr, rows).residual_trace.view(4, draws)
    exact = Asker(world, frame, (size,), torch.float64)(x_bar[::draws], log_snr[::draws], rows[:4]).residual_trace
    off = (found.mean(1) - exact).abs() / (found.std(1) / draws**0.5 + 1e-12)
    return float(found.var(1).mean()), float(off.max())


@pytest.mark.parametrize("s", [0.1, 0.4, 1.0, 3.0])
def test_the_gaussian_takes_three_quarters_of_a_probes_variance_where_values_are_correlated(s: float) -> None:
    """What the control variate is for, and that no kind of probe has a bias (M40)."""
    plain, off = spread(correlated(), s, Probing(along_directions=False, control=False))
    assert off < 5.0
    for probing in PROBINGS[:2]:
        ours, off = spread(correlated(), s, probing)
        assert ours < 0.25 * plain and off < 5.0


def test_probes_along_the_directions_are_exact_for_gaussian_data() -> None:
    """J = J_G is diagonal there: any variance would be the probes' own fault (M40)."""
    world = GaussianMixture(EDM(), float64([1.0]), correlated().means[:1], correlated().covariances[:1])
    assert spread(world, 0.5, Probing())[0] < 1e-20 < spread(world, 0.5, Probing(False, False))[0]


def test_the_kind_of_probes_is_chosen_by_trying() -> None:
    """On the 64-dimensional mixture the modes are aligned with the axes, so that the Gaussian's directions would do harm."""
    for world, wanted in ((correlated(), True), (toy("mixture-64d", EDM()), False)):
        chosen = chosen_probing(Subject(world, None, frame_of(world)), batch_of(world.draw(8, seeded(2))))
        assert chosen.along_directions is wanted or (wanted and chosen.control)
