"""Line and bar charts as inline SVG text: no dependency, readable in light and dark, titled for screen readers.

Axes and words are drawn in `currentColor`, so the page's own colours hold; the series' colours are told apart by people
who do not see red or green, and stand out on white and on black.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Number = int | float

COLOURS = ("#3d85c6", "#e07b1f", "#8e6bbf", "#3f9e7d")
WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
POINTS = 800
LARGEST = 1e140  # beyond it, and below its inverse on a logarithmic axis, nothing is drawn


@dataclass(frozen=True)
class Series:
    """One curve: a name and its points; points that are not finite leave a gap. A faint one stays in the background."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """Data from `low` to `high` laid on the picture from `start` to `end`, linearly or by logarithm."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def place(self, value: Number) -> float:
        """Where a value lies in the picture."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the axis, three to nine of them."""
        return _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
) -> str:
    """Curves over a common axis, as an SVG element. Values that a logarithmic axis cannot show are left out."""
    curves = [(curve.name, _drawable(curve, log_x, log_y)) for curve in series]
    points = [point for _, curve in curves for point in curve if point is not None]
    if not points:
        return _empty(title)
    x_axis = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log_x, margin=0.0)
    y_axis = _axis([*(y for _, y in points), *([0.0] if from_zero else [])], HEIGHT - BOTTOM, TOP, log_y, margin=0.05)
    parts = [_grid(y_axis, y_label), _bottom(x_axis, x_label)]
    for i, (_, curve) in enumerate(curves):
        pen = f'stroke="{_colour(i)}" stroke-width="1.8" stroke-opacity="{0.45 if series[i].faint else 1}"'
        parts.append(f'<path d="{_path(curve, x_axis, y_axis)}" fill="none" {pen} stroke-linejoin="round"/>')
    if len(curves) > 1:
        parts.append(_legend([name for name, _ in curves]))
    return _svg(title, parts)


def bar_chart(names: Sequence[str], values: Sequence[Number | None], *, title: str, x_label: str, y_label: str) -> str:
    """One bar for each name, from zero, as an SVG element; None leaves its place empty."""
    shown = [value for value in values if value is not None and _shows(value, log=False)]
    if not shown:
        return _empty(title)
    y_axis = _axis([0.0, *shown], HEIGHT - BOTTOM, TOP, log=False, margin=0.05)
    step = (WIDTH - LEFT - RIGHT) / len(names)
    parts = [_grid(y_axis, y_label), _text(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, anchor="middle")]
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        middle = LEFT + (i + 0.5) * step
        parts.append(_text(name, middle, HEIGHT - BOTTOM + 17, anchor="middle"))
        if value is not None and _shows(value, log=False):
            parts.append(_bar(name, value, middle, step * 0.7, y_axis))
    return _svg(title, parts)


def _bar(name: str, value: Number, middle: float, width: float, axis: Axis) -> str:
    top, foot = sorted((axis.place(value), axis.place(0.0)))
    box = f'x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{foot - top:.1f}"'
    return f'<rect {box} rx="2" fill="{COLOURS[0]}"><title>{escape(name)}: {number(value)}</title></rect>'


def number(value: Number) -> str:
    """A number as short as a tick needs it: 0.05, 12, 3k, 1e-05."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.0e}"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 1e4 else f"{value:.4g}"


# ------------------------------------------------------------------------------------------------ axes and ticks


def _axis(values: Sequence[Number], start: Number, end: Number, log: bool, margin: float) -> Axis:
    low, high = min(values), max(values)
    if log:
        factor = max(high / low, 1.01) ** margin
        return Axis(low / factor, max(high, low * 1.01) * factor, start, end, log=True)
    size = max(abs(low), abs(high))
    if high - low <= max(1e-12 * size, 1 / LARGEST):
        # A constant still needs an axis of some length.
        room = 0.1 * size if size > 1 / LARGEST else 1.0
        return Axis(low - room, high + room, start, end)
    room = (high - low) * margin
    # Data that stay on one side of zero get no ticks beyond it.
    return Axis(low if low == 0 else low - room, high if high == 0 else high + room, start, end)


def _round_steps(low: Number, high: Number) -> list[float]:
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _decades(low: Number, high: Number) -> list[float]:
    decades = math.log10(high / low)
    factors: Iterable[float] = (1, 2, 5) if decades < 3 else (1,)
    every = max(1, math.ceil(decades / 8))
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [f * 10.0**e for e in exponents if e % every == 0 for f in factors]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    # Less than a decade may hold no round value of this kind: fall back on even steps.
    return inside if len(inside) >= 2 else _round_steps(low, high)


# ---------------------------------------------------------------------------------------------------- SVG pieces


def _drawable(curve: Series, log_x: bool, log_y: bool) -> list[tuple[Number, Number] | None]:
    """The points of a curve, thinned to what a screen can show; None where the line must break."""
    stride = max(1, math.ceil(len(curve.x) / POINTS))
    pairs = list(zip(curve.x, curve.y, strict=True))
    kept = pairs[::stride] if (len(pairs) - 1) % stride == 0 else [*pairs[::stride], pairs[-1]]
    return [(x, y) if _shows(x, log_x) and _shows(y, log_y) else None for x, y in kept]


def _shows(value: Number, log: bool) -> bool:
    return abs(value) < LARGEST and (value > 1 / LARGEST or not log)


def _path(curve: Iterable[tuple[Number, Number] | None], x_axis: Axis, y_axis: Axis) -> str:
    commands, pen = [], "M"
    for point in curve:
        if point is None:
            pen = "M"
            continue
        commands.append(f"{pen}{x_axis.place(point[0]):.1f} {y_axis.place(point[1]):.1f}")
        pen = "L"
    return "".join(commands)


def _grid(axis: Axis, label: str) -> str:
    lines = []
    for tick in axis.ticks():
        y = axis.place(tick)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
        lines.append(_text(number(tick), LEFT - 8, y + 4, anchor="end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(label)}</text>'
    return "".join([*lines, turned])


def _bottom(axis: Axis, label: str) -> str:
    y = HEIGHT - BOTTOM
    marks = [f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".6"/>']
    for tick in axis.ticks():
        x = axis.place(tick)
        marks.append(f'<path d="M{x:.1f} {y}v4" stroke="currentColor" stroke-opacity=".6"/>')
        marks.append(_text(number(tick), x, y + 17, anchor="middle"))
    return "".join([*marks, _text(label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, anchor="middle")])


def _legend(names: Sequence[str]) -> str:
    parts = []
    for i, name in enumerate(names):
        y = TOP + 10 + 17 * i
        parts.append(f'<path d="M{WIDTH - RIGHT - 20} {y - 4}h18" stroke="{_colour(i)}" stroke-width="3"/>')
        parts.append(_text(name, WIDTH - RIGHT - 26, y, anchor="end"))
    return "".join(parts)


def _text(words: str, x: Number, y: Number, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _svg(title: str, parts: Iterable[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" class="chart"'
    style = 'font-family="inherit" font-size="12" fill="currentColor" xmlns="http://www.w3.org/2000/svg">'
    return f"{head} {style}<title>{escape(title)}</title>{''.join(parts)}</svg>"


def _empty(title: str) -> str:
    return _svg(title, [_text("no values to draw", WIDTH / 2, HEIGHT / 2, anchor="middle")])
