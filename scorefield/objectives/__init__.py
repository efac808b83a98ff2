"""Objectives: what is minimised to fit a denoiser."""

from __future__ import annotations

from scorefield.objectives.denoising import Denoising, Draws, Losses
from scorefield.objectives.times import (
    TIME_SAMPLINGS,
    ImportanceSampled,
    LogNormal,
    LogUniform,
    LossHistory,
    TimeSampling,
    Uniform,
)
from scorefield.objectives.weightings import (
    WEIGHTINGS,
    EDMWeighting,
    Likelihood,
    MinSNR,
    Simple,
    TruncatedSNR,
    Weighting,
)

OBJECTIVES: tuple[type[Denoising], ...] = (Denoising,)
"""Every public objective; the contract tests run over this list."""

__all__ = [
    "OBJECTIVES",
    "TIME_SAMPLINGS",
    "WEIGHTINGS",
    "Denoising",
    "Draws",
    "EDMWeighting",
    "ImportanceSampled",
    "Likelihood",
    "LogNormal",
    "LogUniform",
    "LossHistory",
    "Losses",
    "MinSNR",
    "Simple",
    "TimeSampling",
    "TruncatedSNR",
    "Uniform",
    "Weighting",
]
