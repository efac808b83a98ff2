r"""Muon: momentum whose update of a weight matrix is orthogonalised, with Adam for everything that is no matrix.

The gradient of a weight matrix is nearly of low rank; Adam and plain momentum move the few large directions and leave
the rest. Muon (Jordan et al. 2024) replaces the momentum G = U S Vᵀ by U Vᵀ, so that all directions move alike. In runs
of a few hundred to a few thousand steps it halves the Fréchet distance that AdamW reaches in the same time.

U Vᵀ = (G Gᵀ)^{−½} G is found by Newton–Schulz iteration. All factors are polynomials in the small Gram matrix G Gᵀ and
commute, so the iteration runs on that matrix and touches the long side of G twice only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from scorefield.shapes import Float

__all__ = ["Muon", "orthogonalise", "parameter_groups"]

# Odd quintics a x + b x³ + c x⁵, one an iteration, that together carry singular values of .005 to 1 to about 1:
# minimax optimal composition (Amsel et al. 2025, "The Polar Express"), less its second step
_QUINTICS = (
    (4.0848, -6.8946, 2.9270),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
_RMS = 0.5  # of an update of a matrix, in units of the learning rate: about what Adam's update has


def orthogonalise(matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """U Vᵀ of matrix = U S Vᵀ, roughly: singular values above a hundredth of the norm end between .7 and 1.2.

    Args:
        matrix: n×m, any n and m; zero stays zero.

    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.mT).mT
    matrix = matrix / matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    gram = matrix @ matrix.mT
    product = factor = _even_part(gram, *_QUINTICS[0])
    for coefficients in _QUINTICS[1:]:
        gram = factor @ gram @ factor
        factor = _even_part(gram, *coefficients)
        product = factor @ product
    return product @ matrix


def _even_part(gram: Float[Tensor, "n n"], a: float, b: float, c: float) -> Float[Tensor, "n n"]:
    """a I + b G + c G²: what a quintic multiplies a matrix of Gram matrix G by."""
    result = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal().add_(a)
    return result


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """The parameters of `network` for `Muon`: the weights it names in `hidden_matrices()`, if it does, and the rest."""
    matrices = list(getattr(network, "hidden_matrices", list)())
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
    return [{"params": matrices, "orthogonal": True}, {"params": others, "orthogonal": False}]


class Muon(torch.optim.Optimizer):
    r"""Orthogonalised momentum for matrices (Jordan et al. 2024), AdamW for the rest, under one learning rate.

    For a matrix W (a convolution's kernel counts as outputs × everything else) with gradient G:
    M ← μ M + (1−μ) G,  W ← (1 − η λ) W − ½ η √max(n, m) · orth(μ M + (1−μ) G).
    The factor gives every update the root mean square ½ η, whatever the shape (after Liu et al. 2025).

    Args:
        groups: as `parameter_groups` makes them: groups whose `orthogonal` is true hold matrices.
        lr: learning rate η of all groups.
        momentum: μ.
        betas: Adam's two averages.
        weight_decay: λ, for matrices only.

    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 2e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        given = [group for group in groups if group["params"]]
        super().__init__(given, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Args:
            closure: recomputes the loss first, as `torch.optim.Optimizer.step` has it.

        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._step_matrices if group["orthogonal"] else self._step_adam)(parameters, group)
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            momentum = state.setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(gradient, 1 - group["momentum"])
            # Inputs last, as channels-last kernels lie in memory: the order of columns does not matter
            update = gradient.lerp(momentum, group["momentum"]).movedim(1, -1)
            matrix = update.flatten(1)
            size = _RMS * group["lr"] * math.sqrt(max(matrix.shape))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(orthogonalise(matrix).view(update.shape).movedim(-1, 1), alpha=-size)

    def _step_adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros(()), first=torch.zeros_like(parameter), second=torch.zeros_like(parameter)
                )
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["first"] for state in states],
            [state["second"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
