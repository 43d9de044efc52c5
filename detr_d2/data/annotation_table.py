"""All annotations of a dataset as arrays, so that a check of a million boxes takes milliseconds.

A COCO file is parsed once; its table is kept in detectron2's cache folder (`$FVCORE_CACHE`, by default
`~/.torch/iopath_cache`) under the file's path, size and time of change, and read from there the next time.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from iopath.common.file_io import get_cache_dir

from ..files import write_file
from .coco_json import load_json, parse_categories, require_keys
from .mask_faults import mask_fault, numbered_faults

_VERSION = 2  # raised whenever the same file would give another table
_MOST_NAMED = 10  # annotations named in one message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationTable:
    """The annotations of one dataset; every class is known and every box finite, otherwise there is no table.

    Attributes:
        class_names: (K,) str, in the order of the contiguous indices; empty if unknown.
        class_ids: (K,) int, category ids of the file.
        file_names: (N,) str, as written in the file; "" where the dataset gives none.
        image_sizes: (N, 2) int, width and height; 0 where the dataset gives none.
        image_of: (A,) int, image of each annotation, as an index into the images.
        annotation_ids: (A,) str, how messages call the annotation.
        boxes_xywh: (A, 4) float, pixels.
        classes: (A,) int, contiguous class indices.
        crowd: (A,) bool.
        mask_faults: (F,) str, what can be wrong with a segmentation; the first is "", for a mask that can be used.
        mask_fault_of: (A,) int, which of these each annotation has.
        orphans: (1,) int, number of annotations left out because their image is not in the file.
    """

    class_names: np.ndarray
    class_ids: np.ndarray
    file_names: np.ndarray
    image_sizes: np.ndarray
    image_of: np.ndarray
    annotation_ids: np.ndarray
    boxes_xywh: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    mask_faults: np.ndarray
    mask_fault_of: np.ndarray
    orphans: np.ndarray

    def clipped_sides(self) -> np.ndarray:
        """(A, 2) width and height of the boxes clipped to their images; images of unknown size do not clip."""
        sizes = np.where(self.image_sizes > 0, self.image_sizes, np.inf)[self.image_of]
        low = np.clip(self.boxes_xywh[:, :2], 0, sizes)
        high = np.clip(self.boxes_xywh[:, :2] + self.boxes_xywh[:, 2:], 0, sizes)
        return high - low


def read_coco_table(json_file: str) -> AnnotationTable:
    """The table of a COCO instances file, from the cache if the file is as it was.

    Raises:
        ValueError: if the file is missing or is not a valid COCO file; names file, entry, value and what was expected.
    """
    try:
        status = os.stat(json_file)
    except OSError as error:
        raise ValueError(
            f"annotation file {json_file} cannot be read ({error.strerror}): check the path given to --coco"
        ) from error
    return _read_cached(os.path.abspath(json_file), status.st_size, status.st_mtime_ns)


def cache_file(*key: object) -> Path:
    """The place in the cache folder for what depends on `key` alone."""
    digest = hashlib.sha256(repr((_VERSION, *key)).encode()).hexdigest()[:32]
    return Path(get_cache_dir()) / "detr_d2" / digest


@lru_cache(maxsize=8)
def _read_cached(json_file: str, size: int, mtime_ns: int) -> AnnotationTable:
    cached = cache_file("coco", json_file, size, mtime_ns).with_suffix(".npz")
    try:
        with np.load(cached, allow_pickle=False) as arrays:
            return AnnotationTable(**{field.name: arrays[field.name] for field in fields(AnnotationTable)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        table = _parse_coco(json_file)
    try:
        arrays = {field.name: getattr(table, field.name) for field in fields(AnnotationTable)}
        write_file(cached, lambda file: np.savez(file, **arrays))
    except OSError as error:
        logger.warning("The checks of %s cannot be cached in %s: %s", json_file, cached.parent, error)
    return table


def _parse_coco(json_file: str) -> AnnotationTable:
    content = load_json(json_file)
    names, class_ids = parse_categories(content["categories"], json_file)
    images = content["images"]
    require_keys(images, ("id", "file_name", "width", "height"), f"{json_file}: image")
    index_of = {image["id"]: index for index, image in enumerate(images)}
    if not images or len(index_of) < len(images):
        problem = "has no images" if not images else f"has {len(images) - len(index_of)} image ids that occur twice"
        raise ValueError(f"{json_file} {problem}: every image needs an entry with an id of its own")
    everything = content["annotations"]
    require_keys(everything, ("id", "image_id", "category_id", "bbox"), f"{json_file}: annotation")
    if len({annotation["id"] for annotation in everything}) < len(everything):
        raise ValueError(f"{json_file} has annotation ids that occur twice: number the annotations anew")
    annotations = [annotation for annotation in everything if annotation["image_id"] in index_of]
    class_of = {class_id: index for index, class_id in enumerate(class_ids)}
    sizes = [(image["width"], image["height"]) for image in images]
    table = AnnotationTable(
        class_names=np.array(names, dtype=str),
        class_ids=np.array(class_ids, dtype=np.int64),
        file_names=np.array([str(image["file_name"]) for image in images], dtype=str),
        image_sizes=np.array(sizes, dtype=np.int64),
        image_of=np.array([index_of[annotation["image_id"]] for annotation in annotations], dtype=np.int64),
        annotation_ids=np.array([str(annotation["id"]) for annotation in annotations], dtype=str),
        boxes_xywh=_stack_boxes([a["bbox"] for a in annotations], [a["id"] for a in annotations], json_file),
        classes=np.array([class_of.get(annotation["category_id"], -1) for annotation in annotations], dtype=np.int64),
        crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool),
        **numbered_faults(mask_fault(a.get("segmentation"), *sizes[index_of[a["image_id"]]]) for a in annotations),
        orphans=np.array([len(everything) - len(annotations)]),
    )
    unknown = [annotations[i] for i in np.flatnonzero(table.classes < 0)]
    if unknown:
        listed = ", ".join(f"annotation {a['id']} has category_id {a['category_id']!r}" for a in _first(unknown))
        raise ValueError(
            f"{json_file}: {len(unknown)} annotations are of an unknown class: {listed}; the file's category ids are "
            f'{class_ids[:20]}: add the class to "categories", or correct the annotations'
        )
    _require_no_ignore(annotations, json_file)
    return table


def _require_no_ignore(annotations: list[dict[str, Any]], json_file: str) -> None:
    for annotation in annotations:
        if annotation.get("ignore", 0):
            raise ValueError(
                f'{json_file}: annotation {annotation["id"]} has "ignore" {annotation["ignore"]!r}, which '
                'detectron2 does not read: mark it with "iscrowd": 1, or remove it'
            )


def _stack_boxes(boxes: list[Any], names: Sequence[object], source: str) -> np.ndarray:
    """(A, 4) float64 of boxes that are four finite numbers each; anything else is an error that names the first ten."""
    try:
        stacked = np.array(boxes) if boxes else np.zeros((0, 4))
    except ValueError:  # of different lengths
        stacked = np.array(None)
    numbers = stacked.dtype.kind in "iuf" and stacked.shape == (len(boxes), 4)  # strings would be converted silently
    if numbers and np.isfinite(stacked).all():
        return stacked.astype(np.float64)
    bad = [(name, box) for name, box in zip(names, boxes, strict=True) if not _is_box(box)]
    listed = ", ".join(f"annotation {name} has bbox {box!r}" for name, box in _first(bad))
    raise ValueError(
        f"{source}: {len(bad)} boxes are not four finite numbers: {listed}; correct or remove these annotations"
    )


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, Sequence | np.ndarray) and not isinstance(box, str) and len(box) == 4
    return numbers and all(isinstance(v, int | float | np.number) and math.isfinite(v) for v in box)


def _first(items: list[Any]) -> Iterator[Any]:
    return iter(items[:_MOST_NAMED])


def table_of_dicts(name: str, records: Sequence[dict[str, Any]], class_names: Sequence[str]) -> AnnotationTable:
    """The table of a dataset that is registered as a list of detectron2's standard dicts.

    Args:
        name: the dataset's name, for messages.
        records: the dicts; their annotations are called "FILE #INDEX" in messages.
        class_names: K names; () where they are unknown, and then only negative class indices are errors.

    Raises:
        ValueError: if an annotation has no class, an unknown one, no box, or a box that is not finite.
    """
    pairs = [(i, n, entry) for i, record in enumerate(records) for n, entry in enumerate(record.get("annotations", []))]
    labels = [f"{records[i].get('file_name', f'image {i}')} #{n}" for i, n, _ in pairs]
    boxes = []
    for label, (_, _, entry) in zip(labels, pairs, strict=True):
        require_keys([entry], ("category_id", "bbox", "bbox_mode"), f"{name}: annotation {label}")
        classified = isinstance(entry["category_id"], int | np.integer) and entry["category_id"] >= 0
        if not classified or (len(class_names) and entry["category_id"] >= len(class_names)):
            raise ValueError(
                f"{name}: annotation {label} has category_id {entry['category_id']!r}: expected a whole number from 0 "
                f"to {len(class_names) - 1 if len(class_names) else 'the number of classes - 1'}"
            )
        box = entry["bbox"]
        if entry["bbox_mode"] != BoxMode.XYWH_ABS:
            box = BoxMode.convert(list(box), entry["bbox_mode"], BoxMode.XYWH_ABS)
        boxes.append(list(box))
    return AnnotationTable(
        class_names=np.array(list(class_names), dtype=str),
        class_ids=np.arange(len(class_names)),
        file_names=np.array([str(record.get("file_name", "")) for record in records], dtype=str),
        image_sizes=np.array([[r.get("width", 0), r.get("height", 0)] for r in records], dtype=np.int64).reshape(-1, 2),
        image_of=np.array([i for i, _, _ in pairs], dtype=np.int64),
        annotation_ids=np.array(labels, dtype=str),
        boxes_xywh=_stack_boxes(boxes, labels, name),
        classes=np.array([entry["category_id"] for _, _, entry in pairs], dtype=np.int64),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for _, _, entry in pairs], dtype=bool),
        **numbered_faults(
            mask_fault(x.get("segmentation"), records[i].get("width", 0), records[i].get("height", 0))
            for i, _, x in pairs
        ),
        orphans=np.zeros(1, dtype=np.int64),
    )
