"""The summary of a comparison as one picture, of the size that chats and README files show: 1200 x 630 pixels."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...records.comparison import Comparison, ModelComparison
from ...records.sets import USUAL_NMS
from ..cells import DASH, decimal, span
from ..measures import nms_point, time_of
from .plot import Plot, Series, live_series
from .svg import INK, MUTED, series_style

SUMMARY_DPI = 100
_SIZE = (12.0, 6.3)  # inches
_MOST_MODELS = 5

_COLUMNS = (0.035, 0.265, 0.375, 0.555)  # left edges: model, AP, AP without and with NMS, time
_TOP, _LOWEST, _MOST_STEP = 0.61, 0.14, 0.22  # first and last possible row of the table, and the widest step


def summary_figure(comparison: Comparison, sweep: Plot | None) -> Figure:
    """Title, a row per model with AP, what NMS does to it and its time, and AP over the threshold of NMS.

    Args:
        comparison: the record.
        sweep: the plot of AP over the threshold; None if there is none, and then its place is empty.
    """
    figure = Figure(figsize=_SIZE)
    data = comparison.dataset
    _write(figure, 0.035, 0.88, _short(f"Detectors compared on {data.name}", 52), size=27, weight="bold")
    facts = f"{_counted(data.num_images, 'image')}, {_counted(data.num_objects, 'object')}, "
    _write(figure, 0.035, 0.81, facts + _counted(len(data.class_names), "class", "classes"), size=15, colour=MUTED)
    for x, head in zip(_COLUMNS, ("", "AP", "AP without → with NMS", "ms per image"), strict=True):
        _write(figure, x, 0.715, head.replace(" NMS", "\nNMS").replace(" per", "\nper"), size=12, colour=MUTED)
    series = live_series(comparison)
    shown = series[:_MOST_MODELS]
    step = min(_MOST_STEP, (_TOP - _LOWEST) / max(1, len(shown) - 1))
    for row, one in enumerate(shown):
        _model(figure, one, _TOP - row * step)
    if len(series) > len(shown):
        _write(figure, _COLUMNS[0], 0.06, f"and {len(series) - len(shown)} more", size=12, colour=MUTED)
    _write(figure, 0.97, 0.03, "detr_d2 compare", size=11, colour=MUTED, align="right")
    if sweep is not None:
        axes = figure.add_axes((0.69, 0.17, 0.28, 0.56))
        sweep.draw_on(axes)
        _enlarge(axes)
    return figure


def headline_figures(model: ModelComparison) -> list[str]:
    """AP, its interval, what NMS makes of AP, at which threshold, and the time of one image, as texts."""
    ap = model.confidence.get("ap")
    value = ap.value if ap is not None else model.run.ap
    own = model.shipped.nms_threshold if model.shipped is not None else None
    threshold = USUAL_NMS if own is None else own
    without, with_nms = nms_point(model, None), nms_point(model, threshold)
    known = without is not None and with_nms is not None and (model.shipped is None or model.shipped.nms_switched_off)
    change = f"{decimal(without.ap)} → {decimal(with_nms.ap)}" if known and without and with_nms else DASH
    used = "as shipped" if own is not None else "not used"
    time = time_of(model)[0]
    return [
        decimal(value) if math.isfinite(value) else DASH,
        span(ap.low, ap.high) if ap is not None else "",
        change,
        f"at IoU {threshold:g}, {used}" if known else "",
        decimal(time) if math.isfinite(time) else DASH,
    ]


def _model(figure: Figure, one: Series, y: float) -> None:
    ap, interval, change, at, time = headline_figures(one.model)
    style = {**series_style(one.index), "markersize": 8, "linewidth": 2.5}
    figure.add_artist(Line2D([_COLUMNS[0], _COLUMNS[0] + 0.03], [y + 0.012] * 2, markevery=[1], **style))
    _write(figure, _COLUMNS[0] + 0.045, y, _short(one.model.label, 18), size=14.5)
    for x, text, detail in zip(_COLUMNS[1:], (ap, change, time), (interval, at, ""), strict=True):
        _write(figure, x, y, text, size=18, weight="bold")
        _write(figure, x, y - 0.04, detail, size=10.5, colour=MUTED)


def _enlarge(axes: Axes) -> None:
    """Text and lines that are read in a small picture of the picture."""
    axes.set_title("AP over the threshold of NMS", fontsize=13)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    axes.tick_params(labelsize=11)


def _write(
    figure: Figure, x: float, y: float, text: str, *, size: float, weight: str = "normal", colour: str = INK,
    align: str = "left",
) -> None:  # fmt: skip
    figure.text(x, y, text, fontsize=size, fontweight=weight, color=colour, ha=align)


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
