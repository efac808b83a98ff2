r"""Progressive coding along the reverse process: what is known of x₀ after so many bits.

    (M45) rate(t) = (L_T + Σ_{u>t} L_{u−1})/(D ln 2),   distortion(t) = √(E‖x₀ − x̂₀(x_t)‖²/D)

The receiver of x_T, and then of each step down to x_t, has paid rate(t) and can show x̂₀ = D(x_t, t). The last row is the whole
chain without its decoder, whose L₀ buys the rest: x₀ itself. All of it comes from one measuring of the bound, so that the rates
end at the bound's own figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scorefield.errors import UsageError
from scorefield.likelihood import Measured

HEAD = ("reverse_time", "rate_bits_per_dim", "distortion_rmse", "log_snr")
"""The columns of the table; the first three are those of Ho et al. 2020, table 4."""


@final
@dataclass(frozen=True)
class Row:
    """What is known after so many steps.

    Attributes:
        reverse_time: T − t + 1 on a chain of T steps: how many reverse steps' denoised images have been seen.
        rate: in bits per dimension.
        distortion: the root mean squared error of x̂₀, on the scale that was asked for.
        log_snr: λ = log(α/σ) there.
    """

    reverse_time: int
    rate: float
    distortion: float
    log_snr: float


@final
@dataclass(frozen=True)
class RateDistortion:
    """Rate and distortion of every step, the noisiest first.

    Attributes:
        rows: one a step.
        last: L₀ in bits per dimension: what the exact data cost beyond the last row.
        total: the bound, in bits per dimension.
    """

    rows: tuple[Row, ...]
    last: float
    total: float

    def every(self, count: int) -> list[Row]:
        """About so many rows, evenly, the last one among them and printed first as in the paper."""
        stride = max(1, len(self.rows) // count)
        return list(self.rows[::-1][::stride])

    def csv(self) -> str:
        """All rows as a table, the finest first."""
        lines = [f"{row.reverse_time},{row.rate:.8g},{row.distortion:.8g},{row.log_snr:.8g}" for row in self.rows[::-1]]
        return "\n".join([",".join(HEAD), *lines]) + "\n"


def rate_distortion(found: Measured, scale: float = 127.5) -> RateDistortion:
    """Read rate and distortion off a measured chain  (M45; Ho et al. 2020, section 4.3, figure 5 and table 4).

    Args:
        found: the bound of a chain of steps, all of them asked.
        scale: from model space to the distortion's: 127.5 from [−1, 1] to [0, 255].

    Raises:
        UsageError: no chain, or one of which only some steps were asked.
    """
    profile = found.profile
    if profile is None or "steps" not in str(found.settings.get("time")):
        raise UsageError("rate and distortion are of a chain of steps; measure VariationalBound(steps=…)")
    if float(profile.asked.min()) == 0.0 or len(set(profile.asked[1:].tolist())) > 1:
        raise UsageError("rate and distortion need every step of the chain; leave terms out")
    share = 1.0 / (found.nats.numel() * found.dimension * math.log(2.0))
    costs = (profile.nats * share).tolist()
    errors = (profile.squared_error / profile.asked / found.dimension).sqrt().tolist()
    rungs = len(costs)
    rates = _accumulated(found.terms["prior"], costs[:0:-1])
    rows = tuple(
        Row(k + 1, rate, scale * errors[rungs - 1 - k], float(profile.log_snr[rungs - 1 - k]))
        for k, rate in enumerate(rates)
    )
    last = found.value - rates[-1]
    return RateDistortion(rows, last, found.value)


def _accumulated(first: float, costs: Sequence[float]) -> list[float]:
    """first, first + c₁, first + c₁ + c₂, …"""
    rates = [first]
    for cost in costs:
        rates.append(rates[-1] + cost)
    return rates
