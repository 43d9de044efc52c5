"""The annotation table of a dataset that a user's own function returns, as detectron2's standard dicts.

Other code of detectron2 reads the same dicts, so nothing is mended here: what it would misread is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..coco import json_values
from ..coco.annotation_table import AnnotationTable, objects_array
from ..coco.json_values import MAX_COORDINATE, Refused, plain_value, read_all, refusal, shown
from ..coco.mask_faults import mask_fault, numbered_faults

_MODES = {BoxMode.XYXY_ABS: 4, BoxMode.XYWH_ABS: 4, BoxMode.XYWHA_ABS: 5}  # and how many numbers a box has


def table_of_dicts(name: str, records: Sequence[dict[str, Any]], class_names: Sequence[str]) -> AnnotationTable:
    """The table of a dataset that is registered as a list of detectron2's standard dicts.

    Args:
        name: the dataset's name, for messages.
        records: the dicts; their annotations are called "FILE #INDEX" in messages.
        class_names: K names; () where they are unknown, and then only negative class indices are errors.

    Raises:
        ValueError: if there are no images; or a size, a flag, a class or a box is not what detectron2 expects.
    """
    if not records:
        raise ValueError(f"dataset {name} has no images: its function returned an empty list")
    pairs = annotation_pairs(name, records)
    entries = [entry for _, entry in pairs]
    labels = _labels(records, pairs)
    sizes = _sizes(name, records)
    crowd = [entry.get("iscrowd", 0) for entry in entries]
    crowd = read_all(crowd, _not_text(json_values.flag), key="iscrowd", labels=labels, source=name)
    faults = (mask_fault(entry.get("segmentation"), *sizes[i].tolist()) for i, entry in pairs)
    return AnnotationTable(
        class_names=objects_array(list(class_names)),
        class_ids=objects_array(list(range(len(class_names)))),
        class_parents=objects_array([""] * len(class_names)),
        file_names=objects_array(_file_names(name, records)),
        image_sizes=sizes,
        image_of=np.array([i for i, _ in pairs], dtype=np.int64),
        annotation_ids=np.zeros(0, dtype=np.int64),
        boxes_xywh=_boxes_xywh(name, entries, labels),
        classes=_classes(name, entries, labels, len(class_names)),
        crowd=np.array(crowd, dtype=bool),
        **numbered_faults(faults),
        orphans=np.zeros(1, dtype=np.int64),
        annotated=np.array([any("annotations" in record for record in records)]),
    )


def annotation_pairs(name: str, records: Sequence[Any]) -> list[tuple[int, dict[str, Any]]]:
    """Each annotation with the index of its image; raises ValueError where one is no dict or lacks a key."""
    pairs = []
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{name}: image {i} is {shown(record)}, expected a dict of detectron2's standard form")
        annotations = record.get("annotations", [])
        if not isinstance(annotations, list | tuple):
            raise ValueError(
                f"{name}: image {_called(record, i)} has annotations {shown(annotations)}, expected a list"
            )
        pairs += [(i, entry) for entry in annotations]
    labels = _labels(records, pairs)
    for k, (_, entry) in enumerate(pairs):
        if not isinstance(entry, dict):
            raise ValueError(f"{name}: {labels(k)} is {shown(entry)}, expected a dict")
        for key in ("category_id", "bbox", "bbox_mode"):
            if key not in entry:
                raise ValueError(f'{name}: {labels(k)} has no "{key}"')
    return pairs


def _file_names(name: str, records: Sequence[dict[str, Any]]) -> list[str]:
    """ "" where the record has none."""
    for i, record in enumerate(records):
        given = record.get("file_name", "")
        if not isinstance(given, str | os.PathLike):
            raise ValueError(f"{name}: image {i} has file_name {shown(given)}, expected the path of a file as text")
    return [os.fspath(record.get("file_name", "")) for record in records]


def _called(record: dict[str, Any], index: int) -> str:
    return str(record.get("file_name", f"image {index}"))


def _labels(records: Sequence[dict[str, Any]], pairs: Sequence[tuple[int, Any]]) -> Callable[[int], str]:
    def label(k: int) -> str:
        i = pairs[k][0]
        first = next(n for n, (image, _) in enumerate(pairs) if image == i)
        return f"annotation {_called(records[i], i)} #{k - first}"

    return label


def _not_text(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The reader for values that detectron2 reads as well, which takes no texts for numbers and no None for 0."""

    def strict(value: Any) -> Any:
        value = plain_value(value)
        if value is None or isinstance(value, str):
            raise Refused(f"{refusal(read, [])}, but no text")
        return read(value)

    return strict


def _sizes(name: str, records: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 2) int, width and height; 0 where they are not given."""
    sizes = np.zeros((len(records), 2), dtype=np.int64)
    for column, key in enumerate(("width", "height")):
        given = [i for i, record in enumerate(records) if key in record]
        sizes[given, column] = read_all(
            [records[i][key] for i in given],
            _not_text(json_values.side),
            key=key,
            labels=lambda k, given=given: f"image {_called(records[given[k]], given[k])}",  # type: ignore[misc]
            source=name,
        )
    return sizes


def _classes(
    name: str, entries: Sequence[dict[str, Any]], labels: Callable[[int], str], num_classes: int
) -> np.ndarray:
    """(A,) int."""
    values = [entry["category_id"] for entry in entries]
    for k, value in enumerate(values):
        if expected := refusal(partial(class_index, num_classes=num_classes), value):
            raise ValueError(f"{name}: {labels(k)} has category_id {shown(value)}: expected {expected}")
    return np.array(values, dtype=np.int64)


def class_index(value: Any, num_classes: int) -> int:
    """A contiguous class index; with `num_classes` 0, whose number is unknown, any. Raises `Refused` for all else."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < 2**31
    if not whole or (num_classes and value >= num_classes):
        raise Refused(f"a whole number from 0 to {num_classes - 1 if num_classes else 'the number of classes - 1'}")
    return int(value)


def _boxes_xywh(name: str, entries: Sequence[dict[str, Any]], labels: Callable[[int], str]) -> np.ndarray:
    """(A, 4) float64."""
    modes = [entry["bbox_mode"] for entry in entries]
    by_mode: dict[BoxMode, list[int]] = {}
    for k, mode in enumerate(read_all(modes, box_mode, key="bbox_mode", labels=labels, source=name)):
        by_mode.setdefault(mode, []).append(k)
    found = np.zeros((len(entries), 4))
    for mode, which in by_mode.items():
        boxes = read_all(
            [entries[k]["bbox"] for k in which],
            box_numbers(mode),
            key="bbox",
            labels=lambda i, which=which: labels(which[i]),  # type: ignore[misc]
            source=name,
            problem=f"boxes are not {_MODES[mode]} finite numbers",
        )
        found[which] = to_xywh(np.array(boxes, dtype=np.float64), mode)
    return found


def to_xywh(boxes: np.ndarray, mode: BoxMode) -> np.ndarray:
    """(A, 4) x, y, width, height from (A, 4 or 5) numbers; of a rotated box, the box around it."""
    if mode == BoxMode.XYWH_ABS:
        return boxes
    if mode == BoxMode.XYWHA_ABS:
        boxes = np.asarray(BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS))
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def box_mode(value: Any) -> BoxMode:
    """A mode in pixels; raises `Refused` for others."""
    if isinstance(value, int) and not isinstance(value, bool) and value in {int(mode) for mode in _MODES}:
        return BoxMode(value)
    raise Refused("BoxMode.XYXY_ABS or BoxMode.XYWH_ABS")


def box_numbers(mode: BoxMode) -> Callable[[Any], list[float]]:
    """The reader of boxes of a mode; it raises `Refused` for all else."""
    count, number = _MODES[mode], _not_text(json_values.number)

    def read(box: Any) -> list[float]:
        values = box.tolist() if isinstance(box, np.ndarray) else box
        if not isinstance(values, list | tuple) or len(values) != count:
            raise Refused(f"{count} finite numbers, at most {MAX_COORDINATE:,}")
        return [number(value) for value in values]

    return read
