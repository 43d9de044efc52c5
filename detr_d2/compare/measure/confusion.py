"""What objects are taken for: each with at most one detection of any class."""

from __future__ import annotations

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from ..records.figures import ConfusionMatrix
from .found import FOUND_IOU
from .matching import box_iou_xywh


def confusion_matrix(ground_truth: GroundTruth, detections: Detections) -> ConfusionMatrix | None:
    """Counts which class is found where which class is.

    In each image the detections choose, best scored first: each takes the object, of whatever class, that it overlaps
    most among those that no better one has taken, if their IoU is at least 0.5; of equal overlaps one of its own class,
    then the first. So an object has one detection and a detection one object. What is left of the detections has no
    object, what is left of the objects no detection. Crowd regions are no objects, and a detection without an object
    does not count if half of it or more lies in a crowd region of its class.

    Args:
        ground_truth: N images.
        detections: of the same images, those that count.

    Returns:
        Of the classes that occur among the objects or these detections; None if there are none.
    """
    num_classes = len(ground_truth.class_names)
    boxes = detections.boxes_xywh
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in range(len(ground_truth)):
        own, theirs = detections.of_image(image), ground_truth.of_image(image)
        classes, labels, crowd = detections.classes[own], ground_truth.classes[theirs], ground_truth.crowd[theirs]
        iou = box_iou_xywh(boxes[own], ground_truth.boxes_xywh[theirs], crowd)
        same = classes[:, None] == labels[None]
        taken = _take(np.where(crowd[None], 0.0, iou), same)
        on_crowd = (same & crowd[None] & (iou >= FOUND_IOU)).any(1)
        counted = (taken >= 0) | ~on_crowd
        np.add.at(counts, (np.append(labels, num_classes)[taken[counted]], classes[counted]), 1)
        left = ~crowd
        left[taken[taken >= 0]] = False
        np.add.at(counts, (labels[left], num_classes), 1)
    occurs = (counts.sum(0) + counts.sum(1))[:-1] > 0
    if not occurs.any():
        return None
    rows = np.append(occurs, True)
    names = [name for name, here in zip(ground_truth.class_names, occurs, strict=True) if here]
    return ConfusionMatrix(names, counts[rows][:, rows].tolist())


def _take(iou: np.ndarray, same: np.ndarray) -> np.ndarray:
    """(D,) the object that each detection takes, -1 for none.

    Args:
        iou: (D, M), detections best first; 0 for what is no object.
        same: (D, M) bool, whether both are of one class.
    """
    taken = np.full(len(iou), -1, dtype=np.int64)
    if not iou.size:
        return taken
    free = np.ones(iou.shape[1], dtype=bool)
    for d in np.flatnonzero(iou.max(1) >= FOUND_IOU):
        value = np.where(free, iou[d], 0.0)
        best = np.flatnonzero(value == value.max())
        best = best[np.argmax(same[d, best])]  # the first where none is of its class
        if value[best] >= FOUND_IOU:
            taken[d], free[best] = best, False
    return taken
