"""Samplers: from noise to data along any path, with any denoiser."""

from __future__ import annotations

from scorefield.samplers.base import Sampler, State
from scorefield.samplers.grids import GRIDS, Grid, Karras, Leading, Linear, LogSNR, Native, Quadratic, Trailing
from scorefield.samplers.ode import Heun
from scorefield.samplers.single_step import DDIM, Ancestral

SAMPLERS: tuple[type[Sampler], ...] = (Ancestral, DDIM, Heun)
"""Every public sampler; the contract tests run over this list."""

__all__ = [
    "DDIM",
    "GRIDS",
    "SAMPLERS",
    "Ancestral",
    "Grid",
    "Heun",
    "Karras",
    "Leading",
    "Linear",
    "LogSNR",
    "Native",
    "Quadratic",
    "Sampler",
    "State",
    "Trailing",
]
