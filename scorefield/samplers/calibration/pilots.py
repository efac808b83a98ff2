r"""A denoiser's own trajectories, finely solved and stored: what every candidate is judged by.

    dy = D dr,   y = x/σ,  r = α/σ       (the probability flow of any Gaussian path, M26)

The fine solver is the exponential Adams method of order 3 with its corrector, on times uniform in log(σ/α).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.tables import Integral, quadrature

_ORDER = 3
_LOWEST_LOG_SNR = -5.0
_NO_SIGNAL = 3.0 * _LOWEST_LOG_SNR
_HALF_LEVEL = math.log(2.0)


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A denoiser with noise to draw from.

    Attributes:
        denoiser: whom to ask.
        noise: (b, *d) x at t_max.
        condition: of each sample; None for nothing.
    """

    denoiser: Denoiser
    noise: Tensor
    condition: Any = None

    @property
    def path(self) -> Path:
        """The denoiser's."""
        return self.denoiser.path

    def ask(self, y: Tensor, t: float) -> Tensor:
        """D at x = σ y as (b, D) float64, for y of the same."""
        x = (y * self.path.sigma(t)).to(self.noise.dtype).view(self.noise.shape)
        with torch.no_grad():
            return self.denoiser(x, t, self.condition).x0.flatten(1).double()


@final
@dataclass(frozen=True, eq=False)
class Trajectories:
    """Stored solutions; samples are flattened to (b, D), in float64 where the noise is, else in float32.

    Attributes:
        times: t_max = t_1 > … > t_M.
        tau: (M,) log(σ/α), finite also where α = 0.
        r: (M,) α/σ.
        y: (M, b, D) x/σ.
        answers: (M, b, D) D.
        end: (b, D) where the flow ends.
    """

    times: tuple[float, ...]
    tau: np.ndarray
    r: np.ndarray
    y: Tensor
    answers: Tensor
    end: Tensor

    def state(self, tau: float) -> Tensor:
        """x̄ at a level, (b, D) float64, by a cubic for x/√(α²+σ²), which is smooth at both ends, through the four nearest nodes.

        A first node that stands at another level than its own is none of them.
        """
        near = int(np.argmin(np.abs(self.tau - tau)))
        if abs(self.tau[near] - tau) < 1e-12 and self.r[near] > 0.0:
            return self.y[near].double() / self.r[near]
        first = int(self.r[0] < math.exp(_NO_SIGNAL))
        low = min(max(int(np.searchsorted(-self.tau, -tau)) - 2, first), len(self.tau) - 4)
        chosen = range(low, low + 4)
        parts = (
            math.prod((tau - self.tau[j]) / (self.tau[i] - self.tau[j]) for j in chosen if j != i)
            / math.hypot(1.0, self.r[i])
            * self.y[i].double()
            for i in chosen
        )
        return sum(parts, torch.zeros_like(self.end, dtype=torch.float64)) * math.hypot(1.0, math.exp(tau))


def solve(problem: Problem, nodes: int) -> Trajectories:
    """Follow the probability flow finely from t_max to t_min; `nodes` evaluations.

    Raises:
        UsageError: a denoiser whose answers are not finite.
    """
    times = fine_times(problem.path, nodes)
    tau, r = levels(problem.path, times)
    y = problem.noise.flatten(1).double() / problem.path.sigma(times[0])
    states: list[Tensor] = []
    answers: list[Tensor] = []
    for n, t in enumerate(times):
        answers.append(problem.ask(y, t))
        if n:
            y = states[-1].double() + _adams(answers, tau, r, n, n - 1, _ORDER + 1)
        states.append(y.to(problem.noise.dtype))
        if n + 1 < len(times):
            y = y + _adams(answers, tau, r, n, n, _ORDER)
    if not bool(answers[-1].isfinite().all()):
        raise UsageError("the denoiser's answers are not finite, so it cannot be calibrated; train it longer")
    dtype = problem.noise.dtype
    stored = torch.stack([answer.to(dtype) for answer in answers])
    return Trajectories(times, tau, r, torch.stack(states), stored, _end(answers, tau, problem.noise.dtype))


def fine_times(path: Path, nodes: int) -> tuple[float, ...]:
    """Times uniform in log(σ/α) from t_max to t_min; those of a chain are its own."""
    top, bottom = -max(path.log_snr(path.t_max), _LOWEST_LOG_SNR), -path.log_snr(path.t_min)
    inner = (path.snap(path.time_of(-tau)) for tau in np.linspace(top, bottom, nodes)[1:-1])
    low = path.snap(path.t_min)
    return tuple(sorted({path.t_max, low, *(t for t in inner if low < t < path.t_max)}, reverse=True))


def levels(path: Path, times: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(log(σ/α), α/σ) at times; where next to nothing of the data is left the first stands one step above the second."""
    tau = np.array([-max(path.log_snr(t), -40.0) for t in times])
    r = np.array([path.alpha(t) / path.sigma(t) for t in times])
    if r[0] < math.exp(_NO_SIGNAL):
        tau[0] = max(-_LOWEST_LOG_SNR, tau[1] + (tau[1] - tau[2] if len(tau) > 2 else 1.0))
    return tau, r


def newton(tau: list[float], low: float, high: float) -> list[float]:
    """∫ Π_{i<j} (τ − τ_i) dr between two levels r, for j = 0 … k − 1: a Newton polynomial's weights in y."""
    if low < math.exp(_NO_SIGNAL):  # the way from α = 0, where a level means nothing and D is linear in r
        return [high, *(0.5 * high * (tau[1] - tau[0]) for _ in tau[1:2]), *(0.0 for _ in tau[2:])]
    integral = _kernel(math.log(low), math.log(high))
    weights, product = [], np.asarray(integral.masses)
    for node in tau:
        weights.append(float(product.sum()))
        product = product * (np.asarray(integral.points) - node)
    return weights


def _kernel(start: float, end: float) -> Integral:
    """dr = e^u du, u = −τ, as a quadrature in τ."""
    plain = quadrature(start, end, panel=1.0)
    masses = tuple(math.exp(u) * mass for u, mass in zip(plain.points, plain.masses, strict=True))
    return Integral(tuple(-u for u in plain.points), masses)


def differences(tau: list[float], answers: list[Tensor]) -> list[Tensor]:
    """Newton's divided differences D_n, D[n, n−1], D[n, n−1, n−2], …, newest first."""
    current, found = list(answers), []
    for order in range(len(answers)):
        found.append(current[0])
        current = [(current[i] - current[i + 1]) / (tau[i] - tau[i + order + 1]) for i in range(len(current) - 1)]
    return found


def _adams(answers: list[Tensor], tau: np.ndarray, r: np.ndarray, newest: int, start: int, order: int) -> Tensor:
    """∫ D dr from node `start` to the next, D a polynomial through the newest answers."""
    count = min(order, newest + 1)
    nodes = [float(tau[newest - j]) for j in range(count)]
    parts = differences(nodes, [answers[newest - j] for j in range(count)])
    weights = newton(nodes, float(r[start]), float(r[start + 1]))
    return sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros_like(answers[newest]))


def _end(answers: list[Tensor], tau: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The flow at t = 0: D is smooth in s², so in float64 two of its values are extrapolated; else the last answer."""
    if dtype != torch.float64 or len(tau) < 3:
        return answers[-1]
    other = int(np.argmin(np.abs(tau - (tau[-1] + _HALF_LEVEL))))
    near, far = math.exp(2.0 * tau[-1]), math.exp(2.0 * tau[other])
    return answers[-1] + (answers[-1] - answers[other]) * (near / (far - near)) if far > near else answers[-1]
