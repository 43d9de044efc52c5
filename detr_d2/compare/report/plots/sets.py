"""Figures of the page of `compare` on predicting a set: NMS, decoder layers, crowds, counting, the limit of queries.

Each is None or empty where no model has what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from ...records.comparison import ModelComparison
from ...records.sets import NmsPoint
from .plot import LAYER_NMS, Plot, Series, ap_axis, bin_name, finite, layer_style, nms_name, plot, range_name
from .svg import MUTED, colour, series_style

_NO_NMS = 1.0  # where "none" stands on the axis of thresholds: NMS at IoU 1 removes nothing
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
                places = [_place(p) for p in points]
                axes.plot(places, [value(p) for p in points], **series_style(x.index))
                for p in (p for p in points if p.shipped):
                    axes.plot([_place(p)], [value(p)], **_RING, markeredgecolor=colour(x.index))
            ticks = sorted({_place(p) for _, points in sweeps for p in points if p.nms_threshold is not None})
            ticks = [*(t for t in ticks if round(100 * t) % 10 == 0), _NO_NMS]
            axes.set_xticks(ticks, ["none" if t == _NO_NMS else f"{t:.1f}" for t in ticks])
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

    name = f"{label} per decoder layer of {one.model.label}"
    legend = [(f"swatch-l{one.index}-{LAYER_NMS.index(t)}", nms_name(t)) for t in ways]
    return plot(f"layers-{key}-{one.index}", name, on, [], legend)


def crowding(series: Sequence[Series]) -> list[Plot]:
    """Recall and AP50 over the overlap of an object with its nearest of the same class."""
    shown = [x for x in series if x.model.crowding]
    bins = list(dict.fromkeys((b.low, b.high) for x in shown for b in x.model.crowding))
    counts = {(b.low, b.high): b.num_objects for x in shown for b in x.model.crowding}
    if not any(counts.values()):
        return []

    def panel(keys: Sequence[str], label: str) -> Callable[[Axes], None]:
        def on(axes: Axes) -> None:
            for x in shown:
                here = {(b.low, b.high): b for b in x.model.crowding}
                for key, dashes in zip(keys, ("-", ":"), strict=False):
                    values = [getattr(here[b], key) if b in here else math.nan for b in bins]
                    axes.plot(range(len(bins)), values, **{**series_style(x.index), "linestyle": dashes})
            axes.set_xticks(range(len(bins)), [f"{bin_name(*b)}\n({counts[b]})" for b in bins])
            axes.set(xlabel="largest IoU with another object of the class (objects)", ylabel=label)
            axes.set(xlim=(-0.3, len(bins) - 0.7), ylim=(0, 103))

        return on

    recall = panel(("recall", "recall_without_nms"), "recall (%)")
    return [
        plot("crowding-recall", "Recall: as shipped (solid) and without NMS (dotted)", recall, shown),
        plot("crowding-ap", "AP50 as shipped", panel(("ap50",), "AP50"), shown),
    ]


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


def last_layer(model: ModelComparison) -> list[NmsPoint]:
    """The sweep of what the model ships, strictest NMS first, no NMS last."""
    return sorted((p for p in model.nms if p.layer == model.num_layers), key=_place)


def _place(point: NmsPoint) -> float:
    return _NO_NMS if point.nms_threshold is None else point.nms_threshold
