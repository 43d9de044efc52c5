"""The right detections that NMS takes away."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..data.checks.records import json_id
from ..evaluation.arrays import Detections, GroundTruth
from .measure.matching import box_iou_xywh
from .records.pictures import Removal

MOST_REMOVALS = 12
MOST_OF_IMAGE = 2


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
    target = counted_for(ground_truth, without_nms)
    lost = np.setdiff1d(target[target >= 0], counted_for(ground_truth, kept))
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


def counted_for(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(D,) the object that each detection counts for, -1 for none."""
    result = np.full(len(detections.scores), -1, dtype=np.int64)
    boxes, found = detections.boxes_xywh, np.zeros(len(ground_truth.classes), dtype=bool)
    for image in range(len(ground_truth)):
        own, theirs = detections.of_image(image), ground_truth.of_image(image)
        iou = box_iou_xywh(boxes[own], ground_truth.boxes_xywh[theirs], np.zeros(theirs.stop - theirs.start, bool))
        allowed = detections.classes[own][:, None] == ground_truth.classes[theirs][None]
        iou = np.where(allowed & ~ground_truth.crowd[theirs][None], iou, 0.0)
        for d in np.flatnonzero(iou.max(1, initial=0.0) >= 0.5):
            best = theirs.start + np.flatnonzero(iou[d] == iou[d].max())
            best = best[np.argmin(found[best])]
            result[own.start + d], found[best] = best, True
    return result


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
