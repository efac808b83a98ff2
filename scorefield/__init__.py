"""scorefield: score-based generative models on one's own data.

    import scorefield as sf

    model = sf.fit("path/to/images", minutes=10)
    samples = model.sample(64, sampler=sf.DDIM(steps=50), seed=0)

A score model is a noise path and a denoiser; it is fitted by an objective and drawn from by a sampler. Everything here is
imported on first use: `import scorefield` itself takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "paths": ("VE", "VP", "EDM", "Discrete", "Path", "Rectified", "SubVP", "VPCosine", "PATHS"),
    "denoisers": (
        "Centred",
        "CentredEnergy",
        "Autoguided",
        "ClassifierFree",
        "Guided",
        "MixtureClassifier",
        "Clipped",
        "Conditioned",
        "ConditionedEnergy",
        "Data",
        "Denoiser",
        "Energy",
        "EnergyDenoiser",
        "GaussianMixture",
        "Inpainting",
        "NetworkDenoiser",
        "NetworkEnergy",
        "Noise",
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
        "PARAMETERISATIONS",
    ),
    "networks": ("MLPSpec", "UNetSpec", "NETWORKS"),
    "objectives": (
        "Denoising",
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
        "MinSNR",
        "NoiseLevels",
        "Objective",
        "Simple",
        "Sliced",
        "TruncatedSNR",
        "Uniform",
        "Variational",
        "OBJECTIVES",
        "TIME_SAMPLINGS",
        "WEIGHTINGS",
    ),
    "samplers": (
        "Calibrated",
        "Calibration",
        "VPTime",
        "AdamsBashforth",
        "LMS",
        "DEIS",
        "DPMSolverMultistep",
        "UniPC",
        "IPNDM",
        "PNDM",
        "DDIM",
        "RungeKutta",
        "DPMSolver",
        "Adaptive",
        "Churn",
        "Restart",
        "Ancestral",
        "AnnealedLangevin",
        "EulerMaruyama",
        "Heun",
        "Asinh",
        "Karras",
        "Levels",
        "Rational",
        "Langevin",
        "Leading",
        "Linear",
        "LogSNR",
        "Native",
        "PredictorCorrector",
        "Quadratic",
        "ReverseDiffusion",
        "Sampler",
        "State",
        "Trailing",
        "GRIDS",
        "SAMPLERS",
    ),
    "likelihood": ("Flow", "FlowLikelihood", "Measured", "Reference", "Subject", "VariationalBound", "measure"),
    "editing.operators": ("Dense", "LinearOperator", "Mask", "Matrixless", "Projection", "Separable"),
    "editing.measurement": ("Measurement",),
    "editing.posterior": ("Posterior",),
    "editing.sdedit": ("SDEdit",),
    "editing.latents": ("slerp",),
    "streams": ("BrownianPath", "SampleStreams"),
    "data": ("open_data",),
    "samplers.calibration.calibrate": ("calibrate",),
    "model_calibration": ("calibrate_model", "tune_model"),
    "model_classifier": ("NoiseClassifier", "load_classifier"),
    "training.earlier": ("checkpoint_model",),
    "training.classifier": ("ClassifierPlan", "fit_classifier"),
    "coding.codec": ("Codec",),
    "coding.profile": ("CodecProfile",),
    "coding.bitstream": ("CodecError",),
    "model_codec": ("compress", "decompress", "make_codec_profile", "read_codec_profile", "save_codec_profile"),
    "model": ("Model", "load"),
    "fitting": ("fit",),
    "errors": ("ScorefieldError", "UsageError"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604  # the names are strings, in a table


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'scorefield' has no attribute {name!r}")
    return getattr(import_module(f"scorefield.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
