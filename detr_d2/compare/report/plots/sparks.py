"""Small pictures of the cards, 40 pixels high and as wide as their card: written as SVG by hand, without text.

Lines keep their width whatever the width of the card; a dot is a line without length and with round ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import quoteattr

from .svg import css_colour, series_style

WIDTH, HEIGHT = 240, 40
_MARGIN = 4.0
_DASHES = {"-": "none", "--": "6 3", ":": "1.5 3", "-.": "6 3 1.5 3"}


def lines(curves: Iterable[tuple[int, Sequence[tuple[float, float]]]], *, least_span: float = 0.0) -> str:
    """A line per model, each with the dashes of its colour in the figures of the page.

    Args:
        curves: (place of the model, points (x, y) by x); points that are not numbers interrupt it.
        least_span: of y, so that noise is not magnified.
    """
    known = [(index, [p for p in points if all(map(math.isfinite, p))]) for index, points in curves]
    known = [(index, points) for index, points in known if points]
    if not known:
        return ""
    xs = [x for _, points in known for x, _ in points]
    ys = [y for _, points in known for _, y in points]
    middle, half = (min(ys) + max(ys)) / 2, max(max(ys) - min(ys), least_span, 1e-9) / 2
    parts = []
    for index, points in known:
        places = [
            (_across(x, min(xs), max(xs)), HEIGHT - _along(y, middle - half, middle + half, HEIGHT)) for x, y in points
        ]
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(_stroke(path, index, 2, dashes=_DASHES[series_style(index)["linestyle"]]))
    return _svg(parts)


def whiskers(values: Iterable[tuple[int, float, float, float]]) -> str:
    """A dot per model in a row of its own, with its interval as a line.

    Args:
        values: (place of the model, value, low, high); bounds may be NaN.
    """
    known = [x for x in values if math.isfinite(x[1])]
    if not known:
        return ""
    ends = [end for _, value, low, high in known for end in (value, low, high) if math.isfinite(end)]
    span = max(max(ends) - min(ends), 1e-9)
    low_end, high_end = min(ends) - 0.02 * span, max(ends) + 0.02 * span
    parts = []
    for row, (index, value, low, high) in enumerate(known):
        y = HEIGHT * (row + 0.5) / len(known)
        if math.isfinite(low) and math.isfinite(high):
            start, end = (_across(x, low_end, high_end) for x in (low, high))
            parts.append(_stroke(f"M{start:.1f} {y:.1f} H{end:.1f}", index, 2))
        parts.append(_dot(_across(value, low_end, high_end), y, index))
    return _svg(parts)


def bars(values: Iterable[tuple[int, float]]) -> str:
    """A bar per model from 0 on."""
    known = [x for x in values if math.isfinite(x[1]) and x[1] >= 0]
    most = max((value for _, value in known), default=0.0)
    if most <= 0:
        return ""
    height = HEIGHT / len(known)
    parts = []
    for row, (index, value) in enumerate(known):
        style = quoteattr(f"fill: {css_colour(index)}")
        size = f'width="{WIDTH * value / most:.1f}" height="{0.7 * height:.1f}"'
        parts.append(f'<rect x="0" y="{(row + 0.15) * height:.1f}" {size} style={style}></rect>')
    return _svg(parts)


def _across(value: float, low: float, high: float) -> float:
    return _along(value, low, high, WIDTH)


def _along(value: float, low: float, high: float, length: float) -> float:
    share = 0.5 if high <= low else (value - low) / (high - low)
    return _MARGIN + share * (length - 2 * _MARGIN)


def _dot(x: float, y: float, index: int) -> str:
    return _stroke(f"M{x:.1f} {y:.1f} h0.01", index, 8)


def _stroke(path: str, index: int, width: float, *, dashes: str = "none") -> str:
    style = f"fill: none; stroke: {css_colour(index)}; stroke-width: {width}; stroke-linecap: round"
    style += f"; stroke-linejoin: round; stroke-dasharray: {dashes}; vector-effect: non-scaling-stroke"
    return f'<path d="{path}" style={quoteattr(style)}></path>'


def _svg(parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
    return f'<svg class="spark" {box} aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
