"""What distances between data are measured in: features, one row of numbers for each example.

Three extractors, chosen by what the data are (`fit_features`):

- data with a grid (images, series, volumes) and labels: the last hidden layer of a small convolutional `Classifier`
  trained on them, as Inception's is in FID, but of the data's own domain, size and channels;
- data with a grid and no labels: the same network at its random start, normalised on the data. Random convolutions see
  textures and shapes that pixel-wise moments do not (Naeem et al. 2020, section 4, find them fair judges of new
  domains);
- points: the coordinates, each divided by its standard deviation.

The same data, seed and number of threads give the same extractor, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from scorefield.errors import RefusedFileError, UsageError
from scorefield.shapes import Float, Int
from scorefield.storage import write_bytes

WIDTH = 128
EPOCHS, LEAST_STEPS = 4, 1500
NORMALISING_BATCHES = 50
BATCH = 128
CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGES: dict[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


@runtime_checkable
class Features(Protocol):
    """Anything that turns data into rows of features."""

    def features(self, x: Tensor) -> Float[Tensor, "n f"]:
        """One row for each example."""
        ...


class Coordinates:
    """The data themselves, flattened, each coordinate divided by its standard deviation over the reference."""

    def __init__(self, reference: Tensor) -> None:
        spread = reference.flatten(1).double().std(0)
        # A coordinate that never changes has no scale; leave its unit alone.
        self.scale = torch.where(spread > 0, spread, torch.ones_like(spread))

    def features(self, x: Tensor) -> Float[Tensor, "n f"]:
        """x / s, float64, (n, d)."""
        return x.flatten(1).double() / self.scale


class Classifier(nn.Module):
    """A small convolutional classifier; what distances see is its last hidden layer, 128 numbers an example.

    Three stages of 3-wide convolution, normalisation, ReLU and halving (where there is room), then a hidden layer. For
    any number of channels and 1, 2 or 3 axes of any length. Inputs are in the data's own units; mean and scale are part
    of the module.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = WIDTH) -> None:
        super().__init__()
        self.shape, self.classes, self.width = shape, classes, width
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        channels, *size = shape
        widths = (channels, width // 4, width // 2, width)
        stages = [_stage(widths[i], widths[i + 1], [length >> i for length in size]) for i in range(3)]
        pooled = [min(3, max(1, length >> 3)) for length in size]
        inside = width * math.prod(pooled)
        self.stages = nn.Sequential(*stages, AVERAGES[len(size)](tuple(pooled)), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(inside, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(width, classes)

    def embed(self, x: Tensor) -> Float[Tensor, "b f"]:
        """The last hidden layer."""
        hidden: Tensor = self.hidden(self.stages((x.float() - self.mean) / self.scale))
        return hidden

    def forward(self, x: Tensor) -> Float[Tensor, "b classes"]:
        """The logits."""
        logits: Tensor = self.head(self.dropout(self.embed(x)))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Float[Tensor, "n f"]:
        """One row of `width` numbers for each example, float32.

        Raises:
            UsageError: the examples are not of the shape that the classifier was made for.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise UsageError(
                f"the features are for data of shape {self.shape}, got {tuple(x.shape[1:])}; use data of one kind"
            )
        self.eval()
        return torch.cat([self.embed(rows) for rows in x.split(512)])

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Int[Tensor, " n"]) -> float:
        """The share of the examples whose label is the most likely class."""
        return float((self.head(self.features(x)).argmax(1) == labels).double().mean())


def _stage(channels: int, width: int, size: list[int]) -> nn.Sequential:
    rank = len(size)
    layers = [CONVOLUTIONS[rank](channels, width, 3, padding=1, bias=False), BATCH_NORMS[rank](width), nn.ReLU()]
    return nn.Sequential(*layers, POOLS[rank](2)) if min(size) >= 2 else nn.Sequential(*layers)


def fit_features(
    x: Tensor,
    labels: Int[Tensor, " n"] | None = None,
    *,
    epochs: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Coordinates | Classifier:
    """The feature extractor for data like x, of shape (n, C, *grid) or (n, D); this module's opening says which.

    Args:
        x: the training data, in any unit and dtype.
        labels: their classes, 0 … K−1.
        epochs: how often the classifier sees the data; without it, 4 times, and small data often enough for 1500 steps.
        seed: of its initial weights and its order of the data.
        cache: a file to keep the classifier in. It is read back where data, labels and settings are the same, and
            replaced else.

    Raises:
        UsageError: labels that do not fit the data; no data.
    """
    if not len(x):
        raise UsageError("features need data to be fitted on, got none; give at least one example")
    if x.ndim not in (3, 4, 5):
        return Coordinates(x)
    _check_labels(x, labels)
    labels = labels.long() if labels is not None else None
    epochs = epochs or max(EPOCHS, math.ceil(LEAST_STEPS * BATCH / len(x)))
    identity = _identity(x, labels, epochs, seed)
    kept = _from_cache(cache, identity)
    if kept is not None:
        return kept
    classifier = _start(x, classes=int(labels.max()) + 1 if labels is not None else 1, seed=seed)
    if labels is not None:
        _train(classifier, x, labels, epochs, seed)
    _normalise(classifier, x)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache, pack(classifier, identity))
    return classifier


def _check_labels(x: Tensor, labels: Tensor | None) -> None:
    if labels is not None and (len(labels) != len(x) or int(labels.min()) < 0):
        raise UsageError(
            f"labels must be {len(x)} numbers from 0, one an example; got {len(labels)}, least {int(labels.min())}"
        )


def _start(x: Tensor, classes: int, seed: int) -> Classifier:
    # PyTorch's layers draw their initial weights from the global generator: leave the user's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(tuple(x.shape[1:]), classes)
    sample = x[:: max(1, len(x) // 10_000)].double()
    classifier.mean.fill_(float(sample.mean()))
    classifier.scale.fill_(float(sample.std()) or 1.0)
    if x.ndim == 4:  # convolutions of this layout are up to twice as fast on CPUs
        classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def _train(classifier: Classifier, x: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """AdamW with one cycle of the learning rate (Smith & Topin 2017), the quickest way to a good small classifier."""
    batch = min(BATCH, len(x))
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier.train()
        for rows in _batches(len(x), batch, epochs, seed):
            loss = nn.functional.cross_entropy(classifier(x[rows]), labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    classifier.eval()


@torch.no_grad()
def _normalise(classifier: Classifier, x: Tensor) -> None:
    """Give the normalisations the data's own moments, the plain average over some thousand examples.

    A random network's layers then all work in their range; a trained one's moments are no longer those of past weights.
    """
    for module in classifier.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain average
    classifier.train()
    for rows in islice(_batches(len(x), min(BATCH, len(x)), epochs=1, seed=0), NORMALISING_BATCHES):
        classifier.embed(x[rows])
    classifier.eval()


def _batches(count: int, batch: int, epochs: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % batch].split(batch)


# ------------------------------------------------------------------------------------------------------- the cache


def pack(classifier: Classifier, identity: str = "") -> bytes:
    """The classifier as a safetensors file; `identity` says what it was fitted on."""
    about = {"shape": list(classifier.shape), "classes": classifier.classes, "width": classifier.width}
    tensors = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    return tensors_to_bytes(tensors, {"classifier": json.dumps(about), "identity": identity})


def unpack(data: bytes) -> Classifier:
    """The classifier in a file that `pack` made.

    Raises:
        RefusedFileError: the bytes are no such file.
    """
    try:
        about = json.loads(_metadata(data)["classifier"])
        classifier = Classifier(tuple(about["shape"]), about["classes"], about["width"])
        classifier.load_state_dict(tensors_from_bytes(data))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RefusedFileError(f"not a file of features: {error}; delete it, and it is made again") from error
    return classifier.eval()


def _metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _from_cache(cache: Path | None, identity: str) -> Classifier | None:
    if cache is None or not cache.is_file():
        return None
    data = cache.read_bytes()
    try:
        return unpack(data) if _metadata(data)["identity"] == identity else None
    except (RefusedFileError, KeyError, ValueError):
        # A cache that cannot be read is a cache that is not there.
        return None


def _identity(x: Tensor, labels: Tensor | None, epochs: int, seed: int) -> str:
    """A digest of all that decides the classifier's weights, but for the machine and its threads."""
    digest = hashlib.sha256(f"1 {tuple(x.shape)} {x.dtype} {WIDTH} {BATCH} {epochs} {seed}".encode())
    for tensor in (x, labels):
        if tensor is not None:
            digest.update(tensor.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()
