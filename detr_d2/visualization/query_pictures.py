"""Object queries as pictures: where their boxes fall, and which classes they fire for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..files import write_figure
from .queries import KINDS, SMALL_AREA, QueryPredictions

COLUMNS = 5
_KIND_COLOURS = ("#1a9850", "#d73027", "#4575b4")  # green, red, blue, as in the paper
_MANY_CLASSES = 9  # more than these, and the rare ones share a colour


def save_query_boxes(
    path: str | os.PathLike[str],
    predictions: QueryPredictions,
    summaries: Sequence[dict[str, Any]],
    queries: Sequence[int],
    *,
    small_area: float = SMALL_AREA,
) -> None:
    """Writes a PNG with a square for each query and a point for each of its boxes, at the centre of the box.

    Args:
        path: of the PNG.
        predictions: of all queries.
        summaries: see `summarise_queries`.
        queries: that get a square, at least one.
        small_area: in square pixels of the image.

    Paper: Carion et al. 2020, Fig. 7.
    """
    columns = min(COLUMNS, len(queries))
    rows = math.ceil(len(queries) / columns)
    figure = Figure(figsize=(2.0 * columns, 2.2 * rows + 0.5), dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    kinds = predictions.kinds(small_area)
    size = min(12.0, max(0.5, 2000 / len(kinds)))  # square points
    for axis, query in zip(axes, queries, strict=False):
        x, y = predictions.boxes_cxcywh[:, query, :2].T
        axis.scatter(x, y, s=size, c=np.array(_KIND_COLOURS)[kinds[:, query]], linewidths=0, alpha=0.7)
        axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"query {query}, fires in {100 * summaries[query]['fires']:.0f}%", fontsize=7)
    for axis in axes[len(queries) :]:
        axis.set_axis_off()
    marks = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in _KIND_COLOURS]
    figure.legend(marks, KINDS, loc="outside lower center", ncols=len(KINDS), fontsize=8, frameon=False)
    write_figure(path, figure)


def class_groups(summaries: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Label and class names of each part of the bars: the frequent classes one by one, the others together."""
    total: dict[str, int] = {}
    for summary in summaries:
        for name, count in summary["classes"].items():
            total[name] = total.get(name, 0) + count
    frequent = sorted(total, key=lambda name: -total[name])
    groups = [(name, [name]) for name in frequent[:_MANY_CLASSES]]
    if frequent[_MANY_CLASSES:]:
        groups.append((f"{len(frequent) - _MANY_CLASSES} others", frequent[_MANY_CLASSES:]))
    return groups


def save_query_classes(
    path: str | os.PathLike[str], summaries: Sequence[dict[str, Any]], queries: Sequence[int], num_images: int
) -> None:
    """Writes a PNG with a bar for each query: the share of images in which it fires, divided by class.

    Args:
        path: of the PNG.
        summaries: see `summarise_queries`.
        queries: that get a bar, at least one.
        num_images: that the summaries are of.
    """
    groups = class_groups([summaries[query] for query in queries])
    figure = Figure(figsize=(max(6.0, 0.3 * len(queries) + 2.0), 4.0), dpi=120, layout="constrained")
    axis = figure.subplots()
    bottom = np.zeros(len(queries))
    for index, (label, names) in enumerate(groups):
        counts = [sum(summaries[query]["classes"].get(name, 0) for name in names) for query in queries]
        share = 100 * np.array(counts) / num_images
        colour = colormaps["tab10"](index)
        axis.bar(range(len(queries)), share, bottom=bottom, color=colour, label=label.replace("$", r"\$"))
        bottom += share
    axis.set_xticks(range(len(queries)), [str(query) for query in queries], fontsize=7)
    axis.set(xlabel="query", ylabel="images in which it fires (%)")
    if groups:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    write_figure(path, figure)
