"""A classifier of noisy samples beside a model: `classifier/config.json` and `classifier/classifier.safetensors` in its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor, nn

from scorefield.arithmetic import Time, along_batch
from scorefield.data.representation import Representation
from scorefield.denoisers.network import per_sample
from scorefield.denoisers.parameterisations import Preconditioned
from scorefield.errors import RefusedFileError, UsageError
from scorefield.model_config import KINDS, NetworkSpec, require_buildable
from scorefield.model_folder import SafetensorsHeader, read_model, save_model
from scorefield.paths import Path
from scorefield.records import from_plain, to_plain
from scorefield.shapes import Float, Int

if TYPE_CHECKING:
    from scorefield.model import Model

FOLDER, WEIGHTS = "classifier", "classifier.safetensors"
_LEAST_SIGNAL = 0.01
_FIX = "make it again: scorefield train-classifier RUN DATA"


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier without its weights.

    Attributes:
        path, representation, mean, sigma_data: the model's.
        network: whose way down it is.
        class_names: one a class, in the model's order.
        class_weights: how frequent each is in the data.
        provenance: for people.
    """

    path: Path
    network: NetworkSpec
    representation: Representation
    class_names: tuple[str, ...]
    class_weights: tuple[float, ...]
    mean: tuple[float, ...] = (0.0,)
    sigma_data: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.class_names) != len(self.class_weights):
            raise UsageError(
                f"a classifier has one weight a class, got {len(self.class_weights)} for {len(self.class_names)}"
            )
        require_buildable(self.network, self.representation.shape)

    def build_network(self) -> nn.Module:
        """The network with fresh weights."""
        return self.network.build_classifier(self.representation.shape, len(self.class_names))


@final
@dataclass(frozen=True, eq=False)
class NoiseClassifier:
    """log p(y | x_t) by a network that is told the noise level.

    It sees (x_t − α m)/√(α² σ_d² + σ²), whose variance is one at every level, and ¼ log(σ/α)  (M9's c_in and c_noise). Where the
    whole sample's signal d (α σ_d/σ)² is below 0.01 there is nothing to tell and it says p(y): what a network's gradient has of
    errors there would be multiplied by σ²/α, which has no bound.

    Attributes:
        config: what it is.
        network: its weights.
    """

    config: ClassifierConfig
    network: nn.Module

    @property
    def path(self) -> Path:
        """The noise path whose x_t it understands."""
        return self.config.path

    @property
    def least_log_snr(self) -> float:
        """The log-SNR λ = log(α/σ) below which it says p(y)."""
        size = math.prod(self.config.representation.shape)
        return 0.5 * math.log(_LEAST_SIGNAL / (size * self.config.sigma_data**2))

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class."""
        return self.config.class_names

    @property
    def class_weights(self) -> tuple[float, ...]:
        """How frequent each class is in the data."""
        return self.config.class_weights

    def logits(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"]) -> Float[Tensor, "b classes"]:
        """The network's answer, float32: log p(y | x_t) up to what all classes have in common."""
        row = Preconditioned(sigma_data=self.config.sigma_data).coefficients(self.path, cast(Time, t))
        weight = next(self.network.parameters())
        mean = x_t.new_tensor(self.config.mean).reshape(-1, *(1,) * (x_t.ndim - 2))
        centred = x_t - along_batch(self.path.alpha(t), x_t) * mean
        scaled = (along_batch(row.input, x_t) * centred).to(weight)
        logits: Tensor = self.network(scaled, per_sample(row.label, scaled))
        return logits

    def log_probability(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """log p(y | x_t) in nats, differentiable in x_t."""
        learned = self.logits(x_t, t).log_softmax(1).gather(1, labels[:, None])[:, 0]
        prior = learned.new_tensor(self.config.class_weights).log()[labels]
        is_seen = per_sample(cast(Time, self.path.log_snr(t)), learned) >= self.least_log_snr
        return torch.where(is_seen, learned, prior)

    def to(self, device: str | torch.device) -> NoiseClassifier:
        """The classifier on another device."""
        return NoiseClassifier(self.config, self.network.to(device))

    def save(self, folder: str | os.PathLike[str]) -> File:
        """Write it into the folder of its model; where it lies. Raises StorageError."""
        place = File(folder, FOLDER)
        place.mkdir(exist_ok=True)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.network.state_dict().items()}
        save_model(place, to_plain(self.config), tensors, weights=WEIGHTS)
        return place


def has_classifier(folder: str | os.PathLike[str]) -> bool:
    """Whether a model's folder holds one."""
    return os.path.lexists(File(folder, FOLDER, WEIGHTS))


def load_classifier(folder: str | os.PathLike[str], model: Model) -> NoiseClassifier:
    """The classifier in a model's folder, for that model, on its device.

    Raises:
        UsageError: there is none, or it was made for another path, other data or other classes.
        RefusedFileError: a damaged, hostile or foreign file, named.
    """
    place = File(folder, FOLDER)
    if not has_classifier(folder):
        raise UsageError(
            f"there is no classifier in {os.fspath(folder)}; make one: scorefield train-classifier {os.fspath(folder)} DATA"
        )
    plain, tensors = read_model(place, check=_check_weights, weights=WEIGHTS)
    config = _config(plain)
    with torch.random.fork_rng(devices=[]):
        network = config.build_network()
    network.load_state_dict(tensors)
    classifier = NoiseClassifier(config, network.to(model.device).eval().requires_grad_(False))
    require_fit(model, classifier)
    return classifier


def require_fit(model: Model, classifier: NoiseClassifier) -> None:
    """Refuse a classifier that would judge another x_t than the model's, or other classes. Raises UsageError."""
    own, its = model.config, classifier.config
    if own.path != its.path:
        raise UsageError(f"the classifier is for the path {its.path}, the model is on {own.path}; {_FIX}")
    if own.representation != its.representation:
        raise UsageError(
            f"the classifier is for data {its.representation}, the model's are {own.representation}; {_FIX}"
        )
    if own.classes and own.class_names != its.class_names:
        raise UsageError(
            f"the classifier tells {_named(its.class_names)} apart, the model {_named(own.class_names)}; {_FIX}"
        )


def _named(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"


def _config(plain: Mapping[str, Any]) -> ClassifierConfig:
    try:
        config: ClassifierConfig = from_plain(ClassifierConfig, plain, KINDS)
    except UsageError as error:
        raise RefusedFileError(f"{FOLDER}/config.json: {error}; {_FIX}") from None
    if not 0.0 < config.sigma_data < math.inf or len(config.mean) not in (1, config.representation.shape[0]):
        raise RefusedFileError(f"{FOLDER}/config.json: an impossible mean or sigma_data; {_FIX}")
    return config


def _check_weights(plain: Mapping[str, Any], header: SafetensorsHeader) -> None:
    """Refuse weights that are not those of the network which the configuration describes, before reading them."""
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in _config(plain).build_network().state_dict().items()}
    found = {name: entry.shape for name, entry in header.tensors.items()}
    if wanted != found:
        raise RefusedFileError(f"{WEIGHTS}: the weights belong to another configuration; {_FIX}")
