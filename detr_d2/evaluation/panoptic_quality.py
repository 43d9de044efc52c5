"""Panoptic quality as COCO measures it, without panopticapi; by numpy alone.

Paper: Kirillov et al. 2019, "Panoptic Segmentation", Sec. 4; rules for void and crowds as in COCO's evaluation:

* a prediction and an object of the same class match if their IoU is above 0.5, so that nothing matches twice; pixels of
  the prediction that are void in the ground truth do not count for the union;
* an object without match is a false negative, unless it is a crowd; crowds never match;
* a prediction without match is a false positive, unless more than half of it is void or crowd of its class;
* PQ, SQ and RQ are means over the classes that occur in ground truth or predictions.

torchmetrics' `PanopticQuality` knows no crowds and forgives void pixels in predictions, too, so that its numbers would
not be COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segments:
    """A panoptic map and its segments.

    Attributes:
        ids: (H, W) int, segment of each pixel, 0 for void.
        classes: segment id -> row of its class; ids of the map that are not here are void.
        crowds: ids of crowd segments.
    """

    ids: np.ndarray
    classes: Mapping[int, int]
    crowds: frozenset[int] = frozenset()


class PanopticCounts:
    """Matches, false positives and false negatives of every class, summed over images.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.iou, self.tp, self.fp, self.fn = np.zeros((4, num_classes))

    def add(self, predicted: Segments, truth: Segments) -> None:
        """Adds one image.

        Raises:
            ValueError: if the maps are of different sizes.
        """
        if predicted.ids.shape != truth.ids.shape:
            raise ValueError(f"the predicted map is {predicted.ids.shape}, the ground truth {truth.ids.shape} (H, W)")
        shared = _shared_pixels(truth.ids, predicted.ids)
        area_of_truth = _areas(truth.ids, truth.classes)
        area_of_predicted = _areas(predicted.ids, predicted.classes)
        void: dict[int, int] = {}
        for (true_id, predicted_id), pixels in shared.items():
            if true_id not in truth.classes:
                void[predicted_id] = void.get(predicted_id, 0) + pixels
        matched: set[int] = set()
        found: set[int] = set()
        for (true_id, predicted_id), pixels in shared.items():
            row = truth.classes.get(true_id)
            if row is None or true_id in truth.crowds or predicted.classes.get(predicted_id) != row:
                continue
            union = area_of_truth[true_id] + area_of_predicted[predicted_id] - pixels - void.get(predicted_id, 0)
            if pixels / union > 0.5:
                self.iou[row] += pixels / union
                self.tp[row] += 1
                found.add(true_id)
                matched.add(predicted_id)
        for true_id, row in truth.classes.items():
            if true_id not in found and true_id not in truth.crowds:
                self.fn[row] += 1
        for predicted_id, row in predicted.classes.items():
            if predicted_id in matched:
                continue
            crowd = [shared.get((i, predicted_id), 0) for i in truth.crowds if truth.classes[i] == row]
            if void.get(predicted_id, 0) + sum(crowd) <= 0.5 * area_of_predicted[predicted_id]:
                self.fp[row] += 1

    def merge(self, other: PanopticCounts) -> None:
        """Adds what another process has counted."""
        for name in ("iou", "tp", "fp", "fn"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def quality(self, rows: slice = slice(None)) -> dict[str, float]:
        """PQ, SQ and RQ (0-100) as means over those of some classes that occur; NaN if none does.

        Args:
            rows: of the classes.
        """
        iou, tp, fp, fn = self.iou[rows], self.tp[rows], self.fp[rows], self.fn[rows]
        occurs = tp + fp + fn > 0
        if not occurs.any():
            return {"PQ": float("nan"), "SQ": float("nan"), "RQ": float("nan")}
        iou, tp, errors = iou[occurs], tp[occurs], fp[occurs] + fn[occurs]
        per_class = {
            "PQ": iou / (tp + errors / 2),
            "SQ": iou / np.maximum(tp, 1),
            "RQ": tp / (tp + errors / 2),
        }
        return {name: 100 * float(values.mean()) for name, values in per_class.items()}

    def groups(self, num_things: int) -> dict[str, dict[str, float]]:
        """PQ, SQ and RQ of all classes, of the first `num_things` and of the others, as "all", "things" and "stuff"."""
        return {name: self.quality(rows) for name, rows in class_groups(num_things).items()}

    def num_classes(self, rows: slice = slice(None)) -> int:
        """How many of some classes occur."""
        return int(((self.tp + self.fp + self.fn)[rows] > 0).sum())


def _shared_pixels(truth: np.ndarray, predicted: np.ndarray) -> dict[tuple[int, int], int]:
    """(id in truth, id in prediction) -> pixels that have both."""
    true_ids, true_index = np.unique(truth, return_inverse=True)
    predicted_ids, predicted_index = np.unique(predicted, return_inverse=True)
    flat = true_index.reshape(-1) * len(predicted_ids) + predicted_index.reshape(-1)
    table = np.bincount(flat, minlength=len(true_ids) * len(predicted_ids)).reshape(len(true_ids), len(predicted_ids))
    return {(int(true_ids[i]), int(predicted_ids[j])): int(table[i, j]) for i, j in np.argwhere(table > 0).tolist()}


def _areas(ids: np.ndarray, classes: Mapping[int, int]) -> dict[int, int]:
    """Pixels of each segment that has a class; 0 for one without pixels."""
    present, counts = np.unique(ids, return_counts=True)
    areas = dict(zip(present.tolist(), counts.tolist(), strict=True))
    return {segment: areas.get(segment, 0) for segment in classes}


def class_groups(num_things: int) -> dict[str, slice]:
    """Name of a group of classes -> their rows."""
    return {"all": slice(None), "things": slice(0, num_things), "stuff": slice(num_things, None)}
