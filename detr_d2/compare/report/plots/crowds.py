"""Figures of the page of `compare` on crowds: what is found of objects by their overlap with others of their class.

Each is left out where no model has what it shows. The lines that the slider moves are named by `LIVE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from ...records.figures import Interval
from ...records.sets import FEWEST_OBJECTS, CrowdBin
from .plot import LOST_ALPHA, Plot, Series, bin_name, chance_style, finite, plot, shipped_style, without_style
from .svg import LIVE, MUTED, colour

_Bin = tuple[float, float]
_OWN = f"{LIVE}own"
_SHIFT = 0.1  # between the marks of two models


def crowds(series: Sequence[Series]) -> list[Plot]:
    """Recall and normalised AP over the overlap of an object with its nearest of the same class."""
    shown = [x for x in series if x.model.crowds]
    counts = {(b.low, b.high): b.num_objects for x in shown for b in x.model.crowds if b.num_objects}
    return [_recall(shown, counts), _precision(shown, counts)] if counts else []


def _recall(shown: Sequence[Series], counts: dict[_Bin, int]) -> Plot:
    legend: list[tuple[str, str]] = []
    for x in shown:
        legend.append((f"swatch-c{x.index}", x.model.label))
        if not _differs_without_nms(x):
            continue
        legend.append((f"swatch-w{x.index}", f"{x.model.label} without NMS"))
        if any(finite(b.chance) for b in x.model.crowds):
            legend += [(f"swatch-k{x.index}", f"{x.model.label} without NMS, by chance")]
        if any(b.lost is not None and b.lost.value > 0 for b in x.model.crowds):
            legend += [(f"swatch-f{x.index}", f"lost to NMS by {x.model.label}")]

    def on(axes: Axes) -> None:
        _ground(axes, counts, "recall (%)")
        for place, x in enumerate(shown):
            bins, places = _bins(x, counts, place, len(shown))
            tint = colour(x.index)
            found = [b.recall.value for b in bins]
            differs = _differs_without_nms(x)
            if differs and any(b.lost is not None for b in bins):
                lost = [b.lost.value if b.lost is not None else math.nan for b in bins]
                above = [b.chance + y for b, y in zip(bins, lost, strict=True)]
                axes.fill_between(
                    places, [b.chance for b in bins], above, color=tint, alpha=LOST_ALPHA, linewidth=0, gid=_OWN
                )
            if differs and any(finite(b.chance) for b in bins):
                axes.plot(places, [b.chance for b in bins], **chance_style(x.index), gid=_OWN)
            if differs:
                without = [b.recall_without_nms.value if b.recall_without_nms else math.nan for b in bins]
                axes.plot(places, without, **without_style(x.index), gid=f"{LIVE}{x.index}.crowds_without_nms")
            _whiskers(axes, places, [b.recall for b in bins], tint)
            axes.plot(places, found, **shipped_style(x.index), gid=f"{LIVE}{x.index}.crowds")

    return plot("crowds-recall", "Recall by overlap", on, [], legend)


def _precision(shown: Sequence[Series], counts: dict[_Bin, int]) -> Plot:
    def on(axes: Axes) -> None:
        _ground(axes, counts, "normalised AP at IoU 0.5")
        for place, x in enumerate(shown):
            bins, places = _bins(x, counts, place, len(shown))
            _whiskers(axes, places, [b.ap for b in bins], colour(x.index))
            axes.plot(places, [b.ap.value for b in bins], **shipped_style(x.index))

    legend = [(f"swatch-c{x.index}", x.model.label) for x in shown]
    return plot("crowds-ap", "Normalised AP by overlap, as shipped", on, [], legend)


def _ground(axes: Axes, counts: dict[_Bin, int], label: str) -> None:
    """Axes, with hatches over bins that say nothing, and the scale of what moves."""
    for place, number in enumerate(counts.values()):
        if number < FEWEST_OBJECTS:
            box: dict[str, Any] = {"facecolor": "none", "edgecolor": MUTED, "hatch": "///", "linewidth": 0}
            axes.axvspan(place - 0.5, place + 0.5, **box, alpha=0.5, zorder=0)
    axes.plot([0, 0], [0, 100], alpha=0, gid=f"{LIVE}scale")
    axes.set_xticks(range(len(counts)), [f"{bin_name(*b)}\n({n})" for b, n in counts.items()])
    axes.set(xlabel="largest IoU with another object of the class (objects)", ylabel=label)
    axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(0, 103))


def _bins(x: Series, counts: dict[_Bin, int], place: int, models: int) -> tuple[list[CrowdBin], list[float]]:
    """The bins of a model that have objects, and where they stand: side by side with those of other models."""
    shift = (place - (models - 1) / 2) * min(_SHIFT, 0.6 / models)
    names = list(counts)
    bins = [b for b in x.model.crowds if b.num_objects]
    return bins, [names.index((b.low, b.high)) + shift for b in bins]


def _whiskers(axes: Axes, places: Sequence[float], values: Sequence[Interval], tint: str) -> None:
    known = [(p, v) for p, v in zip(places, values, strict=True) if finite(v.value, v.low, v.high)]
    if not known:
        return
    below = [max(0.0, v.value - v.low) for _, v in known]
    above = [max(0.0, v.high - v.value) for _, v in known]
    style: dict[str, Any] = {"fmt": "none", "ecolor": tint, "elinewidth": 1, "capsize": 2.5, "alpha": 0.7}
    bars = axes.errorbar([p for p, _ in known], [v.value for _, v in known], yerr=[below, above], **style)
    for artist in (*bars.lines[1], *bars.lines[2]):
        artist.set_gid(_OWN)


def _differs_without_nms(x: Series) -> bool:
    """Whether NMS changes what is found; two equal lines would hide each other."""
    return any(
        b.recall_without_nms is not None and abs(b.recall_without_nms.value - b.recall.value) > 1e-9
        for b in x.model.crowds
        if b.num_objects
    )
