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
_AT_ONCE = 100_000  # weights of detections that are worked on together: what fits into the cache of a processor
_ROUNDING = 1e-9  # more than that of a recall, and less than they are apart


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
        self._ranked = [_Ranked.of_class(matches, k) for k in range(self.objects.shape[1])]

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """AP (T,) as a mean over the classes that have objects, 0-100; NaN if none has.

        Args:
            weights: (N,) how often each image counts; default once.
        """
        return self.resampled(self._one_row(weights))[0][0]

    def average_recall(self, weights: np.ndarray | None = None) -> float:
        """Recall of all detections, the mean over IoU thresholds and the classes that have objects, 0-100."""
        return float(self.resampled(self._one_row(weights))[1][0])

    def resampled(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`average_precision` (R, T) and `average_recall` (R,) for every row of weights.

        Args:
            draws: (R, N) how often each image counts.
        """
        longest = max((len(x.image) for x in self._ranked), default=0)
        parts = np.array_split(draws, max(1, len(draws) * longest // _AT_ONCE))
        ap, recall = (np.concatenate(x) for x in zip(*map(self.of_classes, parts), strict=True))  # (R, T, K)
        return _mean_of_known(ap), _mean_of_known(recall).mean(1)

    def of_classes(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and recall (R, T, K) of each class, 0-100; NaN for one without objects; see `resampled`."""
        draws = draws.astype(np.float64)
        totals = draws @ self.objects  # (R, K)
        figures = [x.figures(draws, total) for x, total in zip(self._ranked, totals.T, strict=True)]
        ap, recall = np.stack([x[0] for x in figures], -1), np.stack([x[1] for x in figures], -1)
        known = totals[:, None] > 0
        return np.where(known, 100 * ap, np.nan), np.where(known, 100 * recall, np.nan)

    def _one_row(self, weights: np.ndarray | None) -> np.ndarray:
        return np.ones((1, len(self.objects))) if weights is None else weights[None]


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN if all is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class _Ranked:
    """The detections of one class, best first, to the last right one: those behind it change no figure.

    Args:
        image: (D,) of each.
        correct: (T, D) bool, right.
        counted: (T, D) bool, right or wrong.
    """

    image: np.ndarray
    correct: np.ndarray
    counted: np.ndarray

    @classmethod
    def of_class(cls, matches: Matches, index: int) -> _Ranked:
        rows = np.flatnonzero(matches.classes == index)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        correct = (matches.matched[:, rows] >= 0) & ~matches.ignored[:, rows]
        end = int(np.flatnonzero(correct.any(0)).max(initial=-1)) + 1
        return cls(matches.image[rows[:end]], correct[:, :end], ~matches.ignored[:, rows[:end]])

    def figures(self, draws: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and recall (R, T), 0-1.

        The precision at a recall is the best that is reached at it or beyond, and only right detections add recall: the
        others are but counted, and each right one stands for those of the 101 recalls that it is the first to reach.

        Args:
            draws: (R, N) float64, how often each image counts.
            total: (R,) objects; where it is 0, what comes out is of no meaning.
        """
        ap, recall = np.zeros((2, len(draws), len(self.correct)))
        weights = draws[:, self.image]  # (R, D)
        total = np.maximum(total, 1)[:, None]
        seen = weights
        for t, (correct, counted) in enumerate(zip(self.correct, self.counted, strict=True)):
            if t == 0 or (counted != self.counted[t - 1]).any():
                seen = np.cumsum(weights * counted, 1)
            right = np.flatnonzero(correct)  # M of them
            if not right.size:
                continue
            hits = np.cumsum(weights[:, right], 1)  # (R, M)
            precision = hits / (seen[:, right] + np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            at = hits / total
            last = (100 * at + _ROUNDING).astype(np.int64)  # of the `RECALLS`, or one more
            reached = last + (RECALLS[last] <= at)  # how many of them
            reached[:, 1:] -= reached[:, :-1].copy()  # those that no detection before has reached
            ap[:, t] = (precision * reached).sum(1) / len(RECALLS)
            recall[:, t] = hits[:, -1] / total[:, 0]
        return ap, recall
