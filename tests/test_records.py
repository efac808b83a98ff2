"""Records as plain data and back: round trips, and the refusal of everything that is not quite right."""

from __future__ import annotations

import json
from abc import ABC
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.errors import UsageError
from scorefield.records import from_plain, kind_of, to_plain


class Shape(ABC):  # noqa: B024  # what is common to its kinds does not matter here
    """One of several kinds."""


@dataclass(frozen=True)
class Circle(Shape):
    radius: float = 1.0


@dataclass(frozen=True)
class Square(Shape):
    side: float = 1.0
    corners: tuple[int, ...] = (4,)


@dataclass(frozen=True)
class Inner:
    name: str = "x"
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Drawing:
    shape: Shape
    count: int = 1
    scale: float = 1.0
    visible: bool = True
    title: str | None = None
    size: int | tuple[int, ...] | None = None
    inner: Inner = field(default_factory=Inner)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"count must be ≥ 0, got {self.count}")


KINDS: dict[type, tuple[type, ...]] = {Shape: (Circle, Square)}

finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**70), 2**70)
drawings = st.builds(
    Drawing,
    shape=st.builds(Circle, finite) | st.builds(Square, finite, st.lists(whole).map(tuple)),
    count=st.integers(0, 2**70),
    scale=finite,
    visible=st.booleans(),
    title=st.none() | st.text(),
    size=st.none() | whole | st.lists(whole).map(tuple),
    inner=st.builds(Inner, st.text(), st.sampled_from(["a", "b"])),
    notes=st.dictionaries(st.text(), st.integers() | st.text()),
)


@given(drawings)
def test_a_record_comes_back_equal_through_json(drawing: Drawing) -> None:
    plain = json.loads(json.dumps(to_plain(drawing)))
    assert from_plain(Drawing, plain, KINDS) == drawing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "shape", "count", "scale", "size", "inner", "radius", "mode"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_anything_json_can_say_is_a_record_or_a_usage_error(value: Any) -> None:
    """A hostile file meets a message, never a traceback."""
    try:
        found = from_plain(Drawing, value, KINDS)
    except UsageError as error:
        assert str(error)
    else:
        assert isinstance(found, Drawing) and isinstance(found.scale, float)


REFUSED: dict[str, tuple[Any, str]] = {
    "not a mapping": ([1], "must be a mapping"),
    "incomplete": ({}, "incomplete"),
    "unknown key": ({"shape": "circle", "cuont": 1}, "did you mean 'count'"),
    "unknown kind": ({"shape": "cirkle"}, "did you mean 'circle'"),
    "no kind": ({"shape": {"radius": 1}}, "unknown shape"),
    "key of another kind": ({"shape": {"kind": "circle", "side": 1}}, "unknown setting 'shape.side'"),
    "truth as a number": ({"shape": "circle", "count": True}, "count must be a whole number, got True"),
    "fraction": ({"shape": "circle", "count": 1.5}, "count must be a whole number, got 1.5"),
    "text as a number": ({"shape": "circle", "scale": "1"}, "scale must be a number, got '1'"),
    "nan": ({"shape": "circle", "scale": float("nan")}, "finite"),
    "too large": ({"shape": "circle", "scale": 10**400}, "finite"),
    "beyond printing": ({"shape": "circle", "title": 10**5000}, "thousands of digits"),
    "list element": ({"shape": {"kind": "square", "corners": [1, "x"]}}, "shape.corners[1]"),
    "not a list": ({"shape": {"kind": "square", "corners": 4}}, "[1,2]"),
    "literal": ({"shape": "circle", "inner": {"mode": "c"}}, "inner.mode must be one of a, b, got 'c'"),
    "none of a union": ({"shape": "circle", "size": "big"}, "size must be one of"),
    "own check": ({"shape": "circle", "count": -1}, "count must be ≥ 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_right_is_refused_with_its_place(name: str) -> None:
    value, said = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        from_plain(Drawing, value, KINDS)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_whole_number_will_do_for_a_float_and_becomes_one() -> None:
    scale = from_plain(Drawing, {"shape": "circle", "scale": 2}, KINDS).scale
    assert isinstance(scale, float) and scale == 2.0


def test_kinds_are_lower_case_names_without_what_every_one_of_them_is_called() -> None:
    from scorefield.networks import UNetSpec
    from scorefield.objectives import EDMWeighting

    assert (kind_of(Circle), kind_of(UNetSpec), kind_of(EDMWeighting)) == ("circle", "unet", "edm")


@dataclass(frozen=True)
class Intervals:
    rows: tuple[tuple[float, int], ...] = ((0.5, 2),)


def test_a_tuple_of_several_types_is_read_by_place() -> None:
    """A whole number in the second place stays one, and a row of another length is refused by its place."""
    assert from_plain(Intervals, {"rows": [[1, 2], [0.5, 3]]}, {}) == Intervals(((1.0, 2), (0.5, 3)))
    with pytest.raises(UsageError, match=r"rows\[1\] must have 2 items, got 3"):
        from_plain(Intervals, {"rows": [[1, 2], [0.5, 3, 4]]}, {})
    with pytest.raises(UsageError, match=r"rows\[0\]\[1\] must be a whole number"):
        from_plain(Intervals, {"rows": [[1, 2.5]]}, {})


def test_a_kind_where_no_record_may_stand_is_refused() -> None:
    """`size` is a number, a list or nothing: a mapping that says its kind is none of them."""
    with pytest.raises(UsageError, match="size must be one of"):
        from_plain(Drawing, {"shape": "circle", "size": {"kind": "circle"}}, KINDS)
