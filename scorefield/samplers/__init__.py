"""Samplers: from noise to data along any path, with any denoiser."""

from __future__ import annotations

from scorefield.samplers.base import Sampler, State
from scorefield.samplers.grids import GRIDS, Grid, Karras, Leading, Linear, LogSNR, Native, Quadratic, Trailing
from scorefield.samplers.langevin import AnnealedLangevin, Langevin
from scorefield.samplers.ode import Heun
from scorefield.samplers.predictor_corrector import PredictorCorrector
from scorefield.samplers.sde import EulerMaruyama, ReverseDiffusion
from scorefield.samplers.single_step import DDIM, Ancestral

SAMPLERS: tuple[type[Sampler], ...] = (
    Ancestral,
    DDIM,
    Heun,
    EulerMaruyama,
    ReverseDiffusion,
    PredictorCorrector,
    Langevin,
    AnnealedLangevin,
)
"""Every public sampler; the contract tests run over this list."""

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "DDIM",
    "EulerMaruyama",
    "GRIDS",
    "Grid",
    "Heun",
    "Karras",
    "Langevin",
    "Leading",
    "Linear",
    "LogSNR",
    "Native",
    "PredictorCorrector",
    "Quadratic",
    "ReverseDiffusion",
    "SAMPLERS",
    "Sampler",
    "State",
    "Trailing",
]
