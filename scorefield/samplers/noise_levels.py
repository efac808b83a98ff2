r"""Which noise levels annealed Langevin dynamics needs, and how long its steps are  (M34; Song & Ermon 2020, NCSNv2).

Where samples of level σ_{i−1} = γ σ_i start at level σ_i, D-dimensional and independent in each coordinate:

    technique 1   σ_max: the largest distance of two examples
    technique 2   Φ(√(2D)(γ−1) + 3γ) − Φ(√(2D)(γ−1) − 3γ) ≈ ½          the shells of two levels overlap
    proposition 3  s_T²/σ_i² = (1−u)^{2T} (γ² − 2/(2−u)) + 2/(2−u)      after T steps, u = ϵ/σ_min²
    technique 4   ϵ brings that ratio as near to 1 as it can be

The first is measured on the data; the others are these functions.
"""

from __future__ import annotations

import math
from functools import lru_cache

NCSN_RATIO = 100.0 ** (1.0 / 9.0)
"""γ of NCSN itself (ten levels from 1 to 0.01), the widest that is taken: in few dimensions any two shells overlap."""

_OVERLAP = 0.5
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def overlap(ratio: float, dimension: int) -> float:
    """How much of level σ_{i−1}'s shell lies within three deviations of level σ_i's  (M34; technique 2)."""
    shift = math.sqrt(2.0 * dimension) * (ratio - 1.0)
    return _normal_cdf(shift + 3.0 * ratio) - _normal_cdf(shift - 3.0 * ratio)


def geometric_ratio(dimension: int) -> float:
    """γ = σ_{i−1}/σ_i at which the overlap is one half, and NCSN's γ where that is smaller  (M34; technique 2).

    Args:
        dimension: D, how many numbers a sample has.
    """
    low, high = 1.0, NCSN_RATIO
    if overlap(high, dimension) > _OVERLAP:
        return high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if overlap(middle, dimension) > _OVERLAP else (low, middle)
    return low


def level_count(sigma_min: float, sigma_max: float, dimension: int) -> int:
    """L, the least number of geometric levels from σ_max to σ_min no further apart than `geometric_ratio`  (M34)."""
    return 1 + max(1, math.ceil(math.log(sigma_max / sigma_min) / math.log(geometric_ratio(dimension))))


def variance_ratio(u: float, ratio: float, inner_steps: int) -> float:
    """s_T²/σ_i², the variance after T steps of u = ϵ/σ_min² from samples γ times too wide  (M34; proposition 3)."""
    equilibrium = 2.0 / (2.0 - u)
    return (1.0 - u) ** (2 * inner_steps) * (ratio**2 - equilibrium) + equilibrium


@lru_cache(maxsize=256)
def relative_step(ratio: float, inner_steps: int) -> float:
    """u = ϵ/σ_min², 0 < u ≤ 1, at which the variance after T steps is nearest to the level's own  (M34; technique 4).

    The ratio is above 1 for every u: a mean of γ² and the equilibrium's 2/(2−u). Its only minimum is found in log u.
    """
    low, high = math.log(1e-9), 0.0
    while high - low > 1e-9:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        falls = variance_ratio(math.exp(left), ratio, inner_steps) > variance_ratio(math.exp(right), ratio, inner_steps)
        low, high = (left, high) if falls else (low, right)
    return math.exp(high)
