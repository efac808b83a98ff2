r"""RePaint: replacement, and every part of the way walked several times  (Lugmayr et al. 2022).

    down from t to s by any sampler,   x_t = α_{t|s} x_s + σ_{t|s} z   (M4),   and down again

and what is measured met again before each turn with noise of its own, x_t + A⁺ (α_t y + σ_t A z − A x_t), for the noise that a chain hands
on is what its unmeasured part has fitted itself to. What stands beside the measurement at s is noised and denoised together with it, so that
the one comes to fit the other: a Gibbs-like chain whose bias, replacement's, falls with the repeats. The samplers' `Restart` goes up in a few intervals of σ/α
with Heun's steps of its own, to forget a solver's errors; here the whole way is repeated, part by part, in the inner
sampler's steps and times, the last part too, to forget how the measurement was first met.

Noise in the measurement is noise of the path. In spectral coordinates ȳ = S⁻¹Uᵀy = x̄₀ + τ n, τ = σ_y/S, has the law of x̄ at the level σ̄ = σ/α = τ,
and y is taken to *be* the path's own state there. Then p(x₀ | y) = ∫ p(x₀ | x_τ) p(x_τ | x̄_τ = ȳ) dx_τ, that is

    σ̄ ≥ τ:       x̄_t = ȳ + √(σ̄² − τ²) z,   replacement without noise, of x_τ
    across τ:    x̄_s = D + (σ̄_s²/τ²)(ȳ − D) + σ̄_s √(1 − σ̄_s²/τ²) z,   the reverse step that begins in ȳ  (M5)
    σ̄ < τ:       the prior's own reverse process;   up again from s to t by the bridge between x̄_s and x̄_τ,
                 x̄_t = x̄_s + w (ȳ − x̄_s) + √((1−w)(σ̄_t² − σ̄_s²)) z,   w = (σ̄_t² − σ̄_s²)/(τ² − σ̄_s²),   for else ȳ would be forgotten

each coordinate by its own τ, and step by step where one is crossed: down by p(x_s | x_t) and up by q(x_t | x_s, x̄_τ) are Gibbs' two conditionals of the same law. Nothing is
approximated but what replacement is without noise. It needs A's decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, final

import torch

from scorefield.denoisers import Denoiser, Prediction
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods.ddrm import DDRM, Spectrum
from scorefield.editing.methods.replacement import Replacement
from scorefield.editing.operators import Decomposed
from scorefield.editing.posterior import Method, Posterior
from scorefield.errors import UsageError
from scorefield.samplers import Ancestral, Grid, Sampler, State
from scorefield.samplers.base import Draw, marginal
from scorefield.samplers.churn import forward
from scorefield.samplers.grids import Native
from scorefield.shapes import Float, Tensor


@final
@dataclass(frozen=True)
class RePaint(Method):
    """D' = D + A⁺ (y − A D), walked by `Resampled`: `repeats` evaluations a step of the inner sampler  (M42; Lugmayr et al. 2022, algorithm 1).

    Attributes:
        jump: how many steps are walked before going up again.
        repeats: how often each part is walked; 1 is replacement.

    Raises:
        UsageError: settings that are no such numbers.
    """

    jump: int = 1
    repeats: int = 2

    def __post_init__(self) -> None:
        _check(self.jump, self.repeats)

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """D + A⁺ (y − A D), of a noisy measurement on the coordinates with σ̄_t ≥ τ."""
        method = Replacement() if measurement.noise == 0.0 else DDRM()
        return method.answer(denoiser, measurement, x_t, t, condition)

    def sampler(self, inner: Sampler) -> Sampler:
        """The inner sampler, its way walked in parts."""
        return Resampled(inner.steps, inner.grid, inner, self.jump, self.repeats)


@final
@dataclass(frozen=True)
class Resampled(Sampler):
    """Any sampler with its way cut into parts of `jump` steps, each walked `repeats` times  (M4; Lugmayr et al. 2022, section 4.2).

    Attributes:
        steps: K of the way.
        grid: its times.
        inner: who walks the parts; its own steps and grid do not count.
        jump: steps of a part; the last may have fewer.
        repeats: how often each is walked.
    """

    steps: int = 100
    grid: Grid = field(default_factory=Native)
    inner: Sampler = field(default_factory=Ancestral)
    jump: int = 10
    repeats: int = 10
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.jump, self.repeats)

    @property
    def is_deterministic(self) -> bool:
        """Whether the inner sampler is, and no part is repeated."""
        return self.repeats == 1 and self.inner.is_deterministic

    def evaluations(self) -> int | None:
        """`repeats` times the inner sampler's, where those are as many for each step; else None."""
        one, two, all_steps = (replace(self.inner, steps=steps).evaluations() for steps in (1, 2, self.steps))
        if one is None or two is None or all_steps is None or two != 2 * one:
            return None
        return self.repeats * all_steps

    def walk(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "b *d"],
        times: Sequence[float],
        draw: Draw,
        condition: Any = None,
    ) -> Iterator[State]:
        """Each part down, and up and down again."""
        asked = 0
        for first in range(0, len(times) - 1, self.jump):
            part = times[first : first + self.jump + 1]
            for turn in range(self.repeats):
                if turn:
                    x = _upwards(_pinned_until(denoiser, part[-1]), x, part[-1], part[0], draw)
                if not self.is_deterministic:
                    x = _met_again(denoiser, x, part[0], draw)
                for run in _runs(denoiser, part, x):
                    walked, before = _pinned_until(denoiser, run[-1]), asked
                    for state in self.inner.walk(walked, x, run, draw, condition):
                        x, asked = state.x, before + state.evaluations
                        if state.t == run[-1]:
                            x = _let_go(walked, x, state.x0, run[0], run[-1], draw)
                        yield replace(state, x=x, evaluations=asked)


def _runs(denoiser: Denoiser, part: Sequence[float], like: Tensor) -> Sequence[Sequence[float]]:
    """The part as a whole; step by step where some coordinate is let go within it, for each is pinned until its own τ."""
    known = denoiser.measurement if isinstance(denoiser, Posterior) and isinstance(denoiser.method, RePaint) else None
    if known is None or known.noise == 0.0:
        return (part,)
    level = Spectrum.of(known, like).level(known.noise)
    (above, high), (below, low) = marginal(denoiser.path, part[0]), marginal(denoiser.path, part[-1])
    is_crossed = (below * level > low) & (above * level <= high)
    return tuple(pairwise(part)) if bool(is_crossed.any()) else (part,)


@final
@dataclass(frozen=True)
class _Pinned(Method):
    """D with ȳ in the place of the coordinates that are pinned until the end of a part: those with τ ≤ σ̄ there.

    Attributes:
        until: σ̄ there.
    """

    until: float = 0.0

    def answer(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        condition: Any = None,
    ) -> Prediction:
        """VᵀD' = ȳ where τ ≤ σ̄, VᵀD elsewhere."""
        prediction = denoiser(x_t, t, condition)
        spectrum, like = Spectrum.of(measurement, x_t), prediction.x0
        is_pinned = spectrum.level(measurement.noise) <= self.until
        moved = torch.where(is_pinned, spectrum.inverse * spectrum.apart(like), 0.0)
        return replace(prediction, x0=like + spectrum.operator.from_spectrum(moved))


def _pinned_until(denoiser: Denoiser, s: float) -> Denoiser:
    """RePaint with noise in what is known, for a part that ends at s; others as they are."""
    if not isinstance(denoiser, Posterior) or not isinstance(denoiser.method, RePaint):
        return denoiser
    known, (alpha, sigma) = denoiser.measurement, marginal(denoiser.path, s)
    if known.noise == 0.0:
        return denoiser
    return replace(denoiser, method=_Pinned(sigma / alpha if alpha > 0.0 else math.inf))


def _let_go(denoiser: Denoiser, x_s: Tensor, x_0: Tensor, t: float, s: float, draw: Draw) -> Tensor:
    """x_s with the reverse step from ȳ at the level τ where σ̄_s < τ ≤ σ̄_t: x̄_s = D + ρ² (ȳ − D) + σ̄_s √(1 − ρ²) z, ρ = σ̄_s/τ  (M5)."""
    if not isinstance(denoiser, Posterior) or not isinstance(denoiser.method, _Pinned):
        return x_s
    spectrum, (alpha, sigma) = Spectrum.of(denoiser.measurement, x_s), marginal(denoiser.path, s)
    level = spectrum.level(denoiser.measurement.noise)
    is_crossed = (alpha * level > sigma) & (denoiser.path.alpha(t) * level <= denoiser.path.sigma(t))
    if s == 0.0 or not bool(is_crossed.any()):
        return x_s
    to_spectrum, share = spectrum.operator.to_spectrum, (sigma / (alpha * level)) ** 2
    d, z = to_spectrum(x_0), to_spectrum(draw(x_s))
    begun = alpha * (d + share * (spectrum.inverse * spectrum.y - d)) + sigma * (1.0 - share).clamp(min=0.0).sqrt() * z
    return spectrum.operator.from_spectrum(torch.where(is_crossed, begun, to_spectrum(x_s)))


def _met_again(denoiser: Denoiser, x_t: Tensor, t: float, draw: Draw) -> Tensor:
    """x_t + A⁺ (α_t y + σ_t A z − A x_t): what is measured with noise that the rest has not seen; of a denoiser without measurement x_t.

    To noise in y only so much is added as is missing to σ_t, and nothing is met where it has more, or where A's decomposition is not known.
    """
    if not isinstance(denoiser, Posterior):
        return x_t
    known, path, z = denoiser.measurement, denoiser.path, draw(x_t)
    if known.noise > 0.0 and not isinstance(known.operator, Decomposed):
        return x_t
    if known.noise > 0.0:
        return Spectrum.of(known, x_t).met(x_t, path.alpha(t), path.sigma(t), known.noise, z)
    y = path.alpha(t) * known.y.to(x_t) + path.sigma(t) * known.operator(z)
    return x_t + Measurement(known.operator, y).correction(x_t)


def _upwards(denoiser: Denoiser, x_s: Tensor, s: float, t: float, draw: Draw) -> Tensor:
    """x_t = α_{t|s} x_s + σ_{t|s} z  (M4); where a coordinate has been let go, the bridge of x̄_s and x̄_τ = ȳ."""
    path, z = denoiser.path, draw(x_s)
    scale, std = forward(path, s, t) if s > 0.0 else (path.alpha(t), path.sigma(t))
    if not isinstance(denoiser, Posterior) or not isinstance(denoiser.method, _Pinned):
        return (x_s * scale).add_(z, alpha=std)
    spectrum, (alpha, sigma) = Spectrum.of(denoiser.measurement, x_s), marginal(path, s)
    left = path.alpha(t) ** 2 * (spectrum.level(denoiser.measurement.noise) ** 2 - (sigma / alpha) ** 2)
    w = torch.where(spectrum.is_measured, std**2 / left.clamp(min=std**2), 0.0)
    x, z = spectrum.operator.to_spectrum(x_s), spectrum.operator.to_spectrum(z)
    y = path.alpha(t) * spectrum.inverse * spectrum.y
    return spectrum.operator.from_spectrum(scale * x + w * (y - scale * x) + std * (1.0 - w).sqrt() * z)


def _check(jump: int, repeats: int) -> None:
    if jump < 1 or repeats < 1:
        raise UsageError(f"RePaint needs jump ≥ 1 and repeats ≥ 1 (1 is plain replacement), got {jump} and {repeats}")
