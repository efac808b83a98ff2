r"""Exponential Runge–Kutta methods in λ: DPM-Solver and DPM-Solver++, single-step.

    x_s = carry x_t + ∫ V dμ,   dμ = −α_s e^{−λ} dλ for V = ε̂ (M26),   α_s e^{−(λ_s−λ)} dλ for V = D

With r_i how far along h = λ_s − λ_t a stage is, T = ∫ dμ and M = ∫ (λ − λ_t)/h dμ up to where it goes,

    order 1   T V_t
    order 2   T V_t + T/(2 r₁) (V₁ − V_t)                                   r₁ = ½
    order 3   T V_t + M/r₂ (V₂ − V_t),  V₂ from T V_t + M r₂/r₁ (V₁ − V_t)   r₁ = ⅓, r₂ = ⅔

As h → 0 these are the Runge–Kutta methods `euler`, `midpoint` and `heun3`, whose conditions have been checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import final

from scorefield.paths import Path
from scorefield.samplers.grids import Grid, LogSNR
from scorefield.samplers.runge_kutta import TABLEAUX, Stage, Staged, runge_kutta_stages
from scorefield.samplers.schemes import FORMS, Form, Node, node, require
from scorefield.samplers.tables import quadrature

_PANEL = 0.5
_LIMITS = {1: "euler", 2: "midpoint", 3: "heun3"}
"""What each order is for short steps, and takes, in the angle, where there is no λ."""


@final
@dataclass(frozen=True)
class DPMSolver(Staged):
    """DPM-Solver-1, -2 and -3, and DPM-Solver++ 2S and 3S  (M26; Lu et al. 2022a, algorithms 1–2; 2022b, algorithm 1).

    Order 1 is DDIM. Order 2 with `noise` is also k-diffusion's DPM2: ε̂ at the geometric mean of two levels.

    Attributes:
        steps: K; `order` evaluations each, and one for the last.
        grid: the times, uniform in log-SNR by default, as the paper's.
        order: 1 to 3.
        prediction: the quantity: `noise` (DPM-Solver) or `data` (DPM-Solver++).

    Raises:
        UsageError: an order or prediction that there is not.
    """

    steps: int = 10
    grid: Grid = field(default_factory=LogSNR)
    order: int = 3
    prediction: str = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.order in _LIMITS, "DPMSolver", "an order from 1 to 3", self.order)
        require(self.prediction in ("data", "noise"), "DPMSolver", "a prediction of 'data' or 'noise'", self.prediction)

    @property
    def stages(self) -> int:
        """The order."""
        return self.order

    def _stages(self, path: Path, t: float, s: float) -> tuple[Stage, ...]:
        return dpm_solver_stages(path, t, s, self.order, self.prediction)


@lru_cache(maxsize=4096)
def dpm_solver_stages(path: Path, t: float, s: float, order: int, prediction: str) -> tuple[Stage, ...]:
    """The stages of one step from t to s  (M26)."""
    start, end = node(path, t), node(path, s)
    if min(start.log_snr, end.log_snr) == -math.inf:
        return runge_kutta_stages(path, t, s, _LIMITS[order], "velocity")
    form, h = FORMS[prediction], end.log_snr - start.log_snr
    along = TABLEAUX[_LIMITS[order]].nodes
    points = [start, *(node(path, path.time_of(start.log_snr + r * h)) for r in along[1:]), end]
    reached = (*along[1:], 1.0)
    rows = (_weights(form, start, points[k + 1], reached[k], along[: k + 1], order) for k in range(order))
    return tuple(
        Stage(here.t, form.quantity(here), form.carry(start, there), row)
        for here, there, row in zip(points[:-1], points[1:], rows, strict=True)
    )


def _weights(
    form: Form, start: Node, there: Node, reached: float, along: tuple[float, ...], order: int
) -> tuple[float, ...]:
    """The weights of V_t, V₁, … in the point that is `reached` of the step: a constant's, and the last difference's."""
    total = form.total(start, there)
    if len(along) == 1:
        return (total,)
    moment = 0.5 * total if order == 2 else _moment(form, start, there)
    last = moment * reached / along[-1]
    return (total - last, *(0.0 for _ in along[2:]), last)


def _moment(form: Form, start: Node, there: Node) -> float:
    """M = ∫ (λ − λ_t)/(λ_there − λ_t) dμ, by Gauss–Legendre: its closed form loses its digits where the step is short."""
    width = there.log_snr - start.log_snr
    integral = quadrature(start.log_snr, there.log_snr, _PANEL)
    return math.fsum(
        mass * form.density(u, there) * (u - start.log_snr) / width
        for u, mass in zip(integral.points, integral.masses, strict=True)
    )
