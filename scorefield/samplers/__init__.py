"""Samplers: from noise to data along any path, with any denoiser."""

from __future__ import annotations

from scorefield.samplers.adaptive import Adaptive
from scorefield.samplers.base import Sampler, State
from scorefield.samplers.calibrated import Calibrated
from scorefield.samplers.churn import Churn
from scorefield.samplers.exponential import DPMSolver
from scorefield.samplers.grids import (
    GRIDS,
    Asinh,
    Grid,
    Karras,
    Leading,
    Levels,
    Linear,
    LogSNR,
    Native,
    Quadratic,
    Rational,
    Trailing,
    VPTime,
)
from scorefield.samplers.langevin import AnnealedLangevin, Langevin
from scorefield.samplers.multistep import DEIS, IPNDM, LMS, PNDM, AdamsBashforth, DPMSolverMultistep, UniPC
from scorefield.samplers.ode import Heun
from scorefield.samplers.plans import Calibration, Plan
from scorefield.samplers.predictor_corrector import PredictorCorrector
from scorefield.samplers.restart import Restart
from scorefield.samplers.runge_kutta import RungeKutta
from scorefield.samplers.sde import EulerMaruyama, ReverseDiffusion
from scorefield.samplers.single_step import DDIM, Ancestral

SAMPLERS: tuple[type[Sampler], ...] = (
    Calibrated,
    Ancestral,
    DDIM,
    Heun,
    RungeKutta,
    DPMSolver,
    Adaptive,
    Churn,
    Restart,
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
    "Adaptive",
    "Ancestral",
    "AnnealedLangevin",
    "Asinh",
    "Calibrated",
    "Calibration",
    "Churn",
    "DDIM",
    "DEIS",
    "DPMSolver",
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
    "Levels",
    "Linear",
    "LogSNR",
    "Native",
    "PNDM",
    "Plan",
    "PredictorCorrector",
    "Quadratic",
    "Rational",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
    "SAMPLERS",
    "Sampler",
    "State",
    "Trailing",
    "VPTime",
    "UniPC",
]
