"""Denoisers: E[x₀ | x_t] from anything: a network in any parameterisation, a closed form, a wrapper of another denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.denoisers.network import NetworkDenoiser
from scorefield.denoisers.parameterisations import (
    PARAMETERISATIONS,
    Data,
    Noise,
    Parameterisation,
    Preconditioned,
    RectifiedVelocity,
    Score,
    Velocity,
)
from scorefield.denoisers.wrappers import Centred, ClassifierFree, Clipped

if TYPE_CHECKING:
    from scorefield.denoisers.gaussian_mixture import GaussianMixture

__all__ = [
    "PARAMETERISATIONS",
    "Centred",
    "ClassifierFree",
    "Clipped",
    "Data",
    "Denoiser",
    "GaussianMixture",
    "NetworkDenoiser",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "Prediction",
    "RectifiedVelocity",
    "Score",
    "Velocity",
]


def __getattr__(name: str) -> Any:
    """Import the closed form on first use: it needs torch, which checking a configuration does not."""
    if name == "GaussianMixture":
        from scorefield.denoisers.gaussian_mixture import GaussianMixture

        return GaussianMixture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
