r"""Solvers of the reverse-time SDE and of the family that shares its marginals, in the path's own time.

    (M35)  dx = [f x − ½(1+ℓ²) g² ŝ] dt + ℓ g dw̄,   ŝ = (α D − x)/σ²
    (M38)  Euler–Maruyama, and "reverse diffusion": the reverse discretised as the forward is by its bridge (M4),
           x_t = α_{t|s} x_s + σ_{t|s} z   ⇒   x_s = (2 − α_{t|s}) x_t + σ²_{t|s} ŝ + σ_{t|s} z

Written as x_s = a x_t + b D + c z these coefficients divide by neither α nor zero. The step to data has no noise and is the
denoiser's answer: the end that the paper's code denoises to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, final

from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import marginal
from scorefield.samplers.grids import Grid, Native
from scorefield.samplers.single_step import Row, SingleStep

_NOTHING_LEFT = -15.0
TO_DATA = Row(0.0, 1.0, 0.0)
"""The step to t = 0: x = D."""


@final
@dataclass(frozen=True)
class EulerMaruyama(SingleStep):
    """Euler–Maruyama for any member of the family  (M35, M38; Song et al. 2021, appendix G).

    The noise does not depend on x, so that single paths, too, converge at first order. Where nothing of the data is left
    (λ < −15, as at the end of Rectified) f and g² have no bound: a step that begins there is the SDE's own, with D held.

    Attributes:
        steps: K.
        grid: the times.
        ell: ℓ ≥ 0: 1 is the reverse SDE, 0 Euler's method for the probability flow, in t.
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    ell: float = 1.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.ell < math.inf:
            raise UsageError(
                f"EulerMaruyama needs ell ≥ 0 (0 is the probability flow, 1 the reverse SDE), got {self.ell}"
            )

    @property
    def is_deterministic(self) -> bool:
        """ℓ = 0."""
        return self.ell == 0.0

    def _row(self, path: Path, t: float, s: float) -> Row:
        return euler_maruyama_row(path, t, s, self.ell)


@final
@dataclass(frozen=True)
class ReverseDiffusion(SingleStep):
    """The reverse SDE in the forward process's own discretisation  (M38; Song et al. 2021, eq. 46).

    Where the paper's code knows a discretisation for VE and VP only, this takes the exact bridge of any path (M4).

    Attributes:
        steps: K.
        grid: the times.
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    order: ClassVar[int] = 1

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    def _row(self, path: Path, t: float, s: float) -> Row:
        return reverse_diffusion_row(path, t, s)


@lru_cache(maxsize=4096)
def euler_maruyama_row(path: Path, t: float, s: float, ell: float) -> Row:
    """x_s = x_t − h [f x_t − ½(1+ℓ²) g² ŝ] + ℓ g √h z, h = t − s  (M35)."""
    if s == 0.0:
        return TO_DATA
    if path.log_snr(t) < _NOTHING_LEFT:
        return _frozen_row(path, t, s, ell)
    h, f, g = t - s, path.drift(t), path.diffusion(t)
    pull = 0.5 * (1.0 + ell**2) * h * (g / path.sigma(t)) ** 2
    return Row(1.0 - h * f - pull, pull * path.alpha(t), ell * g * math.sqrt(h) if ell > 0.0 else 0.0)


def _frozen_row(path: Path, t: float, s: float, ell: float) -> Row:
    """The family's solution for D held, ε̂_s = ρ ε̂_t + √(1−ρ²) z with ρ = e^{ℓ²(λ_t − λ_s)}, where λ_t = −∞  (M35)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = marginal(path, t), marginal(path, s)
    kept = 1.0 if ell == 0.0 else 0.0
    a = kept * sigma_s / sigma_t
    return Row(a, alpha_s - a * alpha_t, (1.0 - kept) * sigma_s)


@lru_cache(maxsize=4096)
def reverse_diffusion_row(path: Path, t: float, s: float) -> Row:
    """x_s = (2 − α_{t|s}) x_t + σ²_{t|s} ŝ + σ_{t|s} z  (M38)."""
    if s == 0.0:
        return TO_DATA
    bridge = path.bridge(s, t)
    pull = (float(bridge.std) / path.sigma(t)) ** 2
    return Row(2.0 - float(bridge.scale) - pull, pull * path.alpha(t), float(bridge.std))
