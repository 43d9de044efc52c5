"""COCO's matching of detections to objects and its average precision, on arrays.

faster-coco-eval decides what a model's AP is (`coco_metrics`). This module gives the same numbers for objects of all
sizes, but keeps what it found about every detection, matches at all IoU thresholds at once, and weighs images, so that
sweeps, bins and a bootstrap cost seconds instead of hours. A class without objects has AP NaN where COCO says -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...evaluation.arrays import MAX_DETECTIONS, Detections, GroundTruth

COCO_IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
_IOU_TOLERANCE = 1e-10  # COCO never asks for more than 1 - this


def box_iou_xywh(detections: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (D, M) of boxes (D, 4) and (M, 4), xywh; with a crowd region the share of the detection that it covers."""
    low = np.maximum(detections[:, None, :2], objects[None, :, :2])
    high = np.minimum(detections[:, None, :2] + detections[:, None, 2:], objects[None, :, :2] + objects[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    own = detections[:, 2:].prod(-1)[:, None]
    union = np.where(crowd[None], own, own + objects[:, 2:].prod(-1)[None] - intersection)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


@dataclass(frozen=True)
class Matches:
    """What COCO's matching finds, for T IoU thresholds.

    Args:
        ious: (T,) thresholds.
        scores, classes, image: (D,) of the detections that count (at most `MAX_DETECTIONS` per image and class).
        source: (D,) their indices in the `Detections`.
        matched: (T, D) index of the object that each detection is matched to, -1 for none.
        ignored: (T, D) bool: neither right nor wrong, as those that are matched to a crowd region.
        objects: (N, K) objects per image and class, crowd regions not counted.
    """

    ious: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    image: np.ndarray
    source: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(T, D) bool, true positives."""
        return (self.matched >= 0) & ~self.ignored


def match(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    ious: np.ndarray = COCO_IOUS,
    max_detections: int = MAX_DETECTIONS,
) -> Matches:
    """Matches every detection, best first, to the object of its class and image that it overlaps most.

    Args:
        ground_truth: N images.
        detections: of the same images.
        ious: (T,) thresholds.
        max_detections: the most that count per image and class.
    """
    real = ~ground_truth.crowd
    objects = np.zeros((len(ground_truth), len(ground_truth.class_names)), dtype=np.int64)
    np.add.at(objects, (ground_truth.image_of[real], ground_truth.classes[real]), 1)
    index = np.flatnonzero(_rank_in_class(detections) < max_detections)
    image = detections.image_of[index]
    boxes, classes = detections.boxes_xywh[index], detections.classes[index]
    matched = np.full((len(ious), len(index)), -1, dtype=np.int64)
    ends = np.searchsorted(image, np.arange(len(ground_truth) + 1))
    for i in range(len(ground_truth)):
        theirs = ground_truth.of_image(i)
        for k in np.unique(ground_truth.classes[theirs]):
            rows = ends[i] + np.flatnonzero(classes[ends[i] : ends[i + 1]] == k)
            wanted = theirs.start + np.flatnonzero(ground_truth.classes[theirs] == k)
            wanted = wanted[np.argsort(ground_truth.crowd[wanted], kind="stable")]
            iou = box_iou_xywh(boxes[rows], ground_truth.boxes_xywh[wanted], ground_truth.crowd[wanted])
            local = _assign(iou, ground_truth.crowd[wanted], ious)
            matched[:, rows] = np.where(local >= 0, np.append(wanted, -1)[local], -1)
    crowd = np.append(ground_truth.crowd, False)
    return Matches(
        ious=ious,
        scores=detections.scores[index],
        classes=classes,
        image=image,
        source=index,
        matched=matched,
        ignored=crowd[matched],
        objects=objects,
    )


def limit_per_class(detections: Detections, max_detections: int) -> Detections:
    """The best scored detections of each image and class.

    Args:
        detections: of N images.
        max_detections: the most that are kept of an image and class.
    """
    return detections.select(_rank_in_class(detections) < max_detections)


def _rank_in_class(detections: Detections) -> np.ndarray:
    """(D,) how many detections of the same image and class come before each."""
    group = detections.image_of * (detections.classes.max(initial=0) + 1) + detections.classes
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    rank = np.empty_like(group)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return rank


def _assign(iou: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T, D) column of `iou` (D, M) that each detection gets; crowds stand last, and are taken any number of times."""
    result = np.full((len(thresholds), len(iou)), -1, dtype=np.int64)
    if not iou.size:
        return result
    limits = np.minimum(thresholds, 1 - _IOU_TOLERANCE)
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    rows = np.arange(len(thresholds))
    for d in np.flatnonzero(iou.max(1) >= limits.min()):
        allowed = free & (iou[d] >= limits[:, None])  # (T, M)
        allowed[:, crowd] &= ~allowed[:, ~crowd].any(1, keepdims=True)
        value = np.where(allowed, iou[d], -1.0)
        best = iou.shape[1] - 1 - value[:, ::-1].argmax(1)  # of equals, the last
        hit = allowed[rows, best]
        result[hit, d] = best[hit]
        free[rows[hit], best[hit]] = crowd[best[hit]]
    return result


class PrecisionCurves:
    """Average precision of detections whose fate is known, for any weighting of the images.

    Args:
        matches: of all detections with all objects.
    """

    def __init__(self, matches: Matches) -> None:
        self.objects = matches.objects
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        correct, wrong = matches.correct, ~matches.correct & ~matches.ignored
        for k in range(self.objects.shape[1]):
            rows = np.flatnonzero(matches.classes == k)
            rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
            self._parts.append((matches.image[rows], correct[:, rows], wrong[:, rows]))

    def precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Interpolated precision (T, K, 101) at the `RECALLS`, 0-1; NaN for a class without objects.

        Args:
            weights: (N,) how often each image counts; default once.
        """
        totals = self.objects.sum(0) if weights is None else weights @ self.objects  # (K,)
        return np.stack(
            [_interpolate(part, total, weights) for part, total in zip(self._parts, totals, strict=True)], 1
        )

    def average_recall(self, weights: np.ndarray | None = None) -> float:
        """Recall of all detections, the mean over IoU thresholds and the classes that have objects, 0-100."""
        totals = self.objects.sum(0) if weights is None else weights @ self.objects
        shares = []
        for (image, correct, _), total in zip(self._parts, totals, strict=True):
            if total > 0:
                factor = np.ones(len(image)) if weights is None else weights[image]
                shares.append(float((correct @ factor).mean()) / total)
        return 100 * float(np.mean(shares)) if shares else float("nan")

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """AP (T,) as a mean over the classes that have objects, 0-100; NaN if none has."""
        per_class = self.precision(weights).mean(-1)
        known = ~np.isnan(per_class[0])
        return 100 * per_class[:, known].mean(1) if known.any() else np.full(len(per_class), np.nan)


def _interpolate(
    part: tuple[np.ndarray, np.ndarray, np.ndarray], total: float, weights: np.ndarray | None
) -> np.ndarray:
    """(T, 101) of one class."""
    image, correct, wrong = part
    result = np.zeros((len(correct), len(RECALLS)))
    if total == 0:
        return np.full_like(result, np.nan)
    factor = np.ones(len(image)) if weights is None else weights[image].astype(np.float64)
    hits, misses = np.cumsum(correct * factor, 1), np.cumsum(wrong * factor, 1)
    recall, precision = hits / total, hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    for t in range(len(correct)):
        at = np.searchsorted(recall[t], RECALLS, side="left")
        inside = at < len(image)
        result[t, inside] = precision[t, at[inside]]
    return result
