r"""Runge–Kutta methods for the probability-flow ODE, in any of its four variables.

    y' = V in z, y = x/c  (M26; see `scorefield.samplers.schemes` for the quantities V and their z)

    x_i = (c_i/c_t) x_t + c_i h Σ_{j<i} a_ij V_j,   V_i = p_i x_i + q_i D(x_i, z_t + γ_i h),   h = z_s − z_t
    x_s = (c_s/c_t) x_t + c_s h Σ_i b_i V_i

A tableau (γ, a, b) is data that checks itself: one that does not fulfil the conditions of the order it claims is refused.
Stages lie between the grid's times, on a discrete path between its steps: a network is then told a fraction of a step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Memoryless, State
from scorefield.samplers.grids import Grid, Karras
from scorefield.samplers.schemes import FORMS, Form, Node, VelocityForm, node, require
from scorefield.shapes import Float, Tensor

_TOLERANCE = 1e-12


# ── tableaux ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: stages from `matrix`, the step from `weights`.

    Attributes:
        matrix: a_ij, row i with i entries, the first row empty; γ_i = Σ_j a_ij.
        weights: b_i.
        order: up to 5, for which its conditions are checked.

    Raises:
        UsageError: rows of the wrong length, or a condition that does not hold.
    """

    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        if len(self.matrix) != len(self.weights) or any(len(row) != i for i, row in enumerate(self.matrix)):
            raise UsageError(f"a tableau of {len(self.weights)} weights needs rows of 0, 1, 2, … entries, one a weight")
        for name, (order, got, wanted) in self._conditions().items():
            if order <= self.order and abs(got - wanted) > _TOLERANCE:
                raise UsageError(
                    f"order {self.order} needs {name} = {wanted:.6g}, but these weights have {got:.6g}; claim a lower order or correct them"
                )

    @property
    def nodes(self) -> tuple[float, ...]:
        """γ_i = Σ_j a_ij: how far along the step each stage is."""
        return tuple(math.fsum(row) for row in self.matrix)

    def _conditions(self) -> dict[str, tuple[int, float, float]]:
        """Butcher's conditions, one a rooted tree of up to five nodes: name → (order, left side, right side)."""
        c = self.nodes
        ones = (1.0,) * len(c)
        ac, ac2 = self._applied(c), self._applied(_times(c, c))
        aac, cac = self._applied(ac), self._applied(_times(c, ac))
        vectors: dict[str, tuple[int, Sequence[float], float]] = {
            "Σb": (1, ones, 1.0),
            "Σbc": (2, c, 1 / 2),
            "Σbc²": (3, _times(c, c), 1 / 3),
            "Σb(Ac)": (3, ac, 1 / 6),
            "Σbc³": (4, _times(c, c, c), 1 / 4),
            "Σbc(Ac)": (4, _times(c, ac), 1 / 8),
            "Σb(Ac²)": (4, ac2, 1 / 12),
            "Σb(AAc)": (4, aac, 1 / 24),
            "Σbc⁴": (5, _times(c, c, c, c), 1 / 5),
            "Σbc²(Ac)": (5, _times(c, c, ac), 1 / 10),
            "Σb(Ac)²": (5, _times(ac, ac), 1 / 20),
            "Σbc(Ac²)": (5, _times(c, ac2), 1 / 15),
            "Σb(Ac³)": (5, self._applied(_times(c, c, c)), 1 / 20),
            "Σbc(AAc)": (5, _times(c, aac), 1 / 30),
            "Σb(A(cAc))": (5, cac, 1 / 40),
            "Σb(AAc²)": (5, self._applied(ac2), 1 / 60),
            "Σb(AAAc)": (5, self._applied(aac), 1 / 120),
        }
        return {
            name: (order, math.fsum(_times(self.weights, v)), wanted) for name, (order, v, wanted) in vectors.items()
        }

    def _applied(self, vector: Sequence[float]) -> tuple[float, ...]:
        """A v."""
        return tuple(math.fsum(a * v for a, v in zip(row, vector, strict=False)) for row in self.matrix)


def _times(*vectors: Sequence[float]) -> tuple[float, ...]:
    """The product, entry by entry."""
    return tuple(math.prod(entries) for entries in zip(*vectors, strict=True))


TABLEAUX: dict[str, Tableau] = {
    "euler": Tableau(((),), (1.0,), 1),
    "midpoint": Tableau(((), (1 / 2,)), (0.0, 1.0), 2),
    "heun": Tableau(((), (1.0,)), (1 / 2, 1 / 2), 2),
    "ralston": Tableau(((), (2 / 3,)), (1 / 4, 3 / 4), 2),
    "heun3": Tableau(((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4), 3),
    "kutta3": Tableau(((), (1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), 3),
    "rk4": Tableau(((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4),
    "three-eighths": Tableau(((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8), 4),
}
"""The methods by name: Heun's and Kutta's of the third order, Kutta's two of the fourth, and those below."""


# ── steps of several stages ──────────────────────────────────────────────────────────────────────────────────────────


class Stage(NamedTuple):
    """An evaluation and what is taken from it.

    Attributes:
        t: when the denoiser is asked.
        quantity: (p, q) of V = p x + q D.
        carry: what multiplies x_t in the next point.
        weights: what multiplies the V so far, first to last, in the next point.
    """

    t: float
    quantity: tuple[float, float]
    carry: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Staged(Memoryless, ABC):
    """A deterministic sampler whose step is a sequence of stages; the step to data takes D itself, by one evaluation  (M25)."""

    @property
    @abstractmethod
    def stages(self) -> int:
        """Evaluations a step."""

    @abstractmethod
    def _stages(self, path: Path, t: float, s: float) -> tuple[Stage, ...]:
        """The step from t to s > 0."""

    @property
    def is_deterministic(self) -> bool:
        """True."""
        return True

    def evaluations(self) -> int:
        """One for the step to data, and as many as there are stages for each of the others."""
        return self.stages * (self.steps - 1) + 1

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
        """Stage after stage; the last one's point is x_s  (M26)."""
        if s == 0.0:
            x_0 = denoiser(x_t, t, condition).x0
            return State(s, x_0, x_0, 1)
        stages = self._stages(denoiser.path, t, s)
        x = x_0 = x_t
        found: list[Tensor] = []
        for stage in stages:
            x_0 = denoiser(x, stage.t, condition).x0
            p, q = stage.quantity
            found.append(x_0 if p == 0.0 and q == 1.0 else (x_0 * q).add_(x, alpha=p))
            x = x_t * stage.carry
            for weight, quantity in zip(stage.weights, found, strict=True):
                if weight != 0.0:
                    x.add_(quantity, alpha=weight)
        return State(s, x, x_0, len(stages))


# ── Runge–Kutta in a quantity's own variable ─────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class RungeKutta(Staged):
    """A classical Runge–Kutta method in one of the flow's own variables  (M26).

    `euler` with `noise` is DDIM, `heun` with `noise` EDM's sampler. The default variable, the angle θ = arctan(σ/α), is finite
    at both ends of every path; a step where α = 0 takes it in any case.

    Attributes:
        steps: K; as many evaluations each as the method has stages, and one for the last.
        grid: the times.
        method: `euler`, `midpoint`, `heun`, `ralston`, `heun3`, `kutta3`, `rk4` or `three-eighths`.
        quantity: V, and with it the variable z: `data` D in α/σ, `noise` ε̂ in σ/α, `velocity` v in θ or `straight` ε̂ − D in σ/(α+σ).

    Raises:
        UsageError: a method or quantity that there is not.
    """

    steps: int = 8
    grid: Grid = field(default_factory=Karras)
    method: str = "rk4"
    quantity: str = "velocity"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.method in TABLEAUX, "RungeKutta", f"a method of {', '.join(TABLEAUX)}", self.method)
        require(self.quantity in FORMS, "RungeKutta", f"a quantity of {', '.join(FORMS)}", self.quantity)

    @property
    def order(self) -> int:
        """The tableau's."""
        return TABLEAUX[self.method].order

    @property
    def stages(self) -> int:
        """The tableau's rows."""
        return len(TABLEAUX[self.method].weights)

    def _stages(self, path: Path, t: float, s: float) -> tuple[Stage, ...]:
        return runge_kutta_stages(path, t, s, self.method, self.quantity)


_LOG_SNR_OF: dict[str, Callable[[float], float]] = {
    "data": math.log,
    "noise": lambda z: -math.log(z),
    "velocity": lambda z: -math.log(math.tan(z)),
    "straight": lambda z: math.log1p(-z) - math.log(z),
}
"""λ as a function of each quantity's own variable z."""


@lru_cache(maxsize=4096)
def runge_kutta_stages(path: Path, t: float, s: float, method: str, quantity: str) -> tuple[Stage, ...]:
    """The tableau's stages from t to s in the quantity's own variable; in the angle where one of the two has no signal  (M26)."""
    tableau, start, end = TABLEAUX[method], node(path, t), node(path, s)
    if min(start.log_snr, end.log_snr) == -math.inf:
        quantity = "velocity"
    form = FORMS[quantity] if quantity != "velocity" else VelocityForm()
    h = form.own(end) - form.own(start)
    points = [start, *(_along(path, quantity, form.own(start), h, c, end) for c in tableau.nodes[1:]), end]
    rows = (*tableau.matrix[1:], tableau.weights)
    return tuple(
        _stage(form, start, here, there, h, row) for here, there, row in zip(points[:-1], points[1:], rows, strict=True)
    )


def _along(path: Path, quantity: str, z: float, h: float, c: float, end: Node) -> Node:
    """The node at z + c h; the end itself at c = 1."""
    return end if c == 1.0 else node(path, path.time_of(_LOG_SNR_OF[quantity](z + c * h)))


def _stage(form: Form, start: Node, here: Node, there: Node, h: float, row: Sequence[float]) -> Stage:
    """Ask here, go on from the start to there."""
    size = form.first(there) * h
    return Stage(here.t, form.quantity(here), form.carry(start, there), tuple(size * a for a in row))
