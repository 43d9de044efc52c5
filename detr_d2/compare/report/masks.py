"""What the page of `compare` says of masks and panoptic maps, where a model has some."""

from __future__ import annotations

from collections.abc import Callable

from ..records import Comparison, ModelComparison
from .cells import Cell, Table, by_model, dash, number

_MASKS = (
    ("Mask AP", "ap"),
    ("Mask AP50", "ap50"),
    ("Mask AP75", "ap75"),
    ("Mask AP, small objects", "ap_small"),
    ("Mask AP, medium objects", "ap_medium"),
    ("Mask AP, large objects", "ap_large"),
    ("Boundary AP", "boundary_ap"),
    ("Boundary AP50", "boundary_ap50"),
    ("Boundary IoU of what is found (median)", "boundary_iou"),
)
_PANOPTIC = (
    ("Panoptic quality (PQ)", "pq"),
    ("Segmentation quality (SQ)", "sq"),
    ("Recognition quality (RQ)", "rq"),
    ("PQ, things", "pq_things"),
    ("SQ, things", "sq_things"),
    ("RQ, things", "rq_things"),
    ("PQ, stuff", "pq_stuff"),
    ("SQ, stuff", "sq_stuff"),
    ("RQ, stuff", "rq_stuff"),
)


def masks_table(comparison: Comparison) -> Table:
    """Average precision of masks and of their boundaries; no rows if no model has masks."""
    some = any(model.masks is not None for model in comparison.models)
    rows = [(name, _mask_cell(key)) for name, key in _MASKS] if some else []
    return by_model("masks-table", "Masks of objects", comparison.models, rows, first="Measure")


def panoptic_table(comparison: Comparison) -> Table:
    """Panoptic quality; no rows if no model makes panoptic maps."""
    some = any(model.panoptic is not None for model in comparison.models)
    rows = [(name, _panoptic_cell(key)) for name, key in _PANOPTIC] if some else []
    return by_model("panoptic-table", "Panoptic maps", comparison.models, rows, first="Measure")


def _mask_cell(key: str) -> Callable[[ModelComparison], Cell]:
    def cell(model: ModelComparison) -> Cell:
        if model.masks is None:
            return dash(f"{model.label} has no masks")
        found = f"of {model.masks.matched:,} objects" if key == "boundary_iou" else ""
        return number(getattr(model.masks, key), reason="no object of this size", detail=found)

    return cell


def _panoptic_cell(key: str) -> Callable[[ModelComparison], Cell]:
    def cell(model: ModelComparison) -> Cell:
        if model.panoptic is None:
            return dash(f"{model.label} makes no panoptic maps")
        return number(getattr(model.panoptic, key), reason="no such class occurs")

    return cell
