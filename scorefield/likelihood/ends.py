r"""Where a bound ends and its decoder begins, judged on a few samples with noise of their own and then held fixed.

Whatever end point λ₀ and decoder are chosen before the measuring, what is measured is a bound: the choice decides only how
tight it is. Next to data with few values a denoiser may or may not know the values' lattice, so nobody can tell without trying.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from scorefield.likelihood.bound import Control, Integral, integral, prior_divergence
from scorefield.likelihood.decoders import Decoder, candidates
from scorefield.likelihood.subject import PILOT, Batch, Subject, last_time
from scorefield.shapes import Tensor

_IN_BINS = (0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_IN_LEAST = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_TERMS = 64
_DRAWS = 4


@final
@dataclass(frozen=True)
class End:
    """An end point: its time, its λ₀, and the decoder there."""

    t: float
    log_snr: float
    decoder: Decoder


def end_times(subject: Subject, factors: Sequence[float] = _IN_BINS) -> list[float]:
    """The times that are tried, the noisiest first: noise of so many bins, or of so many times the least that there is."""
    path = subject.path
    least, most = (math.exp(-path.log_snr(t)) for t in (path.t_min, last_time(path)))
    wanted = [factor * subject.bin_width for factor in factors] if subject.levels else []
    wanted = [s for s in wanted if least <= s <= 0.5 * most] or [factor * least for factor in _IN_LEAST]
    times = (min(max(path.time_of(-math.log(s)), path.t_min), last_time(path)) for s in wanted if s < most)
    return sorted(set(times), reverse=True)


def chosen_end(subject: Subject, pilot: Batch, times: Sequence[float]) -> tuple[End, Control]:
    """The end point of least cost among some times, and what was learned of the integrand's noise on the way.

    A cost is prior, integral down to the end point, and the best decoder there. The integral is found once, down to the last of
    them, and its part above each is summed.
    """
    path, frame = subject.path, subject.frame(pilot.x_0)
    log_snr, _, errors = _asked(integral(path, min(times), _TERMS, frame), subject, pilot, PILOT)
    control = Control.learned(log_snr, (2.0 * log_snr).exp() * errors, pilot.dimension)
    log_snr, costs, _ = _asked(integral(path, min(times), _TERMS, frame, control), subject, pilot, PILOT + 1)
    prior = prior_divergence(path, pilot.precise, last_time(path))
    judged = []
    for t in times:
        above = costs.where(log_snr <= path.log_snr(t), costs.new_zeros(())).sum(0)
        decoder, cost = best_decoder(subject, pilot, t)
        judged.append((float((prior + above).mean()) + cost, End(t, path.log_snr(t), decoder)))
    return min(judged, key=lambda pair: pair[0])[1], control


def _asked(walk: Integral, subject: Subject, pilot: Batch, repeat: int) -> tuple[Tensor, Tensor, Tensor]:
    log_snr, costs, errors = (torch.cat(rows) for rows in zip(*walk.parts(subject, pilot, repeat), strict=True))
    return log_snr, costs, errors


def best_decoder(subject: Subject, pilot: Batch, t: float) -> tuple[Decoder, float]:
    """The decoder of least mean cost at time t, and that in nats; the noise is the same for every t."""
    found = [pilot.prediction(subject.denoiser, t, number, PILOT + 2) for number in range(_DRAWS)]

    def cost(decoder: Decoder) -> float:
        """Its mean over samples and draws."""
        nats = [-decoder.log_probability(pilot.precise, prediction) for prediction in found]
        return float(torch.stack(nats).mean())

    costs = [(decoder, cost(decoder)) for decoder in candidates(subject.levels)]
    return min(costs, key=lambda pair: pair[1])
