r"""How to add up the answers: each step's numbers by least squares against the stored flow, along the method's own way.

A step from y (level r) to level r' is Adams' exponential step, exact where D is a polynomial in τ = log(σ/α), and what is
learned is added to it in a form that keeps a data set of one point:

    x̄' = y/r' + (1 − r/r') D_n + Σ_{k≥1} w_k D[n, …, n−k]  +  δ_0 c (r D_n − y) + Σ_{k≥1} δ_k D[n, …, n−k],   c = 1/r'.

The δ minimise the distance to the stored flow at r', over all pilots and coordinates, with a small penalty on δ. Step follows
step with the states that the fitted steps themselves have reached, so that each mends what those before it left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scorefield.samplers.calibration.pilots import Problem, Trajectories, differences, levels, newton
from scorefield.samplers.plans import Plan, Step


@final
@dataclass(frozen=True)
class Method:
    """Attributes: how many answers a step looks back on, Adams' order where it starts from, the penalty on δ."""

    history: int = 4
    order: int = 3
    ridge: float = 1e-6


@final
@dataclass(frozen=True, eq=False)
class Fitted:
    """A plan, and its error over the pilots that it was fitted to and over the others.

    Attributes:
        plan: its own `error` is that over the others.
        seen: root mean square to the flow over the pilots it was fitted to: what a search may look at.
    """

    plan: Plan
    seen: float


def fit(problem: Problem, found: Trajectories, times: tuple[float, ...], method: Method, fitted: int) -> Fitted:
    """Fit a plan on the first `fitted` pilots and run it on all of them.

    Args:
        problem: the denoiser and the noise that `found` began with.
        found: the stored flow.
        times: where the plan asks; t_max first.
        method: the steps' form.
        fitted: how many of the pilots the numbers are fitted to; the rest measures them.
    """
    tau, r = levels(problem.path, times)
    tau[0] = found.tau[0]
    y, before = found.y[0].double(), None
    answers: list[Tensor] = []
    steps, corrections = [], []
    for n, t in enumerate(times):
        answers.insert(0, problem.ask(y, t))
        del answers[method.history :]
        nodes = [float(tau[n - j]) for j in range(len(answers))]
        if before is not None:
            target = found.state(float(tau[n]))
            piece = _Piece(before, float(r[n - 1]), float(r[n]), nodes, answers, method.order + 1)
            step, state = piece.fitted(target, method.ridge, fitted)
            corrections.append(step)
            y = state * r[n]
        last = n + 1 == len(times)
        target = found.end.double() if last else found.state(float(tau[n + 1]))
        piece = _Piece(y, float(r[n]), None if last else float(r[n + 1]), nodes, answers, method.order)
        step, state = piece.fitted(target, method.ridge, fitted)
        steps.append(step)
        before, y = y, state if last else state * r[n + 1]
    left = (y - found.end).square().mean(1)
    others = float((left[fitted:] if fitted < len(left) else left).mean().sqrt())
    return Fitted(Plan(times, tuple(steps), tuple(corrections), others, others), float(left[:fitted].mean().sqrt()))


class _Piece:
    """One step as a linear form in what is known."""

    def __init__(
        self, y: Tensor, r: float, r_end: float | None, nodes: list[float], answers: list[Tensor], order: int
    ) -> None:
        self.y, self.r, self.nodes, self.newest = y, r, nodes, answers[0]
        self.carry = 0.0 if r_end is None else 1.0 / r_end
        self.scale = (1.0 / r if r > 0.0 else 1.0) if r_end is None else 1.0 / r_end
        self.parts = differences(nodes, answers)[1:]
        count = min(order, len(nodes))
        weights = [0.0] * count if r_end is None else newton(nodes[:count], r, r_end)
        self.base = [self.carry * weight for weight in weights[1:]] + [0.0] * (len(nodes) - count)

    def fitted(self, target: Tensor, ridge: float, count: int) -> tuple[Step, Tensor]:
        """The step of least squares on the first `count` samples, and where it takes all of them."""
        plain = self.carry * self.y + (1.0 - self.carry * self.r) * self.newest
        for weight, part in zip(self.base, self.parts, strict=True):
            plain = plain + weight * part
        features = [self.scale * (self.r * self.newest - self.y), *self.parts]
        found = _least_squares([part[:count] for part in features], (target - plain)[:count], ridge)
        for weight, part in zip(found, features, strict=True):
            plain = plain + weight * part
        return self._step(found), plain

    def _step(self, found: list[float]) -> Step:
        """The numbers of y and of each answer, Newton's differences multiplied out."""
        weights = [0.0] * len(self.nodes)
        weights[0] = 1.0 - self.carry * self.r + self.scale * found[0] * self.r
        for order, (base, learned) in enumerate(zip(self.base, found[1:], strict=True), start=1):
            for j in range(order + 1):
                product = 1.0
                for i in range(order + 1):
                    product *= self.nodes[j] - self.nodes[i] if i != j else 1.0
                weights[j] += (base + learned) / product
        return Step(self.carry - self.scale * found[0], tuple(weights))


def _least_squares(features: list[Tensor], target: Tensor, ridge: float) -> list[float]:
    """argmin ‖target − Σ δ_k f_k‖² + ridge Σ (δ_k ‖f_k‖)²."""
    matrix = torch.stack([part.flatten() for part in features], 1)
    norms = matrix.norm(dim=0).clamp_min(1e-30)
    matrix = matrix / norms
    gram = matrix.T @ matrix + ridge * torch.eye(len(features), dtype=torch.float64)
    solved = torch.linalg.solve(gram, matrix.T @ target.flatten()) / norms
    return [float(value) for value in solved]
