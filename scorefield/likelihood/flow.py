r"""The density of the probability flow, with what a Gaussian explains taken out of the equation.

    (M40) log p₀(x₀) = log p_T(x_T) + ∫₀ᵀ ∇·h dt

On every path the flow is d x̄/d log s = x̄ − D in x̄ = x/α, s = σ/α = e^{−λ}. In the whitened point y of a reference N(m, C)

    dy/d log s = (C + s² I)^{−½} (D_G − D),    d log p(y)/d log s = tr J − tr J_G,

whose right sides vanish where the data look Gaussian: at both ends of the path. What is left is smooth, of size one, and the
trace needs only the residual. Then log p(x̄) = log p(y) − ½ log det(C + s² I).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, final

import torch

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.likelihood.divergence import EXACT_UP_TO, Asker, Probing, least_variance
from scorefield.likelihood.reference import Reference, log_normal
from scorefield.likelihood.solver import Solver
from scorefield.likelihood.subject import PILOT, Batch, Subject, last_time
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor
from scorefield.streams import SampleStreams

_PROBE_DRAW = 1 << 41
_FIRST = 2.0
_LEVELS = 4


@final
@dataclass(frozen=True, eq=False)
class FlowDensity:
    """log p of points under a probability flow.

    Attributes:
        log_density: (b,) log p_λ₀(x_t) in nats, of x_t = α x̄ itself.
        evaluations: (b,) how often the denoiser was asked for each.
        latent: (b, *d) x_T, the points at the other end of the flow.
    """

    log_density: Float[Tensor, " b"]
    evaluations: Float[Tensor, " b"]
    latent: Float[Tensor, "b *d"]


@final
@dataclass(frozen=True)
class Flow:
    """The probability-flow density with error control for each sample  (M40; Song et al. 2021, section 4.3).

    Attributes:
        tolerance: of a step: in an element of the whitened point, and in bits per dimension of the density.
        probes: K of the trace's estimate; 0 for the exact trace; None for exact up to 256 dimensions and 4 probes beyond.
        probing: the kind of probes; `chosen_probing` tries which is best.

    Raises:
        UsageError: a tolerance that is not positive, or fewer than 0 probes.
    """

    tolerance: float = 1e-4
    probes: int | None = None
    probing: Probing = field(default_factory=Probing)

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance <= 1.0:
            raise UsageError(f"a flow needs a tolerance between 0 and 1, got {self.tolerance}; 1e-4 is usual")
        if self.probes is not None and self.probes < 0:
            raise UsageError(f"a flow needs 0 probes (the exact trace) or more, got {self.probes}")

    def probe_count(self, dimension: int) -> int:
        """How many probes data of so many dimensions get; 0 for the exact trace."""
        if self.probes is not None:
            return self.probes
        return 0 if dimension <= EXACT_UP_TO else 4

    def log_density(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "b *d"],
        t: float,
        *,
        reference: Reference | None = None,
        condition: Any = None,
        streams: SampleStreams | None = None,
        draw: int = 0,
        dtype: torch.dtype | None = None,
    ) -> FlowDensity:
        """log p_t(x_t), by the flow from t to the path's end  (M40).

        Args:
            denoiser: anything that can be differentiated, unguided and unclipped.
            x_t: points at time t.
            t: t_min ≤ t < t_max.
            reference: a Gaussian like the data; without one, the standard normal.
            condition: what the density is conditioned on, one entry a sample.
            streams: of the probes, where there are any.
            draw: the number of their draw: another one gives other probes.
            dtype: in which the denoiser is asked; x_t's without.

        Raises:
            UsageError: a time outside the path, or probes without streams.
        """
        path, shape, size = denoiser.path, tuple(x_t.shape[1:]), x_t[0].numel()
        start, end = log_snr_ends(path, t)
        frame = reference or Reference.isotropic(size, device=x_t.device)
        asker = Asker(
            denoiser,
            frame,
            shape,
            dtype or x_t.dtype,
            condition,
            self._probes(frame, streams, draw),
            self.probing.control,
        )
        s = x_t.new_tensor(math.exp(-start), dtype=torch.float64).expand(len(x_t))
        y = frame.whiten(x_t.flatten(1).double() / path.alpha(t) - frame.mean, s)
        clock = _Clock(2.0 * math.sqrt(float(frame.spectrum.mean())) or 1.0)
        solver = Solver(self.tolerance, self.tolerance * size * math.log(2.0), _FIRST)
        found = solver.solve(_Slope(asker, frame, clock), y, clock.at(start), clock.at(end))
        s_T, t_T = torch.full_like(s, math.exp(-end)), path.time_of(end)
        x_T = path.alpha(t_T) * (frame.mean + frame.colour(found.y, s_T))
        # log p(x̄) = log p(x_t) + D log α and = log p(y) − ½ log det(C + s² I), at either end
        at_end = log_normal(x_T, path.prior_std) + size * math.log(path.alpha(t_T)) + frame.log_volume(s_T)
        at_start = at_end - found.total - frame.log_volume(s) - size * math.log(path.alpha(t))
        return FlowDensity(at_start, found.evaluations, x_T.view(x_t.shape))

    def _probes(self, frame: Reference, streams: SampleStreams | None, draw: int) -> Tensor | None:
        count = self.probe_count(frame.dimension)
        if count == 0:
            return None
        if streams is None:
            raise UsageError("an estimated trace needs streams of random numbers; pass streams=SampleStreams(…)")
        return self.probing.draw(frame, streams, _PROBE_DRAW + draw, count)


def chosen_probing(subject: Subject, pilot: Batch) -> Probing:
    """The kind of probes whose traces vary least on a few samples, at noise from the data's own size down to a hundredth."""
    frame = subject.frame(pilot.x_0)
    shape, size = tuple(pilot.x_0.shape[1:]), 0.5 * float(frame.spectrum.mean().log())
    high = subject.path.log_snr(subject.path.t_min)
    levels = torch.linspace(-size - 1.5, min(-size + 4.5, high), _LEVELS, dtype=torch.float64, device=pilot.x_0.device)

    def ask(probing: Probing, probes: Tensor) -> Asker:
        return Asker(subject.denoiser, frame, shape, pilot.x_0.dtype, pilot.condition, probes, probing.control)

    def draw(probing: Probing, number: int) -> Tensor:
        return probing.draw(frame, pilot.streams, _PROBE_DRAW + PILOT * 16_384 + number, 1)

    return least_variance(ask, pilot.precise.flatten(1), pilot.normal(PILOT, 0).flatten(1), levels, draw)


def log_snr_ends(path: Path, t: float) -> tuple[float, float]:
    """λ at t and at the path's end, where no less than −10. Raises UsageError for a time outside the path."""
    if not path.t_min * (1.0 - 1e-9) <= t < path.t_max:
        raise UsageError(f"the flow starts between {path.t_min:g} and {path.t_max:g} on this path, got t = {t:g}")
    return path.log_snr(t), path.log_snr(last_time(path))


@dataclass(frozen=True)
class _Clock:
    """u = −arsinh(c/s), the variable of integration: log s where noise is less than c, and finite where it is endless.

    The right sides fall at least as 1/s there, so that one step does what a dozen do in log s.
    """

    c: float

    def at(self, log_snr: float) -> float:
        """u at λ."""
        return -math.asinh(self.c * math.exp(log_snr))

    def noise(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """s, and d log s/du = √(1 + s²/c²)."""
        s = self.c / (-u).sinh()
        return s, (1.0 + (s / self.c).square()).sqrt()


@dataclass(frozen=True, eq=False)
class _Slope:
    """dy/du and d log p(y)/du."""

    ask: Asker
    frame: Reference
    clock: _Clock

    def __call__(self, u: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(C + s² I)^{−½} (D_G − D) and tr J − tr J_G, each times d log s/du."""
        s, rate = self.clock.noise(u)
        centred = self.frame.colour(y, s)
        answer = self.ask(self.frame.mean + centred, -s.log(), rows)
        residual = self.frame.mean + self.frame.kept(centred, s) - answer.x_0
        return rate[:, None] * self.frame.whiten(residual, s), rate * answer.residual_trace
