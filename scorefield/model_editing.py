"""Editing by a model, in the data's own units: what is asked of `scorefield.editing`, and how its answers are read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from scorefield.denoisers import Denoiser
from scorefield.editing.latents import between, decode, encode, lerp, weights
from scorefield.editing.sdedit import SDEdit, editor, time_of_strength
from scorefield.errors import UsageError, unknown_name
from scorefield.model_conditions import told_if_known
from scorefield.model_likelihood import model_space
from scorefield.samplers import Sampler
from scorefield.streams import SampleStreams

if TYPE_CHECKING:
    from scorefield.editing.posterior import Method
    from scorefield.model import Model

INTERPOLATIONS = ("stochastic", "ode")


@final
@dataclass(frozen=True, eq=False)
class Edited:
    """What an edit gave.

    Attributes:
        samples: (n, …) in the data's own units and layout.
        evaluations: how often the denoiser was asked for one of them.
    """

    samples: np.ndarray
    evaluations: int


# ── SDEdit ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def edit(
    model: Model,
    guide: Any,
    strength: float = 0.5,
    *,
    mask: Any = None,
    method: Method | None = None,
    repeats: int = 1,
    count: int = 1,
    sampler: Sampler | None = None,
    seed: int = 0,
    classes: Any = None,
    condition: Any = None,
    first: int = 0,
    batch: int = 256,
) -> Edited:
    """Edit one example by SDEdit: noise it until strokes are lost and layout is not, and draw from there  (M44).

    Args:
        model: it stays as it is.
        guide: one example in the data's own units and layout: a drawing, a composite, a picture.
        strength: 0 hands the guide back, 1 a sample that knows nothing of it; strokes ask for 0.3 to 0.6. The same strength is the
            same noise-to-signal ratio on every path.
        mask: True where it may change, of the guide's shape or of one channel for all; the rest comes back bit by bit.
        method: how what stays is joined to what changes: a method of restoration such as DPS leaves no seam; the guide in the denoiser's
            place where None, which costs no derivative.
        repeats: K, how often it is noised and drawn.
        count: how many edits.
        sampler: any; DDIM with η = 1 in 50 steps where None. Its steps count the whole way from noise to data.
        seed: sample k of a seed is the same whatever count, first and batch are.
        classes: a class for all, or one a sample; none without it.
        condition: for a model of conditions, as `Model.sample` takes it.
        first: the number of the first sample.
        batch: how many at a time.

    Raises:
        UsageError: a strength outside of [0, 1], a guide or mask of another shape, an unknown class.

    Example:
        >>> import scorefield as sf
        >>> model = sf.fit("mixture-2d", steps=2, seed=0)
        >>> model.edit([3.0, 1.0], strength=0.4, count=5).shape
        (5, 2)
    """
    _require_counts(count, batch, first)
    plan, pixels = SDEdit(strength, repeats), _one(model, guide, "the guide")
    changes = None if mask is None else mask_of(model, mask)
    wanted, parts, asked = model.wanted(count, classes, condition), [], 0
    guide_z, pixels = model_space(model, pixels).to(model.device), pixels.astype(model.config.representation.dtype)
    changes_z = None if changes is None else torch.from_numpy(changes)[None].to(model.device)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        labels = told_if_known(model, size, None if wanted is None else wanted[start : start + size])
        x = guide_z.expand(size, *guide_z.shape[1:])
        streams = SampleStreams.numbered(seed, first + start, size, device=str(model.device))
        with model.evaluating():
            for state in plan.trajectory(
                model.denoiser,
                x,
                model.ready(sampler or editor(model.config.path)),
                generator=streams,
                changes=changes_z,
                method=method,
                condition=labels,
            ):
                x, asked = state.x, state.evaluations
        parts.append(_pasted(model, x, pixels, changes) if asked else pixels.repeat(size, 0))
    return Edited(np.concatenate(parts), asked)


def mask_of(model: Model, mask: Any) -> np.ndarray:
    """Ω of one example, channels first: a mask of its layout, or one for all channels.

    Raises:
        UsageError: another shape, or values that are neither True (1) nor False (0).
    """
    representation, array = model.config.representation, np.asarray(mask)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise UsageError(
            f"a mask is True (or 1) where x may change and False (or 0) where it stays, got {len(np.unique(array))} values of {array.dtype}"
        )
    shape, own = representation.shape, _own_shape(model)
    if array.shape == own:
        return np.ascontiguousarray(representation.channels_first(array.astype(bool)[None])[0])
    if len(shape) > 1 and array.shape == shape[1:]:
        return np.ascontiguousarray(np.broadcast_to(array.astype(bool), shape))
    raise UsageError(f"a mask for data of shape {own} has that shape, or {shape[1:] or own}; got {array.shape}")


def _pasted(model: Model, x: Tensor, pixels: np.ndarray, changes: np.ndarray | None) -> np.ndarray:
    """The result in the data's units, with what stays as it was given, to the bit."""
    results = model.config.representation.from_model(x)
    if changes is None:
        return results
    return np.where(model.config.representation.own_layout(changes[None]), results, pixels)


# ── between two ──────────────────────────────────────────────────────────────────────────────────────────────────────


def interpolate(
    model: Model,
    a: Any,
    b: Any,
    *,
    count: int = 9,
    depth: float = 0.5,
    method: str = "stochastic",
    sampler: Sampler | None = None,
    seed: int = 0,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
) -> Edited:
    """What lies between two examples, ends included  (M46, M43).

    Args:
        model: it stays as it is.
        a: one example in the data's own units and layout.
        b: another.
        count: how many, λ from 0 to 1.
        depth: how much noise, as `edit`'s strength: more keeps less of both.
        method: `stochastic`, one noise for all; or `ode`, the flow's own latents along the arc.
        sampler: any, as for `edit` where None; for `ode` a deterministic one, UniPC of order 3 in 50 steps where None.
        seed: of the one noise.
        classes: a class for all, or one each; none without it.
        condition: for a model of conditions, as `Model.sample` takes it.
        batch: how many at a time.

    Raises:
        UsageError: examples of another shape, an unknown method, fewer than two.
    """
    if method not in INTERPOLATIONS:
        raise unknown_name("interpolation", method, INTERPOLATIONS)
    _require_counts(count, batch)
    time_of_strength(model.config.path, depth)
    ends = tuple(model_space(model, _one(model, x, "an end")).to(model.device) for x in (a, b))
    shares, wanted, parts, asked = weights(count), model.wanted(count, classes, condition), [], 0
    for start in range(0, count, batch):
        share = shares[start : start + batch].to(ends[0].device)
        labels = told_if_known(model, len(share), None if wanted is None else wanted[start : start + batch])
        wide = (ends[0].expand(len(share), *ends[0].shape[1:]), ends[1].expand(len(share), *ends[1].shape[1:]))
        with model.evaluating():
            if method == "ode":
                x, evaluations = _along_flow(model, wide, share, depth, sampler, labels)
            else:
                x, evaluations = _by_shared_noise(model, wide, share, depth, sampler, seed, labels)
        parts.append(model.config.representation.from_model(x))
        asked = max(asked, evaluations)
    return Edited(np.concatenate(parts), asked)


def _by_shared_noise(
    model: Model,
    ends: tuple[Tensor, Tensor],
    share: Tensor,
    depth: float,
    sampler: Sampler | None,
    seed: int,
    labels: Tensor | None,
) -> tuple[Tensor, int]:
    """The edit of the two laid over one another, every one with the noise of sample 0  (M46)."""
    streams = SampleStreams(seed, torch.zeros(len(share), dtype=torch.int64, device=model.device))
    x, asked = lerp(*ends, share), 0
    for state in SDEdit(depth).trajectory(
        model.denoiser, x, model.ready(sampler or editor(model.config.path)), generator=streams, condition=labels
    ):
        x, asked = state.x, state.evaluations
    return x, asked


def _along_flow(
    model: Model,
    ends: tuple[Tensor, Tensor],
    share: Tensor,
    depth: float,
    sampler: Sampler | None,
    labels: Tensor | None,
) -> tuple[Tensor, int]:
    """Both up the flow, the arc between them, and down again  (M43)."""
    denoiser, path = _Counted(flow_denoiser(model)), model.config.path
    t = time_of_strength(path, depth)
    if t <= path.t_min:
        return lerp(*ends, share), 0
    if labels is None or bool((labels == labels[:1]).all()):  # then each end has one code
        pair = torch.cat([x[:1] for x in ends])
        codes = encode(
            denoiser,
            pair,
            sampler,
            end=t,
            condition=None if labels is None else labels[:1].expand(2, *labels.shape[1:]),
        )
        one, other = (code[None].expand_as(ends[0]) for code in codes)
    else:
        one, other = (encode(denoiser, x, sampler, end=t, condition=labels) for x in ends)
    x_t = between(path, t, ends, (one, other), share)
    return decode(denoiser, x_t, sampler, start=t, condition=labels), denoiser.asked


# ── latents ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def invert(
    model: Model,
    x: Any,
    *,
    sampler: Sampler | None = None,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
    float64: bool = False,
) -> np.ndarray:
    """The latents of data: along the flow to pure noise, in units of the prior's deviation  (M43).

    Args:
        model: it stays as it is. Neither its guidance nor its clipping takes part: they make another flow.
        x: (n, …) data in their own units and layout.
        sampler: deterministic; UniPC of order 3 in 50 steps where None.
        classes: a class for all, or one each; none without it. The same for `decode_latents`.
        condition: for a model of conditions, as `Model.sample` takes it.
        batch: how many at a time.
        float64: whether the network computes in 64 bits.

    Returns:
        (n, C, *d), about standard normal.

    Raises:
        UsageError: data of another shape or kind, or a sampler that draws noise.
    """
    _require_counts(1, batch)
    denoiser, array = flow_denoiser(model, float64), np.asarray(x)
    wanted = model.wanted(len(array), classes, condition)
    parts = [np.empty((0, *model.config.shape), np.float64 if float64 else np.float32)]
    for start in range(0, len(array), batch):
        x_0 = model_space(model, array[start : start + batch]).to(
            model.device, torch.float64 if float64 else torch.float32
        )
        labels = told_if_known(model, len(x_0), None if wanted is None else wanted[start : start + batch])
        with model.evaluating():
            z = encode(denoiser, x_0, sampler, condition=labels) / model.config.path.prior_std
        parts.append(z.cpu().numpy())
    return np.concatenate(parts)


def decode_latents(
    model: Model,
    latents: Any,
    *,
    sampler: Sampler | None = None,
    temperature: float = 1.0,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
    float64: bool = False,
) -> np.ndarray:
    """The data of latents, in their own units: the inverse of `invert` with the same options, up to the sampler's error  (M43).

    Args:
        model: it stays as it is.
        latents: (n, C, *d), as `invert` gives them.
        temperature: τ, what they are multiplied by: below 1 data are more typical and less varied.
        sampler: as for `invert`.
        classes: as for `invert`.
        condition: as for `invert`.
        batch: how many at a time.
        float64: as for `invert`.

    Raises:
        UsageError: latents of another shape, or an impossible temperature.

    Example:
        >>> import numpy as np, scorefield as sf
        >>> model = sf.fit("mixture-2d", steps=2, seed=0)
        >>> x = model.sample(3)
        >>> bool(np.abs(model.decode(model.invert(x)) - x).max() < 1e-2)
        True
    """
    _require_counts(1, batch)
    codes, representation = checked_latents(model, latents), model.config.representation
    wanted, scale = model.wanted(len(codes), classes, condition), _checked_temperature(temperature)
    denoiser, parts = flow_denoiser(model, float64), [representation.from_model(torch.empty(0, *model.config.shape))]
    for start in range(0, len(codes), batch):
        part = slice(start, start + batch)
        x = _decoded(model, denoiser, scale * codes[part], sampler, None if wanted is None else wanted[part], float64)
        parts.append(representation.from_model(x))
    return np.concatenate(parts)


def _decoded(
    model: Model,
    denoiser: Denoiser,
    codes: np.ndarray,
    sampler: Sampler | None,
    wanted: np.ndarray | None,
    float64: bool,
) -> Tensor:
    """x₀ of a batch of latents, in model space."""
    z = torch.from_numpy(codes).to(model.device, torch.float64 if float64 else torch.float32)
    with model.evaluating():
        return decode(
            denoiser, z * model.config.path.prior_std, sampler, condition=told_if_known(model, len(z), wanted)
        )


def round_trip_errors(
    model: Model,
    x: Any,
    latents: np.ndarray,
    *,
    sampler: Sampler | None = None,
    classes: Any = None,
    condition: Any = None,
    batch: int = 256,
    float64: bool = False,
) -> np.ndarray:
    """How far data come back from their latents: (n,) root mean squared errors in the data's own unit, before any rounding  (M43).

    The arguments are those of `invert`.
    """
    denoiser, array = flow_denoiser(model, float64), np.asarray(x)
    wanted, errors = model.wanted(len(array), classes, condition), [np.empty(0)]
    representation = model.config.representation
    scale = torch.tensor(representation.scale, dtype=torch.float64).view(-1, *(1,) * (len(representation.shape) - 1))
    for start in range(0, len(array), batch):
        part = slice(start, start + batch)
        back = _decoded(model, denoiser, latents[part], sampler, None if wanted is None else wanted[part], float64)
        apart = (back.cpu().double() - model_space(model, array[part]).double()) * scale
        errors.append(apart.flatten(1).square().mean(1).sqrt().numpy())
    return np.concatenate(errors)


def checked_latents(model: Model, latents: Any) -> np.ndarray:
    """Latents (n, C, *d) of finite numbers. Raises UsageError."""
    codes = np.asarray(latents)
    if codes.shape[1:] != model.config.shape or codes.ndim != len(model.config.shape) + 1:
        raise UsageError(
            f"latents of this model are of shape (n, {', '.join(map(str, model.config.shape))}), got {codes.shape}; make them with `scorefield invert` or Model.invert"
        )
    if codes.dtype.kind != "f" or not np.isfinite(codes).all():
        raise UsageError(f"latents are finite floats, got {codes.dtype}; make them with `scorefield invert`")
    return codes


def _checked_temperature(temperature: float) -> float:
    if not 0.0 < temperature < np.inf:
        raise UsageError(f"a temperature is a positive number, 1 for none, got {temperature:g}")
    return temperature


# ── what they share ──────────────────────────────────────────────────────────────────────────────────────────────────


def flow_denoiser(model: Model, float64: bool = False) -> Denoiser:
    """The denoiser whose flow is a code: neither guided nor clipped, which would make it another one, not to be run upwards.

    Args:
        model: it stays as it is.
        float64: whether the network computes in 64 bits.
    """
    from scorefield.model import make_denoiser

    network = copy.deepcopy(model.network).double() if float64 else model.network
    return make_denoiser(model.config, network)


class _Counted(Denoiser):
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.path, self.asked = denoiser, denoiser.path, 0

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Any:
        """Ask, and count."""
        self.asked += 1
        return self.denoiser(x_t, t, condition)


def _own_shape(model: Model) -> tuple[int, ...]:
    representation = model.config.representation
    return representation.own_layout(np.empty((0, *representation.shape))).shape[1:]


def _one(model: Model, x: Any, what: str) -> np.ndarray:
    """One example as a batch of one. Raises UsageError."""
    array = np.asarray(x)
    if array.shape != _own_shape(model):
        raise UsageError(
            f"{what} must be one example of the model's shape {_own_shape(model)}, got {array.shape}; give one picture of that size"
        )
    return array[None]


def _require_counts(count: int, batch: int, first: int = 0) -> None:
    if count < 1 or batch < 1 or first < 0:
        raise UsageError(f"editing needs count ≥ 1, batch ≥ 1 and first ≥ 0, got {count}, {batch} and {first}")
