"""What models are compared by: the one list behind the page's summary, its tables of masks, and every file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..records.comparison import Comparison, ModelComparison
from ..records.sets import NmsPoint


@dataclass(frozen=True)
class Measure:
    """A figure of a model.

    Args:
        key: of `ModelComparison.confidence` and `Difference.metric`.
        name: for people.
        value: of a model; NaN where there is none.
        head: of its column in tables of text; "" where those do without.
        csv: name of its column in CSV files, if it is not the key.
        higher: whether more is better.
        exact: whether the value has no noise.
        digits: to print.
        cost: whether it is of the cost, which random weights do not change.
        found: whether a model that finds fewer objects has it easier.
        part: "masks" or "panoptic" of a model's record, for a figure that others do not have.
        summary: whether the summary of the page has it.
        missing: reason for a dash.
    """

    key: str
    name: str
    value: Callable[[ModelComparison], float]
    head: str = ""
    csv: str = ""
    higher: bool = True
    exact: bool = False
    digits: int = 1
    cost: bool = False
    found: bool = False
    part: str = ""
    summary: bool = True
    missing: str = "not measured"

    def missing_in(self, model: ModelComparison) -> str:
        """Why a model without the figure does not have it."""
        if self.part and getattr(model, self.part) is None:
            return f"{model.label} has no {_PARTS[self.part]}"
        return self.missing


_PARTS = {"masks": "masks", "panoptic": "panoptic maps"}


def _of(part: str, key: str, scale: float = 1.0) -> Callable[[ModelComparison], float]:
    """A figure of a part of the record; NaN where a model does not have the part."""
    return lambda model: math.nan if getattr(model, part) is None else scale * getattr(getattr(model, part), key)


def _ap(key: str, name: str, head: str, missing: str = "no object to find") -> Measure:
    return Measure(key, name, _of("coco", key), head, missing=missing)


_NO_SIZE = "no object of this size"


def _mask(key: str, name: str, head: str = "", *, summary: bool = False) -> Measure:
    unique = f"mask_{key}" if key.startswith("ap") else key
    return Measure(unique, name, _of("masks", key), head, part="masks", summary=summary, missing=_NO_SIZE)


def _panoptic(key: str, name: str, head: str = "", *, summary: bool = False) -> Measure:
    missing = "no such class occurs"
    return Measure(key, name, _of("panoptic", key), head, part="panoptic", summary=summary, missing=missing)


def nms_point(model: ModelComparison, nms_threshold: float | None) -> NmsPoint | None:
    """What an NMS makes of the last layer's detections; None if it was not tried."""
    points = (x for x in model.nms if x.layer == model.num_layers and x.nms_threshold == nms_threshold)
    return next(points, None)


def _without_nms(model: ModelComparison) -> float:
    point = nms_point(model, None)
    known = model.shipped is None or model.shipped.nms_switched_off
    return point.ap if point is not None and known else math.nan


def _operating(key: str) -> Callable[[ModelComparison], float]:
    """Of the operating point."""
    return lambda model: math.nan if model.operating is None else getattr(model.operating.at, key)


def _cost(
    key: str, name: str, head: str, csv: str = "", *, scale: float = 1.0, exact: bool = False, digits: int = 1
) -> Measure:
    value = _of("cost", key, scale)
    return Measure(key, name, value, head, csv, higher=False, exact=exact, digits=digits, cost=True)


def time_of(model: ModelComparison) -> tuple[float, float]:
    """Median and 95th percentile of the time of one image in ms."""
    stages = model.cost.latency if model.cost is not None else []
    return next(((x.p50_ms, x.p95_ms) for x in stages if x.stage == "total"), (math.nan, math.nan))


LATENCY = Measure(
    "latency_ms",
    "Time of one image (ms, median)",
    lambda model: time_of(model)[0],
    "ms/image",
    csv="latency_p50_ms",
    higher=False,
    cost=True,
)
MEASURES = (
    _ap("ap", "AP", "AP"),
    _ap("ap50", "AP50", "AP50"),
    _ap("ap75", "AP75", "AP75"),
    _ap("ap_small", "AP, small objects", "APs", _NO_SIZE),
    _ap("ap_medium", "AP, medium objects", "APm", _NO_SIZE),
    _ap("ap_large", "AP, large objects", "APl", _NO_SIZE),
    _mask("ap", "Mask AP", "mask AP", summary=True),
    _mask("ap50", "Mask AP50", "mask AP50"),
    _mask("ap75", "Mask AP75"),
    _mask("ap_small", "Mask AP, small objects"),
    _mask("ap_medium", "Mask AP, medium objects"),
    _mask("ap_large", "Mask AP, large objects"),
    _mask("boundary_ap", "Boundary AP", "boundary AP", summary=True),
    _mask("boundary_ap50", "Boundary AP50"),
    _mask("boundary_iou", "Boundary IoU of what all find (median)", "boundary IoU"),
    _panoptic("pq", "Panoptic quality (PQ)", "PQ", summary=True),
    _panoptic("sq", "Segmentation quality (SQ)", "SQ"),
    _panoptic("rq", "Recognition quality (RQ)", "RQ"),
    _panoptic("pq_things", "PQ, things"),
    _panoptic("sq_things", "SQ, things"),
    _panoptic("rq_things", "RQ, things"),
    _panoptic("pq_stuff", "PQ, stuff"),
    _panoptic("sq_stuff", "SQ, stuff"),
    _panoptic("rq_stuff", "RQ, stuff"),
    _ap("ar_max", "Average recall", "AR"),
    Measure("ap_without_nms", "AP without NMS", _without_nms, "AP without NMS", summary=False),
    Measure("recall", "Recall at the operating point", _operating("recall"), csv="recall"),
    Measure(
        "extra",
        "Extra boxes per found object (%)",
        _operating("extra"),
        csv="extra",
        higher=False,
        found=True,
        missing="no object is found",
    ),
    Measure(
        "count_error",
        "Counting error per image",
        _operating("count_error"),
        csv="count_error",
        higher=False,
        digits=2,
        found=True,
    ),
    _cost("parameters", "Parameters (millions)", "params (M)", "parameters_m", scale=1e-6, exact=True),
    _cost("gflops", "Multiply-adds of one image (10⁹)", "GFLOPs", exact=True),
    LATENCY,
    _cost("image_memory_mb", "Memory: one image adds (MB)", "MB/image", digits=0),
    _cost("weights_memory_mb", "Memory: weights (MB)", "weights (MB)", exact=True, digits=0),
)


def measures_of(comparison: Comparison) -> list[Measure]:
    """All of them but those of masks and of panoptic maps where no model has such."""
    have = {part for part in _PARTS for model in comparison.models if getattr(model, part) is not None}
    return [measure for measure in MEASURES if not measure.part or measure.part in have]
