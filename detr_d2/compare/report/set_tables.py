"""The tables of the page of `compare` on detections as a set: extra boxes, crowds, counting, queries, cures."""

from __future__ import annotations

import math
from functools import partial

from ..records.comparison import Comparison, ModelComparison
from ..records.figures import Interval
from ..records.sets import FEWEST_OBJECTS, CrowdBin, ExtraBoxes
from .cells import Cell, Live, Table, by_model, dash, decimal, failure, number, word
from .plots.plot import bin_name, range_name
from .summary import interval_text


def extra_boxes_table(comparison: Comparison) -> Table:
    """A row per model and setting, and what the ground truth alone says of NMS."""
    columns = [
        "Model",
        "Setting",
        "Detections",
        "Objects found",
        "Extra boxes (%)",
        "Of another class (%)",
        "Objects that NMS lost",
    ]
    rows = []
    for model in comparison.models:
        if not model.extra_boxes:
            why = failure(model) if model.failed else "not measured"
            rows.append([word(model.label), *[dash(why)] * (len(columns) - 1)])
        rows += [[word(model.label), *_extra(x)] for x in model.extra_boxes]
    if rows and math.isfinite(comparison.dataset.overlapped_share):
        truth, share = "not asked of the ground truth", comparison.dataset.overlapped_share
        lost = Cell(f"{decimal(share)} %", detail="of the objects", sort=share)
        count = number(comparison.dataset.num_objects, 0)
        rows.append(
            [word("Ground truth"), word("with NMS (IoU 0.5)"), count, dash(truth), dash(truth), dash(truth), lost]
        )
    return Table("extra-table", "Boxes on objects that have a better scored one", columns, rows, words=(1,))


def _extra(x: ExtraBoxes) -> list[Cell]:
    setting = x.setting if x.nms_threshold is None else f"{x.setting} (IoU {x.nms_threshold:g})"
    none = "no object is found"
    shares = [number(value, 1, reason=none) for value in (x.extra, x.other_label)]
    return [word(setting), number(x.detections, 0), number(x.found, 0), *shares, number(x.removed, 0)]


def crowds_table(comparison: Comparison) -> Table:
    """Recall with and without NMS, what is lost, and normalised AP: a row per bin and model."""
    columns = [
        "Overlap",
        "Objects",
        "Found (%)",
        "Without NMS (%)",
        "By chance (%)",
        "Lost to NMS (%)",
        "Normalised AP",
    ]
    bins = dict.fromkeys((b.low, b.high) for model in comparison.models for b in model.crowds if b.num_objects)
    rows = []
    for name in bins:
        for place, model in enumerate(comparison.models):
            at = next((i for i, b in enumerate(model.crowds) if (b.low, b.high) == name), None)
            if at is not None:
                rows.append([word(f"{bin_name(*name)}, {model.label}"), *_crowd(model.crowds[at], at, place)])
    return Table("crowds-table", "Objects by their overlap with another of their class", columns, rows)


def _crowd(b: CrowdBin, at: int, place: int) -> list[Cell]:
    unknown = "it is not known what NMS removed"
    without = _interval(b.recall_without_nms, unknown)
    lost = _interval(b.lost, "there is no NMS, or it is not known what it removed")
    if b.num_objects < FEWEST_OBJECTS:
        lost = dash(f"fewer than {FEWEST_OBJECTS} objects: no verdict")
    found = Live(place, f"crowds.{at}", 1, 100).on(_interval(b.recall, "no object in this bin"), b.recall.value)
    if b.recall_without_nms is not None:
        without = Live(place, f"crowds_without_nms.{at}", 1, 100).on(without, b.recall_without_nms.value)
    chance = number(b.chance, 1, reason=unknown)
    return [number(b.num_objects, 0), found, without, chance, lost, _interval(b.ap, "no object in this bin")]


def _interval(interval: Interval | None, reason: str) -> Cell:
    if interval is None:
        return dash(reason)
    return number(interval.value, 1, reason=reason, detail=interval_text(interval))


def counting_table(comparison: Comparison) -> Table:
    """Counting error, all images and by the number of objects."""

    def figure(key: str, digits: int, unit: str, model: ModelComparison) -> Cell:
        return number(getattr(model.counting, key, None), digits, unit)

    def group(name: tuple[int, int], model: ModelComparison) -> Cell:
        groups = model.counting.groups if model.counting else []
        found = next((g for g in groups if (g.low, g.high) == name), None)
        if found is None:
            return dash("not measured")
        detail = f"{decimal(found.predicted_mean)} found, {decimal(found.true_mean)} there"
        return number(found.mean_absolute_error, 2, detail=detail, reason="no such image")

    names = dict.fromkeys((g.low, g.high) for m in comparison.models if m.counting for g in m.counting.groups)
    rows = [
        ("Mean error (detections − objects)", partial(figure, "mean_error", 2, "")),
        ("Mean size of the error", partial(figure, "mean_absolute_error", 2, "")),
        ("Images with the right number", partial(figure, "exact_share", 1, "%")),
        *((f"Size of the error, images with {_objects(*name)}", partial(group, name)) for name in names),
    ]
    return by_model("counting-table", "Counting error", comparison.models, rows, first="Measure")


def queries_table(comparison: Comparison) -> Table:
    """Objects against queries, models with queries only."""
    models = [model for model in comparison.models if model.query_limit is not None]

    def figure(key: str, model: ModelComparison) -> Cell:
        return number(getattr(model.query_limit, key), 0)

    def group(name: tuple[int, int], model: ModelComparison) -> Cell:
        groups = model.query_limit.groups if model.query_limit else []
        found = next((g for g in groups if (g.low, g.high) == name), None)
        if found is None or not found.num_objects:
            return dash("no such image")
        share = 100 * found.missed / found.num_objects
        return number(share, 1, "%", detail=f"{found.missed:,} of {found.num_objects:,}")

    names = dict.fromkeys((g.low, g.high) for m in models if m.query_limit for g in m.query_limit.groups)
    rows = [
        ("Queries", partial(figure, "num_queries")),
        ("Most objects of an image", partial(figure, "max_objects")),
        ("Images with more objects than queries", partial(figure, "images_over")),
        ("Objects that cannot be found", partial(figure, "objects_over")),
        *((f"Missed in images with {_objects(*name)}", partial(group, name)) for name in names),
    ]
    return by_model("queries-table", "Number of objects against number of queries", models, rows, first="Measure")


def _objects(low: int, high: int) -> str:
    return f"{range_name(low, high)} {'object' if low == high == 1 else 'objects'}"


def cures_table(comparison: Comparison) -> Table:
    """What would remove duplicates at test time; a first row per model of what it gives as shipped."""
    columns = ["Model", "At test time", "AP", "AP50", "Recall (%)", "Extra boxes (%)", "Of another class (%)"]
    rows = []
    for model in (x for x in comparison.models if x.cures and x.coco is not None and x.operating is not None):
        assert model.coco is not None
        assert model.operating is not None
        ways = [("as shipped", model.coco.ap, model.coco.ap50, model.operating.at)]
        ways += [(f"{x.name} ({x.setting})", x.ap, x.ap50, x.at) for x in model.cures]
        for name, ap, ap50, at in ways:
            gain = "" if name == "as shipped" else decimal(ap - model.coco.ap, sign=True)
            figures = [number(value, 1, reason="no object is found") for value in (at.recall, at.extra, at.other_label)]
            rows.append([word(model.label), word(name), number(ap, detail=gain), number(ap50), *figures])
    return Table("cures-table", "What a cure would give, if it were switched on", columns, rows, words=(1,))
