r"""The default sampler: for each budget of evaluations the plan that a calibration found, or a robust method without one.

Deterministic, a plan is walked as it is. Its stochastic twin puts noise back after every step: from x̄ at level s a plan's step
to x̄' at s' is one answer D̄ held over the whole interval,

    x̄' = (s'/s) x̄ + (1 − s'/s) D̄     ⇒     D̄ = (x̄' − (s'/s) x̄)/(1 − s'/s),

and with that answer the next state is drawn from the bridge between x̄ and D̄  (M5, M23):

    x̄' ← D̄ + √(s'² − κ²) (x̄ − D̄)/s + κ z,     κ = η √((s² − s'²) s'²/s²).

The answers to states with fresh noise differ by that noise, and a step multiplies what they differ by. Plans whose numbers are
large (fitted where they cancel, along a flow without noise) would make it large too: they are walked without noise only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Draw, Sampler, State, marginal
from scorefield.samplers.grids import Grid, VPTime
from scorefield.samplers.multistep import DPMSolverMultistep, UniPC
from scorefield.samplers.plans import Calibration, Plan, rows
from scorefield.samplers.tables import Correction, Row, walk_table
from scorefield.shapes import Float, Tensor

_STEADY = 4.0


@final
@dataclass(frozen=True)
class Calibrated(Sampler):
    """As accurate as a calibration has made it for this model; a robust multistep method where there is none.

    A model brings its calibration along (`scorefield calibrate`, or at the end of `scorefield train`). A plan is made for
    the whole way from noise to data: a start or an end in between, fewer evaluations than any plan has, or more noise than the
    plan can bear (η times its `amplification` above 4), is walked uncalibrated, on the grid of this sampler.

    Attributes:
        steps: K, the most evaluations; the plan of the next smaller budget is walked where there is none of K.
        grid: the times without a plan.
        eta: η ≥ 0, the noise put back at each step as a multiple of the reverse process's; 0 is deterministic.
        calibration: the plans; None for none.
    """

    steps: int = 15
    grid: Grid = field(default_factory=VPTime)
    eta: float = 0.0
    calibration: Calibration | None = None
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(
                f"Calibrated needs an eta between 0 (deterministic) and 1 (the reverse process), got {self.eta}"
            )

    @property
    def is_deterministic(self) -> bool:
        """η = 0."""
        return self.eta == 0.0

    def evaluations(self) -> int:
        """K, or that of the plan of the next smaller budget."""
        plan = self._chosen()
        return self.steps if plan is None else plan.evaluations

    def times(self, path: Path, start: float | None = None, end: float = 0.0) -> tuple[float, ...]:
        """The plan's times for the whole way, the grid's for any other."""
        plan = self._plan(path)
        whole = start in (None, path.t_max) and end == 0.0
        return (*plan.times, 0.0) if plan is not None and whole else super().times(path, start, end)

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Along the plan's table, or by the uncalibrated method."""
        plan = self._plan(denoiser.path)
        if plan is None or tuple(times) != (*plan.times, 0.0):
            return self._uncalibrated().walk(denoiser, x, times, draw, condition)
        table = rows(plan, denoiser.path)
        if self.eta:
            table = noisy(table, denoiser.path, plan.times, self.eta)
        return walk_table(table, denoiser, x, times, draw, condition)

    def _plan(self, path: Path) -> Plan | None:
        if self.calibration is None:
            return None
        if self.calibration.path != path:
            raise UsageError("this calibration was made for another path; calibrate the model that it is used with")
        return self._chosen()

    def _chosen(self) -> Plan | None:
        plan = None if self.calibration is None else self.calibration.plan(self.steps)
        return None if plan is None or self.eta * plan.amplification > _STEADY else plan

    def _uncalibrated(self) -> Sampler:
        if self.eta:
            return DPMSolverMultistep(steps=self.steps, grid=self.grid, stochastic=True)
        return UniPC(steps=self.steps, grid=self.grid)


@lru_cache(maxsize=64)
def noisy(table: tuple[Row, ...], path: Path, times: tuple[float, ...], eta: float) -> tuple[Row, ...]:
    """A table whose steps put noise back; the step to data has none  (M23)."""
    points = [marginal(path, t) for t in times]
    drawn = [_Bridge.between(start, end, eta) for start, end in pairwise(points)]
    found = []
    for n, row in enumerate(table):
        last = n + 1 == len(table)
        carry, weights = (row.carry, row.weights) if last else drawn[n].applied(row.carry, row.weights)
        correction = row.correction
        if correction is not None:
            correction = Correction(*drawn[n - 1].applied(correction.carry, correction.weights))
        found.append(Row(row.quantity, carry, weights, 0.0 if last else drawn[n].noise, correction))
    return tuple(found)


@dataclass(frozen=True)
class _Bridge:
    """x' = direct · x + share · (x'_det − held · x) + noise · z: a deterministic step made stochastic, in x.

    Attributes:
        held: what multiplies x in a step whose answer is held, σ'/σ.
        direct: √(σ'² − κ²)/σ.
        share: what becomes of the answer's part.
        noise: κ in the scale of x'.
    """

    held: float
    direct: float
    share: float
    noise: float

    @classmethod
    def between(cls, start: tuple[float, float], end: tuple[float, float], eta: float) -> _Bridge:
        (alpha, sigma), (alpha_end, sigma_end) = start, end
        ratio = alpha * sigma_end / (alpha_end * sigma)  # s'/s
        kappa = eta * sigma_end * math.sqrt(max(0.0, 1.0 - ratio**2))
        held, direct = sigma_end / sigma, math.sqrt(sigma_end**2 - kappa**2) / sigma
        return cls(held, direct, (alpha_end - direct * alpha) / (alpha_end - held * alpha), kappa)

    def applied(self, carry: float, weights: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
        """The coefficients of x and of the answers."""
        return self.direct + self.share * (carry - self.held), tuple(self.share * weight for weight in weights)
