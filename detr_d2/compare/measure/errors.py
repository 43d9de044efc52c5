"""Kinds of errors and what each costs, in the manner of TIDE.

Paper: Bolya et al. 2020, TIDE: A General Toolbox for Identifying Object Detection Errors, Sec. 2.2 and 2.3. Where TIDE
and COCO's AP part, this keeps to COCO's AP, so that the gains belong to the AP50 that stands beside them:

* detections that crowd regions excuse are no errors; TIDE gives them a kind;
* the limit on detections is of an image and class, as for AP; TIDE's is of an image;
* a class without objects is not in the mean, whatever is detected of it; TIDE counts it with an AP of 0;
* so a class all of whose objects are missed leaves the mean when the misses are repaired; in TIDE it stays, with an AP
  of 0, if anything is detected of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...evaluation.arrays import MAX_DETECTIONS, Detections, GroundTruth
from ..records.figures import ErrorKind
from .matching import Matches, PrecisionCurves, box_iou_xywh, match

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_CORRECT, _IGNORED = "correct", "ignored"


def error_kinds(
    ground_truth: GroundTruth, detections: Detections, *, max_detections: int = MAX_DETECTIONS
) -> list[ErrorKind]:
    """Gives every wrong detection one kind, and repairs each kind alone to see how much AP50 it costs.

    Args:
        ground_truth: N images.
        detections: of the same images.
        max_detections: the most that count per image and class, as for the AP that the gains belong to.

    Returns:
        The `KINDS`, in their order. A repaired classification or localisation error becomes a hit of the object that
        it missed, if that object had none and no better scored error of these two kinds is about it; otherwise the
        detection is removed, as errors of the other kinds are. Repaired misses are taken from the objects.
    """
    matches = match(ground_truth, detections, ious=np.array([FOREGROUND_IOU]), max_detections=max_detections)
    kinds, targets = classify(ground_truth, detections, matches)
    taken = set(matches.matched[0][matches.correct[0]].tolist())
    base = _ap50(matches)
    claimed = {int(x) for x in targets[np.isin(kinds, KINDS[:2])]} - taken
    real = np.flatnonzero(~ground_truth.crowd)
    missed = np.array([x for x in real.tolist() if x not in taken and x not in claimed], dtype=np.int64)
    result = []
    for kind in KINDS[:-1]:
        gain = _repaired(ground_truth, matches, kinds, targets, kind, taken) - base
        result.append(ErrorKind(kind=kind, count=int((kinds == kind).sum()), delta_ap50=gain))
    gain = _without(ground_truth, matches, missed) - base
    return [*result, ErrorKind(kind="missed", count=len(missed), delta_ap50=gain)]


def classify(ground_truth: GroundTruth, detections: Detections, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each detection of `matches` (D,) str, "correct" and "ignored" among them, and the object it is about.

    Returns:
        Kinds, and (D,) objects: the overlapped one for "classification", "localisation" and "duplicate", else -1.
    """
    kinds = np.full(len(matches.scores), "background", dtype="<U16")
    kinds[matches.correct[0]] = _CORRECT
    kinds[matches.ignored[0]] = _IGNORED
    targets = np.full(len(kinds), -1, dtype=np.int64)
    boxes = detections.boxes_xywh[matches.source]
    used = np.zeros(len(ground_truth.classes), dtype=bool)
    used[matches.matched[0][matches.correct[0]]] = True
    for image in range(len(ground_truth)):
        rows = np.flatnonzero((matches.image == image) & (kinds == "background"))
        objects = np.arange(len(used))[ground_truth.of_image(image)]
        objects = objects[~ground_truth.crowd[objects]]
        if not len(rows) or not len(objects):
            continue
        iou = box_iou_xywh(boxes[rows], ground_truth.boxes_xywh[objects], np.zeros(len(objects), dtype=bool))
        same = matches.classes[rows][:, None] == ground_truth.classes[objects][None]
        for row, overlap, own in zip(rows, iou, same, strict=True):
            kinds[row], local = _kind(overlap, own, used[objects])
            targets[row] = objects[local] if local >= 0 else -1
    return kinds, targets


def _kind(iou: np.ndarray, same: np.ndarray, used: np.ndarray) -> tuple[str, int]:
    """Of a wrong detection with IoU (M,) to the objects of its image; `same` is whether they are of its class."""
    own, other, duplicate = (np.where(mask, iou, -1.0) for mask in (same, ~same, same & used))
    if BACKGROUND_IOU <= own.max() <= FOREGROUND_IOU:
        return "localisation", int(own.argmax())
    if other.max() >= FOREGROUND_IOU:
        return "classification", int(other.argmax())
    if duplicate.max() >= FOREGROUND_IOU:
        return "duplicate", int(duplicate.argmax())
    return ("background" if iou.max() <= BACKGROUND_IOU else "both"), -1


def _repaired(
    ground_truth: GroundTruth, matches: Matches, kinds: np.ndarray, targets: np.ndarray, kind: str, taken: set[int]
) -> float:
    """AP50 without the errors of a kind."""
    classes, matched, removed = matches.classes.copy(), matches.matched.copy(), kinds == kind
    for row in _winners(matches, kinds, targets, taken):
        if kinds[row] == kind:
            classes[row], matched[0, row], removed[row] = ground_truth.classes[targets[row]], targets[row], False
    return _ap50(replace(matches, classes=classes, matched=matched, ignored=matches.ignored | removed))


def _winners(matches: Matches, kinds: np.ndarray, targets: np.ndarray, taken: set[int]) -> list[int]:
    """Of the classification and localisation errors about each object that has no hit, the best scored one."""
    rows = np.flatnonzero(np.isin(kinds, KINDS[:2]))
    winners: dict[int, int] = {}
    for row in rows[np.argsort(-matches.scores[rows], kind="stable")].tolist():
        winners.setdefault(int(targets[row]), row)
    return [row for target, row in winners.items() if target not in taken]


def _without(ground_truth: GroundTruth, matches: Matches, missed: np.ndarray) -> float:
    objects = matches.objects.copy()
    np.subtract.at(objects, (ground_truth.image_of[missed], ground_truth.classes[missed]), 1)
    return _ap50(replace(matches, objects=objects))


def _ap50(matches: Matches) -> float:
    return float(PrecisionCurves(matches).average_precision()[0])
