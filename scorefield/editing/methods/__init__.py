"""Methods: how a measurement is joined to a model, each a record that `Posterior` wraps a denoiser by."""

from __future__ import annotations

from scorefield.editing.methods.ddrm import DDRM, Spectral
from scorefield.editing.methods.diffpir import DiffPIR, Renoising
from scorefield.editing.methods.dps import DPS
from scorefield.editing.methods.moment_matching import MomentMatching
from scorefield.editing.methods.pigdm import PiGDM
from scorefield.editing.methods.repaint import RePaint, Resampled
from scorefield.editing.methods.replacement import Replacement
from scorefield.editing.methods.twisted import Particles, TwistedSMC
from scorefield.editing.posterior import Method

METHODS: tuple[type[Method], ...] = (Replacement, RePaint, DPS, PiGDM, MomentMatching, DDRM, DiffPIR, TwistedSMC)
"""Every public method; the contract tests run over this list."""

__all__ = [
    "DDRM",
    "DPS",
    "METHODS",
    "DiffPIR",
    "MomentMatching",
    "Particles",
    "PiGDM",
    "RePaint",
    "Renoising",
    "Replacement",
    "Resampled",
    "Spectral",
    "TwistedSMC",
]
