"""What a likelihood is measured of, and how it is asked: rows of samples and times, as many at once as a batch holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch

from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.errors import UsageError
from scorefield.likelihood.reference import Reference
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor
from scorefield.streams import SampleStreams

LEAST_LOG_SNR = -10.0
"""Where a path ends at whose end nothing of the data is left."""

_REPEAT = 1 << 24
"""Draws of a repeat: more than a chain has steps."""

PILOT = 1 << 10
"""The repeat whose noise belongs to the choice of an end point."""


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A denoiser and what is known of its data.

    Attributes:
        denoiser: unguided; asked in the dtype of the data that it is given.
        levels: how many values the data have, evenly from −1 to 1; None for data that are no integers.
        reference: a Gaussian like the data; the standard normal where None.
    """

    denoiser: Denoiser
    levels: int | None = None
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise UsageError(
                f"a likelihood needs data of at least 2 levels, got {self.levels}; data that never vary have none"
            )

    @property
    def path(self) -> Path:
        """The denoiser's path."""
        return self.denoiser.path

    @property
    def bin_width(self) -> float:
        """δ, the distance between two values of the data in model space."""
        return 2.0 / ((self.levels or 2) - 1)

    def frame(self, x_0: Float[Tensor, "b *d"]) -> Reference:
        """The reference, of x₀'s dimension."""
        return self.reference or Reference.isotropic(x_0[0].numel(), device=x_0.device)


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the data.

    Attributes:
        x_0: in model space, in the dtype the denoiser is asked in.
        streams: their noise.
        condition: one entry a sample, or None.
        limit: how many rows are asked at once.
        levels: of integers, which 32 bits hold only nearly at their places; None for other data.
        precise: x₀ in float64.
    """

    x_0: Float[Tensor, "b *d"]
    streams: SampleStreams
    condition: Any = None
    limit: int = 256
    levels: int | None = None
    precise: Float[Tensor, "b *d"] = field(init=False)

    def __post_init__(self) -> None:
        precise = self.x_0.double()
        if self.levels is not None:
            half = (self.levels - 1) / 2.0
            precise = ((precise + 1.0) * half).round() / half - 1.0
        object.__setattr__(self, "precise", precise)

    @property
    def dimension(self) -> int:
        """D."""
        return self.x_0[0].numel()

    def normal(self, repeat: int, number: int) -> Float[Tensor, "b *d"]:
        """The standard normals of a repeat with this number, float64."""
        return self.streams.normal(self.precise, 1 + repeat * _REPEAT + number)

    def uniform(self, repeat: int, number: int, count: int) -> Float[Tensor, "b n"]:
        """Uniform numbers of a repeat with this number, float64."""
        return self.streams.uniform((1 << 50) + repeat * _REPEAT + number, count)

    def zeros(self) -> Float[Tensor, " b"]:
        """A zero for each sample, float64."""
        return self.precise.new_zeros(len(self.x_0))

    def predictions(
        self, denoiser: Denoiser, times: Float[Tensor, "m b"], repeat: int
    ) -> Iterator[tuple[slice, Prediction]]:
        """Ask at m times of every sample's own, with noise number k + 1 at row k: for each slice of the rows, the answers.

        A slice of m′ rows has m′·b answers, row by row, in float64.
        """
        at_once = max(1, self.limit // len(self.x_0))
        for start in range(0, len(times), at_once):
            rows = range(start, min(start + at_once, len(times)))
            noise = torch.cat([self.normal(repeat, row + 1) for row in rows])
            yield slice(rows.start, rows.stop), self._asked(denoiser, times[rows.start : rows.stop].flatten(), noise)

    def prediction(self, denoiser: Denoiser, t: float, number: int, repeat: int) -> Prediction:
        """The answer at one time for all, with the noise of this number."""
        return self.asked_at(denoiser, denoiser.path.perturb(self.precise, t, self.normal(repeat, number)), t)

    def asked_at(self, denoiser: Denoiser, x_t: Float[Tensor, "b *d"], t: float) -> Prediction:
        """The answer at given points, one a sample, in float64."""
        return _precise(denoiser(x_t.to(self.x_0.dtype), t, self.condition), x_t, t)

    def part(self, rows: slice) -> Batch:
        """Some of the samples, with their own noise."""
        streams = SampleStreams(self.streams.seed, self.streams.samples[rows])
        condition = None if self.condition is None else self.condition[rows]
        return Batch(self.x_0[rows], streams, condition, self.limit, self.levels)

    def repeated(self, count: int) -> Float[Tensor, "n *d"]:
        """x₀, float64, so many times."""
        return _repeated(self.precise, count)

    def _asked(self, denoiser: Denoiser, t: Tensor, noise: Tensor) -> Prediction:
        count = len(t) // len(self.x_0)
        x_t = denoiser.path.perturb(self.repeated(count), t, noise)
        condition = None if self.condition is None else _repeated(self.condition, count)
        return _precise(denoiser(x_t.to(self.x_0.dtype), t, condition), x_t, t)


def _repeated(rows: Tensor, count: int) -> Tensor:
    """Rows, so many times one after the other."""
    return rows.repeat(count, *(1,) * (rows.ndim - 1))


def _precise(answer: Prediction, x_t: Tensor, t: Any) -> Prediction:
    """The answer in float64, to the question before it was rounded."""
    mix = None if answer.variance_mix is None else answer.variance_mix.double()
    return Prediction(answer.x0.double(), x_t, t, answer.path, mix)


def squared_error(prediction: Prediction, x_0: Float[Tensor, "n *d"]) -> Float[Tensor, " n"]:
    """‖x₀ − D‖² of each row."""
    return (x_0 - prediction.x0).square().flatten(1).sum(1)


def last_time(path: Path) -> float:
    """The time of the prior: t_max, or where λ = −10 on a path at whose end nothing of the data is left."""
    return path.t_max if path.log_snr(path.t_max) >= LEAST_LOG_SNR else path.time_of(LEAST_LOG_SNR)
