r"""Operators by the names that the command line knows, such as `downsample=4`."""

from __future__ import annotations

import math
from collections.abc import Callable

from scorefield.editing.operators.base import LinearOperator
from scorefield.editing.operators.kept import Projection
from scorefield.editing.operators.matrices import Separable
from scorefield.errors import UsageError, unknown_name

OPERATORS: dict[str, Callable[[tuple[int, ...], str], LinearOperator]] = {
    "denoise": lambda shape, text: _whole(text, shape),
    "downsample": lambda shape, text: Separable.downsampling(shape, int(text)),
    "blur": lambda shape, text: Separable.blur(shape, float(text)),
    "grey": lambda shape, text: Separable.grey(shape, _grey_weights(shape, text)),
    "project": lambda shape, text: Projection(shape, _measured_count(shape, float(text))),
}
"""Operators by name: what makes each for a shape, from its parameter as text."""

_USUAL = {"downsample": "4", "blur": "1.5", "project": "0.25"}


def completed(text: str) -> str:
    """`blur` as `blur=1.5`: a name without a parameter with the usual one, where it takes one."""
    return text if "=" in text or text not in _USUAL else f"{text}={_USUAL[text]}"


def operator_named(text: str, shape: tuple[int, ...]) -> LinearOperator:
    """The operator that a text such as `downsample=4`, `blur=1.5`, `grey`, `grey=mean`, `project=0.25` or `denoise` names.

    Raises:
        UsageError: no such operator, or a parameter that it or the shape does not take.
    """
    name, _, parameter = completed(text).partition("=")
    if name not in OPERATORS:
        raise unknown_name("operator", name, OPERATORS)
    try:
        return OPERATORS[name](shape, parameter)
    except (ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"operator {name} takes a number, such as {name}=2; got '{parameter}'") from None


def _grey_weights(shape: tuple[int, ...], text: str) -> tuple[float, ...] | None:
    if text in ("", "luma"):
        return None
    if text == "mean":
        return (1.0 / shape[0],) * shape[0]
    raise UsageError(f"grey takes luma or mean, got '{text}'")


def _whole(text: str, shape: tuple[int, ...]) -> Separable:
    if text:
        raise UsageError(
            f"denoise takes no parameter, got '{text}'; the noise is a number of its own, such as --noise 25"
        )
    return Separable.identity(shape)


def _measured_count(shape: tuple[int, ...], share: float) -> int:
    """How many numbers a share of all is, at least one."""
    if not 0.0 < share <= 1.0:
        raise UsageError(f"project={share:g} must be the share of the numbers that is measured, above 0 up to 1")
    return max(1, round(share * math.prod(shape)))
