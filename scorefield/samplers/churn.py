r"""EDM's stochastic sampler on any path: a little noise, then Heun's step over it and on  (Karras et al. 2022, algorithm 2).

    ŝ = (1 + γ) s_t,   x̄' = x̄_t + S_noise √(ŝ² − s_t²) z,   then Heun from ŝ to s_s  (M26),   x̄ = x/α, s = σ/α
    γ = min(S_churn/K, √2 − 1) where S_min ≤ s_t ≤ S_max, else 0

The noise is the forward process's own (M4), so that the law is kept whatever S_churn is, as long as S_noise is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, final

from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.samplers.base import Memoryless, State
from scorefield.samplers.grids import Grid, Karras
from scorefield.samplers.ode import Heun
from scorefield.shapes import Float, Tensor

_MOST = math.sqrt(2.0) - 1.0
_HEUN = Heun()


@final
@dataclass(frozen=True)
class Churn(Memoryless):
    """Heun's steps with noise put back before each  (M26; Karras et al. 2022, algorithm 2).

    A path ends at its t_max: where (1 + γ) s lies beyond, less noise is added, and none at t_max itself. On a discrete path
    the noise goes up to the nearest step.

    Attributes:
        steps: K; 2K − 1 evaluations.
        grid: the times, EDM's by default.
        s_churn: S_churn ≥ 0, how much noise in all; 0 is `Heun`.
        s_min, s_max: the σ/α between which it is added.
        s_noise: S_noise > 0, its deviation: slightly above 1 makes up for what a network's D removes too much.

    Raises:
        UsageError: settings that are no such numbers.
    """

    steps: int = 18
    grid: Grid = field(default_factory=Karras)
    s_churn: float = 4.0
    s_min: float = 0.01
    s_max: float = 50.0
    s_noise: float = 1.0
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.s_churn < math.inf:
            raise UsageError(f"Churn needs s_churn ≥ 0 (0 is deterministic), got {self.s_churn}")
        if not 0.0 <= self.s_min < self.s_max:
            raise UsageError(f"Churn needs 0 ≤ s_min < s_max, got s_min={self.s_min}, s_max={self.s_max}")
        if not 0.0 < self.s_noise < math.inf:
            raise UsageError(f"Churn needs a positive s_noise (1 keeps the law), got {self.s_noise}")

    @property
    def is_deterministic(self) -> bool:
        """S_churn = 0."""
        return self.s_churn == 0.0

    def evaluations(self) -> int:
        """2K − 1: the step to data needs one only."""
        return 2 * self.steps - 1

    def needs_noise(self, path: Path, t: float, s: float) -> bool:
        """Whether γ > 0 at t, and there is room for it."""
        return self._raised(path, t) > t

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "b *d"],
        t: float,
        s: float,
        noise: Float[Tensor, "b *d"] | None = None,
        condition: Any = None,
    ) -> State:
        """Up to ŝ by the forward process, down to s_s by Heun's step; without noise Heun's from t."""
        if noise is None:
            return _HEUN.step(denoiser, x_t, t, s, None, condition)
        raised = self._raised(denoiser.path, t)
        scale, std = forward(denoiser.path, t, raised)
        x = (x_t * scale).add_(noise, alpha=self.s_noise * std)
        return _HEUN.step(denoiser, x, raised, s, None, condition)

    def _raised(self, path: Path, t: float) -> float:
        return raised(path, t, min(self.s_churn / self.steps, _MOST), self.s_min, self.s_max)


@lru_cache(maxsize=4096)
def raised(path: Path, t: float, gamma: float, s_min: float, s_max: float) -> float:
    """The time at which σ/α is (1 + γ) times that at t; t itself outside of [s_min, s_max] or where the path ends."""
    if gamma == 0.0 or not -math.log(s_max) <= path.log_snr(t) <= -math.log(max(s_min, 1e-300)):
        return t
    return min(max(t, path.snap(path.time_of(path.log_snr(t) - math.log1p(gamma)))), path.t_max)


@lru_cache(maxsize=4096)
def forward(path: Path, s: float, t: float) -> tuple[float, float]:
    """(α_{t|s}, σ_{t|s}) of the forward process from s up to t  (M4)."""
    bridge = path.bridge(s, t)
    return float(bridge.scale), float(bridge.std)
