r"""Distances between two sets of feature vectors, each with its standard error.

Notation: X = (x₁ … x_m) are generated, Y = (y₁ … y_n) are real, rows in ℝᵈ; all arithmetic is float64. An `Estimate` is
    a
value and the standard error that comes from having m and n samples and not infinitely many. Most of these distances are
not zero between two sets of the *same* law: compare with the noise floor, the same distance between held-out data and
data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.shapes import Float, Int

GROUPS = 20
CHUNK = 1024


@dataclass(frozen=True)
class Estimate:
    """A measured value and its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        """Both to the second digit of the error, which is as much as is known."""
        if not (math.isfinite(self.value) and math.isfinite(self.standard_error)) or self.standard_error <= 0:
            return f"{self.value:.4g}"
        digits = max(0, 1 - math.floor(math.log10(self.standard_error)))
        return f"{self.value:.{digits}f} ± {self.standard_error:.{digits}f}"


def mean_estimate(values: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent values, x̄ ± s/√n."""
    values = values.double()
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), spread)


def jackknife_variance(deleted: Float[Tensor, " g"]) -> float:
    """The jackknife's variance (g−1)/g Σ (θ₍ᵢ₎ − θ̄)² of a statistic, from its values with each of g groups left out.

    Efron & Stein 1981: biased upwards, so an error bar from it is never too small on average.
    """
    groups = len(deleted)
    return float((groups - 1) / groups * (deleted - deleted.mean()).square().sum())


def jackknife(statistic: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, groups: int = GROUPS) -> float:
    """The standard error of statistic(x, y): delete-a-group jackknife over the rows of each set (Efron & Stein 1981).

    Group i is every `groups`-th row from i, so that rows sorted by class still fall evenly into all groups.
    """
    of_x = [statistic(kept, y) for kept in _without_each_group(x, groups)]
    of_y = [statistic(x, kept) for kept in _without_each_group(y, groups)]
    return math.sqrt(sum(jackknife_variance(torch.tensor(values, dtype=torch.float64)) for values in (of_x, of_y)))


def _without_each_group(x: Tensor, groups: int) -> Iterator[Tensor]:
    group = torch.arange(len(x)) % groups
    return (x[group != i] for i in range(min(groups, len(x))))


# ------------------------------------------------------------------------------------------------- Fréchet distance


@dataclass(frozen=True)
class Moments:
    """The sums that make a Gaussian fit: count, Σ x and Σ x xᵀ. They add and subtract, so leaving rows out is cheap."""

    count: int
    total: Float[Tensor, " d"]
    products: Float[Tensor, "d d"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> Moments:
        """The sums over the rows of x, in float64."""
        x = x.double()
        return cls(len(x), x.sum(0), x.T @ x)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.count - other.count, self.total - other.total, self.products - other.products)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """μ = Σ x / n."""
        return self.total / self.count

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Σ = (Σ x xᵀ − n μ μᵀ) / (n − 1)."""
        return (self.products - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def symmetric_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The R = Rᵀ with R R = matrix, positive semi-definite; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def gaussian_distance(x: Moments, y: Moments) -> float:
    r"""The squared Fréchet (2-Wasserstein) distance of two Gaussians (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

        d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (√Σ₁ Σ₂ √Σ₁)^½)

    The last trace is the sum of the singular values of √Σ₁ √Σ₂. Taken so and not as roots of the eigenvalues of the
    product, it loses no digits where a covariance is nearly singular.
    """
    cross = torch.linalg.svdvals(symmetric_root(x.covariance) @ symmetric_root(y.covariance)).sum()
    spread = x.covariance.trace() + y.covariance.trace() - 2 * cross
    return float((x.mean - y.mean).square().sum() + spread)


def frechet_distance(x: Float[Tensor, "m d"], y: Float[Tensor, "n _"], *, groups: int = GROUPS) -> Estimate:
    """The Fréchet distance between Gaussian fits of two sets of features, with a delete-a-group jackknife error.

    Heusel et al. 2017 (FID, there with Inception's features). It is biased upwards by about 1/m + 1/n: compare figures
    only at the same m and n, and with the floor.

    Raises:
        UsageError: the sets differ in width, or one has fewer than two rows.
    """
    _check(x, y)
    # One common shift, so that the sums of products keep their digits when the features lie far from zero.
    origin = y.double().mean(0)
    x, y = x.double() - origin, y.double() - origin
    whole_x, whole_y = Moments.of(x), Moments.of(y)
    of_x = [gaussian_distance(part, whole_y) for part in _moments_without_each_group(x, whole_x, groups)]
    of_y = [gaussian_distance(whole_x, part) for part in _moments_without_each_group(y, whole_y, groups)]
    variance = sum(jackknife_variance(torch.tensor(values, dtype=torch.float64)) for values in (of_x, of_y))
    return Estimate(gaussian_distance(whole_x, whole_y), math.sqrt(variance))


def _moments_without_each_group(x: Tensor, whole: Moments, groups: int) -> Iterator[Moments]:
    # Two rows must remain for a covariance.
    groups = max(2, min(groups, len(x) // 2))
    return (whole - Moments.of(x[i::groups]) for i in range(groups))


# ------------------------------------------------------------------------------------- kernel distance (KID, MMD²)


def cubic_kernel(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """k(x, y) = (xᵀy/d + 1)³   (Bińkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def kernel_distance(x: Float[Tensor, "m d"], y: Float[Tensor, "n _"]) -> Estimate:
    r"""KID: the unbiased squared maximum mean discrepancy with the cubic kernel (Bińkowski et al. 2018).

        MMD² = Σ_{i≠j} k(xᵢ,xⱼ)/(m(m−1)) + Σ_{i≠j} k(yᵢ,yⱼ)/(n(n−1)) − 2 Σ_{ij} k(xᵢ,yⱼ)/(mn)

    Zero in the mean for two sets of one law, so single values may be negative. All pairs are used, not random subsets;
    the error is the delete-one jackknife over both sets, which the rows' sums of the kernel give at no further cost.

    Raises:
        UsageError: the sets differ in width, or one has fewer than two rows.
    """
    _check(x, y)
    x, y = x.double(), y.double()
    within_x, within_y = _row_sums(x, x), _row_sums(y, y)
    across_x, across_y = _row_sums(x, y), _row_sums(y, x)
    value = _pair_mean(within_x) + _pair_mean(within_y) - 2 * float(across_x.sum()) / (len(x) * len(y))
    variance = sum(
        jackknife_variance(_pair_mean_without_each(within) - 2 * _cross_mean_without_each(across, other))
        for within, across, other in ((within_x, across_x, len(y)), (within_y, across_y, len(x)))
    )
    return Estimate(value, math.sqrt(variance))


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """Σⱼ k(xᵢ, yⱼ) for every i; without j = i where y is x itself."""
    sums = torch.cat([cubic_kernel(rows, y).sum(1) for rows in x.split(CHUNK)])
    return sums - (x.square().mean(1) + 1.0) ** 3 if x is y else sums


def _pair_mean(row_sums: Tensor) -> float:
    count = len(row_sums)
    return float(row_sums.sum()) / (count * (count - 1))


def _pair_mean_without_each(row_sums: Tensor) -> Tensor:
    # Sample i takes its row and its column with it.
    count = max(len(row_sums), 3)
    return (row_sums.sum() - 2 * row_sums) / ((count - 1) * (count - 2))


def _cross_mean_without_each(row_sums: Tensor, other: int) -> Tensor:
    return (row_sums.sum() - row_sums) / ((len(row_sums) - 1) * other)


# ------------------------------------------------------------------- precision, recall, density and coverage (PRDC)


@dataclass(frozen=True)
class Neighbourhood:
    """How two sets lie among each other's k nearest neighbours; what each figure says is in `neighbourhood`."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def neighbourhood(x: Float[Tensor, "m d"], y: Float[Tensor, "n _"], *, neighbours: int = 5) -> Neighbourhood:
    r"""Precision and recall (Kynkäänniemi et al. 2019, eq. 2), density and coverage (Naeem et al. 2020, eqs. 5 and 6).

    With B(z) the open ball around z that reaches to its k-th nearest neighbour in its own set:

        precision = share of xᵢ in any B(yⱼ)          are the samples realistic?
        recall    = share of yⱼ in any B(xᵢ)          could the model make all of the data? (outliers widen the balls)
        density   = Σᵢⱼ 1[xᵢ ∈ B(yⱼ)] / (k m)         realistic, counting crowds; 1 for one law, may exceed it
        coverage  = share of yⱼ with any xᵢ in B(yⱼ)  is all of the data made? 1 − 2⁻ᵏ about, for one law and m = n

    Take m = n, and the same m wherever figures are compared. The standard errors are those of the means over the rows,
    with the balls as given.

    Raises:
        UsageError: the sets differ in width, or have no k-th neighbour.
    """
    _check(x, y, least=neighbours + 1)
    x, y = x.double(), y.double()
    between = squared_distances(x, y)
    # Along the axis that `between` has y, or x, on: rounding is then the same on both sides of "<", also where x is y.
    in_real = between < _reach(y, neighbours, axis=0)
    in_generated = between < _reach(x, neighbours, axis=1)
    return Neighbourhood(
        precision=mean_estimate(in_real.any(1).double()),
        recall=mean_estimate(in_generated.any(0).double()),
        density=mean_estimate(in_real.double().sum(1) / neighbours),
        coverage=mean_estimate(in_real.any(0).double()),
    )


def squared_distances(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """‖xᵢ − yⱼ‖² for all pairs, by one matrix product, at least 0."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(squares, x, y.T, alpha=-2.0).clamp_(min=0.0)


def _reach(x: Tensor, neighbours: int, axis: int) -> Tensor:
    """The squared distance of every row to its k-th nearest among the other rows."""
    return squared_distances(x, x).fill_diagonal_(math.inf).kthvalue(neighbours, dim=axis, keepdim=True).values


# --------------------------------------------------------------------------------------- sliced Wasserstein distance


def sliced_wasserstein(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n _"],
    *,
    generator: torch.Generator,
    projections: int = 128,
    order: int = 2,
    groups: int = GROUPS // 2,
) -> Estimate:
    r"""The sliced Wasserstein distance of Bonneel et al. 2015,  SW_p = (E_θ W_p^p(θᵀX, θᵀY))^{1/p}, θ on the sphere.

    The expectation is over `projections` directions drawn from the generator; in one dimension the distance is exact,
    also for m ≠ n. The error is the jackknife over the rows, with the directions held.

    Raises:
        UsageError: the sets differ in width, or one has fewer than two rows.
    """
    _check(x, y)
    directions = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)

    def distance(a: Tensor, b: Tensor) -> float:
        return float(line_distance(a, b, order=order).mean()) ** (1 / order)

    x, y = x.double() @ directions, y.double() @ directions
    return Estimate(distance(x, y), jackknife(distance, x, y, groups))


def line_distance(x: Float[Tensor, "m p"], y: Float[Tensor, "n p"], *, order: int = 2) -> Float[Tensor, " p"]:
    r"""W_p^p between the columns of two matrices: ∫₀¹ |F⁻¹(u) − G⁻¹(u)|ᵖ du, exact for any two numbers of rows.

    The quantile functions are steps that change at the multiples of 1/m and 1/n; between two changes the integrand is
    constant.
    """
    x, y = x.sort(0).values, y.sort(0).values
    # In units of 1/(mn) the levels are whole numbers, so no rounding moves a level across a step.
    m, n = len(x), len(y)
    levels = torch.cat([torch.arange(0, m * n + 1, n), torch.arange(0, m * n + 1, m)]).unique()
    widths = levels.diff().double() / (m * n)
    from_x, from_y = levels[:-1] // n, levels[:-1] // m
    return (widths[:, None] * (x[from_x] - y[from_y]).abs() ** order).sum(0)


# ------------------------------------------------------------------------------------- nearest neighbours, copying


@dataclass(frozen=True)
class Nearest:
    """The nearest row of a reference for each row of a set: how far it is, and which it is."""

    distance: Float[Tensor, " m"]
    index: Int[Tensor, " m"]


def nearest(x: Float[Tensor, "m *d"], reference: Float[Tensor, "n *_"]) -> Nearest:
    """The Euclidean distance from each row of x to the nearest row of the reference; rows of any shape.

    Found by matrix products in the reference's dtype, chunk by chunk; the distance of the pair found is then computed
    directly, so an exact copy is at exactly 0.

    Raises:
        UsageError: the rows differ in shape, or one set is empty.
    """
    x, reference = x.flatten(1), reference.flatten(1)
    _check(x, reference, least=1)
    half_squares = reference.square().sum(1) / 2
    # ‖y‖²/2 − xᵀy orders the y as the distance does.
    index = torch.cat([(half_squares - rows @ reference.T).argmin(1) for rows in x.split(CHUNK // 4)])
    return Nearest((x - reference[index]).double().norm(dim=1), index)


def copying(
    generated: Float[Tensor, " m"],
    held_out: Float[Tensor, " n"],
) -> Estimate:
    r"""The chance that a sample lies nearer to the training data than held-out data do, P(d_gen < d_test) + ½ P(=).

    From the two sets of distances to the nearest training example. 0.5: as near as new data are; towards 1: the model
    copies (Meehan, Chaudhuri & Dasgupta 2020, whose test is this Mann–Whitney statistic); towards 0: the samples lie
    off the data. The error is that of the two placements' means (DeLong et al. 1988).

    Raises:
        UsageError: a set is empty.
    """
    if not len(generated) or not len(held_out):
        raise UsageError("copying needs distances of generated and of held-out data, got an empty set; give both")
    of_generated = 1.0 - _placements(generated, held_out)
    of_held_out = _placements(held_out, generated)
    errors = [mean_estimate(placements).standard_error for placements in (of_generated, of_held_out)]
    return Estimate(float(of_generated.mean()), math.hypot(*errors))


def _placements(values: Tensor, among: Tensor) -> Tensor:
    """For each value the share of `among` below it, ties counted half."""
    ordered = among.double().sort().values
    values = values.double().contiguous()
    below = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return below.double() / (2 * len(ordered))


def _check(x: Tensor, y: Tensor, least: int = 2) -> None:
    if x.shape[1:] != y.shape[1:]:
        raise UsageError(
            f"both sets must have rows of one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}; "
            "make features of both with the same extractor"
        )
    if min(len(x), len(y)) < least:
        raise UsageError(
            f"this distance needs at least {least} rows in each set, got {len(x)} and {len(y)}; draw more samples"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise UsageError("the features hold NaN or infinite values, so no distance exists; look at the samples")
