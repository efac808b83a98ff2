r"""Langevin's move at one time, and its Metropolis test.

    (M32)  x' = x + a ŝ(x) + √(2a) z,   a = u σ_t²
           accepted with probability min(1, e^{E(x) − E(x')} q(x | x')/q(x' | x)),   q(x' | x) = N(x + a ŝ(x), 2a I)

An adjusted chain leaves p_t exactly as it is, whatever u (Roberts & Tweedie 1996).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers.base import Denoiser, EnergyDenoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Draw, marginal
from scorefield.samplers.single_step import Row
from scorefield.shapes import Bool, Float, Tensor


@lru_cache(maxsize=4096)
def langevin_row(path: Path, t: float, u: float) -> Row:
    """x + a ŝ + √(2a) z with a = u σ², as x' = (1 − u) x + u α D + σ √(2u) z  (M32, M33)."""
    alpha, sigma = marginal(path, t)
    return Row(1.0 - u, u * alpha, sigma * math.sqrt(2.0 * u))


def moved(row: Row, x: Float[Tensor, "b *d"], x_0: Float[Tensor, "b *d"], noise: Tensor) -> Float[Tensor, "b *d"]:
    """x' = a x + b D + c z."""
    return (row.a * x).add_(x_0, alpha=row.b).add_(noise, alpha=row.c)


@dataclass(frozen=True, eq=False)
class Place:
    """Where an adjusted chain is.

    Attributes:
        x, x_0, energy: x, D(x) and E(x), the energy in float64.
        accepted: whether the last move was, (b,); None before the first.
        acceptance: the share of the moves so far that were, (b,).
        moves: how many there were.
    """

    x: Float[Tensor, "b *d"]
    x_0: Float[Tensor, "b *d"]
    energy: Float[Tensor, " b"]
    accepted: Bool[Tensor, " b"] | None = None
    acceptance: Float[Tensor, " b"] | float = 0.0
    moves: int = 0

    @classmethod
    def of(cls, denoiser: EnergyDenoiser, x: Tensor, t: float, condition: Any) -> Place:
        """The place at x: two questions."""
        return cls(x, denoiser(x, t, condition).x0, denoiser.energy(x, t, condition).double())

    @property
    def info(self) -> dict[str, Any]:
        """What a state tells of it."""
        return {"accepted": self.accepted, "acceptance": self.acceptance}

    def after(self, other: Place, accepted: Tensor) -> Place:
        """The other place for those samples that accepted it."""
        wide, moves = along_batch(accepted, self.x).bool(), self.moves + 1
        return Place(
            other.x.where(wide, self.x),
            other.x_0.where(wide, self.x_0),
            other.energy.where(accepted, self.energy),
            accepted,
            (self.acceptance * self.moves + accepted.double()) / moves,
            moves,
        )


def chain(
    denoiser: EnergyDenoiser, start: Place, t: float, u: float, moves: int, draw: Draw, condition: Any
) -> Iterator[Place]:
    """The places after each of so many adjusted moves from `start`: two questions a move  (M32)."""
    row, here = langevin_row(denoiser.path, t, u), start
    for _ in range(moves):
        there = Place.of(denoiser, moved(row, here.x, here.x_0, draw(here.x)), t, condition)
        log_ratio = here.energy - there.energy + _log_proposal(row, there, here) - _log_proposal(row, here, there)
        here = here.after(there, _log_uniform(draw, here.x) < log_ratio)
        yield here


def require_energy(sampler: str, denoiser: Denoiser, without: str) -> EnergyDenoiser:
    """The denoiser, whose energy is known.

    Raises:
        UsageError: it is not; `without` says how to do without.
    """
    if not isinstance(denoiser, EnergyDenoiser):
        raise UsageError(
            f"{sampler} compares energies, and {type(denoiser).__name__} has none; {without}, or use a model trained with parameterisation=energy"
        )
    return denoiser


def _log_proposal(row: Row, origin: Place, goal: Place) -> Tensor:
    """log q(goal | origin) up to its constant, −‖x' − (a x + b D)‖²/2c²; float64."""
    away = goal.x.double().sub(origin.x, alpha=row.a).sub_(origin.x_0, alpha=row.b)
    return per_sample_sum(away.square()) / (-2.0 * row.c**2)


def _log_uniform(draw: Draw, x: Tensor) -> Tensor:
    """(b,) logarithms of uniform numbers, by the cdf of one normal a sample; float64."""
    import torch

    return torch.special.log_ndtr(draw(x.flatten(1)[:, 0]).double())
