"""Samplers: from noise to data along any path, with any denoiser."""

from __future__ import annotations

from scorefield.samplers.base import Sampler, State
from scorefield.samplers.grids import GRIDS, Grid, Karras, Leading, Linear, LogSNR, Native, Quadratic, Trailing
from scorefield.samplers.langevin import AnnealedLangevin, Langevin
from scorefield.samplers.multistep import DEIS, IPNDM, LMS, PNDM, AdamsBashforth, DPMSolverMultistep, UniPC
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
    AdamsBashforth,
    LMS,
    DEIS,
    DPMSolverMultistep,
    UniPC,
    IPNDM,
    PNDM,
)
"""Every public sampler; the contract tests run over this list."""

__all__ = [
    "AdamsBashforth",
    "Ancestral",
    "AnnealedLangevin",
    "DDIM",
    "DEIS",
    "DPMSolverMultistep",
    "EulerMaruyama",
    "GRIDS",
    "Grid",
    "Heun",
    "IPNDM",
    "Karras",
    "LMS",
    "Langevin",
    "Leading",
    "Linear",
    "LogSNR",
    "Native",
    "PNDM",
    "PredictorCorrector",
    "Quadratic",
    "ReverseDiffusion",
    "SAMPLERS",
    "Sampler",
    "State",
    "Trailing",
    "UniPC",
]
