"""The pilots' fine solver against flows in closed form, and the polynomials that it and the plans are made of."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from scorefield.denoisers import Data, NetworkDenoiser
from scorefield.errors import UsageError
from scorefield.paths import EDM, VP, Discrete, Path, Rectified, VPCosine
from scorefield.samplers.calibration.pilots import (
    Problem,
    Trajectories,
    differences,
    fine_times,
    levels,
    newton,
    solve,
)
from tests.samplers.planned import flow_to_data, ratio, rms
from tests.worlds import EVERY_PATH, Shrinking, gaussian, gaussian_flow, mixture, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
CONTINUOUS = {name: path for name, path in EVERY_PATH.items() if not isinstance(path, Discrete)}
continuous_path = pytest.mark.parametrize("path", CONTINUOUS.values(), ids=CONTINUOUS)
NO_SIGNAL = pytest.mark.parametrize("path", [Rectified(), VPCosine()], ids=["Rectified", "VPCosine"])


@cache
def pilots(path: Path, nodes: int = 193) -> Trajectories:
    """Sixteen of the mixture."""
    return solve(Problem(mixture(path), noise(path)), nodes)


def noise(path: Path) -> Tensor:
    """Of them."""
    return path.prior_std * normal(16, 2)


@cache
def exact_end(path: Path) -> Tensor:
    """Where they end, by an eighth-order solver in other variables."""
    return flow_to_data(mixture(path), noise(path))


# ── the solver ───────────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_the_flow_is_solved_to_five_digits_on_every_path(path: Path) -> None:
    """What plans are measured against must be far better than they are, also where α = 0 at the start (M26)."""
    assert rms(pilots(path).end - exact_end(path)) < 3e-5
    assert bool(pilots(path).y.isfinite().all())
    assert bool(np.isfinite(pilots(path).tau).all())


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=["VP", "EDM", "Rectified"])
def test_the_solver_converges_at_third_order(path: Path) -> None:
    """One wrong index in the history, or a corrector that corrects with the predictor's weights, costs an order (M26)."""
    errors = [rms(pilots(path, nodes).end - exact_end(path)) for nodes in (49, 97, 193)]
    assert math.log2(errors[0] / errors[-1]) / 2.0 > 2.7, errors


@continuous_path
def test_every_stored_state_is_on_the_flow_of_a_gaussian(path: Path) -> None:
    """Planning looks at states on the way: right at the end alone would not do (M26)."""
    world = gaussian(path)
    x_T = path.prior_std * normal(8, 2)
    found = solve(Problem(world, x_T), 193)
    for k in range(1, len(found.times), 16):
        t = found.times[k]
        exact = gaussian_flow(world, x_T, path.t_max, t)
        scale = math.hypot(path.alpha(t), path.sigma(t))
        assert rms(found.y[k] * path.sigma(t) - exact) < 1e-5 * scale
        assert rms(found.answers[k] - world(exact, t).x0) < 1e-4


def test_the_end_is_nearer_to_data_than_the_last_answer() -> None:
    """At t_min an answer is still off by O(s²): in float64 two of them are extrapolated, in float32 the last is the end."""
    path = EDM(sigma_min=0.03)
    found = solve(Problem(mixture(path), noise(path)), 129)
    exact = flow_to_data(mixture(path), noise(path))
    assert rms(found.end - exact) < 0.2 * rms(found.answers[-1] - exact)
    single = solve(Problem(mixture(path), noise(path).float()), 33)
    assert torch.equal(single.end, single.answers[-1].double())


@every_path
def test_single_precision_is_stored_as_such_and_solved_as_well(path: Path) -> None:
    """Half of the memory; what is summed up is still in float64, or 193 steps would lose digits."""
    single = solve(Problem(mixture(path), noise(path).float()), 193)
    assert {single.y.dtype, single.answers.dtype} == {torch.float32}
    assert rms(single.end - pilots(path).end) < 5e-4


def test_answers_that_are_not_finite_are_refused() -> None:
    """A diverged network would otherwise be given plans of NaN."""
    denoiser = NetworkDenoiser(lambda x, label: x * math.nan, VP(), Data())
    with pytest.raises(UsageError, match="not finite, so it cannot be calibrated; train it longer"):
        solve(Problem(denoiser, normal(4, 2)), 9)


def test_a_pilot_has_the_condition_of_its_sample() -> None:
    """Pilots of no class would plan for another denoiser."""
    denoiser, labels = Shrinking(VP()), torch.tensor([1, 0, 2])
    solve(Problem(denoiser, normal(3, 2, 2), labels), 9)
    assert len(denoiser.asked) == 9
    assert all(condition is labels for condition in denoiser.conditions)


# ── times and levels ─────────────────────────────────────────────────────────────────────────────────────────────────


@every_path
@pytest.mark.parametrize("nodes", [9, 193])
def test_fine_times_fall_from_end_to_end(path: Path, nodes: int) -> None:
    """A time twice divides by zero; a chain may be asked at its own times alone."""
    times = fine_times(path, nodes)
    assert (times[0], times[-1]) == (path.t_max, path.snap(path.t_min))
    assert all(later < earlier for earlier, later in pairwise(times))
    assert len(times) <= nodes
    if isinstance(path, Discrete):
        assert all(t * path.steps == pytest.approx(round(t * path.steps), abs=1e-9) for t in times)
    else:
        gaps = np.diff(levels(path, times)[0])[1:]
        assert np.allclose(gaps, gaps[0], rtol=1e-6)


@every_path
def test_levels_are_finite_logarithms_of_the_ratio(path: Path) -> None:
    """τ = log(σ/α) everywhere but at a start without signal, which stands one step above the next (M1)."""
    times = fine_times(path, 33)
    tau, r = levels(path, times)
    assert [float(value) for value in r] == [ratio(path, t) for t in times]
    assert np.allclose(tau[1:], -np.log(r[1:]), atol=1e-9)
    if r[0] < 1e-6:
        assert tau[0] - tau[1] == pytest.approx(tau[1] - tau[2], rel=0.5)
    else:
        assert tau[0] == pytest.approx(-math.log(r[0]), abs=1e-9)


# ── states between the nodes ─────────────────────────────────────────────────────────────────────────────────────────


@every_path
def test_a_state_is_found_at_any_level(path: Path) -> None:
    """Targets between stored nodes: interpolated through a first node of another level they were off by fourteen decades."""
    world, x_T = gaussian(path), path.prior_std * normal(8, 2)
    found = solve(Problem(world, x_T), 193)
    mean, variances = world.means[0], torch.diagonal(world.covariances[0])
    alpha, sigma = path.alpha(path.t_max), path.sigma(path.t_max)
    deviations = (x_T - alpha * mean) / (alpha**2 * variances + sigma**2).sqrt()
    for tau in np.linspace(found.tau[1] - 1e-3, found.tau[-1], 41):
        s = math.exp(tau)
        exact = mean + (variances + s * s).sqrt() * deviations
        assert rms(found.state(float(tau)) - exact) < 3e-5 * math.hypot(1.0, s)


@every_path
def test_a_state_at_a_node_is_the_stored_one(path: Path) -> None:
    """No interpolation where nothing need be guessed."""
    found = pilots(path)
    for k in (1, 5, len(found.times) - 1):
        assert torch.equal(found.state(float(found.tau[k])), found.y[k] / found.r[k])


# ── polynomials ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("nodes", [[0.3], [0.3, 0.9], [-1.0, -0.2, 0.7], [2.5, 3.1, 3.3, 4.0], [0.3, 0.9, 0.1, -0.5]])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.9), (1e-3, 0.02), (5.0, 400.0)])
def test_newtons_weights_integrate_every_power(nodes: list[float], low: float, high: float) -> None:
    """∫ τᵏ dr with τ = −log r, for k below the number of nodes: a kernel of the wrong sign or power shows (M26)."""
    weights = newton(nodes, low, high)
    for power in range(len(nodes)):
        parts = differences(nodes, [torch.tensor([node**power], dtype=torch.float64) for node in nodes])
        got = sum(weight * float(part) for weight, part in zip(weights, parts, strict=True))
        wanted = mp.quad(lambda r, k=power: (-mp.log(r)) ** k, [mpf(low), mpf(high)])
        assert got == pytest.approx(float(wanted), rel=1e-10, abs=1e-10 * high)


def test_newtons_weights_for_the_other_direction_change_sign() -> None:
    """∫ from b to a."""
    assert newton([0.3, 0.9], 0.9, 0.2) == pytest.approx([-w for w in newton([0.3, 0.9], 0.2, 0.9)], rel=1e-12)


@pytest.mark.parametrize("low", [0.0, 1e-16])
def test_a_way_from_no_signal_integrates_a_line_in_the_ratio(low: float) -> None:
    """D = a + b r on [0, h] gives a h + b h²/2, whatever the level says that the first node stands for."""
    high, a, b = 0.007, 1.3, -4.0
    tau = [4.9, 5.1]
    assert newton([5.1], low, high) == [high]
    parts = differences(tau, [torch.tensor([a + b * high]), torch.tensor([a])])
    got = sum(weight * float(part) for weight, part in zip(newton(tau, low, high), parts, strict=True))
    assert got == pytest.approx(a * high + b * high**2 / 2, rel=1e-6)


def test_differences_are_those_of_newtons_polynomial() -> None:
    """Of a cubic the third is its coefficient and the fourth nothing; the first is the newest answer itself."""
    nodes = [0.2, 0.7, 1.1, 1.9, 2.0]
    values = [torch.tensor([2.0 * u**3 - u + 5.0, u**2], dtype=torch.float64) for u in nodes]
    found = differences(nodes, values)
    assert torch.equal(found[0], values[0])
    assert torch.allclose(found[3], torch.tensor([2.0, 0.0]).double(), atol=1e-12)
    assert torch.allclose(found[4], torch.zeros(2).double(), atol=1e-12)
    assert torch.allclose(found[1], (values[0] - values[1]) / (nodes[0] - nodes[1]))


@NO_SIGNAL
def test_a_start_without_signal_costs_no_accuracy(path: Path) -> None:
    """A first step of first order, or through a level that means nothing, was off by a hundred times VP's error."""
    assert rms(pilots(path).end - exact_end(path)) < 10.0 * rms(pilots(VP()).end - exact_end(VP()))
