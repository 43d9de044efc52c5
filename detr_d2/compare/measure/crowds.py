"""Objects by how much they overlap others of their class: what is found of them, and what NMS loses of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ...evaluation.arrays import GroundTruth
from ..records.figures import Interval
from ..records.sets import USUAL_NMS, CrowdBin
from .chance import Chance
from .found import Found
from .matching import box_iou_xywh

CROWD_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
BINS = ((0.0, 0.0), *pairwise(CROWD_EDGES))
"""The objects that touch no other, then [low, high) for any two edges; the last bin holds its upper edge, too."""


def largest_overlaps(ground_truth: GroundTruth) -> np.ndarray:
    """(M,) largest IoU of each object with another object of its class and image; NaN for crowd regions."""
    result = np.zeros(len(ground_truth.classes))
    for image in range(len(ground_truth)):
        own = ground_truth.of_image(image)
        boxes, real = ground_truth.boxes_xywh[own], ~ground_truth.crowd[own]
        iou = box_iou_xywh(boxes, boxes, np.zeros(len(boxes), dtype=bool))
        other = (ground_truth.classes[own][:, None] == ground_truth.classes[own][None]) & real[None]
        np.fill_diagonal(other, False)
        result[own] = np.where(other, iou, 0.0).max(1, initial=0.0)
    return np.where(ground_truth.crowd, np.nan, result)


def overlapped_share(ground_truth: GroundTruth) -> float:
    """Objects that another of their class overlaps by an IoU of more than 0.5, in percent; NaN without objects."""
    overlaps = largest_overlaps(ground_truth)[~ground_truth.crowd]
    return 100 * float((overlaps > USUAL_NMS).mean()) if len(overlaps) else float("nan")


def bins_of(ground_truth: GroundTruth) -> np.ndarray:
    """(M,) index into `BINS` of each object, -1 for crowd regions."""
    overlaps = largest_overlaps(ground_truth)
    result = 1 + np.searchsorted(CROWD_EDGES[1:-1], overlaps, side="right")
    return np.where(ground_truth.crowd, -1, np.where(overlaps == 0, 0, result))


def mean_in_bins(values: np.ndarray, bin_of: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(B,) mean of the objects in each of the `BINS`, in percent; NaN for those without any.

    Args:
        values: (M,) of each object, 0-1 or bool.
        bin_of: (M,) see `bins_of`.
        weights: (M,) how often each object counts; default once.
    """
    inside = bin_of >= 0
    weights = np.ones(len(bin_of)) if weights is None else weights
    total = np.bincount(bin_of[inside], weights[inside], len(BINS))
    part = np.bincount(bin_of[inside], (weights * values)[inside], len(BINS))
    return 100 * np.divide(part, total, out=np.full(len(BINS), np.nan), where=total > 0)


class Crowds:
    """The figures of one model in each of the `BINS`, for any weighting of the images.

    Args:
        ground_truth: N images.
        shipped: the detections as shipped.
        without_nms: those without NMS; None if they are not known.
        chance: what boxes of found objects find of others; None without `without_nms`, or if nothing tells it.
    """

    def __init__(
        self, ground_truth: GroundTruth, shipped: Found, without_nms: Found | None, chance: Chance | None
    ) -> None:
        self._image_of = ground_truth.image_of
        self._bin_of = bins_of(ground_truth)
        self._shipped, self._without_nms, self._chance = shipped, without_nms, chance
        self._precision = _NormalisedPrecision(ground_truth, shipped, self._bin_of)

    def metrics(self, thresholds: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """`crowd_key` -> the figure; "lost" may be negative.

        Args:
            thresholds: (N,) score from which detections of each image count.
            weights: (N,) how often each image counts.
        """
        limit, weight = thresholds[self._image_of], weights[self._image_of].astype(np.float64)
        found = self._shipped.object_scores >= limit
        figures = {
            "recall": mean_in_bins(found, self._bin_of, weight),
            "ap": self._precision(weights.astype(np.float64)),
        }
        if self._without_nms is not None:
            without = self._without_nms.object_scores >= limit
            figures["recall_without_nms"] = mean_in_bins(without, self._bin_of, weight)
            expected = self._expected(found, without, thresholds, weights)
            figures["chance"] = mean_in_bins(expected, self._bin_of, weight)
            figures["lost"] = mean_in_bins(without - expected, self._bin_of, weight)
        return {crowd_key(i, name): float(x) for name, values in figures.items() for i, x in enumerate(values)}

    def _expected(
        self, found: np.ndarray, without: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """(M,) probability that each object is found without NMS by a detector that sees only what is found with it."""
        if self._chance is None:
            return np.full(len(found), np.nan)
        by_chance = self._chance.of_objects(found, thresholds, weights)
        by_chance = np.where(np.isnan(by_chance), without, by_chance)  # where nothing is known, nothing is lost
        return np.where(found, 1.0, by_chance)

    def records(self, values: Mapping[str, float], intervals: Mapping[str, Interval]) -> list[CrowdBin]:
        """One for each of the `BINS`.

        Args:
            values: what `metrics` returns of the images as they are.
            intervals: the same with intervals.
        """
        numbers = np.bincount(self._bin_of[self._bin_of >= 0], minlength=len(BINS)).tolist()
        return [
            CrowdBin(
                low=low,
                high=high,
                num_objects=numbers[i],
                recall=_percent(intervals[crowd_key(i, "recall")]),
                recall_without_nms=None
                if self._without_nms is None
                else _percent(intervals[crowd_key(i, "recall_without_nms")]),
                chance=values.get(crowd_key(i, "chance"), float("nan")),
                lost=None if self._chance is None else _percent(intervals[crowd_key(i, "lost")]),
                ap=_percent(intervals[crowd_key(i, "ap")]),
            )
            for i, (low, high) in enumerate(BINS)
        ]


def crowd_key(index: int, name: str) -> str:
    """Of a figure of one of the `BINS` among the metrics of a model."""
    return f"crowds[{index}].{name}"


def _percent(x: Interval) -> Interval:
    """Cut to what a percentage can be; NaN stays."""
    value, low, high = (float(np.clip(bound, 0, 100)) for bound in (x.value, x.low, x.high))
    return replace(x, value=value, low=low, high=high)


class _NormalisedPrecision:
    """Average precision in each bin as if it held all objects of a class: precision is R N / (R N + F).

    Paper: Hoiem et al. 2012, Diagnosing Error in Object Detectors, Sec. 2.3. With the detections by falling score, R is
    the share of the bin's objects of a class that are found so far, F the wrong detections of the class so far, in the
    whole set, and N the objects of the class in the whole set. Precision is summed over the objects that are found and
    not interpolated.
    """

    def __init__(self, ground_truth: GroundTruth, found: Found, bin_of: np.ndarray) -> None:
        self._num_classes = len(ground_truth.class_names)
        order = np.lexsort((-found.scores, found.classes))  # by class, then best first
        self._image = found.image[order]
        self._wrong = ~(found.finds | found.ignored)[order]
        hits = np.flatnonzero(found.finds[order])
        group = len(BINS) * found.classes[order][hits] + bin_of[found.objects[order][hits]]
        by_group = np.argsort(group, kind="stable")
        self._hits, self._group = hits[by_group], group[by_group]
        self._class_start = np.searchsorted(found.classes[order], found.classes[order][self._hits])
        self._group_start = np.searchsorted(self._group, self._group)
        real = ~ground_truth.crowd
        self._object_image = ground_truth.image_of[real]
        self._object_group = len(BINS) * ground_truth.classes[real] + bin_of[real]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(B,) mean over the classes that have objects in the bin, 0-100; NaN if none has.

        Args:
            weights: (N,) how often each image counts.
        """
        count = self._num_classes * len(BINS)
        objects = np.bincount(self._object_group, weights[self._object_image], count)  # (K * B,)
        of_class = objects.reshape(-1, len(BINS)).sum(1)
        weight = weights[self._image]
        wrong = np.append(0.0, np.cumsum(weight * self._wrong))
        hit = weight[self._hits]
        done = np.append(0.0, np.cumsum(hit))
        right = (done[1:] - done[self._group_start]) * of_class[self._group // len(BINS)]  # R N times the bin's objects
        false = (wrong[self._hits] - wrong[self._class_start]) * objects[self._group]
        precision = np.divide(right, right + false, out=np.zeros_like(right), where=right > 0)
        total = np.bincount(self._group, hit * precision, count)
        ap = np.divide(total, objects, out=np.full(count, np.nan), where=objects > 0).reshape(-1, len(BINS))
        known = ~np.isnan(ap)
        return 100 * np.divide(
            np.where(known, ap, 0.0).sum(0), known.sum(0), out=np.full(len(BINS), np.nan), where=known.any(0)
        )
