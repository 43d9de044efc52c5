"""Figures of the page of `compare`: how right, how fast, which errors.

Each is None or empty where no model has what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from .plot import SMALL, STAGES, Plot, Series, ap_axis, finite, plot
from .svg import PAPER, colour, series_style, shade


def precision_recall(series: Sequence[Series]) -> list[Plot]:
    """One panel per overlap."""
    ious = list(dict.fromkeys(curve.iou for x in series for curve in x.model.curves))
    return [_precision_recall(series, iou) for iou in ious]


def _precision_recall(series: Sequence[Series], iou: float | None) -> Plot:
    name = "mean over IoU 0.50 to 0.95" if iou is None else f"IoU {iou:.2f}"
    curves = [(x, c) for x in series for c in x.model.curves if c.iou == iou]

    def on(axes: Axes) -> None:
        for x, curve in curves:
            style = {**series_style(x.index), "marker": None}
            axes.plot(curve.recall, curve.precision, **style)
        axes.set(xlim=(0, 101), ylim=(0, 102), xlabel="recall (%)", ylabel="precision (%)")

    place = "mean" if iou is None else f"{100 * iou:.0f}"
    return plot(f"pr-{place}", f"Precision over recall, {name}", on, [x for x, _ in curves], size=SMALL)


def speed(series: Sequence[Series]) -> Plot | None:
    """AP against the median time of an image."""
    points = []
    for x in series:
        total = next((s for s in x.model.cost.latency if s.stage == "total"), None) if x.model.cost else None
        if total is not None and x.model.coco is not None and finite(total.p50_ms, x.model.coco.ap):
            points.append((x, total, x.model.coco.ap))
    if not points:
        return None

    def on(axes: Axes) -> None:
        for x, time, ap in points:
            interval = x.model.confidence.get("ap")
            below_above = [[0.0], [0.0]]
            if interval is not None and finite(interval.low, interval.high):
                below_above = [[max(0.0, ap - interval.low)], [max(0.0, interval.high - ap)]]
            style = {**series_style(x.index), "markersize": 8}
            axes.errorbar([time.p50_ms], [ap], yerr=below_above, capsize=4, **style)
        axes.set_xlabel("median time of one image (ms)")
        axes.margins(y=0.15)
        ap_axis(axes, "AP")
        axes.set_xlim(0, 1.15 * max(time.p50_ms for _, time, _ in points))

    return plot("speed", "AP against time", on, [x for x, *_ in points], size=SMALL)


def errors(series: Sequence[Series]) -> Plot | None:
    """AP50 that each kind of error costs."""
    shown = [x for x in series if x.model.errors]
    kinds = list(dict.fromkeys(e.kind for x in shown for e in x.model.errors))
    if not kinds:
        return None
    height = 0.8 / len(shown)

    def on(axes: Axes) -> None:
        for place, x in enumerate(shown):
            gains = {e.kind: e.delta_ap50 for e in x.model.errors}
            rows = [row + (place - (len(shown) - 1) / 2) * height for row in range(len(kinds))]
            values = [gains.get(kind, math.nan) for kind in kinds]
            axes.barh(rows, values, height * 0.9, color=colour(x.index))
        axes.set_yticks(range(len(kinds)), kinds)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("AP50 gained if these errors were repaired")

    legend = [(f"swatch-b{x.index}", x.model.label) for x in shown]
    return plot("errors", "What each kind of error costs", on, shown, legend, size=(4.7, 3.3))


def stages(series: Sequence[Series]) -> Plot | None:
    """Median time of each part of the model, stacked."""
    shown = [x for x in series if x.model.cost is not None and x.model.cost.latency]
    times = [{s.stage: s.p50_ms for s in x.model.cost.latency} for x in shown if x.model.cost]
    used = [s for s in STAGES if any(finite(t.get(s, math.nan)) for t in times)]
    if not used:
        return None

    def on(axes: Axes) -> None:
        left = [0.0] * len(shown)
        for stage in used:
            widths = [t[stage] if finite(t.get(stage, math.nan)) else 0.0 for t in times]
            style: dict[str, Any] = {"color": shade(STAGES.index(stage)), "edgecolor": PAPER, "linewidth": 0.8}
            axes.barh(range(len(shown)), widths, 0.6, left=left, **style)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(shown)), [_short(x.model.label) for x in shown])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("median time (ms)")

    size = (SMALL[0], 1.0 + 0.45 * len(shown))
    legend = [(f"swatch-s{STAGES.index(s)}", s) for s in used]
    return plot("stages", "Where the time goes", on, shown, legend, size=size)


def throughput(series: Sequence[Series]) -> Plot | None:
    """Images per second over the batch size."""
    shown = [(x, x.model.cost.throughput) for x in series if x.model.cost is not None]
    shown = [(x, points) for x, points in shown if len(points) > 1]
    if not shown:
        return None

    def on(axes: Axes) -> None:
        for x, points in shown:
            rates = [p.images_per_second for p in points]
            axes.plot([p.batch_size for p in points], rates, **series_style(x.index))
        sizes = sorted({p.batch_size for _, points in shown for p in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="images at once", ylabel="images per second")
        axes.set_ylim(bottom=0)

    return plot("throughput", "Images per second", on, [x for x, _ in shown], size=SMALL)


def _short(text: str, length: int = 12) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
