"""Detections as a set: several of them on one object, objects that overlap each other, and how many there are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from ..records.sets import CountGroup, Counting, CrowdingBin, Duplicates, QueryGroup, QueryLimit
from .matching import Matches, PrecisionCurves, box_iou_xywh, match

MATCH_IOU = 0.5
PAIR_IOUS = (0.5, 0.7)
CROWDING_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
MAX_GROUPS = 8


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


def crowding_bins(
    ground_truth: GroundTruth, shipped: Detections, without_nms: Detections | None, *, score_threshold: float
) -> list[CrowdingBin]:
    """Recall and AP50 of objects by how much they overlap.

    Args:
        ground_truth: N images.
        shipped: what the model returns.
        without_nms: what it would return without NMS; None if that is not known.
        score_threshold: recall counts detections from this score on.

    Returns:
        The objects that touch no other, then one bin between any two of `CROWDING_EDGES`.
    """
    overlaps = largest_overlaps(ground_truth)
    found = objects_found(ground_truth, shipped.select(shipped.scores >= score_threshold))
    findable = None
    if without_nms is not None:
        findable = objects_found(ground_truth, without_nms.select(without_nms.scores >= score_threshold))
    matches = match(ground_truth, shipped, ious=np.array([MATCH_IOU]))
    bins = [(0.0, 0.0, overlaps == 0)]
    for low, high in pairwise(CROWDING_EDGES):
        inside = (overlaps > 0) & (overlaps >= low) & ((overlaps < high) | (high == 1.0))
        bins.append((low, high, inside))
    return [
        CrowdingBin(
            low=low,
            high=high,
            num_objects=int(inside.sum()),
            recall=_share(found, inside),
            recall_without_nms=float("nan") if findable is None else _share(findable, inside),
            ap50=_average_precision(ground_truth, matches, inside),
            score_threshold=score_threshold,
        )
        for low, high, inside in bins
    ]


def _share(found: np.ndarray, inside: np.ndarray) -> float:
    return 100 * float(found[inside].mean()) if inside.any() else float("nan")


def _average_precision(ground_truth: GroundTruth, matches: Matches, inside: np.ndarray) -> float:
    """AP50 of the objects inside: detections matched to others are ignored, those matched to none are mistakes."""
    objects = np.zeros_like(matches.objects)
    np.add.at(objects, (ground_truth.image_of[inside], ground_truth.classes[inside]), 1)
    others = (matches.matched >= 0) & ~np.append(inside, False)[matches.matched]
    return float(PrecisionCurves(replace(matches, ignored=others, objects=objects)).average_precision()[0])


def count_groups(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Ranges (low, high) of numbers of objects, both included, that hold about equally many of the images."""
    values = np.unique(numbers)
    if len(values) <= MAX_GROUPS:
        return [(int(x), int(x)) for x in values]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, MAX_GROUPS + 1), method="lower"))
    starts = [int(edges[0]), *(int(x) + 1 for x in edges[1:-1])]
    return list(zip(starts, (*(x - 1 for x in starts[1:]), int(edges[-1])), strict=True))


def count_errors(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(N,) detections minus objects of each image."""
    return np.diff(detections.offsets) - ground_truth.objects_per_image()


def counting(ground_truth: GroundTruth, shipped: Detections, *, score_threshold: float) -> Counting:
    """Compares the number of detections, from a score on, with the number of objects, image by image."""
    true = ground_truth.objects_per_image()
    error = count_errors(ground_truth, shipped.select(shipped.scores >= score_threshold))
    predicted = true + error
    groups = []
    for low, high in count_groups(true):
        inside = (true >= low) & (true <= high)
        groups.append(
            CountGroup(
                low=low,
                high=high,
                num_images=int(inside.sum()),
                true_mean=float(true[inside].mean()),
                predicted_mean=float(predicted[inside].mean()),
                mean_absolute_error=float(np.abs(error[inside]).mean()),
            )
        )
    return Counting(
        score_threshold=score_threshold,
        mean_error=float(error.mean()),
        mean_absolute_error=float(np.abs(error).mean()),
        exact_share=100 * float((error == 0).mean()),
        groups=groups,
    )


def query_limit(ground_truth: GroundTruth, shipped: Detections, num_queries: int, max_detections: int) -> QueryLimit:
    """Relates the objects that were missed at any score to the number of objects of their images."""
    most = min(num_queries, max_detections)
    true = ground_truth.objects_per_image()
    missed = ~objects_found(ground_truth, shipped) & ~ground_truth.crowd
    missed_per_image = np.bincount(ground_truth.image_of[missed], minlength=len(ground_truth))
    groups = []
    for low, high in count_groups(true):
        inside = (true >= low) & (true <= high)
        groups.append(
            QueryGroup(
                low=low,
                high=high,
                num_images=int(inside.sum()),
                num_objects=int(true[inside].sum()),
                missed=int(missed_per_image[inside].sum()),
            )
        )
    return QueryLimit(
        num_queries=num_queries,
        max_objects=int(true.max(initial=0)),
        images_over=int((true > most).sum()),
        objects_over=int(np.clip(true - most, 0, None).sum()),
        groups=groups,
    )
