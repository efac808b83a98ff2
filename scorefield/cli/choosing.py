"""`--sampler`, `--steps`, `--grid`, `--eta`, `--set` of the commands that draw: the sampler that they describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scorefield.errors import UsageError, unknown_name
from scorefield.records import by_kind, from_plain, kind_of, to_plain
from scorefield.samplers import GRIDS, SAMPLERS

if TYPE_CHECKING:
    from scorefield.samplers import Sampler

SAMPLER_NAMES, GRID_NAMES = (", ".join(sorted(map(kind_of, kinds))) for kinds in (SAMPLERS, GRIDS))
"""What there is, for the help."""

OWN_OPTIONS = ("steps", "grid", "eta", "order", "variance")
"""The fields of samplers that are options of their own."""

_NOT_SET = ("kind", "calibration")


def chosen_sampler(default: Sampler, name: str | None, own: Mapping[str, Any], settings: Sequence[str]) -> Sampler:
    """The sampler that the options describe.

    Args:
        default: without a name; with its own, it is what the options start from.
        name: of a sampler; hyphens and capitals are free.
        own: fields by name, None for those that were not given.
        settings: `--set`: KEY=VALUE, of the sampler or, as grid.KEY, of its grid.

    Raises:
        UsageError: no such sampler, field or value.
    """
    from scorefield.training.configuration import parse_settings

    kind = type(default) if name is None else by_kind(SAMPLERS, _plain_name(name), "sampler")
    given = {field: value for field, value in own.items() if value is not None}
    return _with_options(default if isinstance(default, kind) else kind(), given | parse_settings(settings))


def _plain_name(name: str) -> str:
    """A name without hyphens: `uni-pc` is unipc."""
    return name.replace("-", "").replace("_", "")


def _with_options(sampler: Sampler, options: Mapping[str, Any]) -> Sampler:
    """A sampler with options by name: its own fields, the grid by its name, the grid's fields as `grid.rho`. Raises UsageError."""
    from scorefield.model_config import KINDS
    from scorefield.samplers import Sampler

    plain = to_plain(sampler)
    for name, value in options.items():
        _set(plain, name, value)
    return from_plain(Sampler, plain, KINDS)  # type: ignore[type-abstract]


def _set(plain: dict[str, Any], name: str, value: Any) -> None:
    """Put an option at its name. Raises UsageError: no such option, with those there are."""
    owner, _, inner = name.partition(".")
    place = plain["grid"] if owner == "grid" and inner else plain
    last = inner if place is not plain else name
    if last not in place or last in _NOT_SET:
        raise _unknown_option(plain, name)
    is_grid = place is plain and last == "grid" and isinstance(value, str)
    place[last] = to_plain(by_kind(GRIDS, _plain_name(value), "grid")()) if is_grid else value


def _unknown_option(plain: Mapping[str, Any], name: str) -> UsageError:
    """Names what the sampler and its grid have, as they are written on the command line."""
    known = [field for field in plain if field not in _NOT_SET]
    inner = [f"grid.{field}" for field in plain["grid"] if field not in _NOT_SET]
    if name not in OWN_OPTIONS:
        return unknown_name(f"option of the sampler {plain['kind']}", name, [*known, *inner])
    has = [f"--{field}" if field in OWN_OPTIONS else f"--set {field}=…" for field in (*known, *inner)]
    return UsageError(f"the sampler {plain['kind']} has no --{name}; it has {', '.join(has)}")
