"""The tables of the page of `compare` on how right its models are: NMS, decoder layers, errors, classes, masks."""

from __future__ import annotations

import math
from functools import partial

from ..records.comparison import Comparison, ModelComparison
from .cells import Cell, Table, by_model, dash, decimal, model_cell, number, word
from .measures import Measure, measures_of
from .plots.plot import last_layer, nms_name


def nms_table(comparison: Comparison) -> Table:
    """AP and kept detections under every NMS, last decoder layer."""
    points = {model.label: {p.nms_threshold: p for p in last_layer(model)} for model in comparison.models}
    thresholds = list(dict.fromkeys(t for at in points.values() for t in at if t is not None))

    def cell(threshold: float | None, model: ModelComparison) -> Cell:
        point = points[model.label].get(threshold)
        if point is None:
            return dash("this NMS was not tried")
        given = model.predictions is not None  # whose NMS, if there was one, is part of them
        if model.shipped is not None and not (model.shipped.nms_switched_off or given):
            return dash(f"the NMS of {model.label}, if it has one, cannot be switched off")
        shipped = ", as given" if given else ", as shipped"
        detail = f"{decimal(point.kept_per_image)} per image{shipped if point.shipped else ''}"
        return number(point.ap, detail=detail, reason="no object to find")

    rows = [(nms_name(t), partial(cell, t)) for t in [*sorted(thresholds), None]]
    caption = "AP, and below it the detections that NMS leaves"
    return by_model("nms-table", caption, comparison.models, rows, first="NMS")


def layer_tables(comparison: Comparison) -> list[Table]:
    """AP of every decoder layer under every NMS, per model that has several."""
    tables = []
    for index, model in enumerate(comparison.models):
        if model.failed or model.num_layers < 2 or not model.nms:
            continue
        at = {(p.layer, p.nms_threshold): p for p in model.nms}
        ways = [None, *sorted({p.nms_threshold for p in model.nms if p.nms_threshold is not None})]
        rows = []
        for layer in range(1, model.num_layers + 1):
            found = [at.get((layer, way)) for way in ways]
            rows.append([word(str(layer)), *(number(p.ap if p else None) for p in found)])
        columns = ["Layer", *("none" if way is None else f"{way:g}" for way in ways)]
        caption = f"AP of {model.label}: decoder layers by IoU threshold of NMS"
        tables.append(Table(f"layers-table-{index}", caption, columns, rows))
    return tables


def errors_table(comparison: Comparison) -> Table:
    """Kinds of error."""
    kinds = dict.fromkeys(e.kind for model in comparison.models for e in model.errors)

    def cell(kind: str, model: ModelComparison) -> Cell:
        found = next((e for e in model.errors if e.kind == kind), None)
        if found is None:
            return dash("not measured")
        return number(found.delta_ap50, detail=f"{found.count:,} {'error' if found.count == 1 else 'errors'}")

    rows = [(kind, partial(cell, kind)) for kind in kinds]
    return by_model("errors-table", "AP50 gained without this kind of error", comparison.models, rows, first="Kind")


def classes_table(comparison: Comparison) -> Table:
    """AP and AP50 of every class, to be sorted."""
    live = [model for model in comparison.models if not model.failed]
    per_class = {m.label: m.coco.per_class if m.coco is not None else [] for m in comparison.models}
    columns = ["Class", "Objects"]
    columns += [f"{what}, {model.label}" for what in ("AP", "AP50") for model in comparison.models]
    columns += [f"AP, {live[0].label} − {live[1].label}"] if len(live) == 2 else []
    rows = []
    for index, name in enumerate(comparison.dataset.class_names):
        count = comparison.dataset.objects_per_class[index]
        why = "not measured" if count else "no object of this class in the data"

        def value(model: ModelComparison, key: str, index: int = index, why: str = why) -> Cell:
            found = per_class[model.label][index : index + 1]
            return number(getattr(found[0], key) if found else None, reason=why)

        cells = [model_cell(m, lambda m, k=key: value(m, k)) for key in ("ap", "ap50") for m in comparison.models]  # type: ignore[misc]
        if len(live) == 2:
            first, second = (value(m, "ap").sort for m in live)
            both = isinstance(first, float) and isinstance(second, float)
            gap = first - second if both else math.nan  # type: ignore[operator]
            cells.append(Cell(decimal(gap, sign=True), sort=gap) if both else dash(why))
        rows.append([word(name), number(count, 0), *cells])
    return Table("classes-table", "Figures of each class; press a heading to sort", columns, rows, sortable=True)


def masks_table(comparison: Comparison) -> Table:
    """Average precision of masks and of their boundaries; no rows if no model has masks."""
    return _part_table(comparison, "masks", "Masks of objects")


def panoptic_table(comparison: Comparison) -> Table:
    """Panoptic quality; no rows if no model makes panoptic maps."""
    return _part_table(comparison, "panoptic", "Panoptic maps")


def _part_table(comparison: Comparison, part: str, caption: str) -> Table:
    def cell(measure: Measure, model: ModelComparison) -> Cell:
        found = f"of {model.masks.matched:,} objects" if measure.key == "boundary_iou" and model.masks else ""
        return number(measure.value(model), measure.digits, reason=measure.missing_in(model), detail=found)

    rows = [(x.name, partial(cell, x)) for x in measures_of(comparison) if x.part == part]
    return by_model(f"{part}-table", caption, comparison.models, rows, first="Measure")
