"""What removes duplicates at test time, computed from the detections of a model that does not do it.

Of a query all detections have the same box, so that they are known by it. Where queries have several, of all that a
model could say the best are known, as many as it has queries: for one label per query the last places may stay empty.
"""

from __future__ import annotations

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from ..records.comparison import ModelComparison, ShippedSettings
from ..records.sets import Cure
from .everything import Layer, coco_limit
from .found import find
from .matching import PrecisionCurves, limit_per_class, match
from .operating import Operating

CURE_NMS = 0.7
"""Two boxes of one object mostly overlap by more, two objects of a class seldom. The best threshold of each model is
not looked for: it would be chosen on the images that the model is judged by."""

_KEYS = {"NMS": f"MODEL.DETR.NMS_THRESH_TEST {CURE_NMS}", "one label per query": "MODEL.DETR.ONE_CLASS_PER_QUERY True"}


def cures(
    record: ModelComparison, ground_truth: GroundTruth, layer: Layer, *, score_threshold: float | None = None
) -> list[Cure]:
    """What each cure would give a model.

    Args:
        record: of the model, with `shipped`.
        ground_truth: N images.
        layer: what the model ships.
        score_threshold: see `measure`.

    Returns:
        [] for a model with NMS, and for detections over which one may have gone; one label per query only where
        queries have several.
    """
    settings = record.shipped
    assert settings is not None
    if not _repeats_itself(record, settings):
        return []
    found = {"NMS": layer(CURE_NMS)[0]}
    everything = layer(None, limited=False)[0]
    of_queries = one_label(everything)
    if len(of_queries.scores) < len(everything.scores):
        found["one label per query"] = _limited(of_queries, settings.max_detections)
    keys = _KEYS if record.predictions is None else {}
    return [
        _cure(name, keys.get(name, ""), ground_truth, x, coco_limit(settings), score_threshold)
        for name, x in found.items()
    ]


def _repeats_itself(record: ModelComparison, settings: ShippedSettings) -> bool:
    if record.predictions is not None:
        return record.predictions.said != "nms" and not record.predictions.looks.startswith("looks filtered")
    return settings.nms_threshold is None and settings.nms_switched_off


def one_label(detections: Detections) -> Detections:
    """The best scored of the detections of each query."""
    boxes = np.ascontiguousarray(detections.boxes_xyxy + np.float32(0))  # -0.0 is 0.0
    keys = np.column_stack([detections.image_of, boxes.view(np.int32)])
    keep = np.zeros(len(keys), dtype=bool)
    keep[np.unique(keys, axis=0, return_index=True)[1]] = True  # the first, which is the best
    return detections.select(keep)


def _limited(detections: Detections, limit: int) -> Detections:
    rank = np.arange(len(detections.scores)) - detections.offsets[detections.image_of]
    return detections.select(rank < limit)


def _cure(
    name: str, setting: str, truth: GroundTruth, detections: Detections, limit: int, score_threshold: float | None
) -> Cure:
    ap = PrecisionCurves(match(truth, detections, max_detections=limit)).average_precision()
    operating = Operating(truth, find(truth, limit_per_class(detections, limit)), None, given=score_threshold)
    return Cure(name=name, setting=setting, ap=float(ap.mean()), ap50=float(ap[0]), at=operating.at())
