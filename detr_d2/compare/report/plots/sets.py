"""Figures of the page of `compare` on predicting a set: NMS, decoder layers, scores, counting, the limit of queries.

Each is None or empty where no model has what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ...records.sets import NmsPoint
from .plot import (
    LAYER_NMS,
    NO_NMS,
    SMALL,
    Plot,
    Series,
    ap_axis,
    finite,
    last_layer,
    layer_style,
    nms_name,
    place_of_nms,
    plot,
    range_name,
)
from .svg import INK, LIVE, MUTED, colour, series_style

_RING: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none"}


def nms_sweep(series: Sequence[Series]) -> list[Plot]:
    """AP and the number of detections over the threshold of NMS, last decoder layer."""
    sweeps = [(x, last_layer(x.model)) for x in series]
    sweeps = [(x, points) for x, points in sweeps if len(points) > 1]
    if not sweeps:
        return []

    def panel(value: Callable[[NmsPoint], float], label: str) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            for x, points in sweeps:
                places = [place_of_nms(p) for p in points]
                axes.plot(places, [value(p) for p in points], **series_style(x.index))
                for p in (p for p in points if p.shipped):
                    axes.plot([place_of_nms(p)], [value(p)], **_RING, markeredgecolor=colour(x.index))
            ticks = sorted({place_of_nms(p) for _, points in sweeps for p in points if p.nms_threshold is not None})
            ticks = [*(t for t in ticks if round(100 * t) % 10 == 0), NO_NMS]
            axes.set_xticks(ticks, ["none" if t == NO_NMS else f"{t:.1f}" for t in ticks])
            axes.set_xlabel("IoU above which NMS removes a box")
            if label == "AP":
                ap_axis(axes, label)
            else:
                axes.set_ylabel(label)
                axes.set_ylim(bottom=0)

        return on

    shown = [x for x, _ in sweeps]
    kept = panel(lambda p: p.kept_per_image, "detections per image")
    return [
        plot("nms-ap", "AP over the threshold of NMS", panel(lambda p: p.ap, "AP"), shown),
        plot("nms-kept", "Detections that NMS leaves", kept, shown),
    ]


def layers(series: Sequence[Series]) -> list[Plot]:
    """AP and AP50 of each decoder layer, per model that has several."""
    plots = []
    for x in (x for x in series if x.model.num_layers > 1 and x.model.nms):
        plots.append(_layers(x, "ap", "AP"))
        plots.append(_layers(x, "ap50", "AP50"))
    return plots


def _layers(one: Series, key: str, label: str) -> Plot:
    ways = [t for t in LAYER_NMS if any(p.nms_threshold == t for p in one.model.nms)]

    def on(axes: Axes) -> None:
        for way in ways:
            points = sorted((p for p in one.model.nms if p.nms_threshold == way), key=lambda p: p.layer)
            values = [getattr(p, key) for p in points]
            axes.plot([p.layer for p in points], values, **layer_style(one, LAYER_NMS.index(way)))
        axes.set_xlabel("decoder layer")
        ap_axis(axes, label)
        axes.set_xticks(range(1, one.model.num_layers + 1))

    name = f"{label} per layer, {one.model.label}"
    legend = [(f"swatch-l{one.index}-{LAYER_NMS.index(t)}", nms_name(t)) for t in ways]
    return plot(f"layers-{key}-{one.index}", name, on, [], legend, size=SMALL)


def scores(series: Sequence[Series]) -> list[Plot]:
    """F1, precision and recall over the score, with the operating scores."""
    shown = [x for x in series if x.model.operating is not None and x.model.operating.curve.scores]
    names = {"f1": "F1", "precision": "Precision", "recall": "Recall"}
    return [_score(shown, key, name) for key, name in names.items()] if shown else []


def _score(shown: Sequence[Series], key: str, name: str) -> Plot:
    def on(axes: Axes) -> None:
        for end in (0, 1):  # between them the script moves the line of the slider
            axes.plot([end, end], [0, 100], color=INK, linewidth=1, alpha=0, gid=f"{LIVE}score-{end}")
        for x in shown:
            assert x.model.operating is not None
            curve = x.model.operating.curve
            values = getattr(curve, key)
            axes.plot(curve.scores, values, **{**series_style(x.index), "marker": None})
            for score in dict.fromkeys(s for s in x.model.operating.scores if finite(s)):
                mark = {**series_style(x.index), "linestyle": "none", "markersize": 7}
                axes.plot([score], [float(np.interp(score, curve.scores, values))], **mark)
        axes.set(xlim=(-0.02, 1.02), ylim=(0, 103), xlabel="score", ylabel=f"{name} (%)")

    return plot(f"score-{key}", f"{name} over the score", on, shown, size=SMALL)


def counting(series: Sequence[Series]) -> Plot | None:
    """Predicted over true number of objects."""
    shown = [(x, x.model.counting.groups) for x in series if x.model.counting is not None]
    shown = [(x, [g for g in groups if finite(g.true_mean, g.predicted_mean)]) for x, groups in shown]
    shown = [(x, groups) for x, groups in shown if groups]
    if not shown:
        return None

    def on(axes: Axes) -> None:
        end = max(max(g.true_mean, g.predicted_mean) for _, groups in shown for g in groups)
        axes.plot([0, end], [0, end], color=MUTED, linewidth=1)
        for x, groups in shown:
            axes.plot([g.true_mean for g in groups], [g.predicted_mean for g in groups], **series_style(x.index))
        axes.set(xlabel="objects of an image, mean of the group", ylabel="detections, mean of the group")
        axes.margins(0.08)

    return plot("counting", "Number of detections against number of objects", on, [x for x, _ in shown])


def missed(series: Sequence[Series]) -> Plot | None:
    """Share of missed objects over the number of objects, models with queries."""
    shown = [(x, x.model.query_limit.groups) for x in series if x.model.query_limit is not None]
    names = list(dict.fromkeys((g.low, g.high) for _, groups in shown for g in groups))
    if not names:
        return None

    def on(axes: Axes) -> None:
        for x, groups in shown:
            shares = {(g.low, g.high): 100 * g.missed / g.num_objects for g in groups if g.num_objects}
            axes.plot(range(len(names)), [shares.get(n, math.nan) for n in names], **series_style(x.index))
        axes.set_xticks(range(len(names)), [range_name(*n) for n in names])
        axes.set(xlabel="objects of an image", ylabel="objects missed (%)")
        axes.margins(y=0.08)
        axes.set_ylim(bottom=0)

    return plot("missed", "Missed objects", on, [x for x, _ in shown])
