r"""Where a bound is asked when it is not asked everywhere: strata in the Gaussian's information, weighted so that nothing is biased.

A cell i of log-SNR has probability p_i = 0.9 ΔI_i/ΣΔI + 0.1/m, where I(λ) is what x_t would tell of Gaussian data: near the
density that has the least variance, E‖ε − ε̂‖². The K questions of a sample are at u_k = (k + U)/K of the cumulated p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from scorefield.likelihood.reference import Reference
from scorefield.shapes import Float, Int, Tensor

_UNIFORM = 0.1


@final
@dataclass(frozen=True, eq=False)
class Cells:
    """Cells between log-SNRs that rise.

    Attributes:
        edges: (m + 1,) λ₀ < … < λ_m.
        probabilities: (m,) of the cells.
    """

    edges: Float[Tensor, " edges"]
    probabilities: Float[Tensor, " cells"]

    @classmethod
    def between(cls, edges: Float[Tensor, " edges"], frame: Reference) -> Cells:
        """The cells of given edges, weighed by a Gaussian's information."""
        gained = frame.information(edges).diff()
        count = len(gained)
        return cls(edges, (1.0 - _UNIFORM) * gained / gained.sum() + _UNIFORM / count)

    @classmethod
    def even(cls, low: float, high: float, count: int, frame: Reference) -> Cells:
        """So many cells of one width in λ."""
        edges = torch.linspace(low, high, count + 1, dtype=torch.float64, device=frame.mean.device)
        return cls.between(edges, frame)

    def places(self, u: Float[Tensor, "..."]) -> tuple[Int[Tensor, "..."], Float[Tensor, "..."]]:
        """The cell that holds each u ∈ (0, 1) of the cumulated probability, and how far in it u is."""
        ends = self.probabilities.cumsum(0)
        ends = ends / ends[-1]
        cells = torch.searchsorted(ends, u.contiguous()).clamp(max=len(ends) - 1)
        share = self.probabilities / self.probabilities.sum()
        inside = ((u - (ends - share)[cells]) / share[cells]).clamp(0.0, 1.0)
        return cells, inside

    def log_snrs(self, u: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """λ at each u, and 1/density there."""
        cells, inside = self.places(u)
        width = self.edges.diff()[cells]
        return self.edges[:-1][cells] + inside * width, width / self.probabilities[cells]


def strata(shift: Float[Tensor, " b"], count: int) -> Float[Tensor, "k b"]:
    """u_k = (k + U)/K, a row for each k."""
    return (torch.arange(count, dtype=torch.float64, device=shift.device)[:, None] + shift) / count
