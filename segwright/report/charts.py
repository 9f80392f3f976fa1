"""Line charts as inline SVG that takes its colors from the page, so that they follow light and dark."""

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 36
_MOST_POINTS = 300

Point = tuple[float, float]


def line_chart(points: Sequence[Point], *, name: str, x_name: str, smooth: bool = False, zero: bool = False) -> str:
    """A curve with axes.

    Args:
        points: Position and value, in order; pairs with a number that is not finite are left out.
        name: What is shown, for readers who cannot see it.
        x_name: What the horizontal axis counts.
        smooth: Draws the points pale, and a running mean over a twentieth of them on top.
        zero: Lets the vertical axis start at 0.

    Returns:
        An `<svg>` element.
    """
    known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not known:
        return '<p class="note">Nothing was recorded.</p>'
    x_ticks = _ticks(min(0.0, known[0][0]), max(x for x, _ in known), 5)
    y_ticks = _ticks(0.0 if zero else min(y for _, y in known), max(y for _, y in known), 4)
    x_range = (min(0.0, known[0][0]), max(x_ticks[-1], known[-1][0]))
    y_range = (min(y_ticks[0], *(y for _, y in known)), max(y_ticks[-1], *(y for _, y in known)))
    smoothed = _running_mean(known) if smooth and len(known) > 20 else []
    curves = _polyline(_thin(known), x_range, y_range, "pale" if smoothed else "line")
    if smoothed:
        curves += _polyline(_thin(smoothed), x_range, y_range, "line")
    label = escape(f"{name}: from {number(known[0][1])} to {number(known[-1][1])}")
    axis = f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}">{escape(x_name)}</text>'
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{_grid(x_ticks, y_ticks, x_range, y_range)}{axis}{curves}</svg>"
    )


def number(value: float) -> str:
    """Short text of a number: three significant digits, no exponent where none is needed."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 1e-4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span a range."""
    span = high - low or abs(high) or 1.0
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _running_mean(points: Sequence[Point]) -> list[Point]:
    width = max(2, len(points) // 20)
    sums = list(accumulate((y for _, y in points), initial=0.0))
    means = []
    for index, (x, _) in enumerate(points):
        # Centered, so that the curve does not lag behind; narrower at the ends.
        reach = min(width // 2, index, len(points) - 1 - index)
        means.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return means


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most a few hundred points, the last one kept."""
    step = math.ceil(len(points) / _MOST_POINTS)
    thinned = list(points[::step])
    return thinned if thinned[-1] == points[-1] else [*thinned, points[-1]]


def _place(value: float, low: float, high: float, start: float, end: float) -> float:
    return start if high == low else start + (value - low) / (high - low) * (end - start)


def _grid(x_ticks: list[float], y_ticks: list[float], x_range: Point, y_range: Point) -> str:
    parts = []
    for tick in y_ticks:
        y = _place(tick, *y_range, _HEIGHT - _BOTTOM, _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{number(tick)}</text>')
    for tick in x_ticks:
        x = _place(tick, *x_range, _LEFT, _WIDTH - _RIGHT)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}">{number(tick)}</text>')
    return "".join(parts)


def _polyline(points: Sequence[Point], x_range: Point, y_range: Point, kind: str) -> str:
    places = [
        (_place(x, *x_range, _LEFT, _WIDTH - _RIGHT), _place(y, *y_range, _HEIGHT - _BOTTOM, _TOP)) for x, y in points
    ]
    x, y = places[-1]
    end = "" if kind == "pale" else f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{kind}" points="{path}"/>{end}'
