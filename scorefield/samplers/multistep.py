r"""The multistep methods of the literature, each a scheme of `scorefield.samplers.schemes` along its table of numbers.

    x_{n+1} = carry x_n + Σ_j w_j V_{n−j} + noise z,   V ∈ {D, ε̂, v, u}

One evaluation a step. Orders ramp up from one at the start; the step to t = 0 takes the denoiser's answer itself  (M25).
At fewer evaluations than about twenty the order of convergence decides less than the grid and the quantity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.paths import Path
from scorefield.samplers.base import Draw, Sampler, State
from scorefield.samplers.grids import Grid, Native
from scorefield.samplers.schemes import (
    FORMS,
    VARIABLES,
    DataForm,
    Form,
    Node,
    NoiseForm,
    Scheme,
    node,
    require,
    table,
)
from scorefield.samplers.tables import Row, walk_table
from scorefield.shapes import Float, Tensor


@dataclass(frozen=True)
class Multistep(Sampler, ABC):
    """A sampler that is a scheme; `order` is how many evaluations its polynomial goes through."""

    @property
    @abstractmethod
    def scheme(self) -> Scheme:
        """Quantity, variable, order, and what is done with them."""

    @property
    def is_deterministic(self) -> bool:
        """Whether no noise is put back."""
        return not (isinstance(self.scheme.form, DataForm) and self.scheme.form.eta > 0.0)

    @property
    def convergence_order(self) -> int:
        """The power of the step at which the error falls, as it is measured: of the flow, or of a stochastic method's law.

        Orders above 2 need a start at which the data matter little, as at t_max: the first step, of order one, errs in
        proportion to h² and to how fast D changes there. From the middle of a path 2 is what is left, 3 with a corrector.
        """
        if self.scheme.fixed or not self.is_deterministic:
            return min(self.scheme.order, 2)
        return self.scheme.order + self.scheme.corrects

    def evaluations(self) -> int:
        """K: one a step, correction or not."""
        return self.steps

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Along the scheme's table for these times."""
        yield from walk_table(table(self.scheme, denoiser.path, tuple(times)), denoiser, x, times, draw, condition)


# ── Adams–Bashforth ──────────────────────────────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """Any quantity, extrapolated by a polynomial in any variable and integrated exactly  (M26).

    x_s = carry x_t + ∫ V dμ, V the polynomial through the last `order` evaluations. The default, the velocity in the angle
    θ = arctan(σ/α), is finite at both ends of every path. `data` in `log-snr` is exponential Adams–Bashforth.

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: 1 to 4, at which its error falls.
        quantity: what is extrapolated: `data` D, `noise` ε̂, `velocity` v or `straight` u = ε̂ − D.
        variable: of the polynomial: `own` (α/σ, σ/α, arctan(σ/α) or σ/(α+σ), in the quantities' order), `log-snr` or `time`.

    Raises:
        UsageError: an order, quantity or variable that there is not.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 3
    quantity: str = "velocity"
    variable: str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 4, "AdamsBashforth", "an order from 1 to 4", self.order)
        require(self.quantity in FORMS, "AdamsBashforth", f"a quantity of {', '.join(FORMS)}", self.quantity)
        require(self.variable in VARIABLES, "AdamsBashforth", f"a variable of {', '.join(VARIABLES)}", self.variable)

    @property
    def scheme(self) -> Scheme:
        """As the attributes say."""
        return Scheme(FORMS[self.quantity], self.variable, self.order)


@final
@dataclass(frozen=True)
class LMS(Multistep):
    """Linear multistep in s = σ/α:  x̄_s = x̄_t + ∫ ε̂ ds, ε̂ a polynomial in s  (Crowson 2022, k-diffusion; DEIS calls it ρAB; M26).

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: 1 to 4, at which its error falls.

    Raises:
        UsageError: an order that there is not.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 4, "LMS", "an order from 1 to 4", self.order)

    @property
    def scheme(self) -> Scheme:
        """ε̂ in its own variable."""
        return Scheme(NoiseForm(), "own", self.order)


@final
@dataclass(frozen=True)
class DEIS(Multistep):
    """Diffusion exponential integrator: x̄_s = x̄_t + ∫ ε̂ ds, ε̂ a polynomial in t  (Zhang & Chen 2022, eq. 14–15, tAB-DEIS; M26).

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: 1 to 4 evaluations, at which its error falls; the paper's tAB3 is order 4.
        variable: of the polynomial: `time`, the paper's tAB; `own`, its ρAB, in σ/α; or `log-snr`.

    Raises:
        UsageError: an order or variable that there is not.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 3
    variable: str = "time"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 4, "DEIS", "an order from 1 to 4", self.order)
        require(self.variable in VARIABLES, "DEIS", f"a variable of {', '.join(VARIABLES)}", self.variable)

    @property
    def scheme(self) -> Scheme:
        """ε̂ in the variable."""
        return Scheme(NoiseForm(), self.variable, self.order)


# ── DPM-Solver and UniPC ─────────────────────────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class DPMSolverMultistep(Multistep):
    """DPM-Solver++ and DPM-Solver, multistep, and their stochastic twin  (Lu et al. 2022b, algorithm 2 and eq. 14; M26, M35).

    x_s = (σ_s/σ_t) x_t + α_s ∫ e^{−(λ_s−λ)} D dλ, D a polynomial in λ; the third order integrates its parabola exactly, as the
    theory asks for and the authors' multistep code does not. The stochastic twin takes the reverse SDE's Gaussian bridge for
    the linear part; its law converges at second order at most, first for `order` 1.

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: 1 to 3, at which the deterministic method's error falls.
        prediction: the quantity: `data` (DPM-Solver++) or `noise` (DPM-Solver).
        solver: how a second-order step weighs its difference: `midpoint`, the paper's, or `heun`, the exact integral of the line.
        stochastic: whether to solve the reverse SDE (SDE-DPM-Solver++, "2M SDE"), for `data` alone.
        lower_order_final: whether the order falls towards data for fewer than 15 steps, as the authors do.

    Raises:
        UsageError: an order, prediction or solver that there is not, or noise prediction with noise.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 2
    prediction: str = "data"
    solver: str = "midpoint"
    stochastic: bool = False
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 3, "DPMSolverMultistep", "an order from 1 to 3", self.order)
        _require_prediction("DPMSolverMultistep", self.prediction)
        require(self.solver in _SECOND_OF_SOLVER, "DPMSolverMultistep", "a solver of 'midpoint' or 'heun'", self.solver)
        require(
            not self.stochastic or self.prediction == "data",
            "DPMSolverMultistep with stochastic=True",
            "prediction='data', whose steps stay bounded where the noise is strong",
            self.prediction,
        )

    @property
    def scheme(self) -> Scheme:
        """D or ε̂ in λ."""
        form = DataForm(1.0) if self.stochastic else FORMS[self.prediction]
        second = _SECOND_OF_SOLVER[self.solver]
        return Scheme(form, "log-snr", self.order, second, eases_out=self.lower_order_final)


_SECOND_OF_SOLVER = {"midpoint": "total", "heun": "exact"}


@final
@dataclass(frozen=True)
class UniPC(Multistep):
    """Unified predictor–corrector: a step, and once its end has been evaluated the step again through that too  (Zhao et al. 2023; M26).

    The correction costs no evaluation and raises the order by one: to order + 1, `convergence_order`.

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: p, 1 to 3, of the predictor.
        variant: B(h) = h (`bh1`) or e^h − 1 (`bh2`), which matters where a single difference is weighted by B/2.
        corrector: whether to correct.
        prediction: the quantity: `data` or `noise`.
        lower_order_final: whether the order falls towards data for fewer than 15 steps.

    Raises:
        UsageError: an order, variant or prediction that there is not.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 2
    variant: str = "bh2"
    corrector: bool = True
    prediction: str = "data"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 3, "UniPC", "an order from 1 to 3", self.order)
        require(self.variant in _SECOND_OF_VARIANT, "UniPC", "a variant of 'bh1' or 'bh2'", self.variant)
        _require_prediction("UniPC", self.prediction)

    @property
    def scheme(self) -> Scheme:
        """D or ε̂ in λ, corrected."""
        return Scheme(
            FORMS[self.prediction],
            "log-snr",
            self.order,
            _SECOND_OF_VARIANT[self.variant],
            corrects=self.corrector,
            eases_out=self.lower_order_final,
        )


_SECOND_OF_VARIANT = {"bh1": "width", "bh2": "total"}


def _require_prediction(method: str, prediction: str) -> None:
    require(prediction in ("data", "noise"), method, "a prediction of 'data' or 'noise'", prediction)


# ── pseudo-numerical methods ─────────────────────────────────────────────────────────────────────────────────────────


@final
@dataclass(frozen=True)
class IPNDM(Multistep):
    """Improved PNDM: DDIM's step with Adams–Bashforth's mean of the last ε̂, as if steps were equal in s  (Zhang & Chen 2022, eq. 36; M26).

    The weights are (1), (3, −1)/2, (23, −16, 5)/12, (55, −59, 37, −9)/24: exact where s is uniform; on other grids the error
    falls at second order, `convergence_order`, however many evaluations are averaged.

    Attributes:
        steps: K, and as many evaluations.
        grid: the times.
        order: how many evaluations are averaged, 1 to 4.

    Raises:
        UsageError: an order that there is not.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 4, "IPNDM", "an order from 1 to 4", self.order)

    @property
    def scheme(self) -> Scheme:
        """ε̂ with fixed weights."""
        return Scheme(NoiseForm(), "own", self.order, fixed=True)


_FAINT = 1e-3


@final
@dataclass(frozen=True)
class PNDM(Sampler):
    """F-PNDM: three pseudo-Runge–Kutta steps, then the fourth-order mean of the last ε̂  (Liu et al. 2022, algorithm 2; M26).

    A pseudo-Runge–Kutta step asks four times, with DDIM's transfer between its stages, each of which is a state of the
    trajectory. The weights are those of equal steps, so that the order is that of `IPNDM`. From a start without
    signal, σ/α > 1000, a mean of ε̂ would be lost in the length of the step: there the first step transfers D.

    Attributes:
        steps: K; K + 9 evaluations from K = 4 on.
        grid: the times.
    """

    steps: int = 20
    grid: Grid = field(default_factory=Native)
    order: ClassVar[int] = 2

    @property
    def is_deterministic(self) -> bool:
        """True."""
        return True

    def evaluations(self) -> int:
        """K, and three more for each of the pseudo-Runge–Kutta steps, which are at most three and not the step to data."""
        return self.steps + 3 * min(3, self.steps - 1)

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Every stage is a row of the table."""
        rows, stages = _pseudo_table(denoiser.path, tuple(times))
        yield from walk_table(rows, denoiser, x, stages, draw, condition)


@lru_cache(maxsize=256)
def _pseudo_table(path: Path, times: tuple[float, ...]) -> tuple[tuple[Row, ...], tuple[float, ...]]:
    """The rows, and the times they ask at with the end."""
    first, steps = node(path, times[0]), len(times) - 1
    warm = min(3, steps - (times[-1] == 0.0))
    skipped = min(warm, int(first.alpha < _FAINT * first.sigma))
    rest = table(IPNDM().scheme, path, times[skipped:])
    rows, stages = [], []
    for n, (t, s) in enumerate(pairwise(times[: warm + 1])):
        middle = path.snap(0.5 * (t + s))
        form = DataForm() if n < skipped else NoiseForm()
        rows += _pseudo_runge_kutta(form, node(path, t), node(path, middle), node(path, s))
        stages += [t, middle, middle, s]
    rows += [_over_stages(rest[n - skipped], n, warm) for n in range(warm, steps)]
    return tuple(rows), (*stages, *times[warm:])


def _pseudo_runge_kutta(form: Form, t: Node, m: Node, s: Node) -> list[Row]:
    """x₁ = φ_m(x, V₁), x₂ = φ_m(x, V₂), x₃ = φ_s(x, V₃), φ_s(x, (V₁ + 2V₂ + 2V₃ + V₄)/6), φ_s(x, V) = A x + B V DDIM's step to s.

    Each is written from the stage before it, whose own V is taken out again.
    """
    (a_m, b_m), (a, b) = ((form.carry(t, to), form.total(t, to)) for to in (m, s))
    return [
        Row(form.quantity(t), a_m, (b_m,)),
        Row(form.quantity(m), 1.0, (b_m, -b_m)),
        Row(form.quantity(m), a / a_m, (b, -a / a_m * b_m)),
        Row(form.quantity(s), 1.0, (b / 6.0, b / 3.0 - b, b / 3.0, b / 6.0)),
    ]


def _over_stages(row: Row, n: int, warm: int) -> Row:
    """A row that looks back over steps, where each of the first `warm` of them has left four stages, the first its own."""

    def asked(step: int) -> int:
        return step + 3 * min(step, warm)

    weights = [0.0] * (asked(n) - asked(n - len(row.weights) + 1) + 1)
    for j, weight in enumerate(row.weights):
        weights[asked(n) - asked(n - j)] = weight
    return row._replace(weights=tuple(weights))
