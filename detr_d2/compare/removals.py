"""The right detections that NMS takes away."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..data.checks.records import json_id
from ..evaluation.arrays import Detections, GroundTruth
from .measure.everything import Layer
from .measure.found import find
from .measure.matching import box_iou_xywh
from .records.comparison import ModelComparison
from .records.pictures import Removal

MOST_REMOVALS = 12
MOST_OF_IMAGE = 2


def removals_of(ground_truth: GroundTruth, layer: Layer, record: ModelComparison) -> list[Removal]:
    """Those of a model that was measured; none of a model without NMS, or one that could not be run without.

    Args:
        ground_truth: N images.
        layer: what the model ships.
        record: with its settings and its operating point.
    """
    settings, operating = record.shipped, record.operating
    if settings is None or settings.nms_threshold is None or not settings.nms_switched_off or operating is None:
        return []
    scores = np.array(operating.scores)[operating.half_of]  # (N,) from which detections count
    kept, without_nms = (
        found.select(found.scores >= scores[found.image_of])
        for found in (layer(settings.nms_threshold)[0], layer(None, limited=False)[0])
    )
    return find_removals(ground_truth, kept, without_nms, settings.nms_threshold)


def find_removals(
    ground_truth: GroundTruth, kept: Detections, without_nms: Detections, nms_threshold: float
) -> list[Removal]:
    """Objects that are found without NMS and by nothing that it leaves, and the two boxes that this is about.

    The removed box is the best scored one that counts for the object and is gone; the kept one has at least its score
    and overlaps it most of those that are left, by more than the threshold. An object whose box went for another
    reason, such as the limit on detections, is not among them.

    Args:
        ground_truth: N images.
        kept: what NMS and the limit leave of the detections that count.
        without_nms: the detections that count, without both.
        nms_threshold: IoU of the class-wise NMS.

    Returns:
        Best scored first, at most `MOST_REMOVALS`, and `MOST_OF_IMAGE` of them in an image.
    """
    target = find(ground_truth, without_nms).objects
    lost = np.setdiff1d(target[target >= 0], find(ground_truth, kept).objects)
    left = set(_rows(kept))
    gone = np.array([row not in left for row in _rows(without_nms)], dtype=bool)
    right = np.flatnonzero(gone & np.isin(target, lost))
    right = right[np.argsort(-without_nms.scores[right], kind="stable")]
    right = right[np.sort(np.unique(target[right], return_index=True)[1])]  # of each object the best
    image_of, of_image = without_nms.image_of, Counter[int]()
    found: list[Removal] = []
    for d in right.tolist():
        image = int(image_of[d])
        keeper = _keeper(kept, without_nms, d, image, nms_threshold)
        if keeper is None or of_image[image] == MOST_OF_IMAGE:
            continue
        of_image[image] += 1
        found.append(_removal(ground_truth, kept, without_nms, int(target[d]), d, *keeper))
        if len(found) == MOST_REMOVALS:
            break
    return found


def _rows(detections: Detections) -> list[tuple[float, ...]]:
    """Image, box, score and class of each detection, which nothing but NMS tells from its copies."""
    columns = (detections.image_of, detections.boxes_xyxy, detections.scores, detections.classes)
    return [tuple(row) for row in np.column_stack(columns).tolist()]


def _keeper(
    kept: Detections, without_nms: Detections, removed: int, image: int, nms_threshold: float
) -> tuple[int, float] | None:
    """The detection for whose sake `removed` is gone, and the IoU of the two."""
    rows = np.arange(len(kept.scores))[kept.of_image(image)]
    rows = rows[kept.classes[rows] == without_nms.classes[removed]]
    rows = rows[kept.scores[rows] >= without_nms.scores[removed]]
    if not len(rows):
        return None
    own = without_nms.select(np.arange(len(without_nms.scores)) == removed)
    iou = box_iou_xywh(own.boxes_xywh, kept.boxes_xywh[rows], np.zeros(len(rows), dtype=bool))[0]
    best = int(iou.argmax())
    return (int(rows[best]), float(iou[best])) if iou[best] > nms_threshold else None


def _removal(
    ground_truth: GroundTruth,
    kept: Detections,
    without_nms: Detections,
    target: int,
    removed: int,
    keeper: int,
    iou: float,
) -> Removal:
    image = int(ground_truth.image_of[target])
    height, width = ground_truth.sizes[image].tolist()
    x, y, w, h = ground_truth.boxes_xywh[target].tolist()
    return Removal(
        file_name=ground_truth.file_names[image],
        image_id=json_id(ground_truth.image_ids[image]),
        width=width,
        height=height,
        class_index=int(ground_truth.classes[target]),
        object_box=[x, y, x + w, y + h],
        removed_box=_rounded(without_nms.boxes_xyxy[removed]),
        removed_score=float(without_nms.scores[removed]),
        kept_box=_rounded(kept.boxes_xyxy[keeper]),
        kept_score=float(kept.scores[keeper]),
        iou=iou,
    )


def _rounded(box: np.ndarray) -> list[float]:
    return np.round(box.astype(np.float64), 2).tolist()
