"""Panoptic quality as COCO measures it, without panopticapi.

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

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from ..data.panoptic.file import read_panoptic_file, read_segment_ids
from ..panoptic_classes import PanopticClasses

logger = logging.getLogger(__name__)

_GROUPS = {"": "all", "_th": "things", "_st": "stuff"}


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


class PanopticQualityEvaluator(DatasetEvaluator):
    """Panoptic quality of `panoptic_seg`, as detectron2's `COCOPanopticEvaluator` reports it.

    The images may be shared among processes; all of them have to call `evaluate`.

    Args:
        dataset_name: registered, with `panoptic_json` and `panoptic_root` in its metadata.

    Raises:
        ValueError: if the dataset has no panoptic ground truth.
    """

    def __init__(self, dataset_name: str) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        classes = PanopticClasses.from_metadata(metadata, name=dataset_name)
        if classes is None or not metadata.get("panoptic_json") or not metadata.get("panoptic_root"):
            raise ValueError(
                f"dataset {dataset_name} has no panoptic ground truth in its metadata: register it with --coco-panoptic"
            )
        self.dataset_name = dataset_name
        self.classes = classes
        self.png_root = metadata.panoptic_root
        self.truth = read_panoptic_file(metadata.panoptic_json)
        self._row_of_id = {dataset_id: row for row, dataset_id in enumerate(classes.dataset_ids)}
        self.reset()

    def reset(self) -> None:
        self._counts = PanopticCounts(len(self.classes))
        self._num_images = 0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Counts the matches of some images.

        Args:
            inputs: with "image_id".
            outputs: with "panoptic_seg": a map (H, W) of ids, 0 for void, and its segments in contiguous ids.

        Raises:
            ValueError: if an image is not in the panoptic file, or its map or segments do not fit.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = self._truth_of(sample["image_id"])
            ids, segments = output["panoptic_seg"]
            if segments is None:
                raise ValueError(
                    "the model gives no segments_info with its panoptic map: install panopticapi, with which "
                    "detectron2's COCOPanopticEvaluator reads such maps"
                )
            rows = {s["id"]: self.classes.row(s["category_id"], is_thing=bool(s["isthing"])) for s in segments}
            self._counts.add(Segments(ids.cpu().numpy(), rows), truth)
            self._num_images += 1

    def _truth_of(self, image_id: int) -> Segments:
        if image_id not in self.truth.annotations:
            raise ValueError(f"image {image_id!r} is not in the panoptic file of dataset {self.dataset_name}")
        annotation = self.truth.annotations[image_id]
        segments = annotation["segments_info"]
        path = os.path.join(self.png_root, annotation["file_name"])
        return Segments(
            ids=read_segment_ids(path, segments, None),
            classes={segment["id"]: self._row_of_id[segment["category_id"]] for segment in segments},
            crowds=frozenset(segment["id"] for segment in segments if segment.get("iscrowd", 0)),
        )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """PQ, SQ and RQ of all classes, of things (`_th`) and of stuff (`_st`), 0-100; None but in the main process."""
        gathered = comm.gather((self._counts, self._num_images))
        if not comm.is_main_process():
            return None
        total = PanopticCounts(len(self.classes))
        for counts, _ in gathered:
            total.merge(counts)
        num_images = sum(number for _, number in gathered)
        if num_images < len(self.truth.annotations):
            logger.warning(
                "Panoptic quality of %d of the %d images of %s.",
                num_images, len(self.truth.annotations), self.dataset_name,
            )  # fmt: skip
        rows = {
            "": slice(None),
            "_th": slice(0, self.classes.num_things),
            "_st": slice(self.classes.num_things, None),
        }
        results: dict[str, float] = {}
        table = []
        for suffix, group in rows.items():
            quality = total.quality(group)
            results.update({name + suffix: value for name, value in quality.items()})
            table.append([_GROUPS[suffix], *quality.values(), total.num_classes(group)])
        headers = ["classes", "PQ", "SQ", "RQ", "number"]
        logger.info("Panoptic quality:\n%s", tabulate(table, headers=headers, floatfmt=".3f", tablefmt="pipe"))
        return {"panoptic_seg": results}
