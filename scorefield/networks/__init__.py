"""What is learned: networks that map a noisy sample and its noise level to a tensor; they know nothing of diffusion."""

from scorefield.networks.specs import NETWORKS, MLPSpec, UNetSpec, default_network

__all__ = ["NETWORKS", "MLPSpec", "UNetSpec", "default_network"]
