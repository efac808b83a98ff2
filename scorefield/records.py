"""Frozen records as plain data and back: what a configuration, a model file and a command line are made of.

`to_plain` turns a frozen dataclass into JSON-able values; `from_plain` builds it again, strictly: an unknown key, a wrong type or
an impossible value is refused with its place, what was found and what is known. A record that is one of several kinds
(a path, a sampler) carries its `kind`. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from abc import ABC
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from scorefield.errors import UsageError, unknown_name

Record = TypeVar("Record")
Kinds = Mapping[type, Sequence[type]]
"""For each abstract type that a field may have, the final types it can be."""

_SUFFIXES = ("spec", "weighting")


def kind_of(record_type: type) -> str:
    """The name of a record's type in files and on the command line: `VP` is vp, `UNetSpec` is unet."""
    name = record_type.__name__.lower()
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def by_kind(kinds: Sequence[type], name: object, where: str) -> type:
    """The type of that kind, or the error that names the nearest."""
    table = {kind_of(kind): kind for kind in kinds}
    if not isinstance(name, str) or name.lower() not in table:
        raise unknown_name(where, str(name), table)
    return table[name.lower()]


def to_plain(value: Any) -> Any:
    """A record, a tuple or a plain value as JSON-able data; records carry their kind."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"kind": kind_of(type(value)), **fields} if _is_one_of_several(type(value)) else fields
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def _is_one_of_several(record_type: type) -> bool:
    """Whether a record's type is one of several that may stand in the same place: then it carries its kind."""
    own_kind = "kind" in vars(record_type) and all(field.name != "kind" for field in dataclasses.fields(record_type))
    return issubclass(record_type, ABC) or own_kind


def from_plain(record_type: type[Record], value: Any, kinds: Kinds, where: str = "") -> Record:
    """Build a record from plain data.

    Args:
        record_type: a dataclass, or an abstract type that `kinds` lists the final types of.
        value: a mapping; fields that are missing take their defaults.
        kinds: the final types of every abstract one.
        where: the value's place, for messages: `network.widths`.

    Raises:
        UsageError: with the place, what was found, and the nearest name or the type wanted.
    """
    if isinstance(value, str) and record_type in kinds:
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where or 'the configuration'} must be a mapping of names to values, got {_shown(value)}")
    given = dict(value)
    chosen: Any = record_type
    if record_type in kinds:
        chosen = by_kind(kinds[record_type], given.pop("kind", None), where)
    elif _is_one_of_several(record_type):
        given.pop("kind", None)
    types_of_fields = field_types(chosen)
    for name in given:
        if name not in types_of_fields:
            raise unknown_name("setting", _join(where, name), [_join(where, known) for known in types_of_fields])
    arguments = {name: _coerce(types_of_fields[name], item, kinds, _join(where, name)) for name, item in given.items()}
    try:
        return typing.cast(Record, chosen(**arguments))
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where and where not in str(error) else str(error)) from None
    except TypeError as error:
        raise UsageError(f"{where or 'the configuration'} is incomplete: {error}") from None


@cache
def field_types(record_type: type) -> dict[str, Any]:
    """The types of a record's fields, by name."""
    hints = typing.get_type_hints(record_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(record_type) if field.init}


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _coerce(wanted: Any, value: Any, kinds: Kinds, where: str) -> Any:
    """The value as the type wanted; a whole number will do for a float, a list for a tuple."""
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        return _coerce_union(typing.get_args(wanted), value, kinds, where)
    if origin is tuple:
        return _coerce_tuple(typing.get_args(wanted), value, kinds, where)
    if wanted in kinds or dataclasses.is_dataclass(wanted):
        return from_plain(wanted, value, kinds, where)
    if origin is typing.Literal:
        return _coerce_literal(typing.get_args(wanted), value, where)
    if wanted is Any or origin is dict or wanted is dict:
        return value
    return _coerce_scalar(wanted, value, where)


def _coerce_union(options: tuple[Any, ...], value: Any, kinds: Kinds, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _coerce(options[0], value, kinds, where)
    records = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    if records and isinstance(value, Mapping) and "kind" in value:
        return from_plain(by_kind(records, value["kind"], where), value, kinds, where)
    for option in options:
        try:
            return _coerce(option, value, kinds, where)
        except UsageError:
            continue
    raise UsageError(f"{where} must be one of {', '.join(_name(option) for option in options)}, got {_shown(value)}")


def _coerce_tuple(items: tuple[Any, ...], value: Any, kinds: Kinds, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} must be a list, got {_shown(value)}; write it as {where}=[1,2]")
    wanted = items[:1] * len(value) if items[-1] is Ellipsis else items
    if len(value) != len(wanted):
        raise UsageError(f"{where} must have {len(wanted)} items, got {len(value)}")
    pairs = zip(wanted, value, strict=True)
    return tuple(_coerce(kind, item, kinds, f"{where}[{k}]") for k, (kind, item) in enumerate(pairs))


def _coerce_literal(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in options:
        raise UsageError(f"{where} must be one of {', '.join(map(str, options))}, got {_shown(value)}")
    return value


def _coerce_scalar(wanted: type, value: Any, where: str) -> Any:
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, where)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    raise UsageError(f"{where} must be {_name(wanted)}, got {_shown(value)}")


def _finite(value: int | float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"{where} must be a finite number, got {number}")
    return number


def _name(wanted: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        wanted, getattr(wanted, "__name__", str(wanted))
    )
