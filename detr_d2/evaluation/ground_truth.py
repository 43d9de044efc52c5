"""The ground truth of a dataset's records: as arrays, its masks, and as COCO's evaluation takes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from faster_coco_eval import COCO

from ..data.checks.records import image_ids, in_order_of_files, mask_rle, read_objects
from ..data.coco.mask_faults import MISSING
from ..data.registration import dataset_table
from .arrays import GroundTruth, Rle, coco_dataset

logger = logging.getLogger(__name__)

MOST_LEFT_OUT = 0.01
"""The largest part of the objects that may lack a mask where masks are measured."""


def ground_truth_of(name: str, records: Sequence[dict[str, Any]]) -> GroundTruth:
    """The ground truth in records, whoever made them; images in the order of their file names.

    Args:
        name: of the dataset, whose metadata name its classes; where they do not, there are no `class_names`.
        records: in detectron2's format.

    Raises:
        ValueError: a record cannot be used; see `detr_d2.data.checks.records`.
    """
    records = in_order_of_files(records)
    class_names = MetadataCatalog.get(name).get("thing_classes") or ()
    objects = [read_objects(name, record, len(class_names)) for record in records]
    flat = [x for image in objects for x in image]
    return GroundTruth(
        name=name,
        class_names=tuple(class_names),
        image_ids=tuple(image_ids(name, records)),
        file_names=tuple(str(x.get("file_name", "")) for x in records),
        sizes=np.array([(x.get("height") or 0, x.get("width") or 0) for x in records], dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, objects)]),
        boxes_xywh=np.array([x.box_xywh for x in flat], dtype=np.float64).reshape(-1, 4),
        classes=np.array([x.class_index for x in flat], dtype=np.int64),
        crowd=np.array([x.crowd for x in flat], dtype=bool),
        areas=np.array([x.area for x in flat], dtype=np.float64),
        segmentations=tuple(x.segmentation for x in flat),
        mask_faults=tuple(x.mask_fault for x in flat),
        keypoints=tuple(x.keypoints for x in flat),
    )


@dataclass(frozen=True)
class MaskTruth:
    """Masks of the M objects of `GroundTruth`.

    Args:
        masks: M of them, at the size of their images; None for an object that has none, which is left out.
        note: which objects are left out, for people; "" if none is.
    """

    masks: Sequence[Rle | None]
    note: str = ""


def load_mask_truth(ground_truth: GroundTruth) -> MaskTruth | None:
    """The masks of a dataset, without those few that cannot be used; None for data for boxes.

    Raises:
        ValueError: more than `MOST_LEFT_OUT` of the objects have a mask that cannot be used.
    """
    if not ground_truth.segmentations:
        return None
    without = [i for i, x in enumerate(ground_truth.segmentations) if x is None]
    fault = _mask_fault(ground_truth, without) if without else ""
    count = len(ground_truth.segmentations)
    few = f"{len(without)} of {count} objects of {ground_truth.name} have no usable mask{fault}"
    if len(without) > MOST_LEFT_OUT * count:
        if fault:
            raise ValueError(f"{few}; correct the segmentations in the annotations")
        return None
    sizes = ground_truth.sizes[ground_truth.image_of]
    masks = [
        None if x is None else mask_rle(x, (int(height), int(width)))
        for x, (height, width) in zip(ground_truth.segmentations, sizes, strict=True)
    ]
    note = f"{few}; they are left out of the figures of masks" if without else ""
    return MaskTruth(masks, note)


def _mask_fault(truth: GroundTruth, without: Sequence[int]) -> str:
    """What is wrong with the first mask of which something is; "" where masks are only missing.

    The records of a COCO file do not have the masks that cannot be used; its table knows why.
    """
    for i in without:
        if truth.mask_faults[i] != MISSING:
            return f", such as one of {truth.file_names[truth.image_of[i]]}, which {truth.mask_faults[i]}"
    table = dataset_table(truth.name)
    if table is not None:
        faults = table.mask_faults[table.mask_fault_of]
        for i in np.flatnonzero((faults != "") & (faults != MISSING))[:1]:
            return f", such as one of {table.file_names[table.image_of[i]]}, which {faults[i]}"
    return ""


def coco_truth(truth: GroundTruth, task: str) -> COCO | None:
    """The ground truth of a task as COCO's evaluation takes it.

    Args:
        truth: of the dataset.
        task: "bbox", "segm" or "keypoints".

    Returns:
        None, and a warning, where the data have nothing for the task.
    """
    content = coco_dataset(truth)
    objects = content["annotations"]
    if task == "segm":
        try:
            masks = load_mask_truth(truth)
        except ValueError as error:  # what has been predicted must not be lost
            logger.warning("The masks are not measured: %s.", error)
            return None
        if masks is None and objects:
            logger.warning("The masks are not measured: the annotations of %s have none.", truth.name)
            return None
        if masks is not None and masks.note:
            logger.warning("%s.", masks.note)
        segmented = zip(objects, masks.masks if masks is not None else (), strict=True)
        content["annotations"] = [{**x, "segmentation": mask} for x, mask in segmented if mask is not None]
    elif task == "keypoints":
        length = max((len(x) for x in truth.keypoints if x is not None), default=0)
        if not length:
            logger.warning("Keypoints are not measured: the annotations of %s have none.", truth.name)
            return None
        content["annotations"] = [
            {**x, "keypoints": points or [0] * length, "num_keypoints": sum(v > 0 for v in (points or [])[2::3])}
            for x, points in zip(objects, truth.keypoints, strict=True)
        ]
    return COCO(content)


def check_keypoints(truth: COCO, rows: Sequence[dict[str, Any]], sigmas: int) -> None:
    """Raises ValueError if ground truth, predictions and the sigmas of keypoints are not of the same number of them."""
    found = len(rows[0]["keypoints"]) // 3
    real = len(next(iter(truth.anns.values()))["keypoints"]) // 3
    if not found == real == sigmas:
        raise ValueError(
            f"the model predicts {found} keypoints, the annotations have {real}, and kpt_oks_sigmas holds {sigmas} "
            "values (17 unless given): give as many of each"
        )
