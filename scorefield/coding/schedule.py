r"""The lossy chain's steps: where it goes, and what each step costs.

In the scale where α² + σ² = 1, with s = σ/α, SNR = s⁻² and a step from t to the less noisy t′,

    q(z′ | z, x) = N(c z + p x, q² I),   r = SNR/SNR′,  c = r α′/α,  p = α′ (1 − r),  q = σ′ √(1 − r)       (M5)
    KL(q ‖ p_θ) = ½ (SNR′ − SNR) ‖x − D(z)‖² nats                                                          (M16)

so a chain costs the left Riemann sum of ½ ∫ m dSNR, m = E‖x − D‖², and the nodes that make it least follow from the
curve m(s) by a dynamic programme: no chain need be tried (M21 is its limit).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from scorefield.paths import Path


@final
@dataclass(frozen=True)
class Node:
    """A noise level of the chain.

    Attributes:
        time: of the model's path.
        ratio: s = σ/α.
        scale: x_t = scale · z at that time.
    """

    time: float
    ratio: float
    scale: float

    @property
    def alpha(self) -> float:
        """1/√(1 + s²)."""
        return 1.0 / math.sqrt(1.0 + self.ratio * self.ratio)

    @property
    def snr(self) -> float:
        """s⁻²."""
        return self.ratio**-2

    @classmethod
    def at(cls, path: Path, log_snr: float) -> Node:
        """The node where a path's λ = log(α/σ) is nearest to a value."""
        time = path.snap(min(max(path.time_of(log_snr), path.t_min), path.t_max))
        alpha, sigma = path.alpha(time), path.sigma(time)
        return cls(time, sigma / alpha, math.hypot(alpha, sigma))


@final
@dataclass(frozen=True)
class Step:
    """From one node to a less noisy one: z′ = carry · z + pull · x + std · e.

    Attributes:
        carry: c.
        pull: p.
        std: q.
    """

    carry: float
    pull: float
    std: float

    @classmethod
    def between(cls, noisy: Node, clear: Node) -> Step:
        """The posterior's coefficients  (M5)."""
        kept = clear.snr**-1 * noisy.snr
        carry = kept * clear.alpha / noisy.alpha
        return cls(carry, clear.alpha * (1.0 - kept), clear.alpha * clear.ratio * math.sqrt(1.0 - kept))


@final
@dataclass(frozen=True)
class Schedule:
    """A chain: its nodes from the noisiest to the last, the steps between them, and how its noise is selected.

    Attributes:
        nodes: T + 1.
        steps: T.
        memory: L, bits of the trellis's state.
    """

    nodes: tuple[Node, ...]
    steps: tuple[Step, ...]
    memory: int

    @classmethod
    def through(cls, nodes: Sequence[Node], memory: int) -> Schedule:
        """The chain through given nodes, the noisiest first."""
        return cls(tuple(nodes), tuple(Step.between(a, b) for a, b in itertools.pairwise(nodes)), memory)


@final
@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """m at several nodes, the noisiest first.

    Attributes:
        nodes: where it was measured.
        errors: mean squared error of D a value.
    """

    nodes: tuple[Node, ...]
    errors: tuple[float, ...]

    def bits(self, first: int, last: int) -> float:
        """The bits a value of one step between two nodes."""
        return 0.5 * self.errors[first] * (self.nodes[last].snr - self.nodes[first].snr) / math.log(2.0)

    def rate(self, last: int) -> float:
        """The bits a value of a chain of endlessly many steps, by the trapezoidal rule in log s: ∫ m SNR d log(1/s)."""
        depth = -np.log([node.ratio for node in self.nodes[: last + 1]])
        terms = np.array(self.errors[: last + 1]) * [node.snr for node in self.nodes[: last + 1]]
        return float((0.5 * (terms[1:] + terms[:-1]) * np.diff(depth)).sum()) / math.log(2.0)

    def best_nodes(self, last: int, steps: int) -> tuple[int, ...]:
        """The indices of steps + 1 nodes, from the noisiest to `last`, whose chain costs least."""
        steps = min(steps, last)
        cost = np.full((steps + 1, last + 1), np.inf)
        parent = np.zeros((steps + 1, last + 1), dtype=int)
        cost[0, 0] = 0.0
        table = np.array([[self.bits(i, j) if i < j else np.inf for j in range(last + 1)] for i in range(last + 1)])
        for k in range(1, steps + 1):
            total = cost[k - 1][:, None] + table
            parent[k], cost[k] = total.argmin(axis=0), total.min(axis=0)
        chosen = [last]
        for k in range(steps, 0, -1):
            chosen.append(int(parent[k, chosen[-1]]))
        return tuple(reversed(chosen))

    def chain_bits(self, chosen: Sequence[int]) -> tuple[float, ...]:
        """The bits a value of every step through chosen nodes."""
        return tuple(self.bits(i, j) for i, j in itertools.pairwise(chosen))


def candidate_nodes(path: Path, count: int = 48, *, noisiest: float = 40.0, clearest: float = 0.02) -> tuple[Node, ...]:
    """Nodes evenly spaced in log s within the path, the noisiest first."""
    low = max(path.log_snr(path.t_max), -math.log(noisiest))
    high = min(path.log_snr(path.t_min), -math.log(clearest))
    found = [Node.at(path, low + (high - low) * k / (count - 1)) for k in range(count)]
    return tuple(node for k, node in enumerate(found) if k == 0 or node.ratio < found[k - 1].ratio)
