"""Planning: local errors against plain least squares, the dynamic programme against every choice there is."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.samplers.calibration.pilots import Problem, Trajectories, solve
from scorefield.samplers.calibration.planning import Errors, Spectrum, best_nodes, local_errors, scaled
from tests.worlds import gaussian, mixture, normal

PATHS: dict[str, Path] = {"VP": VP(), "EDM": EDM(), "Rectified": Rectified()}
three_paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
NODES = 11


@cache
def pilots(path: Path) -> Trajectories:
    """Sixty-four of the mixture."""
    return solve(Problem(mixture(path), path.prior_std * normal(64, 2)), 97)


# ── the spectrum ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_spectrum_of_samples_is_numpys() -> None:
    """A transposed eigenvector matrix or a biased mean would weigh errors by the wrong directions."""
    samples = normal(200, 3) @ torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.5, 0.1], [0.0, 0.0, 0.05]]).double() + 1.5
    found = Spectrum.of_samples(samples)
    wanted = np.cov(samples.numpy().T, bias=True)
    assert np.allclose(found.mean, samples.numpy().mean(0))
    assert np.allclose(found.variances, np.linalg.eigvalsh(wanted))
    assert np.allclose((found.directions * found.variances) @ found.directions.T, wanted)
    assert found.residual == 0.0


def test_the_spectrum_of_few_samples_is_one_number() -> None:
    """Eigenvalues of a covariance of rank b would be nought for most directions, and errors there would not count."""
    samples = normal(7, 2) * 0.3
    found = Spectrum.of_samples(samples)
    assert found.variances.shape == (0,)
    assert found.directions.shape == (2, 0)
    assert found.residual == pytest.approx(float(samples.numpy().var(0).mean()))


def test_the_spectrum_of_stored_moments_has_its_directions_as_columns() -> None:
    """Moments store eigenvectors as rows; variances of nought are lifted, or a share would be 0/0."""
    rows = torch.linalg.qr(normal(5, 2))[0].T
    moments = {
        "mean": normal(5).view(1, 5).float(),
        "eigenvalues": torch.tensor([2.0, 0.0]),
        "eigenvectors": rows.float(),
        "residual_variance": torch.tensor(0.0),
    }
    found = Spectrum.of_moments(moments)
    assert torch.allclose(found.directions, rows.T, atol=1e-6)
    assert torch.equal(found.mean, normal(5).float().double())
    assert (found.variances > 0.0).all()
    assert found.residual > 0.0


# ── local errors ─────────────────────────────────────────────────────────────────────────────────────────────────────


def least_squares(features: list[Tensor], target: Tensor) -> float:
    """Root mean square that numpy's least squares leaves."""
    matrix = np.stack([feature.flatten().numpy() for feature in features], 1)
    solved, *_ = np.linalg.lstsq(matrix, target.flatten().numpy(), rcond=None)
    return float(np.sqrt(np.mean((matrix @ solved - target.flatten().numpy()) ** 2)))


@three_paths
@pytest.mark.parametrize("few", [False, True], ids=["directions", "one variance"])
def test_local_errors_are_what_least_squares_leaves(path: Path, few: bool) -> None:
    """From inner products as from the trajectories themselves, each direction by the share of it that arrives."""
    found = pilots(path)
    spectrum = Spectrum.of_samples(found.end[:7] if few else found.end)
    errors = local_errors(found, spectrum, NODES)
    assert len(errors.times) == NODES
    places = [found.times.index(t) for t in errors.times]
    spread = spectrum.variances if len(spectrum.variances) else torch.full((2,), spectrum.residual).double()
    turned = spectrum.directions if len(spectrum.variances) else torch.eye(2).double()
    answers = [(found.answers[k] - spectrum.mean) @ turned for k in places]
    states = [(found.y[k] / (found.r[k] or 1.0) - (spectrum.mean if found.r[k] else 0.0)) @ turned for k in places]
    end = (found.end - spectrum.mean) @ turned

    def wanted(s: float, features: list[Tensor], target: Tensor) -> tuple[float, float]:
        share = (spread / (s * s + spread)).sqrt()
        return least_squares([share * f for f in features], share * target), float(
            (share * target).square().mean() ** 0.5
        )

    for h, i, j in ((0, 1, 2), (0, 1, 5), (0, 3, 4), (2, 5, 6), (4, 6, 9), (7, 9, 10)):
        exact, size = wanted(float(np.exp(errors.tau[j])), [states[i], answers[i], answers[h]], states[j])
        assert exact - 1e-7 * size <= errors.inner[h, i, j] <= exact * 1.01 + 1e-4 * size
        exact, size = wanted(0.0, [states[i], answers[i], answers[h]], end)
        assert exact - 1e-7 * size <= errors.last[h, i] <= exact * 1.01 + 1e-4 * size
        exact, size = wanted(float(np.exp(errors.tau[j])), [states[0], answers[0]], states[j])
        assert exact - 1e-7 * size <= errors.first[j] <= exact * 1.01 + 1e-4 * size


def test_impossible_steps_are_infinite() -> None:
    """A way through a step backwards would be the shortest of all."""
    errors = local_errors(pilots(VP()), Spectrum.of_samples(pilots(VP()).end), NODES)
    for h, i, j in np.ndindex(NODES, NODES, NODES):
        assert np.isfinite(errors.inner[h, i, j]) == (h < i < j)
    assert np.isfinite(errors.last).sum() == NODES * (NODES - 1) // 2
    assert np.isinf(errors.first[0])


def test_no_more_nodes_are_taken_than_there_are() -> None:
    """A short chain has fewer nodes than are wanted; one taken twice would be a step of no length."""
    errors = local_errors(pilots(VP()), Spectrum.of_samples(pilots(VP()).end), 500)
    assert errors.times == pilots(VP()).times


# ── the dynamic programme ────────────────────────────────────────────────────────────────────────────────────────────


def made_up(seed: int, m: int = 8) -> Errors:
    """Errors of no pattern at all."""
    random = np.random.default_rng(seed)
    inner, last = random.random((m, m, m)), random.random((m, m))
    for h, i, j in np.ndindex(m, m, m):
        inner[h, i, j] = inner[h, i, j] if h < i < j else np.inf
    for h, i in np.ndindex(m, m):
        last[h, i] = last[h, i] if h < i else np.inf
    first = np.array([np.inf, *random.random(m - 1)])
    times = tuple(float(t) for t in np.linspace(1.0, 0.1, m))
    return Errors(times, np.linspace(3.0, -3.0, m), first, inner, last)


def cost(errors: Errors, nodes: tuple[int, ...], power: float) -> float:
    """What a choice of nodes costs."""
    steps = zip(nodes, nodes[1:], nodes[2:], strict=False)
    inner = sum(errors.inner[step] ** power for step in steps)
    return float(errors.first[nodes[1]] ** power + inner + errors.last[nodes[-2], nodes[-1]] ** power)


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_plan_is_the_best_of_all_choices(seed: int, power: float) -> None:
    """Every subset of nodes is tried: a way back that takes the wrong predecessor finds another."""
    errors = made_up(seed)
    found = best_nodes(errors, range(2, 9), power)
    assert sorted(found) == list(range(2, 9))
    for budget, times in found.items():
        choices = [(0, *rest) for rest in combinations(range(1, 8), budget - 1)]
        best = min(choices, key=lambda nodes: cost(errors, nodes, power))
        assert times == tuple(errors.times[k] for k in best)


def test_budgets_beyond_the_nodes_are_left_out() -> None:
    """Nine questions at eight places."""
    assert list(best_nodes(made_up(0), [3, 9, 12], 2.0)) == [3]
    assert best_nodes(made_up(0), [], 2.0) == {}


@three_paths
def test_a_plan_of_real_errors_is_the_best_too_and_begins_with_noise(path: Path) -> None:
    """On the mixture itself, against every choice of three and four nodes of eleven."""
    errors = local_errors(pilots(path), Spectrum.of_samples(pilots(path).end), NODES)
    for budget, times in best_nodes(errors, [3, 4], 2.0).items():
        choices = ((0, *rest) for rest in combinations(range(1, NODES), budget - 1))
        least = min(cost(errors, nodes, 2.0) for nodes in choices)
        assert cost(errors, tuple(errors.times.index(t) for t in times), 2.0) == pytest.approx(least, rel=1e-9)
        assert times[0] == path.t_max


def test_nothing_forces_the_last_node_towards_data() -> None:
    """With two evaluations of a round Gaussian any answer tells the end: a node at t_min would be a wasted one elsewhere."""
    world = gaussian(VP(), variances=(0.5, 0.5))
    found = solve(Problem(world, normal(64, 2)), 97)
    (times,) = best_nodes(local_errors(found, Spectrum.of_samples(found.end), 33), [2], 2.0).values()
    assert times[-1] > 0.01


# ── levels for another number of nodes ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 7, 8, 23, 50])
def test_scaled_levels_fall_from_the_same_first_to_the_same_last(seed: int, count: int) -> None:
    """Levels that rise in between would be times in disorder, from the wildest density."""
    random = np.random.default_rng(seed)
    tau = list(5.0 - np.cumsum(np.exp(3.0 * random.standard_normal(8))))
    found = scaled(tau, count)
    assert len(found) == count
    assert found[0] == pytest.approx(tau[0])
    assert found[-1] == pytest.approx(tau[-1])
    assert all(later < earlier for earlier, later in pairwise(found))


def test_as_many_levels_are_the_same_levels() -> None:
    """And uniform ones stay uniform, for any number."""
    tau = [4.0, 2.5, 0.3, -0.2, -3.0]
    assert scaled(tau, 5) == pytest.approx(tau, abs=1e-12)
    assert scaled(tau, 9)[::2] == pytest.approx(tau, abs=1e-12)
    assert scaled([3.0, 2.0, 1.0, 0.0], 13) == pytest.approx(list(np.linspace(3.0, 0.0, 13)), abs=1e-12)
