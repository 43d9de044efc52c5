"""What the records of a dataset say of its objects: the one reading behind evaluation and comparison.

Records are detectron2's standard dicts, of a COCO file or of a user's own function. Their ids are names: they may be
numbers or texts of any kind, and nothing is calculated from them.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from ..coco import json_values
from ..coco.json_values import Refused, plain_value, shown
from ..coco.mask_faults import compressed_rle, mask_area, mask_fault
from .record_table import annotation_pairs, box_mode, box_numbers, class_index, to_xywh

_T = TypeVar("_T")


@dataclass(frozen=True)
class RecordedObject:
    """An annotation as evaluation reads it.

    Attributes:
        box_xywh: pixels.
        class_index: contiguous.
        crowd: a region, no object.
        area: square pixels: as annotated, else of the mask, else of the box.
        segmentation: polygons of three points or more, or compressed run lengths; None without a usable mask.
        mask_fault: why there is none, as the predicate of a sentence; "" if there is one.
        keypoints: x, y, visibility of each, in pixel indices as COCO has them; None without.
    """

    box_xywh: tuple[float, float, float, float]
    class_index: int
    crowd: bool
    area: float
    segmentation: Any
    mask_fault: str
    keypoints: list[float] | None


def image_ids(name: str, records: Sequence[dict[str, Any]]) -> list[Hashable]:
    """The id of each record.

    Args:
        name: of the dataset, for messages.
        records: in detectron2's format.

    Raises:
        ValueError: an image has none, or two have the same.
    """
    seen: dict[Hashable, str] = {}
    for number, record in enumerate(records):
        image_id, file_name = record.get("image_id"), str(record.get("file_name", f"record {number}"))
        if not _is_name(image_id):
            raise ValueError(
                f"{name}: {file_name} has image_id {shown(image_id)}, expected a number or a text of its own"
            )
        if image_id in seen:
            raise ValueError(
                f"{name}: {seen[image_id]} and {file_name} have the same image_id {shown(image_id)}: give each its own"
            )
        seen[image_id] = file_name
    return list(seen)


def _is_name(value: Any) -> bool:
    """Whether a value can stand for one thing: NaN, which is not even itself, cannot, nor what no copy equals."""
    try:
        found = {value: True}.get(copy.copy(value), False)
    except TypeError:
        return False
    return value is not None and found and bool(value == value)


def registered_records(name: str) -> list[dict[str, Any]] | None:
    """What the function of a registered dataset returns; None for a dataset of torch, which is not looked through.

    Raises:
        ValueError: it is something that detectron2 cannot train on, such as a generator; or a file or a package that
            the function needs is missing.
    """
    try:
        records: Any = DatasetCatalog.get(name)
    except (ImportError, OSError) as error:
        raise ValueError(f"dataset {name} cannot be loaded ({error}): {_cure(error)}") from error
    if isinstance(records, list):
        return records
    if isinstance(records, tuple | np.ndarray):
        return list(records)
    if isinstance(records, Mapping | str | bytes) or not hasattr(records, "__getitem__"):
        raise ValueError(
            f"dataset {name}: its function returned an object of type {type(records).__name__}, expected a list of "
            "dicts, one of each image: return list(...) of them"
        )
    return None


def _cure(error: ImportError | OSError) -> str:
    if isinstance(error, ImportError):
        return f"pip install {error.name}" if error.name else "install what it needs"
    folder = os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    return (
        f"check the paths in its function; names of detectron2 are looked for in {folder}, which the environment "
        "variable DETECTRON2_DATASETS changes"
    )


def check_records(name: str) -> None:
    """Raises ValueError if evaluation could not use the records of a registered dataset, before anything is run."""
    records = registered_records(name)
    if records is not None:
        annotation_pairs(name, records)
        image_ids(name, records)
        num_classes = len(MetadataCatalog.get(name).get("thing_classes") or ())
        for record in records:
            read_objects(name, record, num_classes)


def json_id(image_id: Any) -> int | float | str:
    """An id as JSON can hold it: as it is if it is a number or a text, else its text."""
    value = plain_value(image_id)
    return value if isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)) else str(value)


def in_order_of_files(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records by file name, so that detections of equal score rank the same however the images are numbered."""
    return sorted(records, key=lambda record: str(record.get("file_name", "")))


def read_objects(name: str, record: dict[str, Any], num_classes: int) -> list[RecordedObject]:
    """The objects of one image.

    Args:
        name: of the dataset, for messages.
        record: in detectron2's format; without "annotations" there are no objects.
        num_classes: 0 where it is unknown.

    Raises:
        ValueError: an annotation cannot be used; names it, the value and what was expected.
    """
    size = int(record.get("height") or 0), int(record.get("width") or 0)
    found = []
    for number, annotation in enumerate(record.get("annotations") or []):
        where = f"{name}: annotation {number} of {record.get('file_name', record.get('image_id'))}"
        box = _box_xywh(annotation, where)
        segmentation, fault = _usable_mask(annotation, size)
        found.append(
            RecordedObject(
                box_xywh=box,
                class_index=_read(
                    partial(class_index, num_classes=num_classes), annotation.get("category_id"), "category_id", where
                ),
                crowd=bool(_read(json_values.flag, annotation.get("iscrowd"), "iscrowd", where)),
                area=_area(annotation, box, segmentation, where),
                segmentation=segmentation,
                mask_fault=fault,
                keypoints=_keypoints(annotation, where),
            )
        )
    return found


def mask_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of a usable mask.

    Args:
        segmentation: of a `RecordedObject`.
        size: height and width of the image.
    """
    if isinstance(segmentation, dict):
        return segmentation
    return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))


def _box_xywh(annotation: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
    try:
        known = box_mode(mode)
        x, y, width, height = to_xywh(np.array([box_numbers(known)(box)], dtype=np.float64), known)[0].tolist()
    except Refused as error:
        raise ValueError(
            f"{where} has bbox {shown(box)} in bbox_mode {mode!r}, expected four finite numbers in BoxMode.XYXY_ABS "
            "or BoxMode.XYWH_ABS"
        ) from error
    return x, y, width, height


def _usable_mask(annotation: dict[str, Any], size: tuple[int, int]) -> tuple[Any, str]:
    """A mask in COCO's form, and what is wrong where there is none."""
    segmentation: Any = annotation.get("segmentation")
    fault = mask_fault(segmentation, size[1], size[0])
    if fault:
        return None, fault
    if isinstance(segmentation, dict):
        return compressed_rle(segmentation), ""
    if isinstance(segmentation, np.ndarray):
        return dict(coco_mask.encode(np.asfortranarray(segmentation != 0, dtype=np.uint8))), ""
    if 0 in size:
        return None, "has polygons, and its image no height and width"
    return [np.asarray(ring, dtype=np.float64).tolist() for ring in segmentation], ""


def _keypoints(annotation: dict[str, Any], where: str) -> list[float] | None:
    """Pixel indices, which detectron2's loader has taken to the centres of pixels."""
    given: Any = annotation.get("keypoints")
    if given is None:
        return None
    values = np.asarray(given).reshape(-1).tolist() if isinstance(given, list | tuple | np.ndarray) else given
    read = _read(json_values.keypoints, values, "keypoints", where)
    return None if read is None else [x - 0.5 * (i % 3 != 2) for i, x in enumerate(read)]


def _area(annotation: dict[str, Any], box: Sequence[float], segmentation: Any, where: str) -> float:
    area = annotation.get("area")
    if area is None:
        return max(0.0, box[2]) * max(0.0, box[3]) if segmentation is None else mask_area(segmentation)
    return _read(json_values.area, area, "area", where)


def _read(read: Callable[[Any], _T], value: Any, key: str, where: str) -> _T:
    """A value by one of the readers of `json_values`."""
    try:
        return read(plain_value(value))
    except Refused as error:
        raise ValueError(f"{where} has {key} {shown(value)}, expected {error}") from None
