"""Networks as data: what a network is made of, checked before anything is built; importing this needs no torch.

A spec says how wide and deep a network is; `build` gives it the shape of one sample and the number of classes, or of
numbers that a sample is conditioned on. Every network is called as `network(x, noise_label, condition=None)`: `x` of
shape (b, *shape), `noise_label` (b,) a number of order one that says how noisy each sample is, `condition` (b,) integers
whose value `classes` means "no label", or (b, conditions) numbers of order one whose rows of NaN mean "no condition". It
returns a tensor of the shape of `x`, or with `out_channels` channels, and starts as the zero function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from scorefield.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "MLPSpec", "UNetSpec", "default_classifier", "default_network"]


_MOST_PERIODS = 64


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


def _check_counts(spec: UNetSpec | MLPSpec, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        _require(is_count, f"network.{name} must be a whole number of at least 1, got {value!r}")


def _check_dropout(dropout: float) -> None:
    _require(0 <= dropout < 1, f"network.dropout is a probability below 1, got {dropout!r}; 0 turns it off")


def _check_target(out_channels: int | None, classes: int, conditions: int) -> None:
    _require(out_channels is None or out_channels >= 1, f"out_channels must be at least 1, got {out_channels}")
    _require(classes >= 0, f"classes must be 0 (none) or more, got {classes}")
    _require(conditions >= 0, f"conditions must be 0 (none) or more, got {conditions}")
    _require(
        not (classes and conditions), "a network is conditioned on classes or on numbers, not on both; leave one out"
    )


def _check_classes(classes: int) -> None:
    _require(classes >= 2, f"a classifier tells at least two classes apart, got {classes}")


@dataclass(frozen=True)
class UNetSpec:
    """A U-Net for series (C, L), images (C, H, W) and volumes (C, D, H, W) of any size.

    Args:
        widths: channels of each level, the finest first; level i+1 has half the resolution of level i.
        depths: residual blocks of each level, on the way down and again on the way up.
        fold: side of the cell of pixels that the first layer turns into channels (1 keeps full resolution).
        attention: how many of the lowest levels attend over all their positions.
        head_width: channels of one attention head; must divide the widths of the levels that attend.
        embedding: width of the embedding of noise level and condition.
        dropout: probability of dropping an activation inside a residual block.
        periods: the first layer also sees the sine and the cosine of its input with these periods, in units of its input:
            where data have few levels, they tell them apart  (Kingma et al. 2021, appendix C).

    Raises:
        UsageError: a value is impossible.

    """

    kind: ClassVar[str] = "unet"

    widths: tuple[int, ...] = (96, 160)
    depths: tuple[int, ...] = (2, 1)
    fold: int = 2
    attention: int = 1
    head_width: int = 32
    embedding: int = 256
    dropout: float = 0.0
    periods: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_levels()
        _require(
            len(self.periods) <= _MOST_PERIODS and all(0.0 < period < math.inf for period in self.periods),
            f"network.periods must be at most {_MOST_PERIODS} positive, finite numbers, got {self.periods!r}",
        )
        _check_counts(self, "fold", "head_width", "embedding")
        _require(self.embedding % 2 == 0, f"network.embedding must be even, got {self.embedding}")
        _check_dropout(self.dropout)
        self._check_attention()

    def _check_levels(self) -> None:
        for name in ("widths", "depths"):
            values = getattr(self, name)
            good = isinstance(values, tuple) and values and all(isinstance(v, int) and v >= 1 for v in values)
            _require(bool(good), f"network.{name} must list at least one whole number ≥ 1, got {values!r}")
        _require(
            len(self.widths) == len(self.depths),
            f"network.widths and network.depths list one number a level; got {len(self.widths)} and {len(self.depths)}",
        )

    def _check_attention(self) -> None:
        _require(
            isinstance(self.attention, int) and 0 <= self.attention <= len(self.widths),
            f"network.attention counts levels: 0 to {len(self.widths)} here, got {self.attention!r}",
        )
        for width in self.widths[len(self.widths) - self.attention :]:
            _require(
                width % self.head_width == 0,
                f"network.head_width must divide the width {width} of a level that attends, got {self.head_width}",
            )

    def build(
        self, shape: tuple[int, ...], out_channels: int | None = None, classes: int = 0, conditions: int = 0
    ) -> nn.Module:
        """The network for samples of `shape` (C, *d), one to three dimensions d.

        Args:
            shape: shape of one sample, channels first.
            out_channels: channels of the result; None for as many as come in.
            classes: number of classes, 0 for data without.
            conditions: numbers that a sample is conditioned on, 0 for none.

        Raises:
            UsageError: the shape is not one of a series, an image or a volume.

        """
        fits = 2 <= len(shape) <= 4
        _require(fits, f"a U-Net takes samples (C, L), (C, H, W) or (C, D, H, W), got {shape}; use an MLP")
        _require(all(n >= 1 for n in shape), f"every side of a sample must be at least 1, got {shape}")
        _check_target(out_channels, classes, conditions)
        from scorefield.networks.unet import UNet

        return UNet(self, shape, out_channels or shape[0], classes, conditions)

    def build_classifier(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A classifier `network(x, noise_label)` of so many classes: the way down, and (b, classes) logits, all equal at first.

        Raises:
            UsageError: the shape is not one of a series, an image or a volume, or there is nothing to tell apart.

        """
        fits = 2 <= len(shape) <= 4 and all(n >= 1 for n in shape)
        _require(fits, f"a U-Net takes samples (C, L), (C, H, W) or (C, D, H, W), got {shape}; use an MLP")
        _check_classes(classes)
        from scorefield.networks.classifiers import UNetClassifier

        return UNetClassifier(self, shape, classes)


@dataclass(frozen=True)
class MLPSpec:
    """A residual multi-layer perceptron for points (D,).

    Args:
        width: hidden features.
        depth: residual blocks.
        embedding: width of the embedding of noise level and condition.
        dropout: probability of dropping an activation inside a residual block.

    Raises:
        UsageError: a value is impossible.

    """

    kind: ClassVar[str] = "mlp"

    width: int = 256
    depth: int = 4
    embedding: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_counts(self, "width", "depth", "embedding")
        _require(self.embedding % 2 == 0, f"network.embedding must be even, got {self.embedding}")
        _check_dropout(self.dropout)

    def build(
        self, shape: tuple[int, ...], out_channels: int | None = None, classes: int = 0, conditions: int = 0
    ) -> nn.Module:
        """The network for samples of `shape` (D,).

        Args:
            shape: shape of one sample.
            out_channels: features of the result; None for as many as come in.
            classes: number of classes, 0 for data without.
            conditions: numbers that a sample is conditioned on, 0 for none.

        Raises:
            UsageError: samples have more than one dimension.

        """
        _require(len(shape) == 1 and shape[0] >= 1, f"an MLP takes samples (D,), got {shape}; use a U-Net")
        _check_target(out_channels, classes, conditions)
        from scorefield.networks.mlp import MLP

        return MLP(self, shape[0], out_channels or shape[0], classes, conditions)

    def build_classifier(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A classifier `network(x, noise_label)` of so many classes: (b, classes) logits, all equal at first.

        Raises:
            UsageError: samples have more than one dimension, or there is nothing to tell apart.

        """
        _require(len(shape) == 1 and shape[0] >= 1, f"an MLP takes samples (D,), got {shape}; use a U-Net")
        _check_classes(classes)
        from scorefield.networks.classifiers import MLPClassifier

        return MLPClassifier(self, shape[0], classes)


NETWORKS: tuple[type[UNetSpec] | type[MLPSpec], ...] = (UNetSpec, MLPSpec)


def default_network(shape: tuple[int, ...]) -> UNetSpec | MLPSpec:
    """The network that suits samples of `shape`, sized for minutes to hours on a CPU or one GPU.

    Raises:
        UsageError: the shape is not that of a point, a series, an image or a volume.

    >>> default_network((1, 28, 28)).kind
    'unet'

    """
    _require(1 <= len(shape) <= 4, f"samples are (D,), (C, L), (C, H, W) or (C, D, H, W), got {shape}")
    if len(shape) == 1:
        return MLPSpec(width=256 if shape[0] <= 256 else 512)
    return _default_unet(shape[1:])


def default_classifier(shape: tuple[int, ...]) -> UNetSpec | MLPSpec:
    """The network whose way down classifies samples of `shape`: narrower than the one that draws them, without attention.

    Raises:
        UsageError: the shape is not that of a point, a series, an image or a volume.

    >>> default_classifier((1, 28, 28)).widths
    (32, 64, 96)

    """
    drawing = default_network(shape)
    if isinstance(drawing, MLPSpec):
        return replace(drawing, depth=2, dropout=_DROPOUT)
    levels = 1
    while _positions(shape[1:], drawing.fold * 2 ** (levels - 1)) > _CLASSIFIED_POSITIONS:
        levels += 1
    widths = (_CLASSIFYING_WIDTHS + _CLASSIFYING_WIDTHS[-1:] * levels)[:levels]
    return UNetSpec(widths=widths, depths=(1,) * levels, fold=drawing.fold, attention=0, embedding=64, dropout=_DROPOUT)


_DROPOUT = 0.1
_CLASSIFIED_POSITIONS = 16
_CLASSIFYING_WIDTHS = (32, 64, 96)
_FINEST_POSITIONS = 1024  # more positions than this cost more time than full resolution is worth: fold more
_ATTENDED_POSITIONS = 64  # attention is cheap, and sees a whole sample, on this many positions
_WIDTHS = (64, 96, 160)  # from the finest of many levels to the lowest; narrower convolutions waste the processor


def _default_unet(sides: tuple[int, ...]) -> UNetSpec:
    fold = 2 if max(sides) >= 20 else 1
    while _positions(sides, fold) > _FINEST_POSITIONS:
        fold *= 2
    levels = 2 if max(sides) >= 4 * fold else 1
    while _positions(sides, fold * 2 ** (levels - 1)) > _ATTENDED_POSITIONS:
        levels += 1
    light = len(sides) == 3 or _positions(sides, fold) <= _ATTENDED_POSITIONS
    top = _WIDTHS[:2] if light else _WIDTHS  # cubes have thrice the weights; samples this small have little to learn
    widths = (top[0],) * (levels - len(top)) + top[-levels:]
    return UNetSpec(widths=widths, depths=(2,) + (1,) * (levels - 1), fold=fold)


def _positions(sides: tuple[int, ...], cell: int) -> int:
    return math.prod(math.ceil(side / cell) for side in sides)
