"""NMS of detections made by hand, by numpy alone and for scores of any precision."""

from __future__ import annotations

import numpy as np

from detr_d2.compare.measure.everything import Layer
from detr_d2.compare.measure.matching import box_iou_xywh
from detr_d2.evaluation.arrays import Detections


def with_nms(found: Detections, threshold: float | None, *, limit: int | None = None) -> Detections:
    """What class-wise NMS leaves, at most `limit` an image."""
    keep = np.ones(len(found.scores), dtype=bool)
    boxes = found.boxes_xywh
    for image in range(len(found.offsets) - 1):
        rows = np.arange(len(keep))[found.of_image(image)]
        if threshold is not None:
            iou = box_iou_xywh(boxes[rows], boxes[rows], np.zeros(len(rows), dtype=bool))
            same = found.classes[rows][:, None] == found.classes[rows][None]
            for i in range(len(rows)):
                keep[rows[i]] = not (keep[rows[:i]] & same[i, :i] & (iou[i, :i] > threshold)).any()
        if limit is not None:
            keep[rows[keep[rows]][limit:]] = False
    return found.select(keep)


def offline(found: Detections, *, limit: int = 100) -> Layer:
    """Detections as if they were all that a model knows before NMS."""

    def layer(threshold: float | None, *, limited: bool = True) -> tuple[Detections, float]:
        left = with_nms(found, threshold)
        kept = len(left.scores) / (len(found.offsets) - 1)
        return with_nms(found, threshold, limit=limit) if limited else left, kept

    return layer
