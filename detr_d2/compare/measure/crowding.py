"""Crowds: objects that overlap others of their class, where NMS must choose and set prediction need not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..data import Detections, GroundTruth
from ..records import CrowdingBin
from .duplicates import MATCH_IOU, objects_found
from .matching import Matches, PrecisionCurves, box_iou_xywh, match

CROWDING_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)


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
    mine = np.append(inside, False)[matches.matched]  # (1, D)
    curves = PrecisionCurves(
        scores=matches.scores,
        classes=matches.classes,
        image=matches.image,
        correct=mine,
        ignored=(matches.matched >= 0) & ~mine,
        objects=objects,
    )
    return float(curves.average_precision()[0])
