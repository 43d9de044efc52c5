"""The annotation table of a dataset that a user's own function returns, as detectron2's standard dicts.

Other code of detectron2 reads the same dicts, so nothing is mended here: what it would misread is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cache import objects_array
from ..coco import json_values
from ..coco.annotation_table import AnnotationTable
from ..coco.json_values import read_all, shown
from ..coco.mask_faults import mask_fault, numbered_faults
from .records import Annotations, not_text


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
    given = Annotations(name, records)
    sizes = _sizes(given)
    masks = (entry.get("segmentation") for entry in given.entries)
    faults = (mask_fault(mask, *sizes[i].tolist()) for mask, i in zip(masks, given.image_of, strict=True))
    return AnnotationTable(
        class_names=objects_array(list(class_names)),
        class_ids=objects_array(list(range(len(class_names)))),
        class_parents=objects_array([""] * len(class_names)),
        file_names=objects_array(_file_names(name, records)),
        image_sizes=sizes,
        image_of=np.array(given.image_of, dtype=np.int64),
        annotation_ids=np.zeros(0, dtype=np.int64),
        boxes_xywh=given.boxes_xywh(),
        classes=np.array(given.classes(len(class_names)), dtype=np.int64),
        crowd=np.array(given.read("iscrowd", not_text(json_values.flag), default=0), dtype=bool),
        **numbered_faults(faults),
        orphans=np.zeros(1, dtype=np.int64),
        annotated=np.array([any("annotations" in record for record in records)]),
    )


def _file_names(name: str, records: Sequence[dict[str, Any]]) -> list[str]:
    """ "" where the record has none."""
    names = [record.get("file_name", "") for record in records]
    for i, given in enumerate(names):
        if not isinstance(given, str | os.PathLike):
            raise ValueError(f"{name}: image {i} has file_name {shown(given)}, expected the path of a file as text")
    return list(map(os.fspath, names))


def _sizes(given: Annotations) -> np.ndarray:
    """(N, 2) int, width and height; 0 where they are not given."""
    sizes = np.zeros((len(given.records), 2), dtype=np.int64)
    for column, key in enumerate(("width", "height")):
        which = [i for i, record in enumerate(given.records) if key in record]
        sizes[which, column] = read_all(
            [given.records[i][key] for i in which],
            not_text(json_values.side),
            key=key,
            labels=lambda k, which=which: f"image {given.image(which[k])}",  # type: ignore[misc]
            source=given.name,
        )
    return sizes
