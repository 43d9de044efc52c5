"""Panoptic ground truth of a dataset, and the evaluator that compares a model's maps with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from ..data.panoptic.file import read_panoptic_file, read_segment_ids
from ..panoptic_classes import PanopticClasses
from .panoptic_quality import PanopticCounts, Segments, class_groups

logger = logging.getLogger(__name__)

_SUFFIXES = {"all": "", "things": "_th", "stuff": "_st"}


def is_panoptic(name: str) -> bool:
    """Whether a registered dataset has panoptic ground truth."""
    metadata = MetadataCatalog.get(name)
    return bool(metadata.get("panoptic_json") and metadata.get("panoptic_root"))


class PanopticTruth:
    """The segments of a dataset's images.

    Args:
        dataset_name: registered, with `panoptic_json` and `panoptic_root` in its metadata.

    Raises:
        ValueError: if the dataset has no panoptic ground truth.
    """

    def __init__(self, dataset_name: str) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        classes = PanopticClasses.from_metadata(metadata, name=dataset_name)
        if classes is None or not is_panoptic(dataset_name):
            raise ValueError(
                f"dataset {dataset_name} has no panoptic ground truth in its metadata: register it with --coco-panoptic"
            )
        self.dataset_name = dataset_name
        self.classes = classes
        self._root = metadata.panoptic_root
        self._file = read_panoptic_file(metadata.panoptic_json)
        self._row_of_id = {dataset_id: row for row, dataset_id in enumerate(classes.dataset_ids)}

    def __len__(self) -> int:
        return len(self._file.annotations)

    def segments_of(self, image_id: Any) -> Segments:
        """Reads the map of an image.

        Raises:
            ValueError: if the image is not in the panoptic file, or its map does not fit.
        """
        if image_id not in self._file.annotations:
            raise ValueError(f"image {image_id!r} is not in the panoptic file of dataset {self.dataset_name}")
        annotation = self._file.annotations[image_id]
        segments = annotation["segments_info"]
        return Segments(
            ids=read_segment_ids(os.path.join(self._root, annotation["file_name"]), segments, None),
            classes={segment["id"]: self._row_of_id[segment["category_id"]] for segment in segments},
            crowds=frozenset(segment["id"] for segment in segments if segment.get("iscrowd", 0)),
        )


class PanopticQualityEvaluator(DatasetEvaluator):
    """Panoptic quality of `panoptic_seg`, as detectron2's `COCOPanopticEvaluator` reports it.

    The images may be shared among processes; all of them have to call `evaluate`.

    Args:
        dataset_name: see `PanopticTruth`.
    """

    def __init__(self, dataset_name: str) -> None:
        self.truth = PanopticTruth(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._counts = PanopticCounts(len(self.truth.classes))
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
            truth = self.truth.segments_of(sample["image_id"])
            ids, segments = output["panoptic_seg"]
            if segments is None:
                raise ValueError(
                    "the model gives no segments_info with its panoptic map: install panopticapi, with which "
                    "detectron2's COCOPanopticEvaluator reads such maps"
                )
            rows = {s["id"]: self.truth.classes.row(s["category_id"], is_thing=bool(s["isthing"])) for s in segments}
            self._counts.add(Segments(ids.cpu().numpy(), rows), truth)
            self._num_images += 1

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """PQ, SQ and RQ of all classes, of things (`_th`) and of stuff (`_st`), 0-100; None but in the main process."""
        gathered = comm.gather((self._counts, self._num_images))
        if not comm.is_main_process():
            return None
        total = PanopticCounts(len(self.truth.classes))
        for counts, _ in gathered:
            total.merge(counts)
        num_images, name = sum(number for _, number in gathered), self.truth.dataset_name
        if num_images < len(self.truth):
            logger.warning("Panoptic quality of %d of the %d images of %s.", num_images, len(self.truth), name)
        num_things = self.truth.classes.num_things
        found, rows = total.groups(num_things), class_groups(num_things)
        table = [[group, *values.values(), total.num_classes(rows[group])] for group, values in found.items()]
        headers = ["classes", "PQ", "SQ", "RQ", "number"]
        logger.info("Panoptic quality:\n%s", tabulate(table, headers=headers, floatfmt=".3f", tablefmt="pipe"))
        named = {f"{key}{_SUFFIXES[group]}": value for group, values in found.items() for key, value in values.items()}
        return {"panoptic_seg": named}
