"""What the records of a dataset say of its objects: the one reading behind checks, evaluation and comparison.

Records are detectron2's standard dicts, of a COCO file or of a user's own function. Their ids are names: they may be
numbers or texts of any kind, and nothing is calculated from them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..coco import json_values
from ..coco.dataset import datasets_folder
from ..coco.json_values import MAX_COORDINATE, Reader, Refused, plain_value, read_all, refusal, shown
from ..coco.mask_faults import compressed_rle, mask_area, mask_fault

_MODES = {BoxMode.XYXY_ABS: 4, BoxMode.XYWH_ABS: 4, BoxMode.XYWHA_ABS: 5}  # and how many numbers a box has
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


def read_objects(name: str, record: dict[str, Any], num_classes: int) -> list[RecordedObject]:
    """The objects of one image.

    Args:
        name: of the dataset, for messages.
        record: in detectron2's format; without "annotations" there are no objects.
        num_classes: 0 where it is unknown.

    Raises:
        ValueError: an annotation cannot be used; names it, the value and what was expected.
    """
    given = Annotations(name, [record])
    boxes = [(x, y, width, height) for x, y, width, height in given.boxes_xywh().tolist()]
    size = int(record.get("height") or 0), int(record.get("width") or 0)
    masks = [_usable_mask(entry.get("segmentation"), size) for entry in given.entries]
    areas = given.read("area", lambda area: None if area is None else json_values.area(area))
    columns = zip(
        boxes, given.classes(num_classes), given.read("iscrowd", json_values.flag), areas, masks,
        given.read("keypoints", _keypoints), strict=True,
    )  # fmt: skip
    return [
        RecordedObject(box, index, bool(crowd), _area(mask, box) if area is None else area, mask, fault, keypoints)
        for box, index, crowd, area, (mask, fault), keypoints in columns
    ]


class Annotations:
    """The annotations of records, one property of all of them at a time; messages call them "FILE #INDEX".

    Args:
        name: of the dataset, for messages.
        records: detectron2's dicts, at least one.

    Raises:
        ValueError: a record or an annotation is no dict, or lacks a key.
    """

    def __init__(self, name: str, records: Sequence[Any]) -> None:
        self.name, self.records = name, records
        self.image_of: list[int] = []
        self.entries: list[dict[str, Any]] = []
        for i, record in enumerate(records):
            if not isinstance(record, dict):
                raise ValueError(f"{name}: image {i} is {shown(record)}, expected a dict of detectron2's standard form")
            found = record.get("annotations", [])
            if not isinstance(found, list | tuple):
                raise ValueError(f"{name}: image {self.image(i)} has annotations {shown(found)}, expected a list")
            self.image_of += [i] * len(found)
            self.entries += found
        for k, entry in enumerate(self.entries):
            if not isinstance(entry, dict):
                raise ValueError(f"{name}: {self.label(k)} is {shown(entry)}, expected a dict")
            for key in ("category_id", "bbox", "bbox_mode"):
                if key not in entry:
                    raise ValueError(f'{name}: {self.label(k)} has no "{key}"')

    def image(self, index: int) -> str:
        """How messages call an image."""
        return str(self.records[index].get("file_name", f"image {index}"))

    def label(self, index: int) -> str:
        """How messages call an annotation."""
        image = self.image_of[index]
        return f"annotation {self.image(image)} #{index - self.image_of.index(image)}"

    def read(self, key: str, read: Reader[_T], default: Any = None) -> list[_T]:
        """`read_all` of a key of all annotations; the default where one has none."""
        values = [plain_value(entry.get(key, default)) for entry in self.entries]
        return read_all(values, read, key=key, labels=self.label, source=self.name)

    def classes(self, num_classes: int) -> list[int]:
        """Contiguous class indices; with `num_classes` 0, whose number is unknown, any."""
        return self.read("category_id", partial(_class_index, num_classes=num_classes))

    def boxes_xywh(self) -> np.ndarray:
        """(A, 4) float64, pixels; of a rotated box, the box around it."""
        modes = self.read("bbox_mode", _box_mode)
        found = np.zeros((len(self.entries), 4))
        for mode in set(modes):
            which = [k for k, x in enumerate(modes) if x == mode]
            boxes = read_all(
                [self.entries[k]["bbox"] for k in which],
                partial(_box, count=_MODES[mode]),
                key="bbox",
                labels=lambda i, which=which: self.label(which[i]),  # type: ignore[misc]
                source=self.name,
                problem=f"boxes are not {_MODES[mode]} finite numbers",
            )
            array = np.array(boxes, dtype=np.float64)
            if mode == BoxMode.XYWHA_ABS:
                array, mode = BoxMode.convert(array, mode, BoxMode.XYXY_ABS), BoxMode.XYXY_ABS
            found[which] = BoxMode.convert(array, mode, BoxMode.XYWH_ABS)
        return found


def not_text(read: Reader[_T]) -> Reader[_T]:
    """The reader for values that detectron2 reads as well, which takes no texts for numbers and no None for 0."""

    def strict(value: Any) -> _T:
        value = plain_value(value)
        if value is None or isinstance(value, str):
            raise Refused(f"{refusal(read, [])}, but no text")
        return read(value)

    return strict


def _class_index(value: Any, num_classes: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    if not whole or (num_classes and value >= num_classes):
        raise Refused(f"a whole number from 0 to {num_classes - 1 if num_classes else 'the number of classes - 1'}")
    return int(value)


def _box_mode(value: Any) -> BoxMode:
    if isinstance(value, int) and not isinstance(value, bool) and value in {int(mode) for mode in _MODES}:
        return BoxMode(value)
    raise Refused("BoxMode.XYXY_ABS or BoxMode.XYWH_ABS")


def _box(value: Any, count: int) -> list[float]:
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(values, list | tuple) or len(values) != count:
        raise Refused(f"{count} finite numbers, at most {MAX_COORDINATE:,}")
    return [not_text(json_values.number)(x) for x in values]


def _usable_mask(segmentation: Any, size: tuple[int, int]) -> tuple[Any, str]:
    """A mask in COCO's form, and what is wrong where there is none."""
    if fault := mask_fault(segmentation, size[1], size[0]):
        return None, fault
    if isinstance(segmentation, dict):
        return compressed_rle(segmentation), ""
    if isinstance(segmentation, np.ndarray):
        return dict(coco_mask.encode(np.asfortranarray(segmentation != 0, dtype=np.uint8))), ""
    if 0 in size:
        return None, "has polygons, and its image no height and width"
    return [np.asarray(ring, dtype=np.float64).tolist() for ring in segmentation], ""


def _area(segmentation: Any, box: Sequence[float]) -> float:
    return max(0.0, box[2]) * max(0.0, box[3]) if segmentation is None else mask_area(segmentation)


def _keypoints(given: Any) -> list[float] | None:
    """Pixel indices, which detectron2's loader has taken to the centres of pixels."""
    values = np.asarray(given).reshape(-1).tolist() if isinstance(given, list | tuple | np.ndarray) else given
    read = json_values.keypoints(values)
    return None if read is None else [x - 0.5 * (i % 3 != 2) for i, x in enumerate(read)]


def mask_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of a usable mask.

    Args:
        segmentation: of a `RecordedObject`.
        size: height and width of the image.
    """
    if isinstance(segmentation, dict):
        return segmentation
    return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))


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


def json_id(image_id: Any) -> int | float | str:
    """An id as JSON can hold it: as it is if it is a number or a text, else its text."""
    value = plain_value(image_id)
    return value if isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)) else str(value)


def in_order_of_files(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records by file name, so that detections of equal score rank the same however the images are numbered."""
    return sorted(records, key=lambda record: str(record.get("file_name", "")))


@lru_cache(maxsize=8)
def _loaded(name: str, _loader: int) -> Any:  # of another loader, other records
    return DatasetCatalog.get(name)


forget_records = _loaded.cache_clear
"""Frees what `registered_records` has kept."""


def registered_records(name: str) -> list[dict[str, Any]] | None:
    """What the function of a registered dataset returns; None for a dataset of torch, which is not looked through.

    It is called once until `forget_records`; the records are not to be changed.

    Raises:
        ValueError: it is something that detectron2 cannot train on, such as a generator; or a file or a package that
            the function needs is missing.
    """
    try:
        records: Any = _loaded(name, id(DatasetCatalog[name]))
    except ImportError as error:
        cure = f"pip install {error.name}" if error.name else "install what it needs"
        raise ValueError(f"dataset {name} cannot be loaded ({error}): {cure}") from error
    except OSError as error:
        raise ValueError(
            f"dataset {name} cannot be loaded ({error}): check the paths in its function; names of detectron2 are "
            f"looked for in {datasets_folder()}, which the environment variable DETECTRON2_DATASETS changes"
        ) from error
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
