"""Panoptic ground truth of one image as annotations, one per segment, for the mapper and for checks.

A record gives it in one of two ways: `pan_seg_file_name` with `segments_info` (COCO panoptic), or `annotations` of
things with a `sem_seg_file_name` of stuff (detectron2's "separated" datasets), where every stuff class of an image is
one segment, as it is in COCO panoptic.

Differs from the reference implementation in

* crowds, which the authors train on as if they were single objects;
* boxes, which hold the last row and column of pixels; the authors' end one pixel before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ...panoptic_classes import PanopticClasses
from ..coco.json_values import flag
from ..image_errors import another_size
from ..images import read_labels
from .file import read_segment_ids

_SEM_SEG_IGNORED = 255  # detectron2's label of pixels without a class


def panoptic_annotations(
    record: dict[str, Any], size: tuple[int, int], classes: PanopticClasses
) -> list[dict[str, Any]]:
    """Annotations in detectron2's format, whose `category_id` is the row of the class head.

    Args:
        record: detectron2's dict of the image.
        size: height and width of the image.
        classes: of the model.

    Returns:
        One dict per segment with pixels: `bbox` (xyxy pixels, tight), `category_id`, `iscrowd`, `segmentation`
        ((H, W) bool; where the record has `annotations`, that of the annotation).

    Raises:
        ValueError: if the record has no panoptic ground truth, or its files do not fit.
    """
    if "pan_seg_file_name" in record:
        return _of_panoptic_png(record, size, classes)
    if "sem_seg_file_name" in record and "annotations" in record:
        things = [
            {**annotation, "category_id": classes.row(annotation["category_id"], is_thing=True)}
            for annotation in record["annotations"]
        ]
        return things + _of_sem_seg(record["sem_seg_file_name"], size, classes)
    raise ValueError(
        "the image has no panoptic ground truth, which MODEL.DETR.PANOPTIC.ENABLED needs: register the data with "
        "--coco-panoptic"
    )


def segment_annotations(record: dict[str, Any], classes: PanopticClasses) -> dict[str, Any]:
    """A record with its segments as `annotations`, for checks: no file is read.

    A box is that of `segments_info`, the whole image where it gives none; an empty mask of the image's size stands in
    for that of the PNG. A record without `segments_info` is returned as it is.
    """
    if "segments_info" not in record:
        return record
    height, width = record.get("height", 1), record.get("width", 1)
    mask = np.broadcast_to(False, (height, width))  # of one byte
    annotations = [
        {
            "bbox": segment.get("bbox", [0, 0, width, height]),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": _row(segment, classes),
            "iscrowd": segment.get("iscrowd", 0),
            "segmentation": mask,
        }
        for segment in record["segments_info"]
    ]
    return {**record, "annotations": annotations}


def _row(segment: dict[str, Any], classes: PanopticClasses) -> int:
    return classes.row(segment["category_id"], is_thing=bool(flag(segment["isthing"])))


def _of_panoptic_png(record: dict[str, Any], size: tuple[int, int], classes: PanopticClasses) -> list[dict[str, Any]]:
    ids = read_segment_ids(record["pan_seg_file_name"], record["segments_info"], size)
    found = []
    for segment in record["segments_info"]:
        mask = ids == segment["id"]
        if mask.any():
            found.append(_annotation(mask, _row(segment, classes), bool(flag(segment.get("iscrowd", 0)))))
    return found


def _of_sem_seg(file_name: str, size: tuple[int, int], classes: PanopticClasses) -> list[dict[str, Any]]:
    labels = read_labels(file_name)
    if labels.shape != tuple(size):
        raise ValueError(another_size(file_name, labels.shape[::-1], (size[1], size[0]), "semantic PNG"))
    present = [label for label in np.unique(labels).tolist() if label not in (0, _SEM_SEG_IGNORED)]
    try:
        rows = [classes.row(label, is_thing=False) for label in present]
    except ValueError as error:
        raise ValueError(f"semantic PNG {file_name}: {error}") from error
    return [_annotation(labels == label, row, False) for label, row in zip(present, rows, strict=True)]


def _annotation(mask: np.ndarray, row: int, crowd: bool) -> dict[str, Any]:
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "bbox": [int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": row,
        "iscrowd": int(crowd),
        "segmentation": mask,
    }
