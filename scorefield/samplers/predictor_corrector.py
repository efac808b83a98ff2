r"""Predictor–corrector samplers: a step of the reverse SDE, and Langevin steps that mend its law  (Song et al. 2021, section 4.2).

    (M38)  predictors: reverse diffusion, Euler–Maruyama, ancestral (M36 for VE, M37 for VP), none
    (M39)  correctors at time t, M times:  x ← x + ϵ ŝ + √(2ϵ) z
           langevin            ϵ = 2 c (r ‖z‖/‖ŝ‖)²
           annealed-langevin   ϵ = 2 c (r σ)²
           metropolis          the same with c = 1, each move accepted or refused by the energy: p_t is left exactly as it is
           with c = α²_{t|s}: 1 for VE, 1 − β_i for VP

The paper and its code take the norms' means over the batch. Here they are a sample's own, so that no picture depends on its
neighbours; in thousands of dimensions both are the same number, in few the annealed corrector is the better one. Where ‖ŝ‖ is
next to nothing, ϵ is held to σ², half of what Langevin's step is stable at.

At each time the correction comes first, as in the authors' code; algorithms 2 and 3 are printed the other way round, which is
the same sequence but for its two ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, final

from scorefield.arithmetic import along_batch
from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError, unknown_name
from scorefield.paths import EDM, VE, VP, Discrete, Path, VPCosine
from scorefield.samplers.base import Draw, Sampler, State, marginal
from scorefield.samplers.grids import Grid, Native
from scorefield.samplers.moves import Place, chain, langevin_row, moved, require_energy
from scorefield.samplers.sde import euler_maruyama_row, reverse_diffusion_row
from scorefield.samplers.single_step import Row, ancestral_row
from scorefield.shapes import Float, Tensor

CORRECTORS = ("langevin", "annealed-langevin", "metropolis", "none")


def _euler_maruyama(path: Path, t: float, s: float) -> Row:
    return euler_maruyama_row(path, t, s, 1.0)


def _ancestral(path: Path, t: float, s: float) -> Row:
    """The posterior with β̃ for VE (M36), with β for VP (M37): as SMLD and DDPM have it."""
    if isinstance(path, (VE, EDM)):
        return ancestral_row(path, t, s, "small")
    if isinstance(path, (VP, VPCosine, Discrete)):
        return ancestral_row(path, t, s, "large")
    raise UsageError(
        f"the ancestral predictor is that of a variance exploding or preserving path, and {type(path).__name__} is neither; use predictor='reverse-diffusion' or 'euler-maruyama', or the sampler Ancestral, which takes any path"
    )


PREDICTORS: dict[str, Callable[[Path, float, float], Row]] = {
    "reverse-diffusion": reverse_diffusion_row,
    "euler-maruyama": _euler_maruyama,
    "ancestral": _ancestral,
}
"""Each predictor's row of coefficients, by name  (M38)."""


@lru_cache(maxsize=4096)
def _kept(path: Path, t: float, s: float) -> float:
    """c = α²_{t|s}, 1 − β of the step from t to s  (M39)."""
    return (path.alpha(t) / marginal(path, s)[0]) ** 2


@final
@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """Any predictor with any corrector  (M38, M39; Song et al. 2021, algorithms 1–5).

    The order is the predictor's; a corrector's own bias is O(r²), however many the steps, and none with `metropolis`.
    With `metropolis` a state's `info` has `accepted` (b,) of the last move, and `acceptance` (b,), the share at its level.

    Attributes:
        steps: K.
        grid: the times.
        predictor: `reverse-diffusion`, `euler-maruyama`, `ancestral` or `none`.
        corrector: `langevin`, `annealed-langevin`, `metropolis` (for a denoiser with an energy) or `none`.
        snr: r, the corrector's signal-to-noise ratio; 0.16 is the paper's for VE on small images.
        corrector_steps: M.
    """

    steps: int = 1000
    grid: Grid = field(default_factory=Native)
    predictor: str = "reverse-diffusion"
    corrector: str = "langevin"
    snr: float = 0.16
    corrector_steps: int = 1
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictor not in (*PREDICTORS, "none"):
            raise unknown_name("predictor", self.predictor, (*PREDICTORS, "none"))
        if self.corrector not in CORRECTORS:
            raise unknown_name("corrector", self.corrector, CORRECTORS)
        if (self.predictor, self.corrector) == ("none", "none"):
            raise UsageError("PredictorCorrector with neither predictor nor corrector draws nothing; choose one")
        if not 0.0 < self.snr < 1.0:
            raise UsageError(f"PredictorCorrector needs an snr between 0 and 1 (the paper's is 0.16), got {self.snr}")
        if not 1 <= self.corrector_steps <= 1_000_000:
            raise UsageError(
                f"PredictorCorrector needs between 1 and 1,000,000 corrector_steps, got {self.corrector_steps}"
            )

    @property
    def decides_by_noise(self) -> bool:
        """With the corrector `metropolis`."""
        return self.corrector == "metropolis"

    @property
    def is_deterministic(self) -> bool:
        """False."""
        return False

    @property
    def _corrections(self) -> int:
        return 0 if self.corrector == "none" else self.corrector_steps

    def evaluations(self) -> int:
        """M at each time for the corrector and one for the predictor; without predictor, one to denoise at the end.

        With `metropolis`, which needs the energies too and hands its D on to the predictor, 2 (M + 1) at each time.
        """
        if self.corrector == "metropolis":
            return 2 * self.steps * (self.corrector_steps + 1)
        return self.steps * self._corrections + (1 if self.predictor == "none" else self.steps)

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Correct at t, then predict from t to s  (M38, M39)."""
        asked, x_0, info = 0, x, None
        for t, s in pairwise(times):
            if self.corrector == "metropolis":
                place = self._adjusted(denoiser, x, t, draw, condition)
                x, x_0, info, asked = place.x, place.x_0, place.info, asked + 2 * (self.corrector_steps + 1)
            else:
                for _ in range(self._corrections):
                    x_0, asked = denoiser(x, t, condition).x0, asked + 1
                    x = self._corrected(denoiser.path, x, x_0, (t, s), draw(x))
                if self.predictor != "none" or s == 0.0:
                    x_0, asked = denoiser(x, t, condition).x0, asked + 1
            if self.predictor != "none" or s == 0.0:
                x = x_0 if s == 0.0 else self._predicted(denoiser.path, x, x_0, (t, s), draw)
            yield State(s, x, x_0, asked, info)

    def _adjusted(self, denoiser: Denoiser, x: Tensor, t: float, draw: Draw, condition: Any) -> Place:
        """M moves of Langevin with their Metropolis test  (M32, M39)."""
        known = require_energy(
            "PredictorCorrector with corrector='metropolis'", denoiser, "set corrector='annealed-langevin'"
        )
        start, u = Place.of(known, x, t, condition), 2.0 * self.snr**2
        *_, last = chain(known, start, t, u, self.corrector_steps, draw, condition)
        return last

    def _predicted(self, path: Path, x: Tensor, x_0: Tensor, step: tuple[float, float], draw: Draw) -> Tensor:
        """The predictor's step  (M38)."""
        return moved(PREDICTORS[self.predictor](path, *step), x, x_0, draw(x))

    def _corrected(self, path: Path, x: Tensor, x_0: Tensor, step: tuple[float, float], noise: Tensor) -> Tensor:
        """x + ϵ ŝ + √(2ϵ) z at the time that the step begins at  (M39)."""
        t, factor = step[0], 2.0 * _kept(path, *step) * self.snr**2
        if self.corrector == "annealed-langevin":
            return moved(langevin_row(path, t, factor), x, x_0, noise)
        alpha, sigma = marginal(path, t)
        score = (x_0 * (alpha / sigma**2)).sub_(x, alpha=sigma**-2)
        ratio = noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp_min(1e-30)
        size = along_batch((factor * ratio.square()).clamp_max(sigma**2), x)
        return score.mul_(size).add_(x).addcmul_(noise, (2.0 * size).sqrt())
