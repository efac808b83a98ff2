r"""SDEdit: noise a guide until its strokes are lost and its layout is not, and let the model find its way back  (Meng et al. 2022).

    (M44)  x_{t₀} = α(t₀) x_g + σ(t₀) z,   then any sampler from t₀ to 0

*Strength* s ∈ [0, 1] means one noise-to-signal ratio on every path: that which the VP path of the paper (β from 0.1 to 20) has at
t = s. With λ_VP its log-SNR, t₀ = λ⁻¹(λ_VP(s)), within the path's ends; a chain takes its nearest step. At 0 nothing happens; at
1 nothing is left of the guide: the start is the prior's.

With a mask what is to stay is told to the denoiser (`Inpainting`), and is x_g again at the end. What changes then sees what stays
through x_t alone, which leaves a seam; a `Method` of restoration, such as DPS, lets it look through the denoiser, for its price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast, final

from scorefield.denoisers import Denoiser
from scorefield.denoisers.wrappers import Inpainting
from scorefield.editing.measurement import Measurement
from scorefield.editing.operators import Mask
from scorefield.editing.posterior import Method, Posterior
from scorefield.errors import UsageError
from scorefield.paths import VP, Discrete, Path
from scorefield.samplers import DDIM, Levels, Sampler, State
from scorefield.samplers.adaptive import in_whole_batches
from scorefield.shapes import Bool, Float, Generator, Tensor
from scorefield.streams import NoiseSource, Shifted, noise_source

_VP = VP()
_APART = 1 << 24
"""How far the numbers of the draws of two repeats lie apart."""

_MOST_REPEATS = 1 << 12


STEPS = 50


def editor(path: Path) -> Sampler:
    """DDIM with η = 1 in 50 steps: noise put back is what leads a guide that is no noised datum to the data  (M23)."""
    return DDIM(steps=min(STEPS, path.steps) if isinstance(path, Discrete) else STEPS, eta=1.0)


def time_of_strength(path: Path, strength: float) -> float:
    """t₀ with λ(t₀) = λ_VP(strength), within [t_min, t_max], on a step of a chain; 0 at strength 0, t_max at 1  (M44, M2).

    Raises:
        UsageError: a strength outside of [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise UsageError(
            f"strength goes from 0 (the guide itself) to 1 (nothing of it), got {strength:g}; strokes ask for 0.3 to 0.6"
        )
    if strength in (0.0, 1.0):
        return strength * path.t_max
    t = float(path.time_of(_VP.log_snr(strength)))
    return max(path.t_min, path.snap(min(t, path.t_max)))


def share_below(sampler: Sampler, path: Path, t: float) -> Sampler:
    """A sampler with the steps of its way from noise to data that lie below t: an edit of half a way costs half."""
    if t >= path.t_max or isinstance(sampler.grid, Levels):  # which takes those of its levels that lie below
        return sampler
    below = sum(u < t * (1.0 - 1e-9) for u in sampler.times(path))
    return replace(sampler, steps=min(max(1, below), sampler.steps))


def _told(denoiser: Denoiser, guide: Tensor, changes: Tensor | None, method: Method | None) -> Denoiser:
    """The denoiser that knows what stays. Raises UsageError for a method without a mask."""
    if changes is None:
        if method is not None:
            raise UsageError("a method joins what a mask keeps to what changes; give a mask, or no method")
        return denoiser
    if method is None:
        return Inpainting(denoiser, guide, ~changes)
    if changes.ndim == guide.ndim and bool((changes != changes[:1]).any()):
        raise UsageError(
            f"{type(method).__name__} takes one mask for all samples, got {len(changes)}; edit those of other masks by themselves"
        )
    keep = (~changes).expand_as(guide)[0]
    return Posterior(denoiser, Measurement(Mask(keep), guide * keep), method)


@final
@dataclass(frozen=True)
class SDEdit:
    """An edit: how much of the guide is noised away, and how often.

    Attributes:
        strength: s, how much may change: 0 is the guide itself, 1 a sample that knows nothing of it.
        repeats: K, how many times the result is noised and denoised again.

    Raises:
        UsageError: a strength outside of [0, 1], or no repeat.
    """

    strength: float = 0.5
    repeats: int = 1

    def __post_init__(self) -> None:
        time_of_strength(_VP, self.strength)
        if not 1 <= self.repeats <= _MOST_REPEATS:
            raise UsageError(f"an edit takes between 1 and {_MOST_REPEATS} repeats, got {self.repeats}")

    def trajectory(
        self,
        denoiser: Denoiser,
        guide: Float[Tensor, "b *d"],
        sampler: Sampler,
        *,
        generator: NoiseSource | Generator,
        changes: Bool[Tensor, "*k"] | None = None,
        method: Method | None = None,
        condition: Any = None,
    ) -> Iterator[State]:
        """Yield the states of all repeats; none at strength 0  (M44).

        Args:
            denoiser: whom to ask.
            guide: x_g in model space, one a sample.
            sampler: of any kind; `steps` counts the whole way from noise to data, and the edit takes the share below t₀.
            generator: the source of noise, which every start needs.
            changes: Ω, True where x may change; a shape that broadcasts with x. Everywhere where None.
            method: how what stays is joined to the model; where None it takes the denoiser's place there.
            condition: handed to the denoiser.

        Raises:
            UsageError: no source of noise, a sampler that does not fit the path, or a method without Ω.
        """
        source, path, x, asked = cast("NoiseSource", noise_source(generator)), denoiser.path, guide, 0
        t = time_of_strength(path, self.strength)
        if t == 0.0:
            return
        told = _told(denoiser, guide, changes, method)
        walker = share_below(sampler, path, t)
        walker = in_whole_batches(walker if method is None else method.sampler(walker))
        begins = walker.times(path, t)[0]  # a grid such as Leading begins a little below
        for number in range(self.repeats):
            noise = Shifted(source, number * _APART)
            x_t = self._start(path, begins, x, guide, changes, noise.normal(guide, 0))
            for state in walker.trajectory(told, x_t, generator=noise, start=t, condition=condition):
                x = state.x
                yield replace(state, evaluations=asked + state.evaluations)
            asked += state.evaluations

    def sample(
        self, denoiser: Denoiser, guide: Float[Tensor, "b *d"], sampler: Sampler, **options: Any
    ) -> Float[Tensor, "b *d"]:
        """The end of `trajectory` (which documents the options); the guide at strength 0."""
        x = guide
        for state in self.trajectory(denoiser, guide, sampler, **options):
            x = state.x
        return x

    def _start(
        self, path: Path, t: float, x: Tensor, guide: Tensor, changes: Tensor | None, noise: Tensor
    ) -> Float[Tensor, "b *d"]:
        """x_{t₀}; at strength 1 the prior's noise, but for what stays."""
        x_t = path.prior_std * noise if self.strength == 1.0 else path.perturb(x, t, noise)
        return x_t if changes is None else x_t.where(changes, path.perturb(guide, t, noise))
