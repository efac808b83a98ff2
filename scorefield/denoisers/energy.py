r"""A denoiser made of a network's energy: its score is a gradient field by construction  (M10).

    E(x_t, t) = ½‖x̂‖² − (α σ_d/σ) G(x̂),   G(x̂) = ⟨x̂, network(x̂)⟩,   x̂ = x_t/√(α² σ_d² + σ²)

so that ŝ = −∇_x E is the score of EDM's D with F = ∇G. A field of a network's own need not have an energy; one that has can
be compared at two points, which is what a Metropolis test and the composition of models ask for (Salimans & Ho 2021, "Should
EBMs model the energy or the score?"; Du et al. 2023, "Reduce, reuse, recycle").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers.base import EnergyDenoiser, Prediction
from scorefield.denoisers.network import NetworkDenoiser, per_sample
from scorefield.denoisers.parameterisations import Energy
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Where a network is asked here, its gradients have gradients: the fused kernels of attention have none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@final
@dataclass(frozen=True, eq=False)
class NetworkEnergy(EnergyDenoiser):
    """D(x_t, t) = c_skip x̄ + c_out ∇G(c_in x̄), the denoiser of a network's energy  (M9, M10).

    It answers under `torch.no_grad()` too, and in training its answer can be differentiated on.

    Attributes:
        network: any callable `network(x, label)`, or `network(x, label, condition)`, that can be differentiated twice.
        path: the path it was (or will be) trained on.
        parameterisation: with the data's σ_d.
    """

    network: Callable[..., Tensor]
    path: Path
    parameterisation: Energy

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ by a call of the network and the gradient of its energy."""
        return NetworkDenoiser(self._gradient, self.path, self.parameterisation)(x_t, t, condition)

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E = ½‖x̂‖² − (α σ_d/σ) G(x̂)  (M10)."""
        row = self.parameterisation.coefficients(self.path, t)
        scaled = along_batch(row.input, x_t) * x_t
        gain = per_sample(self.parameterisation.gain(self.path, t), x_t)
        return 0.5 * per_sample_sum(scaled.square()) - gain * self._potential(
            scaled, per_sample(row.label, x_t), condition
        )

    def _potential(self, scaled: Tensor, label: Tensor, condition: Any) -> Tensor:
        """G(x̂) = ⟨x̂, network(x̂)⟩."""
        output = self.network(scaled, label) if condition is None else self.network(scaled, label, condition)
        return per_sample_sum(scaled * output)

    def _gradient(self, scaled: Tensor, label: Tensor, condition: Any = None) -> Tensor:
        """∇G, with a graph of its own where the caller records one."""
        import torch

        recorded = torch.is_grad_enabled()
        with torch.enable_grad(), twice_differentiable():
            point = scaled if recorded and scaled.requires_grad else scaled.detach().requires_grad_()
            potential = self._potential(point, label, condition).sum()
            return torch.autograd.grad(potential, point, create_graph=recorded)[0]
