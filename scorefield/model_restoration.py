r"""Restoration: samples of what a measurement leaves open, in the data's own units.

A model works on x' = (x − b)/s, a picture is measured in x. With y = A x + σ_y n

    one scale:          y' = (y − A b)/s,        A' = A,              σ' = σ_y/s
    scales by channel:  y' = (y − A b)/max s,    A' = A diag(s)/max s,   σ' = σ_y/max s

for any linear A. Without noise a number may be divided by what it likes: by its channel's s where A keeps to channels (A' = A), by its
row's length where A is a matrix, so that no channel is nothing beside a wider one. Whole numbers that an average or a blur gives were rounded on the way, which is noise of variance 1/12 levels²; where
y is an array of integers, that is added to σ_y². What a mask shows without noise is exact, and is handed back bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from scorefield.data.representation import Representation
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import DDRM, DPS, PiGDM
from scorefield.editing.operators import (
    Decomposed,
    Dense,
    Diagonal,
    LinearOperator,
    Mask,
    Matrixless,
    Projection,
    Separable,
    is_moderate,
    matrix_of,
)
from scorefield.editing.posterior import Method, Posterior
from scorefield.errors import UsageError
from scorefield.model_conditions import told_if_known
from scorefield.paths import Discrete, Path
from scorefield.samplers import DDIM, Sampler
from scorefield.samplers.adaptive import in_whole_batches
from scorefield.streams import SampleStreams

if TYPE_CHECKING:
    from scorefield.model import Model

STEPS = 100
ROUNDING = 1.0 / 12.0
"""The variance of what rounding to whole numbers adds."""

_APART = 1 << 32
"""How far apart the numbers of two pictures' samples are."""


@final
@dataclass(frozen=True, eq=False)
class Restored:
    """Samples of one measurement's posterior.

    Attributes:
        samples: (n, …) in the data's own units, dtype and layout.
        evaluations: how often the denoiser was asked for each.
    """

    samples: np.ndarray
    evaluations: int

    @property
    def mean(self) -> np.ndarray:
        """The samples' mean, value by value: of all answers the one of least squared error."""
        return self.samples.mean(0, dtype=np.float64)

    @property
    def std(self) -> np.ndarray:
        """The samples' standard deviation, value by value: where the measurement says little. 0 of one sample."""
        return self.samples.std(0, dtype=np.float64, ddof=min(1, len(self.samples) - 1))


def restore(
    model: Model,
    y: Any,
    operator: LinearOperator,
    *,
    noise: float = 0.0,
    method: Method | None = None,
    sampler: Sampler | None = None,
    count: int = 1,
    seed: int = 0,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
) -> Restored:
    """Draw samples of one measurement's posterior; `Model.restore` documents it."""
    options = {"noise": noise, "method": method, "sampler": sampler, "count": count, "seed": seed, "batch": batch}
    return restore_each(model, np.asarray(y)[None], operator, classes=classes, condition=condition, **options)[0]  # type: ignore[arg-type]


def restore_each(
    model: Model,
    ys: np.ndarray,
    operator: LinearOperator,
    *,
    noise: float = 0.0,
    method: Method | None = None,
    sampler: Sampler | None = None,
    count: int = 1,
    seed: int = 0,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
    first: int = 0,
) -> list[Restored]:
    """Restore several measurements (p, …) of one operator, laid out as `layout_of` says, each by `count` samples.

    Sample k of measurement i has its own noise, whatever their numbers are; the first measurement's samples are those of `restore`.
    `first` is the number of the first measurement; the other arguments are those of `Model.restore`.
    """
    if count < 1 or batch < 1 or first < 0:
        raise UsageError(f"restoring needs count ≥ 1, batch ≥ 1 and first ≥ 0, got {count}, {batch} and {first}")
    known = measured(model.config.representation, ys, operator, noise)
    chosen, walker = method or method_for(operator), sampler or sampler_for(model.config.path)
    wanted = model.wanted(1, classes, condition)
    drawn, asked = [], 0
    for part in _parts(len(ys), count, batch, alone=chosen.is_exact):
        measurement = replace(known, y=known.y[_rows([picture for picture, _ in part])])
        x, evaluations = _drawn(model, measurement, chosen, walker, _streams(model, seed, part, first), wanted)
        drawn.append(model.config.representation.from_model(x))
        asked = max(asked, evaluations)
    samples = np.concatenate(drawn).reshape(len(ys), count, *drawn[0].shape[1:])
    return [
        Restored(_pasted(model.config.representation, each, y, operator, noise), asked)
        for each, y in zip(samples, ys, strict=True)
    ]


def inpaint(model: Model, image: Any, mask: Any, **options: Any) -> Restored:
    """Fill a hole; `Model.inpaint` documents it."""
    return restore(model, image, hole(model.config.representation, mask), **options)


def colorize(model: Model, grey: Any, **options: Any) -> Restored:
    """Colour a grey picture; `Model.colorize` documents it."""
    return restore(model, grey, Separable.grey(model.config.shape), **options)


def upscale(model: Model, small: Any, factor: int | None = None, **options: Any) -> Restored:
    """Enlarge a small picture; `Model.upscale` documents it."""
    array = np.asarray(small)
    return restore(model, array, averages(model.config.representation, array.shape, factor), **options)


def hole(representation: Representation, mask: Any) -> Mask:
    """The operator that shows all but a mask's True values; one mask may do for all channels.

    Raises:
        UsageError: not a mask of the data's shape, or one that hides nothing or everything.
    """
    array = np.asarray(mask)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise UsageError(
            "a mask is True (or 1) where values are to be filled and False (or 0) where they are known; got others"
        )
    hidden = _by_channel(representation, array.astype(bool))
    if hidden.all():
        raise UsageError("the mask hides everything, so that nothing is known; draw freely with `sample`")
    if not hidden.any():
        raise UsageError(
            "the mask hides nothing, so that there is nothing to fill; make it True where values are wanted"
        )
    return Mask(torch.from_numpy(~hidden))


def _by_channel(representation: Representation, mask: np.ndarray) -> np.ndarray:
    """A mask of one sample's layout, or of its positions alone, channels first."""
    shape = representation.shape
    own = layout_of(representation, shape)
    if mask.shape == own:
        return channels_first(representation, mask[None], shape)[0]
    if len(shape) > 1 and mask.shape == shape[1:]:
        return np.ascontiguousarray(np.broadcast_to(mask, shape))
    raise UsageError(f"a mask for data of shape {own} has that shape, or {shape[1:] or own}; got {mask.shape}")


def averages(representation: Representation, small: tuple[int, ...], factor: int | None = None) -> Separable:
    """The operator whose measurements have a small picture's shape: averages of cells.

    Args:
        representation: of the data.
        small: the shape of what is to be enlarged.
        factor: of a cell's sides; found from the shapes without.

    Raises:
        UsageError: no factor makes that shape of the data's, or not this one.
    """
    shape = representation.shape
    factors = [factor] if factor is not None else range(2, max(shape[1:] or shape) + 1)
    for each in factors:
        sides = tuple(math.ceil(side / each) for side in shape[1:] or shape)
        if layout_of(representation, (*shape[: len(shape) - len(sides)], *sides)) == small:
            return Separable.downsampling(shape, each)
    own = layout_of(representation, shape)
    if factor is None:
        raise UsageError(
            f"no whole factor leads from {small} to the model's {own}; give a picture smaller by 2, 3, 4 …"
        )
    wanted = layout_of(representation, Separable.downsampling(shape, factor).measured_shape)
    raise UsageError(f"a picture that is enlarged {factor} times to the model's {own} has shape {wanted}, got {small}")


def layout_of(representation: Representation, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which data or measurements (C, *d) are handed over: for pictures (*d, C), or *d where C = 1."""
    if representation.layout == "array" or len(shape) != len(representation.shape):
        return shape
    return shape[1:] if shape[0] == 1 else (*shape[1:], shape[0])


def channels_first(representation: Representation, batch: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A batch of `layout_of(shape)` as (n, C, *d)."""
    if layout_of(representation, shape) == shape:
        return batch
    return batch[:, None] if shape[0] == 1 else np.ascontiguousarray(np.moveaxis(batch, -1, 1))


def as_handed_over(representation: Representation, batch: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `channels_first`."""
    if layout_of(representation, shape) == shape:
        return batch
    return batch[:, 0] if shape[0] == 1 else np.ascontiguousarray(np.moveaxis(batch, 1, -1))


def degraded(
    representation: Representation,
    x: np.ndarray,
    operator: LinearOperator,
    *,
    noise: float = 0.0,
    seed: int = 0,
    first: int = 0,
) -> np.ndarray:
    """Measure data: y = A x + σ_y n in their own units, whole numbers where the data are (but for a vector of numbers).

    Args:
        representation: of the data.
        x: (p, …) as samples are laid out.
        operator: A.
        noise: σ_y.
        seed: of n; picture i's is the same whatever their number.
        first: the number of the first.
    """
    _require_noise(noise)
    own = torch.from_numpy(representation.channels_first(x).astype(np.float64))
    y = operator(own)
    if noise > 0.0:
        y = y + noise * SampleStreams.numbered(seed, first, len(x)).normal(y, _MEASURED)
    if isinstance(operator, Mask):
        y = y * operator.keep
    array = as_handed_over(representation, y.numpy(), operator.measured_shape)
    is_picture = len(operator.measured_shape) == len(representation.shape)
    return np.rint(array).astype(np.int32) if representation.levels is not None and is_picture else array


_MEASURED = 1 << 41
"""The number of the draw that noises a measurement: far from those that a sample is drawn by."""


def measured(
    representation: Representation, ys: np.ndarray, operator: LinearOperator, noise: float = 0.0
) -> Measurement:
    """Measurements (p, …) in the data's units as the model's: this module's opening says how.

    Raises:
        UsageError: another shape than the operator's, values that are not finite, an operator for other data, impossible noise.
    """
    _require_noise(noise)
    wanted = layout_of(representation, operator.measured_shape)
    if operator.shape != representation.shape:
        raise UsageError(f"the operator is for data of shape {operator.shape}, the model's have {representation.shape}")
    if ys.shape[1:] != wanted:
        raise UsageError(f"the measurement must have shape {wanted}, got {ys.shape[1:]}")
    own = channels_first(representation, ys, operator.measured_shape)
    seen = own[:, operator.keep.numpy()] if isinstance(operator, Mask) else own
    if ys.dtype.kind not in "iubf" or not np.isfinite(seen).all():
        raise UsageError("a measurement is made of finite numbers; replace what is not, or mask it")
    if isinstance(operator, Mask) and noise == 0.0:
        representation.require_values(seen)
    y = _seen(torch.from_numpy(own.astype(np.float64)), operator)
    rounded = ys.dtype.kind in "iu" and not isinstance(operator, Mask)
    sigma = math.sqrt(noise**2 + ROUNDING) if rounded else noise
    shift = _field(representation, representation.shift)
    return _in_model_space(representation, y - operator(shift), operator, sigma)


def _in_model_space(representation: Representation, y: Tensor, operator: LinearOperator, noise: float) -> Measurement:
    """y = A diag(s) x' + σ n, divided by the largest s; without noise number by number, so that none is small beside others."""
    largest = max(representation.scale)
    if len(representation.scale) == 1:
        return Measurement(operator, (y / largest).float(), noise / largest)
    scale = _field(representation, representation.scale)[0]
    if noise == 0.0 and _keeps_channels(operator):
        of_each = scale.flatten(1)[:, 0].view(-1, *(1,) * (scale.ndim - 1)) if scale.ndim > 1 else scale
        return Measurement(operator, (y / of_each).float())
    scaled = _after_scaling(operator, scale / largest)
    if noise == 0.0:
        scaled, rows = _of_even_rows(scaled)
        return Measurement(scaled, (y / largest / rows).float())
    return Measurement(scaled, (y / largest).float(), noise / largest)


def _of_even_rows(operator: LinearOperator) -> tuple[LinearOperator, Tensor]:
    """An operator with each number divided by its row's length, where A is a matrix or one along the channels, and those lengths."""
    if isinstance(operator, Dense):
        rows = operator.matrix.norm(dim=1).clamp(min=1e-300)
        return Dense(operator.matrix / rows[:, None], operator.shape), rows
    first = operator.matrices[0] if isinstance(operator, Separable) else None
    if not isinstance(operator, Separable) or first is None:
        return operator, torch.ones(()).double()
    rows = first.norm(dim=1).clamp(min=1e-300)
    even = Separable(operator.sides, (first / rows[:, None], *operator.matrices[1:]))
    return even, rows.view(-1, *(1,) * (len(operator.sides) - 1))


def _keeps_channels(operator: LinearOperator) -> bool:
    """Whether each channel is measured by itself, so that A diag(s) = diag(s) A."""
    return isinstance(operator, Mask) or (isinstance(operator, Separable) and operator.matrices[0] is None)


def _after_scaling(operator: LinearOperator, scale: Tensor) -> LinearOperator:
    """A diag(s), for s of a channel each: with its decomposition where A's follows from matrices."""
    if isinstance(operator, Mask):
        return Diagonal(operator.keep * scale)
    if isinstance(operator, Separable):
        first = scale.flatten(1)[:, 0] if scale.ndim > 1 else scale
        matrix = operator.matrices[0]
        channels = torch.diag(first) if matrix is None else matrix.double() * first
        return Separable(operator.sides, (channels, *operator.matrices[1:]))
    if isinstance(operator, Projection) and is_moderate(operator.count, math.prod(operator.shape)):
        operator = Dense(matrix_of(operator), operator.shape)
    if isinstance(operator, Dense):
        return Dense(operator.matrix.double() * scale.flatten(), operator.shape)
    return Matrixless(
        lambda x: operator(scale.to(x) * x),
        lambda y: scale.to(y) * operator.adjoint(y),
        operator.shape,
        operator.measured_shape,
    )


def _seen(y: Tensor, operator: LinearOperator) -> Tensor:
    """What a mask hides is 0 in model space too."""
    return y.where(operator.keep, 0.0) if isinstance(operator, Mask) else y


def _field(representation: Representation, values: tuple[float, ...]) -> Tensor:
    """(1, C, *d): one number a channel, or one in all, at every position."""
    along = (1, -1, *(1,) * (len(representation.shape) - 1))
    return torch.tensor(values, dtype=torch.float64).view(along).expand(1, *representation.shape)


def _require_noise(noise: float) -> None:
    if not 0.0 <= noise < math.inf:
        raise UsageError(f"noise is a standard deviation in the data's units, 0 or more; got {noise}")


def method_for(operator: LinearOperator) -> Method:
    """What measures best (docs: Restoration by every method).

    DPS for holes and projections and, gentler and walked twice, for mixed channels; DDRM for others whose decomposition is known; ΠGDM elsewhere.
    """
    if isinstance(operator, Mask | Projection):
        return DPS()
    if _mixes_channels(operator):
        return DPS(zeta=0.3, jump=10, repeats=2)
    return DDRM() if isinstance(operator, Decomposed) else PiGDM()


def _mixes_channels(operator: LinearOperator) -> bool:
    """Whether each place is seen by itself, in fewer numbers than it has."""
    if not isinstance(operator, Separable) or len(operator.sides) < 2:
        return False
    first, *others = operator.matrices
    return first is not None and len(first) < operator.sides[0] and all(matrix is None for matrix in others)


def sampler_for(path: Path) -> Sampler:
    """DDIM with η = 1: a hundred steps whose noise lets the parts of a sample come to agree with what is known."""
    return DDIM(steps=min(STEPS, path.steps) if isinstance(path, Discrete) else STEPS, eta=1.0)


def _parts(pictures: int, count: int, batch: int, alone: bool) -> Iterator[list[tuple[int, int]]]:
    """(picture, sample) of all samples, at most `batch` at a time; of one picture at a time where it must be `alone`."""
    rows = [(picture, k) for picture in range(pictures) for k in range(count)]
    for group in (rows[i * count : (i + 1) * count] for i in range(pictures)) if alone else (rows,):
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _rows(pictures: list[int]) -> list[int]:
    """One measurement for all where it is one, as methods that ask for many points a sample need it."""
    return pictures[:1] if len(set(pictures)) == 1 else pictures


def _streams(model: Model, seed: int, rows: list[tuple[int, int]], first: int) -> SampleStreams:
    """Sample k of picture i has the number 2³² i + k: the same whatever count, batch and pictures are."""
    numbers = [(first + picture) * _APART + k for picture, k in rows]
    return SampleStreams(seed, torch.tensor(numbers, device=model.device))


def _drawn(
    model: Model,
    measurement: Measurement,
    method: Method,
    sampler: Sampler,
    streams: SampleStreams,
    wanted: np.ndarray | None,
) -> tuple[Tensor, int]:
    """One batch of samples in model space, and how often the denoiser was asked."""
    count, shape = len(streams.samples), model.config.shape
    start = streams.normal(torch.empty(count, *shape, device=model.device), 0) * model.config.path.prior_std
    labels = told_if_known(model, count, None if wanted is None else np.repeat(wanted, count, 0))
    posterior = Posterior(model.denoiser, replace(measurement, y=measurement.y.to(model.device)), method)
    walker = in_whole_batches(method.sampler(model.ready(sampler)))
    with model.evaluating():
        *_, last = walker.trajectory(posterior, start, generator=streams, condition=labels)
    return last.x, last.evaluations


def _pasted(
    representation: Representation, samples: np.ndarray, y: np.ndarray, operator: LinearOperator, noise: float
) -> np.ndarray:
    """The samples, with what a mask shows without noise as it was given."""
    if not isinstance(operator, Mask) or noise > 0.0:
        return samples
    keep = as_handed_over(representation, operator.keep.numpy()[None], operator.shape)
    return np.where(keep, np.where(keep, y, 0).astype(samples.dtype), samples)
