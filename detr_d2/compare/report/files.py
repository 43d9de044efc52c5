"""The main figures of a comparison as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..records import Comparison, ModelComparison, NmsPoint
from .mask_figures import mask_figure, panoptic_figure

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{x: "\\" + x for x in "&%$#_{}"},
}


@dataclass(frozen=True)
class _Column:
    """One figure: its head in a table, its name in CSV, where it is, and its digits."""

    head: str
    name: str
    value: Callable[[ModelComparison], float]
    digits: int = 1


_NAN = float("nan")


def _coco(name: str) -> Callable[[ModelComparison], float]:
    return lambda x: getattr(x.coco, name) if x.coco else _NAN


def _cost(value: Callable[[ModelComparison], float]) -> Callable[[ModelComparison], float]:
    return lambda x: value(x) if x.cost else _NAN


def nms_point(model: ModelComparison, nms_threshold: float | None) -> NmsPoint | None:
    """What an NMS makes of the last layer's detections; None if it was not tried."""
    points = (x for x in model.nms if x.layer == model.num_layers and x.nms_threshold == nms_threshold)
    return next(points, None)


def _without_nms(model: ModelComparison) -> float:
    point = nms_point(model, None)
    known = model.shipped is None or model.shipped.nms_switched_off
    return point.ap if point is not None and known else _NAN


_COLUMNS = (
    _Column("AP", "ap", _coco("ap")),
    _Column("AP50", "ap50", _coco("ap50")),
    _Column("AP75", "ap75", _coco("ap75")),
    _Column("APs", "ap_small", _coco("ap_small")),
    _Column("APm", "ap_medium", _coco("ap_medium")),
    _Column("APl", "ap_large", _coco("ap_large")),
    _Column("AR", "ar_max", _coco("ar_max")),
    _Column("AP without NMS", "ap_without_nms", _without_nms),
    _Column("params (M)", "parameters_m", _cost(lambda x: x.cost.parameters / 1e6 if x.cost else _NAN)),
    _Column("GFLOPs", "gflops", _cost(lambda x: x.cost.gflops if x.cost else _NAN)),
    _Column("ms/image", "latency_p50_ms", _cost(lambda x: x.cost.latency[0].p50_ms if x.cost else _NAN)),
    _Column("memory (MB)", "peak_memory_mb", _cost(lambda x: x.cost.peak_memory_mb if x.cost else _NAN), 0),
)
_MASK_COLUMNS = (
    _Column("mask AP", "mask_ap", mask_figure("ap")),
    _Column("mask AP50", "mask_ap50", mask_figure("ap50")),
    _Column("boundary AP", "boundary_ap", mask_figure("boundary_ap")),
    _Column("boundary IoU", "boundary_iou", mask_figure("boundary_iou")),
)
_PANOPTIC_COLUMNS = (
    _Column("PQ", "pq", panoptic_figure("pq")),
    _Column("SQ", "sq", panoptic_figure("sq")),
    _Column("RQ", "rq", panoptic_figure("rq")),
)


def _columns(comparison: Comparison) -> tuple[_Column, ...]:
    """Those of masks and panoptic maps only if a model has them."""
    masks = _MASK_COLUMNS if any(x.masks is not None for x in comparison.models) else ()
    panoptic = _PANOPTIC_COLUMNS if any(x.panoptic is not None for x in comparison.models) else ()
    return (*_COLUMNS, *masks, *panoptic)


def main_rows(comparison: Comparison) -> list[list[str]]:
    """Head and one row per model; "-" for what is unknown, a star on the label of a model that failed."""
    columns = _columns(comparison)
    head = ["model", *(column.head for column in columns)]
    rows = [
        [x.label + (" *" if x.failed else ""), *(_text(column.value(x), column.digits) for column in columns)]
        for x in comparison.models
    ]
    return [head, *rows]


def markdown_table(comparison: Comparison) -> str:
    """The main figures, with the intervals of AP and the failed models below."""
    head, *rows = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in main_rows(comparison))
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
    notes = []
    for x in comparison.models:
        if x.failed:
            notes.append(f"* {x.label} failed: {x.failed}")
        elif (interval := x.confidence.get("ap")) is not None and math.isfinite(interval.low):
            notes.append(
                f"- {x.label}: AP {interval.value:.1f}, 95 % interval {interval.low:.1f} to {interval.high:.1f}"
            )
    data = comparison.dataset
    notes.append(f"- data: {data.name}, {data.num_images:,} images, {data.num_objects:,} objects")
    return "\n".join([*lines, "", *notes]) + "\n"


def latex_table(comparison: Comparison) -> str:
    """The main figures for the package booktabs."""
    head, *rows = main_rows(comparison)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _latex_row(head),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(x, x) for x in cell) for cell in cells) + r" \\"


def models_csv(comparison: Comparison) -> str:
    """One row per model with full precision; an unknown figure is an empty cell."""
    columns = _columns(comparison)
    head = ["model", "config_file", "weights", "failed", "ap_low", "ap_high", *(column.name for column in columns)]
    rows = []
    for x in comparison.models:
        interval = x.confidence.get("ap")
        bounds = [interval.low, interval.high] if interval else [_NAN, _NAN]
        figures = [*bounds, *(column.value(x) for column in columns)]
        rows.append([x.label, x.run.config_file, x.weights, x.failed, *map(_cell, figures)])
    return _csv([head, *rows])


def per_class_csv(comparison: Comparison) -> str:
    """One row per model and class."""
    rows: list[list[str]] = [["model", "class", "num_objects", "ap", "ap50", "ar"]]
    for model in comparison.models:
        classes = model.coco.per_class if model.coco else []
        rows += [[model.label, x.name, str(x.num_objects), _cell(x.ap), _cell(x.ap50), _cell(x.ar)] for x in classes]
    return _csv(rows)


def nms_csv(comparison: Comparison) -> str:
    """One row per model, decoder layer and NMS threshold (empty without NMS)."""
    rows: list[list[str]] = [
        ["model", "layer", "nms_threshold", "shipped", "ap", "ap50", "kept_per_image", "detections_per_image"]
    ]
    for model in comparison.models:
        for x in model.nms:
            threshold = _NAN if x.nms_threshold is None else x.nms_threshold
            figures = map(_cell, (x.ap, x.ap50, x.kept_per_image, x.detections_per_image))
            rows.append([model.label, str(x.layer), _cell(threshold), str(int(x.shipped)), *figures])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _text(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
