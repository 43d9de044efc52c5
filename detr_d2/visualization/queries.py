"""What each object query predicts over a dataset, in figures and pictures: where, which classes, how often it fires.

Paper: Carion et al. 2020, Sec. 4.3 "Decoder output slot analysis" and Fig. 7.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..files import write_figure
from ..modeling import DETR

SMALL_AREA = 32.0**2
"""Square pixels below which COCO calls an object small."""

KINDS = ("small", "large horizontal", "large vertical")
_COLUMNS = 5
_KIND_COLOURS = ("#1a9850", "#d73027", "#4575b4")  # green, red, blue, as in the paper
_MANY_CLASSES = 9  # more than these, and the rare ones share a colour


@dataclass(frozen=True)
class QueryPredictions:
    """Predictions of Q queries on N images, by the last decoder layer.

    Attributes:
        boxes_cxcywh: (N, Q, 4), normalised by the image.
        scores: (N, Q), of the best class.
        classes: (N, Q), the best class, "no object" apart.
        sizes: (N, 2), height and width of the images in pixels.
    """

    boxes_cxcywh: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray

    def kinds(self, small_area: float = SMALL_AREA) -> np.ndarray:
        """(N, Q) indices into `KINDS`: small by its area in pixels of the image, else as wide as high or wider, else
        higher than wide."""
        width = self.boxes_cxcywh[..., 2] * self.sizes[:, None, 1]
        height = self.boxes_cxcywh[..., 3] * self.sizes[:, None, 0]
        return np.where(width * height < small_area, 0, np.where(width >= height, 1, 2))


@torch.no_grad()
def collect_queries(model: DETR, inputs: Iterable[dict[str, Any]]) -> QueryPredictions:
    """Runs a model over images, one after the other.

    Args:
        model: in eval mode, with queries that are the same for all images.
        inputs: of each image "image" (C, H, W), and "height" and "width" in pixels of the original; at least one.
    """
    assert not model.training
    boxes, scores, classes, sizes = [], [], [], []
    for x in inputs:
        logits, boxes_cxcywh = model.predict(model.preprocess_image([x]), all_layers=False)[:2]
        score, label, query = (y[0].cpu().numpy() for y in model.classification.select(logits[-1], None))
        _, best = np.unique(query, return_index=True)  # best first: the first of a query is its best class
        boxes.append(boxes_cxcywh[-1, 0].float().cpu().numpy())
        scores.append(score[best])
        classes.append(label[best])
        sizes.append((x["height"], x["width"]))
    return QueryPredictions(np.stack(boxes), np.stack(scores), np.stack(classes), np.array(sizes))


def summarise_queries(
    predictions: QueryPredictions,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    small_area: float = SMALL_AREA,
) -> list[dict[str, Any]]:
    """What can be said of each query, as JSON.

    Args:
        predictions: of all queries.
        class_names: K names.
        score_threshold: a query fires in an image if its score is at least this.
        small_area: in square pixels of the image.

    Returns:
        For each query: "query"; "fires", the share of images in which it does; "classes", name -> number of images in
        which it fires for that class, most frequent first; "kinds", name -> share of its boxes; "centre_mean" and
        "centre_std" (x, y), "size_mean" (width, height), all by the image; "score_mean". Boxes and scores are those of
        all images, whether it fires or not.
    """
    kinds = predictions.kinds(small_area)
    fired = predictions.scores >= score_threshold
    summaries = []
    for query in range(predictions.scores.shape[1]):
        boxes = predictions.boxes_cxcywh[:, query]
        counts = np.bincount(predictions.classes[fired[:, query], query], minlength=len(class_names))
        order = np.argsort(-counts, kind="stable")
        share = np.bincount(kinds[:, query], minlength=len(KINDS)) / len(kinds)
        summaries.append(
            {
                "query": query,
                "fires": float(fired[:, query].mean()),
                "classes": {class_names[k]: int(counts[k]) for k in order if counts[k]},
                "kinds": dict(zip(KINDS, share.tolist(), strict=True)),
                "centre_mean": boxes[:, :2].mean(0).tolist(),
                "centre_std": boxes[:, :2].std(0).tolist(),
                "size_mean": boxes[:, 2:].mean(0).tolist(),
                "score_mean": float(predictions.scores[:, query].mean()),
            }
        )
    return summaries


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
    columns = min(_COLUMNS, len(queries))
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
