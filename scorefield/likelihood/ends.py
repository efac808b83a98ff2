r"""Where a bound ends and its decoder begins, judged on a few samples with noise of their own and then held fixed.

Whatever end point λ₀ and decoder are chosen before the measuring, what is measured is a bound: the choice decides only how
tight it is. Next to data with few values a denoiser may or may not know the values' lattice, so nobody can tell without trying.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scorefield.likelihood.bound import integral, prior_divergence
from scorefield.likelihood.decoders import Decoder, candidates
from scorefield.likelihood.subject import PILOT, Batch, Subject, last_time
from scorefield.shapes import Float, Tensor

_IN_BINS = (0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_IN_LEAST = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_TERMS = 64


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


def chosen_end(subject: Subject, pilot: Batch, times: Sequence[float]) -> End:
    """The end point of least cost among some times: prior, integral down to it, and the best decoder there.

    The integral is found once, down to the last of them, and its part above each is summed.
    """
    walk = integral(subject.path, min(times), _TERMS, subject.frame(pilot.x_0))
    log_snr, costs = walk.costs(subject, pilot, PILOT)
    prior = prior_divergence(subject.path, pilot.precise, last_time(subject.path))
    judged = []
    for number, t in enumerate(times):
        above = costs.where(log_snr <= subject.path.log_snr(t), costs.new_zeros(())).sum(0)
        decoder, cost = best_decoder(subject, pilot, t, number)
        judged.append((float((prior + above + cost).mean()), End(t, subject.path.log_snr(t), decoder)))
    return min(judged, key=lambda pair: pair[0])[1]


def best_decoder(subject: Subject, pilot: Batch, t: float, number: int = 0) -> tuple[Decoder, Float[Tensor, " b"]]:
    """The decoder of least cost at time t, and its cost for each sample in nats."""
    prediction = pilot.prediction(subject.denoiser, t, _TERMS + 1 + number, PILOT)
    costs = [(decoder, -decoder.log_probability(pilot.precise, prediction)) for decoder in candidates(subject.levels)]
    return min(costs, key=lambda pair: float(pair[1].mean()))
