r"""Fitting a classifier of noisy samples:  L = −E_t E_{x₀, y, ε} log p(y | x_t),  x_t = α x₀ + σ ε,  whose minimiser is the posterior.

Times are uniform in log-SNR, from where there is something to be told from noise to where all is plain, within the path.
Some examples are held out, and tell what the classifier knows at each of a ladder of levels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.data import Dataset
from scorefield.errors import DivergedError, UsageError
from scorefield.model import Model
from scorefield.model_classifier import ClassifierConfig, NoiseClassifier
from scorefield.model_config import KINDS, NetworkSpec, versions
from scorefield.networks import default_classifier
from scorefield.objectives.times import Uniform
from scorefield.paths import Path
from scorefield.records import from_plain, to_plain
from scorefield.training.batches import mixed
from scorefield.training.loop import Progressed

RATIOS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The noise-to-signal ratios σ/α at which held-out examples are classified."""

_PLAIN = 4.0
"""The log-SNR above which no noise hides a class that can be seen at all."""

_MOST_HELD_OUT = 2000
_WARMUP = 0.05
_JUDGED_AT_A_TIME = 512


@dataclass(frozen=True)
class ClassifierPlan:
    """How a classifier is fitted.

    Attributes:
        steps: of AdamW.
        minutes: how long instead; wins where both are given.
        batch: examples a step.
        learning_rate: its peak; it falls to zero as a cosine.
        weight_decay: AdamW's.
        held_out: how many examples are kept to judge by; a tenth, at most 2000, where None.
        seed: of everything random.
        network: settings of the network, in place of those of the one that suits the data.
        flip: whether examples are mirrored as often as not.
    """

    steps: int = 3000
    minutes: float | None = None
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    held_out: int | None = None
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not 1 <= self.batch <= 2**20:
            raise UsageError(f"a classifier needs steps ≥ 1 and a batch from 1, got {self.steps} and {self.batch}")
        if self.minutes is not None and not 0.0 < self.minutes <= 1e7:
            raise UsageError(f"minutes must be a positive number, got {self.minutes}")
        if not 0.0 < self.learning_rate < math.inf or not 0.0 <= self.weight_decay < math.inf:
            raise UsageError(
                f"a classifier needs learning_rate > 0 and weight_decay ≥ 0, got {self.learning_rate} and {self.weight_decay}"
            )


@final
@dataclass(frozen=True)
class Level:
    """What a classifier knows of held-out examples at one noise level.

    Attributes:
        ratio: σ/α.
        accuracy: the share whose most likely class is theirs.
        cross_entropy: the mean of −log p(y | x_t), in nats.
        count: of how many.
    """

    ratio: float
    accuracy: float
    cross_entropy: float
    count: int

    @property
    def standard_error(self) -> float:
        """Of the accuracy."""
        return math.sqrt(self.accuracy * (1.0 - self.accuracy) / self.count)


@final
@dataclass(frozen=True, eq=False)
class FittedClassifier:
    """A classifier, the steps it took, and what it knows at each noise level."""

    classifier: NoiseClassifier
    steps: int
    levels: tuple[Level, ...]


def fit_classifier(
    model: Model,
    dataset: Dataset,
    plan: ClassifierPlan | None = None,
    *,
    progress: Callable[[Progressed], None] | None = None,
) -> FittedClassifier:
    """Fit a classifier of x_t to a model's data, on its path and in its space, for `Model.with_classifier`.

    Args:
        model: it stays as it is.
        dataset: the model's data, with labels.
        plan: how.
        progress: told of every step.

    Raises:
        UsageError: data without labels, of another kind or with other classes than the model's; an impossible plan.
        DivergedError: the loss was not finite.

    Example:
        >>> import numpy as np, scorefield as sf
        >>> points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
        >>> data = sf.open_data(points, labels=np.arange(40) % 2)
        >>> model = sf.fit(data, steps=1)
        >>> found = sf.fit_classifier(model, data, sf.ClassifierPlan(steps=1, batch=8))
        >>> model.with_classifier(found.classifier, scale=2.0).sample(3, classes="1").shape
        (3, 2)
    """
    plan = plan or ClassifierPlan()
    labels = _require_classes(model, dataset)
    kept, judged = _parts(len(dataset), plan)
    config = _config(model, dataset, labels, plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed(plan.seed, "classifier", 0))
        classifier = NoiseClassifier(config, config.build_network().to(model.device))
        steps = _fit(classifier, _Examples(model, dataset, labels, plan, kept), plan, progress)
    classifier.network.eval().requires_grad_(False)
    levels = tuple(_levels(classifier, _Examples(model, dataset, labels, replace(plan, flip=False), judged)))
    return FittedClassifier(classifier, steps, levels)


def _require_classes(model: Model, dataset: Dataset) -> np.ndarray:
    """The labels, where data, their kind and their classes are the model's. Raises UsageError."""
    own, representation = model.config, model.config.representation
    if own.conditions:
        raise UsageError("this model is conditioned on numbers and has no classes; train on data with labels instead")
    if dataset.labels is None or dataset.classes < 2:
        raise UsageError(f"{dataset.name} has no labels to learn; give the model's data with their classes")
    is_float = dataset.dtype.kind == "f"
    is_other = not is_float and dataset.dtype.name != representation.dtype
    if dataset.shape != representation.shape or is_float != (representation.levels is None) or is_other:
        raise UsageError(
            f"{dataset.name} holds {dataset.dtype} of shape {dataset.shape}, the model's data are {representation.dtype} of {representation.shape}; give the data that it was trained on"
        )
    if own.classes and dataset.class_names != own.class_names:
        raise UsageError(
            f"{dataset.name} has the classes {_shown(dataset.class_names)}, the model {_shown(own.class_names)}; give data with the model's classes"
        )
    return dataset.labels


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f", … ({len(names)})" if len(names) > 6 else "")


def _parts(count: int, plan: ClassifierPlan) -> tuple[np.ndarray, np.ndarray]:
    """The places of the examples to learn from, and of those to judge by. Raises UsageError."""
    held_out = min(_MOST_HELD_OUT, max(1, count // 10)) if plan.held_out is None else plan.held_out
    if not 1 <= held_out < count:
        raise UsageError(
            f"of {count} examples between 1 and {count - 1} can be held out, got {held_out}; give more data"
        )
    generator = torch.Generator().manual_seed(mixed(plan.seed, "held-out", 0))
    order = torch.randperm(count, generator=generator).numpy()
    return order[held_out:], order[:held_out]


def _config(model: Model, dataset: Dataset, labels: np.ndarray, plan: ClassifierPlan) -> ClassifierConfig:
    own, counts = model.config, np.bincount(labels, minlength=dataset.classes)
    suited = default_classifier(own.shape)
    network: NetworkSpec = from_plain(type(suited), to_plain(suited) | plan.network, KINDS, "network")
    return ClassifierConfig(
        path=own.path,
        network=network,
        representation=own.representation,
        class_names=dataset.class_names,
        class_weights=tuple((counts / counts.sum()).tolist()),
        mean=own.mean,
        sigma_data=own.sigma_data,
        provenance={"data": dataset.name, "digest": dataset.digest, "versions": versions()},
    )


@final
class _Examples:
    """Examples by step, in model space, in a fresh order for every pass."""

    def __init__(
        self, model: Model, dataset: Dataset, labels: np.ndarray, plan: ClassifierPlan, places: np.ndarray
    ) -> None:
        self.device, self._places, self._plan = model.device, places, plan
        self._dataset, self._labels, self._representation = dataset, labels, model.config.representation

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once, in order."""
        for part in np.array_split(self._places, math.ceil(len(self._places) / _JUDGED_AT_A_TIME)):
            yield self._at(part)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
        """Batches without an end, each with the generator of its noise."""
        step, waiting = 0, self._places[:0]
        for epoch in _counted():
            generator = torch.Generator().manual_seed(mixed(self._plan.seed, "classifier-order", epoch))
            order = torch.randperm(len(self._places), generator=generator).numpy()
            waiting = np.concatenate([waiting, self._places[order]])
            while len(waiting) >= self._plan.batch:
                chosen, waiting = waiting[: self._plan.batch], waiting[self._plan.batch :]
                step += 1
                noise = torch.Generator().manual_seed(mixed(self._plan.seed, "classifier-noise", step))
                yield *self._at(chosen, noise), noise

    def _at(self, places: np.ndarray, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x_0 = self._representation.to_model(self._dataset.batch(places))
        if self._plan.flip and generator is not None:
            flipped = torch.rand(len(x_0), generator=generator) < 0.5
            x_0 = torch.where(flipped.reshape(-1, *(1,) * (x_0.ndim - 1)), x_0.flip(-1), x_0)
        return x_0.to(self.device), torch.from_numpy(self._labels[places]).long().to(self.device)


def _counted() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _fit(
    classifier: NoiseClassifier,
    examples: _Examples,
    plan: ClassifierPlan,
    progress: Callable[[Progressed], None] | None,
) -> int:
    """AdamW on the cross entropy; how many steps it took."""
    network = classifier.network.train()
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)
    begun, share, step = time.perf_counter(), 0.0, 0
    for x_0, labels, generator in examples.batches():
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * _factor(share)
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        t = _times(classifier, len(x_0), generator).to(x_0.device)
        loss = F.cross_entropy(classifier.logits(classifier.path.perturb(x_0, t, noise), t), labels)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(
                f"the classifier's loss is not finite at step {step + 1}; lower --set learning_rate, or look for extreme values with `scorefield data`"
            )
        optimiser.step()
        step, seconds = step + 1, time.perf_counter() - begun
        share = step / plan.steps if plan.minutes is None else seconds / (60.0 * plan.minutes)
        if progress is not None:
            progress(
                Progressed(step, min(share, 1.0), float(loss.detach()), seconds, step * plan.batch / max(seconds, 1e-9))
            )
        if share >= 1.0:
            break
    return step


def _times(classifier: NoiseClassifier, count: int, generator: torch.Generator) -> Tensor:
    """Times that cover the log-SNRs evenly."""
    path = classifier.path
    low = max(path.log_snr(path.t_max), classifier.least_log_snr)
    high = max(low, min(path.log_snr(path.t_min), _PLAIN))
    u = Uniform().spread(torch.rand(count, generator=generator, dtype=torch.float64))
    return path.time_of(low + (high - low) * u).clamp(path.t_min, path.t_max)


def _factor(share: float) -> float:
    """The learning rate's share of its peak: a short warm-up, then a cosine to zero."""
    return min(1.0, share / _WARMUP + 0.02) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


@torch.no_grad()
def _levels(classifier: NoiseClassifier, examples: _Examples) -> Iterator[Level]:
    """What is known of the examples at each ratio that the path has."""
    for ratio in RATIOS:
        t = _time_at(classifier.path, ratio)
        if t is None:
            continue
        generator, right, nats, count = torch.Generator().manual_seed(0), 0, 0.0, 0
        for x_0, labels in examples:
            noise = torch.randn(x_0.shape, generator=generator).to(x_0)
            times = torch.full((len(x_0),), t, dtype=torch.float64, device=x_0.device)
            logits = classifier.logits(classifier.path.perturb(x_0, times, noise), times)
            right += int((logits.argmax(1) == labels).sum())
            nats += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
            count += len(labels)
        yield Level(ratio, right / count, nats / count, count)


def _time_at(path: Path, ratio: float) -> float | None:
    """The time of a noise-to-signal ratio; None where the path does not go so far."""
    log_snr = -math.log(ratio)
    if not path.log_snr(path.t_max) <= log_snr <= path.log_snr(path.t_min):
        return None
    return float(path.time_of(log_snr))
