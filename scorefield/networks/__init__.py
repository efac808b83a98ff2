"""What is learned: networks that map a noisy sample and its noise level to a tensor; they know nothing of diffusion."""

from __future__ import annotations

from typing import Any

from scorefield.networks.specs import NETWORKS, MLPSpec, UNetSpec, default_classifier, default_network

__all__ = ["NETWORKS", "MLPSpec", "UNetSpec", "default_classifier", "default_network", "fastest_dtype"]


def __getattr__(name: str) -> Any:
    if name == "fastest_dtype":  # needs torch, which a configuration can be checked without
        from scorefield.networks.precision import fastest_dtype

        return fastest_dtype
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
