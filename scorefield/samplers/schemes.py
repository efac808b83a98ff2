r"""What a multistep method is: a quantity V, the variable of its polynomial, and an order; its table follows.

With s = σ/α and λ = −log s the probability flow (M26, M35 with ℓ = 0) is, in the four quantities that are in use,

    data       d(x/σ)          = D d(α/σ)                        DPM-Solver++
    noise      d(x/α)          = ε̂ d(σ/α)                        DPM-Solver, DEIS, LMS, PNDM
    velocity   d(x/√(α²+σ²))   = v dθ,      θ = arctan(σ/α),  v = cos θ ε̂ − sin θ D
    straight   d(x/(α+σ))      = u dτ,      τ = σ/(α+σ),      u = ε̂ − D

and the reverse SDE (M35 with ℓ² = η) is, for D held along the step, the Gaussian bridge

    x_s = (σ_s/σ_t) e^{−ηh} x_t + (1+η) α_s ∫ e^{−(1+η)(λ_s−λ)} D dλ + σ_s √(1 − e^{−2ηh}) z,   h = λ_s − λ_t.

D, ε̂, v or u becomes a polynomial in one variable through the last evaluations. Where α = 0 there is no λ: a step that starts or
ends there is of first order, and polynomials begin at the node after it, unless quantity and variable know no such end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import marginal
from scorefield.samplers.tables import TO_DATA, Correction, Integral, Row, interpolating, quadrature, verified

_NO_SIGNAL = 1e-12
_PANEL = 0.5
_DECAY = 45.0
_FEW_STEPS = 15

VARIABLES = ("own", "log-snr", "time")
"""What a polynomial may be in: the quantity's own z, λ, or the path's t."""


class Node(NamedTuple):
    """A time with its α, σ and λ (−∞ where no signal is left)."""

    t: float
    alpha: float
    sigma: float
    log_snr: float


def node(path: Path, t: float) -> Node:
    """The path at t  (M1, M2)."""
    alpha, sigma = marginal(path, t)
    if t == 0.0:
        return Node(t, alpha, sigma, math.inf)
    return Node(t, alpha, sigma, path.log_snr(t) if alpha > _NO_SIGNAL else -math.inf)


# ── quantities ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Form(ABC):
    """The flow as y' = V: x_s = carry x_t + ∫ V dμ + noise z."""

    @property
    def is_bounded(self) -> bool:
        """Whether V and its own variable are finite where α = 0."""
        return False

    @abstractmethod
    def quantity(self, t: Node) -> tuple[float, float]:
        """(p, q) of V = p x + q D."""

    @abstractmethod
    def carry(self, t: Node, s: Node) -> float:
        """What is left of x_t in x_s."""

    @abstractmethod
    def total(self, t: Node, s: Node) -> float:
        """∫ dμ, the weight of a constant V."""

    @abstractmethod
    def density(self, log_snr: float, s: Node) -> float:
        """dμ/dλ of a step to s."""

    @abstractmethod
    def own(self, node: Node) -> float:
        """z."""

    @abstractmethod
    def first(self, node: Node) -> float:
        """dμ/dz of a step to this node."""

    def noise(self, t: Node, s: Node) -> float:
        """What multiplies z; none in a probability flow."""
        return 0.0


@final
@dataclass(frozen=True)
class DataForm(Form):
    """V = D: the exponential form of DPM-Solver++, and of the reverse SDE with η > 0  (Lu et al. 2022b, eq. 8 and 14; M35)."""

    eta: float = 0.0

    def quantity(self, t: Node) -> tuple[float, float]:
        """D."""
        return (0.0, 1.0)

    def carry(self, t: Node, s: Node) -> float:
        """(σ_s/σ_t) e^{−ηh}."""
        return s.sigma / t.sigma * (math.exp(-self.eta * (s.log_snr - t.log_snr)) if self.eta else 1.0)

    def total(self, t: Node, s: Node) -> float:
        """α_s (1 − e^{−(1+η)h})."""
        if s.log_snr == -math.inf:
            return -s.sigma * t.alpha / t.sigma
        return -s.alpha * math.expm1(-(1.0 + self.eta) * (s.log_snr - t.log_snr))

    def density(self, log_snr: float, s: Node) -> float:
        """(1+η) α_s e^{−(1+η)(λ_s−λ)}."""
        return (1.0 + self.eta) * s.sigma * math.exp(log_snr - self.eta * (s.log_snr - log_snr))

    def own(self, node: Node) -> float:
        """α/σ."""
        return node.alpha / node.sigma

    def first(self, node: Node) -> float:
        """σ_s; the reverse SDE has no such form."""
        return node.sigma

    def noise(self, t: Node, s: Node) -> float:
        """σ_s √(1 − e^{−2ηh})."""
        return s.sigma * math.sqrt(-math.expm1(-2.0 * self.eta * (s.log_snr - t.log_snr))) if self.eta else 0.0


@final
@dataclass(frozen=True)
class NoiseForm(Form):
    """V = ε̂: the exponential form of DPM-Solver and DEIS  (Lu et al. 2022a, eq. 3.4; Zhang & Chen 2022, eq. 10; M26)."""

    def quantity(self, t: Node) -> tuple[float, float]:
        """(x − α D)/σ."""
        return (1.0 / t.sigma, -t.alpha / t.sigma)

    def carry(self, t: Node, s: Node) -> float:
        """α_s/α_t."""
        return s.alpha / t.alpha if s.log_snr > -math.inf else 0.0

    def total(self, t: Node, s: Node) -> float:
        """σ_s (1 − e^h)."""
        return -s.sigma * math.expm1(s.log_snr - t.log_snr)

    def density(self, log_snr: float, s: Node) -> float:
        """−α_s e^{−λ}."""
        return -s.alpha * math.exp(-log_snr)

    def own(self, node: Node) -> float:
        """σ/α."""
        return node.sigma / node.alpha

    def first(self, node: Node) -> float:
        """α_s."""
        return node.alpha


@final
@dataclass(frozen=True)
class VelocityForm(Form):
    """V = v in the angle θ = arctan(σ/α), finite at both ends of every path  (Salimans & Ho 2022, appendix D; M7)."""

    @property
    def is_bounded(self) -> bool:
        """True."""
        return True

    def quantity(self, t: Node) -> tuple[float, float]:
        """cos θ ε̂ − sin θ D = (α/σ x − (α²+σ²)/σ D)/√(α²+σ²)."""
        length = math.hypot(t.alpha, t.sigma)
        return (t.alpha / (t.sigma * length), -length / t.sigma)

    def carry(self, t: Node, s: Node) -> float:
        """√(α²+σ²) at s over that at t."""
        return math.hypot(s.alpha, s.sigma) / math.hypot(t.alpha, t.sigma)

    def total(self, t: Node, s: Node) -> float:
        """√(α_s²+σ_s²) (θ_s − θ_t), the angle between the two from their cross product."""
        cross, dot = s.sigma * t.alpha - s.alpha * t.sigma, s.alpha * t.alpha + s.sigma * t.sigma
        return self.first(s) * math.atan2(cross, dot)

    def density(self, log_snr: float, s: Node) -> float:
        """−√(α_s²+σ_s²)/(2 cosh λ)."""
        return -0.5 * self.first(s) / math.cosh(log_snr)

    def own(self, node: Node) -> float:
        """θ."""
        return math.atan2(node.sigma, node.alpha)

    def first(self, node: Node) -> float:
        """√(α_s²+σ_s²)."""
        return math.hypot(node.alpha, node.sigma)


@final
@dataclass(frozen=True)
class StraightForm(Form):
    """V = ε̂ − D in τ = σ/(α+σ): flow matching's velocity and time, on any path  (Lipman et al. 2022; M8)."""

    @property
    def is_bounded(self) -> bool:
        """True."""
        return True

    def quantity(self, t: Node) -> tuple[float, float]:
        """ε̂ − D = (x − (α+σ) D)/σ."""
        return (1.0 / t.sigma, -(t.alpha + t.sigma) / t.sigma)

    def carry(self, t: Node, s: Node) -> float:
        """α+σ at s over that at t."""
        return self.first(s) / self.first(t)

    def total(self, t: Node, s: Node) -> float:
        """(α_s+σ_s) (τ_s − τ_t) = (σ_s α_t − α_s σ_t)/(α_t+σ_t)."""
        return (s.sigma * t.alpha - s.alpha * t.sigma) / self.first(t)

    def density(self, log_snr: float, s: Node) -> float:
        """−(α_s+σ_s) τ (1 − τ)."""
        return -0.25 * self.first(s) / math.cosh(0.5 * log_snr) ** 2

    def own(self, node: Node) -> float:
        """τ."""
        return node.sigma / (node.alpha + node.sigma)

    def first(self, node: Node) -> float:
        """α_s+σ_s."""
        return node.alpha + node.sigma


FORMS: dict[str, Form] = {
    "data": DataForm(),
    "noise": NoiseForm(),
    "velocity": VelocityForm(),
    "straight": StraightForm(),
}
"""The quantities by the names that samplers take."""


# ── schemes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Scheme:
    """A multistep method.

    Attributes:
        form: the quantity and the integral it stands in.
        variable: what the polynomial is in, of `VARIABLES`.
        order: how many evaluations a step looks back on, once there are so many.
        second: how a difference of two quantities is weighted: `exact`, the line's own integral; `total`, half of the
            constant's (DPM-Solver++'s midpoint, UniPC's B₂); `width`, half of the integral's first term in h (UniPC's B₁).
        fixed: weights of equal steps (Adams–Bashforth's), whatever the steps are.
        corrects: whether x_n is redone through V_n too.
        eases_out: whether the order falls towards a last step to data, for fewer than 15 steps.
    """

    form: Form
    variable: str
    order: int
    second: str = "exact"
    fixed: bool = False
    corrects: bool = False
    eases_out: bool = False


EQUAL_STEPS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams and Bashforth's weights for equal steps, by order."""


@lru_cache(maxsize=256)
def table(scheme: Scheme, path: Path, times: tuple[float, ...]) -> tuple[Row, ...]:
    """The method's rows along these times, made once.

    Raises:
        UsageError: times that are not told apart in the method's variable.
    """
    nodes = [node(path, t) for t in times]
    begin = 1 if _is_singular(scheme, nodes[0]) else 0
    rows: list[Row] = []
    for n, s in enumerate(nodes[1:]):
        past = nodes[begin : n + 1][-_order_at(scheme, n, times) :][::-1]
        row = TO_DATA if s.t == 0.0 else _row(scheme, path, nodes[n], s, past)
        if scheme.corrects and row is not TO_DATA and n > begin:
            before = nodes[begin:n][-_order_at(scheme, n - 1, times) :][::-1]
            row = row._replace(correction=_correction(scheme, path, nodes[n], before))
        rows.append(row)
    return tuple(rows)


def _order_at(scheme: Scheme, n: int, times: Sequence[float]) -> int:
    """The order of step n: lowered towards data, as DPM-Solver++ does below 15 steps."""
    steps = len(times) - 1
    eases_out = scheme.eases_out and times[-1] == 0.0 and steps < _FEW_STEPS
    return min(scheme.order, steps - n) if eases_out else scheme.order


def _is_singular(scheme: Scheme, end: Node) -> bool:
    """Whether this node has no place on the polynomial's axis."""
    return end.log_snr == -math.inf and not (scheme.form.is_bounded and scheme.variable == "own")


def _row(scheme: Scheme, path: Path, t: Node, s: Node, past: Sequence[Node]) -> Row:
    """The step from t to s with the polynomial through `past`, newest first."""
    form = scheme.form
    if _is_singular(scheme, t) and not form.is_bounded:
        form = DataForm(form.eta if isinstance(form, DataForm) else 0.0)
    if _is_singular(scheme, t) or _is_singular(scheme, s):
        weights: tuple[float, ...] = (form.total(t, s),)
    else:
        weights = _weights(scheme, path, t, s, past)
    return Row(form.quantity(t), form.carry(t, s), weights, form.noise(t, s))


def _correction(scheme: Scheme, path: Path, now: Node, before: Sequence[Node]) -> Correction:
    """The step to `now` once more, through V_now too  (UniC; Zhao et al. 2023, algorithm 1)."""
    start = before[0]
    if len(before) == 1 and scheme.second != "exact":
        half = 0.5 * _span(scheme, start, now)
        weights: tuple[float, ...] = (half, scheme.form.total(start, now) - half)
    else:
        weights = _weights(scheme, path, start, now, (now, *before))
    return Correction(scheme.form.carry(start, now), weights)


def _weights(scheme: Scheme, path: Path, t: Node, s: Node, past: Sequence[Node]) -> tuple[float, ...]:
    """∫ ℓ_j dμ from t to s, or what the method takes for it; a constant V is always integrated exactly."""
    total = scheme.form.total(t, s)
    if scheme.fixed:
        return tuple(total * weight for weight in EQUAL_STEPS[len(past) - 1])
    if len(past) == 2 and scheme.second != "exact" and s not in past:
        slope = 0.5 * _span(scheme, t, s) * (s.log_snr - t.log_snr) / (t.log_snr - past[1].log_snr)
        return (total + slope, -slope)
    nodes = [_position(scheme, one) for one in past]
    integral = _integral(scheme, path, t, s)
    weights = interpolating(nodes, integral)
    constant = Integral((nodes[0],), (total,))  # the closed form, which no quadrature has touched
    return verified(weights, nodes, constant, degree=0)


def _span(scheme: Scheme, t: Node, s: Node) -> float:
    """B(h), what UniPC and DPM-Solver++'s midpoint give a difference: ∫ dμ, or its first term in h  (Zhao et al. 2023, section 3.2)."""
    if scheme.second == "total":
        return scheme.form.total(t, s)
    return scheme.form.density(s.log_snr, s) * (s.log_snr - t.log_snr)


def _position(scheme: Scheme, at: Node) -> float:
    """u at a node."""
    return {"own": scheme.form.own, "log-snr": _log_snr, "time": _time}[scheme.variable](at)


def _log_snr(at: Node) -> float:
    return at.log_snr


def _time(at: Node) -> float:
    return at.t


def _integral(scheme: Scheme, path: Path, t: Node, s: Node) -> Integral:
    """∫ f(u) dμ from t to s: in z itself where u = z, otherwise in λ, without the part that e^{−45} has made nothing of."""
    form = scheme.form
    if scheme.variable == "own":
        points, masses = quadrature(form.own(t), form.own(s), count=4)
        return Integral(points, tuple(form.first(s) * mass for mass in masses))
    low = max(t.log_snr, s.log_snr - _DECAY) if isinstance(form, DataForm) else t.log_snr
    places, masses = quadrature(low, s.log_snr, _PANEL)
    points = places if scheme.variable == "log-snr" else tuple(float(path.time_of(place)) for place in places)
    return Integral(points, tuple(mass * form.density(place, s) for place, mass in zip(places, masses, strict=True)))


def require(holds: bool, method: str, wants: str, got: object) -> None:
    """Refuse a setting that a method does not have."""
    if not holds:
        raise UsageError(f"{method} needs {wants}, got {got!r}")
