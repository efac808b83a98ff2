"""The parts of a run's configuration that are about data, the optimiser and the average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scorefield.errors import UsageError


def require(holds: bool, name: str, wants: str, got: object) -> None:
    """Refuse an impossible value of a setting by its name. Raises UsageError."""
    if not holds:
        raise UsageError(f"{name} must be {wants}, got {got}")


@dataclass(frozen=True)
class DataConfig:
    """How the data are read.

    Attributes:
        size: side (or height, width) that images are scaled and cropped to; None keeps theirs, which must then agree.
        layout: `channels-first`, `channels-last` or `no-channels`, for arrays that can be read in more than one way.
        flip: whether images are mirrored at random, left to right.
        labels: whether class labels are used where the data have them.
        condition: numbers that samples are conditioned on, in place of labels: columns of a table or keys of a .npz file, with
            commas between them, or the path of a .npy file with one row an example.
        skip_bad: whether to go on when more than 1 % of the files cannot be read.
    """

    size: int | tuple[int, ...] | None = None
    layout: str | None = None
    flip: bool = False
    labels: bool = True
    condition: str | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        sides = (self.size,) if isinstance(self.size, int) else self.size or ()
        require(all(1 <= side <= 8192 for side in sides), "data.size", "between 1 and 8192 a side", self.size)
        require(
            self.layout in (None, "channels-first", "channels-last", "no-channels"),
            "data.layout",
            "channels-first, channels-last or no-channels",
            self.layout,
        )


@dataclass(frozen=True)
class OptimiserConfig:
    """Muon for the hidden matrices and Adam for the rest, or AdamW for all; warm-up, then a decaying learning rate.

    Attributes:
        kind: `muon`, `adamw`, or `auto`: Muon for networks of convolutions, whose step costs much more than orthogonalising does.
        learning_rate: the peak.
        betas: Adam's decay rates of the moments.
        weight_decay: decoupled weight decay.
        warmup: steps of linear warm-up.
        decay: `cosine` or `linear` to zero at the end of the run, or `constant`.
        clip: the gradient's norm is held to this.
    """

    kind: str = "auto"
    learning_rate: float = 1.2e-3
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 50
    decay: str = "cosine"
    clip: float = 10.0

    def __post_init__(self) -> None:
        require(self.kind in ("auto", "muon", "adamw"), "optimiser.kind", "auto, muon or adamw", self.kind)
        require(0.0 < self.learning_rate <= 1e6, "optimiser.learning_rate", "a positive number", self.learning_rate)
        require(
            len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas),
            "optimiser.betas",
            "two numbers in [0, 1)",
            self.betas,
        )
        require(0.0 <= self.weight_decay <= 1.0, "optimiser.weight_decay", "between 0 and 1", self.weight_decay)
        require(0 <= self.warmup <= 10**9, "optimiser.warmup", "a number of steps", self.warmup)
        require(
            self.decay in ("cosine", "linear", "constant"), "optimiser.decay", "cosine, linear or constant", self.decay
        )
        require(self.clip > 0.0, "optimiser.clip", "positive", self.clip)

    def factor(self, step: int, progress: float) -> float:
        """The share of the peak learning rate at a step (from 1) and a progress through the run (0 to 1)."""
        warm = min(1.0, step / self.warmup) if self.warmup else 1.0
        progress = min(max(progress, 0.0), 1.0)
        falls = {"cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "linear": 1.0 - progress, "constant": 1.0}
        return warm * falls[self.decay]


@dataclass(frozen=True)
class AverageConfig:
    """The exponential moving average of the weights that sampling uses.

    Attributes:
        profile: `power`, whose memory is a fixed share of the run so far (Karras et al. 2024), or `constant`.
        width: for `power` the share, as the relative standard deviation σ_rel of its window; for `constant` its half-life in steps.
    """

    profile: str = "power"
    width: float = 0.075

    def __post_init__(self) -> None:
        require(self.profile in ("power", "constant"), "average.profile", "power or constant", self.profile)
        limit = 0.28 if self.profile == "power" else 1e9
        require(
            0.0 < self.width <= limit, "average.width", f"in (0, {limit:g}] for the profile {self.profile}", self.width
        )
