"""A model's likelihood of data in their own units: what is asked of `scorefield.likelihood`, and how its answer is read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.denoisers import Clipped
from scorefield.errors import UsageError, unknown_name
from scorefield.likelihood import FlowLikelihood, Measured, Method, Reference, Subject, VariationalBound, measure
from scorefield.streams import SampleStreams

if TYPE_CHECKING:
    from scorefield.model import Model

METHODS: dict[str, type[FlowLikelihood] | type[VariationalBound]] = {
    "flow": FlowLikelihood,
    "bound": VariationalBound,
}
"""The methods by name."""


def subject_of(model: Model, *, clip: bool, float64: bool = False) -> Subject:
    """A model as its likelihood is measured: without guidance, with its data's levels and moments.

    Args:
        model: it stays as it is.
        clip: whether D is held within the data's range where the model is drawn from so: right for a bound, whose chain it
            belongs to, and wrong for a flow, which it makes another one that has no density.
        float64: whether the network computes in 64 bits.
    """
    from scorefield.model import make_denoiser

    network = copy.deepcopy(model.network).double() if float64 else model.network
    levels = model.config.representation.levels
    denoiser = make_denoiser(model.config, network)
    if clip and model.config.clip and levels is not None:
        denoiser = Clipped(denoiser)
    frame = Reference.of_moments(model.moments, model.device) if model.moments else None
    return Subject(denoiser, levels, frame)


def likelihood_of(
    model: Model,
    x: Any,
    method: str | Method = "flow",
    *,
    classes: Any = None,
    condition: Any = None,
    seed: int = 0,
    repeats: int = 2,
    batch: int = 256,
    float64: bool = False,
    samples: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Measured:
    """Measure a model's likelihood of data; `Model.likelihood` documents it."""
    chosen = method_of(method, options)
    subject = subject_of(model, clip=isinstance(chosen, VariationalBound), float64=float64)
    x_0 = model_space(model, x).to(model.device, torch.float64 if float64 else torch.float32)
    wanted = model.wanted(len(x_0), classes, condition)
    with model.evaluating():
        found = measure(
            chosen,
            subject,
            x_0,
            condition=_told(model, wanted, len(x_0)),
            seed=seed,
            repeats=repeats,
            batch=batch,
            samples=samples,
            progress=progress,
        )
    return found if subject.levels else found.shifted(-model.config.representation.log_determinant)


def method_of(method: str | Method, options: dict[str, Any]) -> Method:
    """A method by its name and options. Raises UsageError for a name or an option that there is not."""
    if isinstance(method, Method):
        if options:
            raise UsageError(f"options belong in the method's record: {type(method).__name__}({', '.join(options)}=…)")
        return method
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    kind = METHODS[method]
    for name in options:
        if name not in kind.__dataclass_fields__:
            raise unknown_name(f"option of the method {method}", name, kind.__dataclass_fields__)
    return kind(**options)


def model_space(model: Model, x: Any) -> Tensor:
    """Data in their own units and layout, as `sample` hands them out → (n, C, *d) in model space.

    Raises:
        UsageError: data of another shape, or floats where the model is of integers.
    """
    representation = model.config.representation
    array = np.asarray(x)
    if (
        representation.levels is not None
        and array.dtype.kind == "f"
        and not np.array_equal(array, np.rint(array), equal_nan=True)
    ):
        raise UsageError(
            f"the model is of integers of {representation.levels} levels, got {array.dtype}; give integers, or train a model on such data"
        )
    own = representation.own_layout(np.empty((0, *representation.shape))).shape[1:]
    if array.shape[1:] != own:
        raise UsageError(f"the model is of data of shape {own}, got {array.shape[1:]}; give data of the model's shape")
    representation.require_values(array)
    return representation.to_model(representation.channels_first(array))


def _told(model: Model, wanted: np.ndarray | None, count: int) -> Tensor | None:
    """What the likelihood is of, p(x|y); None for p(x), which a model of classes is of too. Raises UsageError."""
    return None if wanted is None and not model.config.conditions else model.labels(0, 0, count, wanted)


def shown_at(model: Model, x: Any, log_snr: float, seed: int, classes: Any = None, condition: Any = None) -> np.ndarray:
    """x̂₀ = D(x_t, t) of data noised to λ, in their own units: what a receiver can show at that rate  (M45, M20)."""
    subject = subject_of(model, clip=True)
    x_0 = model_space(model, x).to(model.device)
    labels = _told(model, model.wanted(len(x_0), classes, condition), len(x_0))
    path = subject.path
    t = path.snap(min(max(path.time_of(log_snr), path.t_min), path.t_max))
    noise = SampleStreams.numbered(seed, 0, len(x_0), device=str(model.device)).normal(x_0, 1)
    with model.evaluating():
        return model.config.representation.from_model(subject.denoiser(path.perturb(x_0, t, noise), t, labels).x0)
