r"""Where to ask: the best nodes for every budget at once, from stored trajectories and without a new evaluation.

A two-step method's error over the interval from node i to node j, with h before i, is what least squares leaves of

    x̄_j ≈ a y_i + b D_i + c D_h

over the pilots, and for the last step of x̄(0). It follows from the inner products of what is stored. An error at level s counts
by how much of it arrives: a Gaussian direction of variance λ shrinks it by √(λ/(s² + λ)). A dynamic programme over the pairs
(h, i) then finds, for every budget, the nodes of the least sum; nothing forces the last node near the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from scorefield.samplers.calibration.pilots import Trajectories

_RIDGE = 1e-9
_LEAST_VARIANCE = 1e-8


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """The covariance of the data: variances along directions, and one variance beyond them.

    Attributes:
        mean: (D,).
        variances: (k,) λ.
        directions: (D, k), orthonormal columns.
        residual: of every direction beyond these.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor
    residual: float

    @classmethod
    def of_moments(cls, moments: Mapping[str, Tensor]) -> Spectrum:
        """What a model stores of its data: mean, eigenvalues, eigenvectors (rows) and residual_variance."""
        vectors = moments["eigenvectors"].double()
        return cls(
            moments["mean"].double().flatten(),
            moments["eigenvalues"].double().clamp_min(_LEAST_VARIANCE),
            vectors.T.contiguous(),
            max(float(moments["residual_variance"]), _LEAST_VARIANCE),
        )

    @classmethod
    def of_samples(cls, samples: Tensor) -> Spectrum:
        """Of (b, D) samples: every direction where they are many, else one variance for all."""
        samples = samples.double()
        mean, size = samples.mean(0), samples.shape[1]
        centred = samples - mean
        if len(samples) < 4 * size:
            residual = max(float(centred.square().mean()), _LEAST_VARIANCE)
            return cls(mean, mean.new_zeros(0), mean.new_zeros(size, 0), residual)
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(samples))
        return cls(mean, variances.clamp_min(_LEAST_VARIANCE), directions, 0.0)


@final
@dataclass(frozen=True, eq=False)
class Errors:
    """Local errors between nodes; infinite where a step is impossible.

    Attributes:
        times, tau: of the nodes.
        first: (M,) of the step from the first node to j.
        inner: (M, M, M) from i to j, with h before i.
        last: (M, M) from i to the data, with h before i.
    """

    times: tuple[float, ...]
    tau: np.ndarray
    first: np.ndarray
    inner: np.ndarray
    last: np.ndarray


def local_errors(found: Trajectories, spectrum: Spectrum, nodes: int) -> Errors:
    """Every interval's error between at most `nodes` of the stored times."""
    chosen = np.unique(np.round(np.linspace(0, len(found.times) - 1, nodes)).astype(int))
    products, tau = _Products(found, spectrum, chosen), found.tau[chosen]
    m = len(chosen)
    first, inner, last = np.full(m, np.inf), np.full((m, m, m), np.inf), np.full((m, m), np.inf)
    pairs = torch.tensor([(h, i) for i in range(1, m) for h in range(i)])
    for j in range(1, m):
        gram = products.seen_from(float(np.exp(tau[j])))
        first[j] = float(_left(gram, torch.tensor([[0, m]]), j)[0])
        before = pairs[pairs[:, 1] < j]
        if len(before):
            h, i = before.T
            inner[h.numpy(), i.numpy(), j] = _left(gram, torch.stack([i, m + i, m + h], 1), j).numpy()
    h, i = pairs.T
    last[h.numpy(), i.numpy()] = _left(products.seen_from(0.0), torch.stack([i, m + i, m + h], 1), 2 * m).numpy()
    return Errors(tuple(found.times[k] for k in chosen), tau, first, inner, last)


class _Products:
    """Inner products of x̄ (scaled to be finite), D and the end at the nodes, by direction of the spectrum."""

    def __init__(self, found: Trajectories, spectrum: Spectrum, chosen: np.ndarray) -> None:
        mean = spectrum.mean
        states = [(found.y[k].double() - found.r[k] * mean) / (found.r[k] if found.r[k] > 0.0 else 1.0) for k in chosen]
        answers = [found.answers[k].double() - mean for k in chosen]
        everything = torch.stack([*states, *answers, found.end.double() - mean])
        along = everything @ spectrum.directions
        self.by_direction = torch.einsum("pbc,qbc->cpq", along, along)
        whole = torch.einsum("pbd,qbd->pq", everything, everything)
        self.beyond = whole - self.by_direction.sum(0)
        self.spectrum, self.count = spectrum, everything.shape[1] * everything.shape[2]

    def seen_from(self, s: float) -> Tensor:
        """The products with each direction weighted by the share of an error at level s that arrives."""
        variances, residual = self.spectrum.variances, self.spectrum.residual
        weighted = torch.einsum("c,cpq->pq", variances / (s * s + variances), self.by_direction)
        share = residual / (s * s + residual) if residual else 0.0
        return (weighted + share * self.beyond) / self.count


def _left(gram: Tensor, features: Tensor, target: int) -> Tensor:
    """Root mean square that least squares on each row of features leaves of the target."""
    matrix, vector = gram[features[:, :, None], features[:, None, :]], gram[features, target]
    scale = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    matrix = matrix / scale[:, :, None] / scale[:, None, :] + _RIDGE * torch.eye(features.shape[1]).double()
    vector = vector / scale
    fitted = torch.linalg.solve(matrix, vector[..., None])[..., 0]
    left = gram[target, target] - 2.0 * (fitted * vector).sum(1) + torch.einsum("nf,nfg,ng->n", fitted, matrix, fitted)
    return left.clamp_min(0.0).sqrt()


def best_nodes(errors: Errors, budgets: Sequence[int], power: float) -> dict[int, tuple[float, ...]]:
    """For each budget N ≥ 2 the N times with the least Σ error^power; budgets beyond the nodes are left out."""
    first, inner, last = errors.first**power, errors.inner**power, errors.last**power
    m = len(errors.times)
    best = np.full((m, m), np.inf)  # of the ways that end with the nodes (h, i)
    best[0] = first
    came_from: dict[int, np.ndarray] = {}
    found = {}
    for budget in range(2, max(budgets, default=0) + 1):
        total = best + last
        if budget in budgets and np.isfinite(total.min()):
            h, i = np.unravel_index(int(np.argmin(total)), total.shape)
            found[budget] = tuple(errors.times[k] for k in _way_back(came_from, budget, int(h), int(i)))
        step = best[:, :, None] + inner
        came_from[budget + 1] = step.argmin(0)
        best = step.min(0)
    return found


def _way_back(came_from: Mapping[int, np.ndarray], budget: int, h: int, i: int) -> list[int]:
    way = [i, h]
    for count in range(budget, 2, -1):
        way.append(int(came_from[count][way[-1], way[-2]]))
    return way[::-1]


def scaled(tau: Sequence[float], count: int) -> list[float]:
    """As many levels as wanted, as dense as the given ones: the monotone cubic through them as a function of their number."""
    places = np.linspace(0.0, len(tau) - 1.0, count)
    return [float(value) for value in _monotone(np.asarray(tau), places)]


def _monotone(y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Fritsch and Carlson's cubic through points a unit apart, which falls wherever they fall."""
    slope = np.diff(y)
    inner = 2.0 * slope[1:] * slope[:-1] / (slope[1:] + slope[:-1])
    rate = np.concatenate([slope[:1], inner, slope[-1:]])
    k = np.clip(at.astype(int), 0, len(y) - 2)
    u = at - k
    return np.asarray(
        (1 + 2 * u) * (1 - u) ** 2 * y[k]
        + u * (1 - u) ** 2 * rate[k]
        + u**2 * (3 - 2 * u) * y[k + 1]
        + u**2 * (u - 1) * rate[k + 1]
    )
