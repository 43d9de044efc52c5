"""Duplicates: several detections of one class on the same object, and objects that NMS takes for duplicates."""

from __future__ import annotations

import numpy as np

from ..data import Detections, GroundTruth
from ..records import Duplicates
from .matching import box_iou_xywh, match

PAIR_IOUS = (0.5, 0.7)
MATCH_IOU = 0.5


def count_duplicates(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    setting: str,
    nms_threshold: float | None,
    score_threshold: float,
    without_nms: Detections,
) -> Duplicates:
    """Counts them among the detections that a user would see.

    Args:
        ground_truth: N images.
        detections: of the same images, in this setting.
        setting: name of it, see `Duplicates`.
        nms_threshold: of the NMS that made them, None for none.
        score_threshold: lower scored detections do not count.
        without_nms: the model's detections without NMS, to see which objects are lost by it.
    """
    seen = detections.select(detections.scores >= score_threshold)
    pairs = same_class_pairs(seen)
    covered = objects_covered(ground_truth, seen)
    found = objects_found(ground_truth, seen)
    findable = objects_found(ground_truth, without_nms.select(without_nms.scores >= score_threshold))
    return Duplicates(
        setting=setting,
        nms_threshold=nms_threshold,
        score_threshold=score_threshold,
        detections=len(seen.scores),
        pairs_50=float(pairs[:, 0].mean()) if len(pairs) else float("nan"),
        pairs_70=float(pairs[:, 1].mean()) if len(pairs) else float("nan"),
        images_with_pairs=int((pairs[:, 0] > 0).sum()),
        covered=int((covered >= 1).sum()),
        covered_twice=int((covered >= 2).sum()),
        true_positives=int(found.sum()),
        removed_true_positives=int((findable & ~found).sum()),
    )


def same_class_pairs(detections: Detections) -> np.ndarray:
    """(N, 2) pairs of detections of one class and image whose IoU exceeds each of `PAIR_IOUS`."""
    boxes = detections.boxes_xywh
    result = np.zeros((len(detections.offsets) - 1, len(PAIR_IOUS)), dtype=np.int64)
    for image in range(len(result)):
        own = detections.of_image(image)
        iou = box_iou_xywh(boxes[own], boxes[own], np.zeros(own.stop - own.start, dtype=bool))
        same = np.triu(detections.classes[own][:, None] == detections.classes[own][None], k=1)
        result[image] = [(same & (iou > threshold)).sum() for threshold in PAIR_IOUS]
    return result


def objects_covered(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(M,) detections of its class that overlap each object with IoU >= 0.5; 0 for crowd regions."""
    boxes = detections.boxes_xywh
    result = np.zeros(len(ground_truth.classes), dtype=np.int64)
    for image in range(len(ground_truth)):
        own, theirs = detections.of_image(image), ground_truth.of_image(image)
        iou = box_iou_xywh(boxes[own], ground_truth.boxes_xywh[theirs], ground_truth.crowd[theirs])
        same = detections.classes[own][:, None] == ground_truth.classes[theirs][None]
        result[theirs] = (same & (iou >= MATCH_IOU)).sum(0)
    return np.where(ground_truth.crowd, 0, result)


def objects_found(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(M,) bool: whether COCO's matching at IoU 0.5 gives the object a detection of its own; no limit on detections."""
    matches = match(ground_truth, detections, ious=np.array([MATCH_IOU]), max_detections=max(1, len(detections.scores)))
    result = np.zeros(len(ground_truth.classes), dtype=bool)
    result[matches.matched[0][matches.correct[0]]] = True
    return result
