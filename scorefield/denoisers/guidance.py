r"""Guidance: a denoiser bent towards a condition, as a wrapper that any sampler takes  (M42).

By Bayes' rule ∇ log p(x_t | y) = ∇ log p(x_t) + ∇ log p(y | x_t), and as D = (x_t + σ² ŝ)/α,

    classifier        D' = D + w (σ²/α) ∇_{x_t} log p(y | x_t)          w = 1 is the law given y        (Dhariwal & Nichol 2021)
    classifier-free   D' = D_∅ + w (D_y − D_∅)                          the classifier is the quotient  (Ho & Salimans 2022)
    autoguidance      D' = D_g + w (D − D_g)                            away from a worse model's errors (Karras et al. 2024)

Two refinements, for any of them: an *interval* of noise-to-signal ratios σ/α in which there is guidance at all (Kynkäänniemi et al.
2024: at high noise it only takes variety away), and for the classifier-free kind a *rescaling* of D' to the spread of D_y (Lin et al. 2024).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from scorefield.arithmetic import Time, along_batch, clip, is_number
from scorefield.denoisers.base import Denoiser, Prediction
from scorefield.denoisers.energy import twice_differentiable
from scorefield.denoisers.wrappers import Wrapper
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    from scorefield.denoisers.gaussian_mixture import GaussianMixture

Interval = tuple[float, float]
"""The least and the greatest σ/α at which there is guidance."""

_NOTHING_LEFT = -12.0
"""The log-SNR below which a classifier is asked at this one: σ²/α has no bound there, and its gradient no digits."""


@runtime_checkable
class Classifier(Protocol):
    """What knows log p(y | x_t) at every noise level of a path."""

    def log_probability(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """log p(y | x_t) in nats, differentiable in x_t."""
        ...


@dataclass(frozen=True, eq=False)
class _Guidance(Wrapper, ABC):
    @abstractmethod
    def _guided(self, x_t: Tensor, t: Time, condition: Any) -> Prediction:
        """The answer inside the interval."""

    def _answer(self, x_t: Tensor, t: Time, condition: Any, interval: Interval | None) -> Prediction:
        """The guided answer inside the interval and the plain one outside, of which only what is needed is asked for."""
        inside = _is_inside(self.path, t, interval)
        if inside is True or inside is False:
            return self._guided(x_t, t, condition) if inside else self.denoiser(x_t, t, condition)
        guided, plain = self._guided(x_t, t, condition), self.denoiser(x_t, t, condition)
        return replace(guided, x0=guided.x0.where(along_batch(inside, x_t).bool(), plain.x0))


@final
@dataclass(frozen=True, eq=False)
class ClassifierFree(_Guidance):
    """Classifier-free guidance:  D' = D_∅ + w (D_y − D_∅)  (M42; Ho & Salimans 2022, eq. 6, in the denoiser).

    w = 1 is the conditional denoiser itself; a larger w draws what is more typical of the class, and less varied. Both
    questions are one batch of twice the size, and outside the interval one of the plain size; without a condition nothing is
    guided. A learned variance is the condition's. Rescaled, D' is (φ s_y/s_w + 1 − φ) D_w with s the standard deviations of D_y
    and of D_w over a sample's values (Lin et al. 2024, eq. 15–16, in the denoiser).

    Attributes:
        denoiser: trained with its labels dropped now and then.
        null_label: what means "no label"; NaN where the condition is numbers.
        scale: w ≥ 0.
        interval: the σ/α at which there is guidance; everywhere where None. Elsewhere the answer is D_y.
        rescale: φ, from 0 (none) to 1.
    """

    null_label: int | float = 0
    scale: float = 1.5
    interval: Interval | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        _require_scale("ClassifierFree", self.scale)
        _require_interval("ClassifierFree", self.interval)
        if not 0.0 <= self.rescale <= 1.0:
            raise UsageError(f"ClassifierFree needs a rescale between 0 (none) and 1, got {self.rescale}")

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ with and without the label, and go on from the one through the other."""
        if condition is None or self.scale == 1.0:
            return self.denoiser(x_t, t, condition)
        return self._answer(x_t, t, condition, self.interval)

    def _guided(self, x_t: Tensor, t: Time, condition: Any) -> Prediction:
        labels = condition.new_full(condition.shape, self.null_label)
        times: Time = t if is_number(t) else _twice(t, t)
        both = self.denoiser(_twice(x_t, x_t), times, _twice(condition, labels))
        told, free = both.x0[: len(x_t)], both.x0[len(x_t) :]
        mix = None if both.variance_mix is None else both.variance_mix[: len(x_t)]
        x_0 = free.lerp(told, self.scale)
        if self.rescale > 0.0 and math.prod(x_t.shape[1:]) > 1:  # one value has no spread
            ratio = told.flatten(1).std(1) / x_0.flatten(1).std(1).clamp(min=1e-12)
            x_0 = along_batch(self.rescale * ratio + (1.0 - self.rescale), x_t) * x_0
        return Prediction(x_0, x_t, t, self.path, mix)


@final
@dataclass(frozen=True, eq=False)
class Guided(Wrapper):
    """Classifier guidance:  D' = D + w (σ²/α) ∇_{x_t} log p(y | x_t)  (M42; Dhariwal & Nichol 2021, eq. 10, in the denoiser).

    With the exact classifier and w = 1 it is the denoiser of the law given y. The denoiser may be unconditional, or conditional
    too: what the sampler is handed as condition is the label for both, and the wrapped denoiser gets it where `is_told`. Next to
    noise, where α → 0 and the gradient with it, the classifier is asked at the log-SNR −12.

    Attributes:
        denoiser: of the prior.
        classifier: log p(y | x_t) on the same path.
        scale: w ≥ 0.
        interval: the σ/α at which there is guidance; everywhere where None.
        is_told: whether the wrapped denoiser is told of the label too.
    """

    classifier: Classifier
    scale: float = 1.0
    interval: Interval | None = None
    is_told: bool = False

    def __post_init__(self) -> None:
        _require_scale("Guided", self.scale)
        _require_interval("Guided", self.interval)

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀, and move it along the classifier's gradient; without a condition nothing is guided."""
        prediction = self.denoiser(x_t, t, condition if self.is_told else None)
        inside = _is_inside(self.path, t, self.interval)
        if condition is None or self.scale == 0.0 or inside is False:
            return prediction
        share = self.scale if inside is True else along_batch(self.scale * inside, x_t)
        return replace(prediction, x0=prediction.x0 + share * self._pull(x_t, t, condition))

    def _pull(self, x_t: Tensor, t: Time, labels: Tensor) -> Tensor:
        """(σ²/α) ∇_{x_t} log p(y | x_t), itself differentiable where a gradient through the denoiser is recorded."""
        import torch

        t = clip(t, 0.0, float(self.path.time_of(_NOTHING_LEFT)))
        is_recorded = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad(), twice_differentiable() if is_recorded else nullcontext():
            point = x_t if is_recorded else x_t.detach().requires_grad_()
            total = self.classifier.log_probability(point, t, labels).sum()
            gradient = torch.autograd.grad(total, point, create_graph=is_recorded)[0]
        return along_batch(self.path.sigma(t) ** 2 / self.path.alpha(t), x_t) * gradient.to(x_t.dtype)


@final
@dataclass(frozen=True, eq=False)
class Autoguided(_Guidance):
    """Autoguidance:  D' = D_g + w (D − D_g), away from where a worse model of the same data errs  (Karras et al. 2024).

    Both are asked with the same condition. What both do wrong, the guide does more: an earlier checkpoint, or a smaller network.

    Attributes:
        denoiser: the good one.
        guide: the worse one, on the same path.
        scale: w; 1 is none.
        interval: the σ/α at which there is guidance; everywhere where None.

    Raises:
        UsageError: denoisers of two paths.
    """

    guide: Denoiser
    scale: float = 1.5
    interval: Interval | None = None

    def __post_init__(self) -> None:
        _require_scale("Autoguided", self.scale)
        _require_interval("Autoguided", self.interval)
        if self.guide.path != self.denoiser.path:
            raise UsageError(
                f"Autoguided needs a guide on the model's own path {self.denoiser.path}, got {self.guide.path}; train it on that path"
            )

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ by both, and go on from the one through the other."""
        if self.scale == 1.0:
            return self.denoiser(x_t, t, condition)
        return self._answer(x_t, t, condition, self.interval)

    def _guided(self, x_t: Tensor, t: Time, condition: Any) -> Prediction:
        prediction = self.denoiser(x_t, t, condition)
        worse = self.guide(x_t, t, condition).x0
        return replace(prediction, x0=worse.lerp(prediction.x0, self.scale))


@final
@dataclass(frozen=True, eq=False)
class MixtureClassifier:
    """The exact classifier of a Gaussian mixture whose components belong to classes: p(y | x_t) = Σ_{k of class y} p(k | x_t).

    Attributes:
        mixture: the data's law.
        classes: (k,) the class of each component.
    """

    mixture: GaussianMixture
    classes: Int[Tensor, " k"]

    def log_probability(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """log Σ_k [class of k is y] p(k | x_t), from the components' joint densities; float64."""
        joint = self.mixture.log_joint(x_t, t)
        own = joint.masked_fill(self.classes[None, :] != labels[:, None], -math.inf)
        return own.logsumexp(1) - joint.logsumexp(1)


def _is_inside(path: Path, t: Time, interval: Interval | None) -> Any:
    """Whether σ/α is in the interval: True or False for one time, a (b,) tensor for several."""
    if interval is None:
        return True
    ratio = -path.log_snr(t)  # compared as logarithms: α may be 0
    low, high = (math.log(end) if end > 0.0 else -math.inf for end in interval)
    return low <= ratio <= high if is_number(t) else (ratio >= low) & (ratio <= high)


def _require_scale(name: str, scale: float) -> None:
    if not 0.0 <= scale < math.inf:
        raise UsageError(f"{name} needs a scale ≥ 0, got {scale}")


def _require_interval(name: str, interval: Interval | None) -> None:
    if interval is not None and not 0.0 <= interval[0] < interval[1]:
        raise UsageError(f"{name} needs an interval of σ/α from low to high, got {interval}")


def _twice(first: Time, second: Time) -> Tensor:
    import torch

    return torch.cat([first, second])
