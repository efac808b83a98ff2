"""Objectives: what is minimised to fit a denoiser."""

from __future__ import annotations

from scorefield.objectives.base import Draws, Losses, Objective
from scorefield.objectives.denoising import Denoising
from scorefield.objectives.score_matching import Explicit, FiniteDifferenceSliced, Implicit, Sliced
from scorefield.objectives.times import (
    TIME_SAMPLINGS,
    ImportanceSampled,
    LogitNormal,
    LogNormal,
    LogUniform,
    LossHistory,
    NoiseLevels,
    TimeSampling,
    Uniform,
)
from scorefield.objectives.variational import Hybrid, Variational
from scorefield.objectives.weightings import (
    WEIGHTINGS,
    EDMWeighting,
    FlowWeighting,
    Likelihood,
    MinSNR,
    Simple,
    TruncatedSNR,
    Weighting,
)

OBJECTIVES: tuple[type[Objective], ...] = (
    Denoising,
    Explicit,
    Implicit,
    Sliced,
    FiniteDifferenceSliced,
    Variational,
    Hybrid,
)
"""Every public objective; the contract tests run over this list."""

__all__ = [
    "OBJECTIVES",
    "TIME_SAMPLINGS",
    "WEIGHTINGS",
    "Denoising",
    "Draws",
    "EDMWeighting",
    "Explicit",
    "FiniteDifferenceSliced",
    "FlowWeighting",
    "Hybrid",
    "Implicit",
    "ImportanceSampled",
    "Likelihood",
    "LogNormal",
    "LogUniform",
    "LogitNormal",
    "LossHistory",
    "Losses",
    "MinSNR",
    "NoiseLevels",
    "Objective",
    "Simple",
    "Sliced",
    "TimeSampling",
    "TruncatedSNR",
    "Uniform",
    "Variational",
    "Weighting",
]
