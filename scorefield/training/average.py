"""The moving average of the weights that sampling uses, kept apart from the weights that train.

    power:     θ̂_n = β_n θ̂_{n−1} + (1 − β_n) θ_n,   β_n = (1 − 1/n)^{γ+1}      (Karras et al. 2024, EDM2, eq. 1)
    constant:  β_n = min(2^{−1/h}, (1 + n)/(10 + n))                            (h the half-life in steps; DDPM's 0.9999 is h = 6931)

The power profile's memory is a fixed share of the run so far, whatever its length; γ follows from the window's relative
standard deviation, σ_rel = √(γ+1) / ((γ+2) √(γ+3))  (EDM2, eq. 3).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from scorefield.training.options import AverageConfig


class Average:
    """An exponential moving average of a network, itself a network.

    Attributes:
        network: the averaged weights; buffers are those of the live network.
    """

    def __init__(self, network: nn.Module, config: AverageConfig) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._config = config
        self._exponent = power_exponent(config.width) if config.profile == "power" else 0.0
        self._pairs: list[list[Tensor]] = [list(self.network.parameters()), list(network.parameters())]

    def decay(self, step: int) -> float:
        """β_n at step n ≥ 1."""
        if self._config.profile == "power":
            return float((1.0 - 1.0 / step) ** (self._exponent + 1.0))
        return float(min(2.0 ** (-1.0 / self._config.width), (1.0 + step) / (10.0 + step)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the live weights after step n."""
        averaged, live = self._pairs
        torch._foreach_lerp_(averaged, live, 1.0 - self.decay(step))

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by name."""
        return self.network.state_dict()


def power_exponent(width: float) -> float:
    """γ of the window whose relative standard deviation is `width`; it falls as γ grows, so bisection finds it."""
    low, high = -0.99, 1e6
    for _ in range(200):
        middle = 0.5 * (low + high)
        if ((middle + 1.0) ** 0.5 / ((middle + 2.0) * (middle + 3.0) ** 0.5) > width and middle > 0.0) or middle <= 0.0:
            low = middle
        else:
            high = middle
    return low
