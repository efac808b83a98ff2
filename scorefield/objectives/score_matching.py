r"""Score matching without a denoising target: fit s_θ to ∇log p_t by what the samples of p_t alone can tell.

    explicit  ½ E ‖∇log p_t − s_θ‖²                             (M27)  needs the score that is sought
    implicit  E [ tr ∇s_θ + ½‖s_θ‖² ]                           (M28)  the same up to a constant, by parts (Hyvärinen 2005)
    sliced    E [ vᵀ∇s_θ v + ½(vᵀs_θ)² ],   E vvᵀ = I           (M29)  one backward pass a direction (Song et al. 2019)

each weighted by λ(t) over many noise levels (M31), x_t ~ p_t being noised data. λ = w σ²/SNR for a weighting w of ‖x₀ − D‖²,
since ŝ = (α D − x_t)/σ²; with w = SNR it is NCSN's λ = σ². As `Denoising` with the same w has no ½, it is twice these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from scorefield.arithmetic import along_batch, per_sample_sum
from scorefield.denoisers.base import Denoiser
from scorefield.denoisers.energy import twice_differentiable
from scorefield.errors import UsageError
from scorefield.objectives.base import Draws, Losses, Objective, levels_and_noise, losses_of
from scorefield.objectives.times import LogUniform, LossHistory, TimeSampling
from scorefield.objectives.weightings import Simple, Weighting
from scorefield.paths import Path
from scorefield.shapes import Float, Generator, Tensor

_PROJECTIONS = ("rademacher", "gaussian", "sphere")


class _ScoreMatching(Objective, ABC):
    """A loss of the score at x_t, weighted by λ(t)."""

    is_of_a_chain: ClassVar[bool] = False
    needs_learned_variance: ClassVar[bool] = False

    weighting: Weighting

    @abstractmethod
    def mismatch(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draws: Draws, condition: Any) -> Float[Tensor, " b"]:
        """The integrand at x_t, summed over the coordinates; it is differentiable in the denoiser's weights."""

    def losses(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "b *d"],
        draws: Draws,
        condition: Any = None,
        history: LossHistory | None = None,
    ) -> Losses:
        """λ(t) times the integrand over the dimension, for each sample, by given random numbers  (M31)."""
        path = denoiser.path
        t, importance = self.times.times(path, draws.u, history)
        x_t = path.perturb(x_0, t, draws.noise)
        mismatch = self.mismatch(denoiser, x_t, t, draws, condition) / x_0[0].numel()
        return losses_of(path, t, _scale(self.weighting, path, t).to(mismatch) * mismatch, importance)


def _scale(weighting: Weighting, path: Path, t: Tensor) -> Tensor:
    """λ = w σ²/SNR, the factor of the score's squared error that a weighting of the data's means: σ² for L_simple's  (M31)."""
    scale: Tensor = weighting.weight(path, t) * path.sigma(t) ** 2 * (-2.0 * path.log_snr(t)).exp()
    return scale


@final
@dataclass(frozen=True)
class Explicit(_ScoreMatching):
    """Explicit score matching, ½ E ‖∇log p_t − s_θ‖²: distillation, or a proof where p_t is known  (M27).

    Attributes:
        reference: whose score is the target, on the same path: the exact denoiser of a closed form, or a trained one.
        weighting: w(t), on the scale of ‖x₀ − D‖².
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = False

    reference: Denoiser
    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=LogUniform)

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀: times and noise."""
        return levels_and_noise(self.times, x_0, generator)

    def mismatch(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draws: Draws, condition: Any) -> Float[Tensor, " b"]:
        """½‖∇log p_t − s_θ‖²  (M27)."""
        import torch

        if self.reference.path != denoiser.path:
            raise UsageError(
                f"Explicit needs a reference on the denoiser's path {denoiser.path}, got one on {self.reference.path}"
            )
        with torch.no_grad():
            target = self.reference(x_t, t, condition).score
        return 0.5 * per_sample_sum((target - denoiser(x_t, t, condition).score).square())


@final
@dataclass(frozen=True)
class Implicit(_ScoreMatching):
    """Implicit score matching with the exact trace: D backward passes, for few dimensions  (M28; Hyvärinen 2005, eq. 4).

    Attributes:
        weighting: w(t), on the scale of ‖x₀ − D‖².
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = True

    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=LogUniform)

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀: times and noise."""
        return levels_and_noise(self.times, x_0, generator)

    def mismatch(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draws: Draws, condition: Any) -> Float[Tensor, " b"]:
        """tr ∇s_θ + ½‖s_θ‖²  (M28)."""
        import torch

        recorded = torch.is_grad_enabled()
        x, score = _tracked_score(denoiser, x_t, t, condition)
        size = 0.5 * per_sample_sum(score.square())
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
        curvatures = (_curvature(score, x, unit, recorded) for unit in units)
        return sum(curvatures, size) if recorded else sum(curvatures, size).detach()


@final
@dataclass(frozen=True)
class Sliced(_ScoreMatching):
    """Sliced score matching: the trace by random directions  (M29; Song et al. 2019, eq. 7 and 8).

    Attributes:
        variance_reduced: whether ½‖s_θ‖² stands for ½(vᵀs_θ)², whose mean it is.
        slices: how many directions a sample, one backward pass each.
        projections: their law: `rademacher` (±1 each), `gaussian`, or `sphere` (of radius √D); E vvᵀ = I for each.
        weighting: w(t), on the scale of ‖x₀ − D‖².
        times: the law of training times.
    """

    differentiates: ClassVar[bool] = True

    variance_reduced: bool = True
    slices: int = 1
    projections: str = "rademacher"
    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=LogUniform)

    def __post_init__(self) -> None:
        _require_slices("Sliced", self.slices, self.projections)

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀: times, noise and directions."""
        return _with_slices(levels_and_noise(self.times, x_0, generator), self.slices, self.projections, generator)

    def mismatch(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draws: Draws, condition: Any) -> Float[Tensor, " b"]:
        """The directions' mean of vᵀ∇s_θ v + ½(vᵀs_θ)², or + ½‖s_θ‖²  (M29)."""
        import torch

        recorded = torch.is_grad_enabled()
        x, score = _tracked_score(denoiser, x_t, t, condition)
        directions = _slices_of(draws)
        terms = [_curvature(score, x, v, recorded) + 0.5 * _size(score, v, self.variance_reduced) for v in directions]
        mean = torch.stack(terms).mean(0)
        return mean if recorded else mean.detach()


@final
@dataclass(frozen=True)
class FiniteDifferenceSliced(_ScoreMatching):
    """Sliced score matching by central differences: two evaluations a direction and no second derivative.

    vᵀ∇s_θ v ≈ vᵀ(s₊ − s₋)/2h with s_± = s_θ(x_t ± h v), and (s₊ + s₋)/2 for s_θ; the error is of order h²  (M29; Pang et al.
    2020, "Efficient learning of generative models via finite-difference score matching", FD-SSM).

    Attributes:
        step: h as a share of σ(t), the scale on which p_t can change; no smaller than float32 can resolve.
        variance_reduced, slices, projections, weighting, times: as for `Sliced`.
    """

    differentiates: ClassVar[bool] = True

    step: float = 0.05
    variance_reduced: bool = True
    slices: int = 1
    projections: str = "rademacher"
    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=LogUniform)

    def __post_init__(self) -> None:
        _require_slices("FiniteDifferenceSliced", self.slices, self.projections)
        if not 0.0 < self.step <= 1.0:
            raise UsageError(
                f"FiniteDifferenceSliced needs a step in (0, 1], a share of the noise level, got {self.step}"
            )

    def draw(self, x_0: Float[Tensor, "b *d"], generator: Generator | None = None) -> Draws:
        """Draw the random numbers for a batch like x₀: times, noise and directions."""
        return _with_slices(levels_and_noise(self.times, x_0, generator), self.slices, self.projections, generator)

    def mismatch(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draws: Draws, condition: Any) -> Float[Tensor, " b"]:
        """The directions' mean of vᵀ(s₊ − s₋)/2h + ½(vᵀ(s₊ + s₋)/2)², or + ½‖(s₊ + s₋)/2‖²  (M29)."""
        import torch

        half_width = along_batch(self.step * denoiser.path.sigma(t), x_t)
        times = torch.cat([t, t])
        both = None if condition is None else torch.cat([condition, condition])

        def term(v: Tensor) -> Tensor:
            points = torch.cat([x_t + half_width * v, x_t - half_width * v])
            ahead, behind = denoiser(points, times, both).score.chunk(2)
            slope = per_sample_sum(v * (ahead - behind) / (2.0 * half_width))
            return slope + 0.5 * _size(0.5 * (ahead + behind), v, self.variance_reduced)

        return torch.stack([term(v) for v in _slices_of(draws)]).mean(0)


def _tracked_score(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
    """x_t as a variable, and the score there with a graph that can be differentiated twice."""
    import torch

    with torch.enable_grad(), twice_differentiable():
        x = x_t if x_t.requires_grad else x_t.detach().requires_grad_()
        return x, denoiser(x, t, condition).score


def _curvature(score: Tensor, x: Tensor, v: Tensor, recorded: bool) -> Tensor:
    """vᵀ∇s v by one backward pass."""
    import torch

    with torch.enable_grad():
        projected = (score * v).sum()
    (row,) = torch.autograd.grad(projected, x, create_graph=recorded, retain_graph=True)
    return per_sample_sum(row * v)


def _size(score: Tensor, v: Tensor, variance_reduced: bool) -> Tensor:
    """‖s‖², or (vᵀs)² whose mean over v it is."""
    return per_sample_sum(score.square()) if variance_reduced else per_sample_sum(score * v).square()


def _require_slices(name: str, slices: int, projections: str) -> None:
    if not 1 <= slices <= 1024:
        raise UsageError(f"{name} needs between 1 and 1024 slices, got {slices}")
    if projections not in _PROJECTIONS:
        raise UsageError(f"{name} needs projections of {', '.join(_PROJECTIONS)}, got '{projections}'")


def _slices_of(draws: Draws) -> tuple[Tensor, ...]:
    if draws.slices is None:
        raise UsageError("these draws have no directions v; let the objective that uses them draw them")
    return draws.slices.unbind(1)


def _with_slices(draws: Draws, count: int, projections: str, generator: Generator | None) -> Draws:
    """The draws with `count` directions v for each sample, E vvᵀ = I."""
    import torch

    like = draws.noise
    v = torch.randn(len(like), count, *like.shape[1:], generator=generator, dtype=like.dtype, device=like.device)
    if projections == "rademacher":
        v = torch.where(v < 0.0, -1.0, 1.0).to(like)
    if projections == "sphere":
        norms = v.flatten(2).norm(dim=2).view(len(like), count, *(1,) * (like.ndim - 1))
        v = v * (like[0].numel() ** 0.5 / norms)
    return replace(draws, slices=v)
