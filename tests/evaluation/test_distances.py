"""Every distance against a closed form, an independent reference, and the sampling it claims to describe."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.evaluation.distances import (
    Estimate,
    Moments,
    copying,
    frechet_distance,
    gaussian_distance,
    jackknife,
    kernel_distance,
    line_distance,
    mean_estimate,
    nearest,
    neighbourhood,
    sliced_wasserstein,
    symmetric_root,
)

seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------ Estimate, jackknife


def test_an_estimate_is_written_to_two_digits_of_its_error():
    assert str(Estimate(12.3456, 0.234)) == "12.35 ± 0.23"
    assert str(Estimate(-0.00010441, 0.00041)) == "-0.00010 ± 0.00041"
    assert str(Estimate(0.5, math.nan)) == "0.5"
    assert str(Estimate(1.0, 0.0)) == "1"


def test_the_mean_has_the_textbook_error():
    values = normal(50)
    assert mean_estimate(values).standard_error == pytest.approx(float(scipy.stats.sem(values.numpy())))
    assert math.isnan(mean_estimate(torch.ones(1)).standard_error)


def test_the_jackknife_of_a_difference_of_means_is_the_textbook_error():
    """Leaving out one row at a time, the jackknife of a mean is exactly s/√n; wrong factors of g show here."""
    x, y = normal(40), normal(30, seed=1)
    error = jackknife(lambda a, b: float(a.mean() - b.mean()), x, y, groups=40)
    expected = math.hypot(scipy.stats.sem(x.numpy()), scipy.stats.sem(y.numpy()))
    assert error == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- Fréchet


def test_the_root_of_a_singular_matrix_squares_back():
    half = normal(6, 3)
    matrix = half @ half.T
    root = symmetric_root(matrix)
    torch.testing.assert_close(root @ root, matrix, atol=1e-7, rtol=0)


def test_the_distance_of_gaussians_with_common_axes_is_the_closed_form():
    """Diagonal covariances: d² = ‖μ₁−μ₂‖² + Σ (s₁−s₂)²."""
    s_1, s_2 = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.1]).double()
    shift = torch.tensor([1.0, 0.0, -2.0]).double()
    x, y = exact_gaussian(s_1), exact_gaussian(s_2) + shift
    expected = float(shift.square().sum() + (s_1 - s_2).square().sum())
    assert gaussian_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-10)


def exact_gaussian(scales: Tensor) -> Tensor:
    """Rows whose sample mean is 0 and whose sample covariance is diag(scales²) exactly."""
    x = normal(64, len(scales))
    x = x - x.mean(0)
    root = torch.linalg.inv(symmetric_root(torch.cov(x.T)))
    return x @ root * scales


@settings(max_examples=25, deadline=None)
@given(seed=seeds, width=st.integers(1, 12))
def test_the_distance_agrees_with_the_usual_matrix_square_root(seed: int, width: int):
    """scipy's sqrtm of the (not symmetric) product is the formula everybody else uses."""
    x, y = normal(80, width, seed=seed), normal(60, width, seed=seed + 1) @ normal(width, width, seed=seed + 2)
    c_x, c_y = np.cov(x.numpy().T).reshape(width, width), np.cov(y.numpy().T).reshape(width, width)
    gap = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = gap + np.trace(c_x + c_y - 2 * scipy.linalg.sqrtm(c_x @ c_y).real)
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, shift=st.floats(-1e4, 1e4))
def test_moving_both_sets_changes_nothing(seed: int, shift: float):
    """Features far from the origin must not cost digits."""
    x, y = normal(40, 4, seed=seed), 2 * normal(50, 4, seed=seed + 1)
    moved = frechet_distance(x + shift, y + shift)
    assert moved.value == pytest.approx(frechet_distance(x, y).value, rel=1e-6)


def test_fewer_rows_than_features_still_give_zero_for_equal_sets():
    x = normal(10, 30)
    assert frechet_distance(x, x).value == pytest.approx(0.0, abs=1e-9)


def test_the_frechet_error_is_the_spread_of_repeated_draws():
    draws = [frechet_distance(normal(300, 4, seed=2 * i) + 1.0, normal(200, 4, seed=2 * i + 1)) for i in range(60)]
    check_error(draws)


def check_error(draws: list[Estimate]) -> None:
    """The mean stated error is the standard deviation over repetitions, within what that many can tell."""
    spread = np.std([draw.value for draw in draws], ddof=1)
    stated = np.mean([draw.standard_error for draw in draws])
    assert 0.75 < stated / spread < 1.4


# -------------------------------------------------------------------------------------------------------------- KID


def test_the_kernel_distance_is_the_sum_over_all_pairs():
    """Against plain loops over i ≠ j."""
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y).value == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_the_kernel_jackknife_leaves_out_one_row_at_a_time():
    x, y = normal(12, 3), normal(9, 3, seed=1) + 0.3
    expected = math.hypot(*(one_sided(a, b) for a, b in ((x, y), (y, x))))
    assert kernel_distance(x, y).standard_error == pytest.approx(expected, rel=1e-9)


def one_sided(x: Tensor, y: Tensor) -> float:
    rest = [kernel_distance(torch.cat([x[:i], x[i + 1 :]]), y).value for i in range(len(x))]
    return math.sqrt((len(x) - 1) ** 2 / len(x) * np.var(rest, ddof=1))


def test_equal_laws_have_no_kernel_distance_in_the_mean():
    """Unbiased: the mean over many draws is zero within four standard errors; a kept diagonal would show at once."""
    values = [kernel_distance(normal(40, 5, seed=2 * i), normal(30, 5, seed=2 * i + 1)).value for i in range(200)]
    assert abs(np.mean(values)) < 4 * scipy.stats.sem(values)


def test_the_kernel_error_is_the_spread_of_repeated_draws():
    draws = [kernel_distance(normal(200, 3, seed=2 * i) + 0.7, normal(150, 3, seed=2 * i + 1)) for i in range(100)]
    check_error(draws)


# -------------------------------------------------------------------------------------------------------------- PRDC


def test_a_set_beside_itself_is_perfect():
    x = normal(60, 4)
    same = neighbourhood(x, x, neighbours=3)
    assert [same.precision.value, same.recall.value, same.coverage.value] == [1.0] * 3
    assert same.density.value == pytest.approx(1.0)


def test_sets_far_apart_have_nothing_in_common():
    apart = neighbourhood(normal(60, 4), normal(50, 4, seed=1) + 100)
    assert [apart.precision.value, apart.recall.value, apart.coverage.value, apart.density.value] == [0.0] * 4


@settings(max_examples=20, deadline=None)
@given(seed=seeds, neighbours=st.integers(1, 5), m=st.integers(8, 40), n=st.integers(8, 40))
def test_precision_recall_density_coverage_by_their_definitions(seed: int, neighbours: int, m: int, n: int):
    x, y = normal(m, 3, seed=seed), normal(n, 3, seed=seed + 1) * 1.3
    reach_x, reach_y = (np.sort(cdist(z, z), axis=1)[:, neighbours] for z in (x, y))
    between = cdist(x, y)
    got = neighbourhood(x, y, neighbours=neighbours)
    assert got.precision.value == pytest.approx(np.mean([(between[i] < reach_y).any() for i in range(m)]))
    assert got.recall.value == pytest.approx(np.mean([(between[:, j] < reach_x).any() for j in range(n)]))
    assert got.density.value == pytest.approx((between < reach_y).sum() / (neighbours * m))
    assert got.coverage.value == pytest.approx(np.mean([between[:, j].min() < reach_y[j] for j in range(n)]))


def test_coverage_and_density_of_one_law_are_as_published():
    """Naeem et al. 2020: E[density] = 1, and E[coverage] = 1 − ((n−1)…(n−k)) / ((2n−1)…(2n−k)) for m = n."""
    n, k = 200, 4
    got = [neighbourhood(normal(n, 3, seed=2 * i), normal(n, 3, seed=2 * i + 1), neighbours=k) for i in range(40)]
    missed = math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    for values, expected in (([g.coverage.value for g in got], 1 - missed), ([g.density.value for g in got], 1.0)):
        assert abs(np.mean(values) - expected) < 4 * scipy.stats.sem(values)


# ------------------------------------------------------------------------------------------------ sliced Wasserstein


@settings(max_examples=40, deadline=None)
@given(seed=seeds, m=st.integers(1, 30), n=st.integers(1, 30))
def test_on_a_line_the_distance_is_scipys(seed: int, m: int, n: int):
    x, y = normal(m, 1, seed=seed), normal(n, 1, seed=seed + 1)
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert float(line_distance(x, y, order=1)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_on_a_line_the_second_order_distance_of_unequal_sets_is_the_integral():
    """{0, 1} against {0, 3, 3}: ∫ |F⁻¹−G⁻¹|² = ⅓·0 + ⅙·9 + ½·4."""
    x, y = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[3.0], [0.0], [3.0]]).double()
    assert float(line_distance(x, y, order=2)) == pytest.approx(9 / 6 + 4 / 2)


def test_a_shift_costs_its_length_over_the_root_of_the_dimension():
    """E_θ (θᵀc)² = ‖c‖²/d."""
    x, shift = normal(100, 8), normal(8, seed=3)
    got = sliced_wasserstein(x, x + shift, generator=generator(), projections=4000, groups=2)
    assert got.value == pytest.approx(float(shift.norm()) / math.sqrt(8), rel=0.05)


def test_the_sliced_error_is_the_spread_of_repeated_draws():
    draws = [
        sliced_wasserstein(
            normal(150, 2, seed=2 * i) + 1, normal(120, 2, seed=2 * i + 1), generator=generator(), projections=16
        )
        for i in range(50)
    ]
    check_error(draws)


def test_the_directions_come_from_the_generator_alone():
    x, y = normal(20, 5), normal(20, 5, seed=1)
    first, again, other = (sliced_wasserstein(x, y, generator=generator(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# --------------------------------------------------------------------------------------------- neighbours, copying


def test_the_nearest_row_is_found_and_its_distance_is_exact():
    reference = normal(700, 2, 3).float()
    x = torch.cat([reference[5:6], normal(600, 2, 3, seed=1).float()])
    found = nearest(x, reference)
    every = torch.cdist(x.flatten(1).double(), reference.flatten(1).double())
    torch.testing.assert_close(found.distance[1:], every.min(1).values[1:], rtol=1e-5, atol=1e-6)
    assert (int(found.index[0]), float(found.distance[0])) == (5, 0.0)


@settings(max_examples=30, deadline=None)
@given(a=st.lists(st.integers(0, 6), min_size=2, max_size=30), b=st.lists(st.integers(0, 6), min_size=2, max_size=30))
def test_copying_is_the_mann_whitney_statistic(a: list[int], b: list[int]):
    generated, held_out = torch.tensor(a).double(), torch.tensor(b).double()
    statistic = scipy.stats.mannwhitneyu(b, a).statistic
    assert copying(generated, held_out).value == pytest.approx(statistic / (len(a) * len(b)))


def test_the_copying_error_is_the_spread_of_repeated_draws():
    draws = [copying(normal(150, seed=2 * i).abs(), 0.5 + normal(100, seed=2 * i + 1).abs()) for i in range(150)]
    check_error(draws)


def test_copies_are_recognised():
    train, test = normal(200, 3), normal(200, 3, seed=1)
    copied = nearest(train[:100] + 1e-3, train).distance
    assert copying(copied, nearest(test, train).distance).value > 0.97


# ------------------------------------------------------------------------------------------------------- bad input

DISTANCES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "neighbourhood": neighbourhood,
    "sliced": lambda x, y: sliced_wasserstein(x, y, generator=generator()),
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(9, 3), torch.zeros(9, 4), "same extractor"),
        (torch.zeros(1, 3), torch.zeros(9, 3), "draw more"),
        (torch.full((9, 3), math.nan), torch.zeros(9, 3), "NaN"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(name: str, x: Tensor, y: Tensor, words: str):
    with pytest.raises(UsageError, match=words):
        DISTANCES[name](x, y)


@pytest.mark.parametrize("name", DISTANCES)
def test_inputs_are_not_changed(name: str):
    x, y = normal(20, 3), normal(20, 3, seed=1)
    before = x.clone(), y.clone()
    DISTANCES[name](x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_copying_needs_both_sets():
    with pytest.raises(UsageError, match="empty set"):
        copying(torch.zeros(0), torch.zeros(3))
