"""What the figures of the page of `compare` have in common: series, legends, names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from ...records.comparison import Comparison, ModelComparison
from ...records.sets import NmsPoint
from .svg import MUTED, SIZE, colour, draw, series_style, shade, swatch

STAGES = ("backbone", "transformer", "proposals", "heads", "NMS", "rest")

SMALL = (3.1, 2.4)
"""Size of one of three figures in a row, in inches."""

NO_NMS = 1.0
"""Where "none" stands on the axis of thresholds: NMS at IoU 1 removes nothing."""

AP_SPAN = 4.0
"""The least that an axis of AP spans, in points of AP."""

LOST_ALPHA = 0.25
"""Of the area of what NMS loses."""

LAYER_NMS = (None, 0.7, 0.5)
"""Ways of NMS that the figure of the decoder layers shows."""


@dataclass(frozen=True)
class Plot:
    """A figure.

    Args:
        id: unique in the page.
        title: a few words.
        svg: the element.
        alt: what it shows, for those who do not see it.
        legend: (id of a swatch, text) of each series.
        draw_on: draws it again, on empty axes.
        size: width and height in inches.
    """

    id: str
    title: str
    svg: str
    alt: str
    legend: list[tuple[str, str]]
    draw_on: Callable[[Axes], None]
    size: tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A model that has figures, with its place among all models of the record, which decides its colour."""

    index: int
    model: ModelComparison


def live_series(comparison: Comparison) -> list[Series]:
    """The models that did not fail."""
    return [Series(i, x) for i, x in enumerate(comparison.models) if not x.failed]


def plot(
    name: str,
    title: str,
    on: Callable[[Axes], None],
    shown: Iterable[Series],
    legend: list[tuple[str, str]] | None = None,
    *,
    size: tuple[float, float] = SIZE,
) -> Plot:
    """Draws a figure.

    Args:
        name: unique among the figures.
        title: a few words.
        on: draws on empty axes.
        shown: the models in it, for the legend.
        legend: (id of a swatch, text), where it is not that of the models.
        size: width and height in inches.
    """
    shown = list(shown)
    if legend is None:
        legend = [(f"swatch-m{x.index}", x.model.label) for x in shown]
    names = " and ".join(text for _, text in legend)
    return Plot(f"fig-{name}", title, draw(on, name, size=size), f"{title}: {names}.", legend, on, size)


def swatches(series: Sequence[Series]) -> dict[str, str]:
    """Id -> SVG of what stands beside the names in legends."""
    return {key: swatch(key, **style) for key, style in swatch_styles(series).items()}


def swatch_styles(series: Sequence[Series]) -> dict[str, dict[str, Any]]:
    """Id -> how it is drawn: a line, or with `facecolor` a filled box."""
    styles = {"m": series_style, "c": shipped_style, "w": without_style, "k": chance_style}
    lines = {f"swatch-{letter}{x.index}": style(x.index) for x in series for letter, style in styles.items()}
    lines |= {
        f"swatch-l{x.index}-{way}": layer_style(x, way)
        for x in series
        if x.model.num_layers > 1
        for way in range(len(LAYER_NMS))
    }
    boxes = {f"swatch-s{i}": {"facecolor": shade(i), "linewidth": 0} for i in range(len(STAGES))}
    boxes |= {f"swatch-b{x.index}": {"facecolor": colour(x.index), "linewidth": 0} for x in series}
    boxes |= {f"swatch-f{x.index}": {"facecolor": colour(x.index), "linewidth": 0, "alpha": LOST_ALPHA} for x in series}
    return {**lines, **boxes}


def shipped_style(index: int) -> dict[str, Any]:
    """Of a model as shipped, where dashes tell settings and markers tell models."""
    return {**series_style(index), "linestyle": "-"}


def without_style(index: int) -> dict[str, Any]:
    """Of a model without NMS, beside `shipped_style`."""
    return {**series_style(index), "linestyle": ":", "markerfacecolor": "none", "markersize": 4}


def chance_style(index: int) -> dict[str, Any]:
    """Of what a model would find by chance."""
    return {
        "color": MUTED,
        "linestyle": "-",
        "linewidth": 0.9,
        "marker": series_style(index)["marker"],
        "markersize": 3,
    }


def layer_style(series: Series, way: int) -> dict[str, Any]:
    """Of a way of NMS in the figure of a model's decoder layers."""
    return {**series_style(way), "color": colour(series.index)}


def nms_name(threshold: float | None) -> str:
    """Of a way of NMS."""
    return "without NMS" if threshold is None else f"NMS at IoU {threshold:g}"


def last_layer(model: ModelComparison) -> list[NmsPoint]:
    """The sweep of what the model ships, strictest NMS first, no NMS last."""
    return sorted((p for p in model.nms if p.layer == model.num_layers), key=place_of_nms)


def place_of_nms(point: NmsPoint) -> float:
    """On the axis of thresholds."""
    return NO_NMS if point.nms_threshold is None else point.nms_threshold


def bin_name(low: float, high: float) -> str:
    """Of a bin of overlaps."""
    return "none" if high <= 0 else f"{low:g} to {high:g}"


def range_name(low: int, high: int) -> str:
    """Of a group of images by their number of objects."""
    return str(low) if low == high else f"{low} to {high}"


def ap_axis(axes: Axes, label: str) -> None:
    """Names the axis of AP, which need not begin at 0 but spans `AP_SPAN`, so that it does not magnify noise."""
    axes.set_ylabel(label)
    low, high = axes.get_ylim()
    if high - low < AP_SPAN:
        low = max(0.0, (low + high - AP_SPAN) / 2)
        axes.set_ylim(low, low + AP_SPAN)


def finite(*values: float) -> bool:
    """Whether all of them are numbers."""
    return all(map(math.isfinite, values))
