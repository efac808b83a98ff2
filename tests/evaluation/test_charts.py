"""Charts: well-formed, escaped, true to the data, and drawable whatever the data are."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefield.evaluation.charts import HEIGHT, WIDTH, Axis, Series, bar_chart, line_chart, number

LABELS: dict[str, Any] = {"title": "t", "x_label": "x", "y_label": "y"}


def paths(svg: str) -> list[str]:
    return [path.get("d", "") for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")]


def curve(svg: str) -> list[tuple[float, float]]:
    """The points of the last path, in the picture's units."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", paths(svg)[-1])]


def test_words_are_escaped_everywhere():
    evil = '<img src=x onerror=alert(1)>&"'
    for svg in (
        line_chart([Series(evil, [1, 2], [1, 2])] * 2, title=evil, x_label=evil, y_label=evil),
        bar_chart([evil], [1.0], title=evil, x_label=evil, y_label=evil),
    ):
        assert "<img" not in svg
        assert ElementTree.fromstring(svg).get("aria-label") == evil


def test_points_lie_where_the_data_are():
    """Equal steps of the data are equal steps in the picture; larger values are higher."""
    points = curve(line_chart([Series("a", [0, 1, 2], [0.0, 5.0, 10.0])], **LABELS))
    (x_0, y_0), (x_1, y_1), (x_2, y_2) = points
    assert x_1 - x_0 == pytest.approx(x_2 - x_1, abs=0.11)
    assert y_0 - y_1 == pytest.approx(y_1 - y_2, abs=0.11)
    assert y_0 > y_2


def test_on_a_log_axis_equal_factors_are_equal_steps():
    points = curve(line_chart([Series("a", [1, 2, 3], [1.0, 10.0, 100.0])], log_y=True, **LABELS))
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.11)


def test_what_cannot_be_drawn_leaves_a_gap():
    svg = line_chart([Series("a", [1, 2, 3, 4], [1.0, math.nan, 3.0, -1.0])], log_y=True, **LABELS)
    assert paths(svg)[-1].count("M") == 2
    assert len(curve(svg)) == 2


def test_a_long_curve_is_thinned_but_keeps_its_end():
    points = curve(line_chart([Series("a", range(10_001), [float(i) for i in range(10_001)])], **LABELS))
    assert len(points) < 1000
    assert points[-1][0] == pytest.approx(WIDTH - 14, abs=0.2)


@pytest.mark.parametrize("svg", [line_chart([], **LABELS), bar_chart(["a"], [None], **LABELS)])
def test_nothing_to_draw_says_so(svg: str):
    assert "no values to draw" in svg


def test_bars_are_as_high_as_their_values_and_stand_on_zero():
    svg = bar_chart(["a", "b", "c"], [1.0, None, 2.0], **LABELS)
    bars = list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect"))
    one, two = (float(bar.get("height", "nan")) for bar in bars)
    assert two == pytest.approx(2 * one, abs=0.2)


finite = st.floats(-1e9, 1e9)


@given(low=finite, length=st.floats(1e-3, 1e9), log=st.booleans())
def test_ticks_lie_inside_and_are_few(low: float, length: float, log: bool):
    low = abs(low) + 1e-6 if log else low
    axis = Axis(low, low + max(length, abs(low) * 1e-6), 0, 100, log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(-0.5 <= axis.place(tick) <= 100.5 for tick in ticks)


@given(values=st.lists(st.floats(), min_size=1, max_size=8), log=st.booleans())
def test_any_numbers_can_be_drawn(values: list[float], log: bool):
    """Constants, NaN, infinities, the largest and the least float."""
    svg = line_chart([Series("a", range(len(values)), values)], log_y=log, **LABELS)
    if "no values" not in svg:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in curve(svg))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.05, "0.05"), (12345, "12.3k"), (2e6, "2M"), (1e-5, "1e-05"), (-3, "-3")]
)
def test_numbers_are_short(value: float, text: str):
    assert number(value) == text
