"""Denoisers: E[x₀ | x_t] from anything: a network in any parameterisation, a closed form, a wrapper of another denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scorefield.denoisers.base import Denoiser, EnergyDenoiser, Prediction
from scorefield.denoisers.composition import (
    Conditioned,
    ConditionedEnergy,
    Product,
    ProductEnergy,
    Union,
    conditioned,
    negation,
    product,
    tempered,
)
from scorefield.denoisers.energy import NetworkEnergy
from scorefield.denoisers.guidance import Autoguided, Classifier, ClassifierFree, Guided, MixtureClassifier
from scorefield.denoisers.network import NetworkDenoiser
from scorefield.denoisers.parameterisations import (
    PARAMETERISATIONS,
    Data,
    Energy,
    Noise,
    Parameterisation,
    Preconditioned,
    RectifiedVelocity,
    Score,
    Velocity,
)
from scorefield.denoisers.wrappers import Centred, CentredEnergy, Clipped, Inpainting

if TYPE_CHECKING:
    from scorefield.denoisers.gaussian_mixture import GaussianMixture

__all__ = [
    "PARAMETERISATIONS",
    "Autoguided",
    "Centred",
    "CentredEnergy",
    "Classifier",
    "ClassifierFree",
    "Clipped",
    "Conditioned",
    "ConditionedEnergy",
    "Data",
    "Denoiser",
    "Energy",
    "EnergyDenoiser",
    "GaussianMixture",
    "Guided",
    "Inpainting",
    "MixtureClassifier",
    "NetworkDenoiser",
    "NetworkEnergy",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "Prediction",
    "Product",
    "ProductEnergy",
    "RectifiedVelocity",
    "Score",
    "Union",
    "Velocity",
    "conditioned",
    "negation",
    "product",
    "tempered",
]


def __getattr__(name: str) -> Any:
    """Import the closed form on first use: it needs torch, which checking a configuration does not."""
    if name == "GaussianMixture":
        from scorefield.denoisers.gaussian_mixture import GaussianMixture

        return GaussianMixture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
