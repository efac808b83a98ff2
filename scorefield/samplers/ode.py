r"""Solvers of the probability-flow ODE in x̄ = x/α, s = σ/α:  dx̄/ds = ε̂(x, t)  (M26).

Every Gaussian path is this one equation; the path only says how x and t are found from x̄ and s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, final

from scorefield.denoisers.base import Denoiser
from scorefield.paths import Path
from scorefield.samplers.base import Memoryless, State, marginal
from scorefield.samplers.grids import Grid, Karras
from scorefield.shapes import Float, Tensor


class _HeunRow(NamedTuple):
    """Euler: x' = a x_t + b D.  Heun: x_s = p x_t + q D + r x' + u D'; None where Euler's step is the last word."""

    a: float
    b: float
    correction: tuple[float, float, float, float] | None


@final
@dataclass(frozen=True)
class Heun(Memoryless):
    """EDM's deterministic second-order sampler on any path  (M26; Karras et al. 2022, algorithm 1).

    An Euler step to s, then the trapezoidal rule with the slope found there. The step to data is Euler's, that is D itself.

    Attributes:
        steps: K; 2K − 1 evaluations.
        grid: the times, EDM's by default.
    """

    steps: int = 18
    grid: Grid = field(default_factory=Karras)
    order: ClassVar[int] = 2

    @property
    def is_deterministic(self) -> bool:
        """True."""
        return True

    def evaluations(self) -> int:
        """2K − 1: the step to data needs one only."""
        return 2 * self.steps - 1

    def needs_noise(self, path: Path, t: float, s: float) -> bool:
        """False."""
        return False

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "b *d"],
        t: float,
        s: float,
        noise: Float[Tensor, "b *d"] | None = None,
        condition: Any = None,
    ) -> State:
        """x̄_s = x̄_t + ½ (s_s − s_t) (ε̂_t + ε̂'_s), ε̂'_s at the end of Euler's step  (M26)."""
        row = _heun_row(denoiser.path, t, s)
        x_0 = denoiser(x_t, t, condition).x0
        euler = (row.a * x_t).add_(x_0, alpha=row.b)
        if row.correction is None:
            return State(s, euler, x_0, 1)
        p, q, r, u = row.correction
        x_0_end = denoiser(euler, s, condition).x0
        x_s = (p * x_t).add_(x_0, alpha=q).add_(euler, alpha=r).add_(x_0_end, alpha=u)
        return State(s, x_s, x_0_end, 2)


@lru_cache(maxsize=4096)
def _heun_row(path: Path, t: float, s: float) -> _HeunRow:
    """ε̂ = (x − α D)/σ put into Euler's and Heun's formulas, multiplied out into coefficients of x_t, D, x' and D'.

    At α = 0 the variable x/α does not exist; a step that starts or ends there takes the trapezoidal rule in x/σ, whose flow
    is d(x/σ) = D d(α/σ).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    a = sigma_s / sigma_t
    b = alpha_s - a * alpha_t
    if sigma_s == 0.0:
        return _HeunRow(a, b, None)
    if min(alpha_t, alpha_s) < 1e-12:
        return _HeunRow(a, b, (a, 0.5 * b, 0.0, 0.5 * b))
    half = 0.5 * alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t)
    p, q = alpha_s / alpha_t + half / sigma_t, -half * alpha_t / sigma_t
    return _HeunRow(a, b, (p, q, half / sigma_s, -half * alpha_s / sigma_s))
