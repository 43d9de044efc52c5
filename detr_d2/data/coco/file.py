"""A COCO instances file as columns: every value is read as widely as JSON allows, then narrowed, or refused by name.

Checks, training, evaluation and comparison all see what is read here, so that none is stricter than another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from . import json_values
from .entries import (
    UNSET,
    CocoClasses,
    CocoImages,
    Entries,
    class_indices,
    lists_with,
    match_ids,
    read_classes,
    read_images,
)
from .json_file import read_lists, without_garbage_collection
from .json_values import MAX_COORDINATE, Id, listed, shown
from .mask_faults import mask_area, read_polygons, read_segmentation


class _Annotation(msgspec.Struct, gc=False):
    """An entry of "annotations" whose segmentation is polygons of numbers or an object, as in most files."""

    id: Any = UNSET
    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    area: Any = UNSET
    iscrowd: Any = UNSET
    ignore: Any = UNSET
    segmentation: list[list[float]] | dict[str, Any] | msgspec.UnsetType | None = UNSET
    keypoints: Any = UNSET


class _WideAnnotation(_Annotation, gc=False):
    """The same, whose segmentation may be anything."""

    segmentation: Any = UNSET


_LISTS, _WIDE_LISTS = lists_with(_Annotation), lists_with(_WideAnnotation)


@dataclass(frozen=True)
class CocoObjects:
    """The A annotations of the images of a file, in the order of the file.

    Attributes:
        ids: as in the file; [] if the annotations have none.
        image_of: (A,) int, index of the image.
        classes: (A,) int, index of the class.
        boxes_xywh: (A, 4) float64, pixels.
        crowd: (A,) int, 0 or 1.
        areas: (A,) float64, square pixels: as annotated, else of the mask, else of the box.
        segmentations: A polygons or RLEs as detectron2 has them; None where there is none that can be used.
        faults: A str, what is wrong with a segmentation, "" if nothing is.
        keypoints: A lists of x, y, visibility, ... as in the file; None where there are none.
        orphans: number of annotations left out because their image is not in the file.
    """

    ids: list[Id]
    image_of: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segmentations: list[Any]
    faults: list[str]
    keypoints: list[list[float] | None]
    orphans: int


_NONE = np.zeros(0, dtype=np.int64)
NO_OBJECTS = CocoObjects([], _NONE, _NONE, np.zeros((0, 4)), _NONE, np.zeros(0), [], [], [], orphans=0)


@dataclass(frozen=True)
class CocoFile:
    """A file whose every value has been read; `objects` is None for a test set, which has no list "annotations"."""

    classes: CocoClasses
    images: CocoImages
    objects: CocoObjects | None


_kept: dict[tuple[str, int, int], CocoFile] = {}  # one: between the checks and the loader of a process


def read_coco_file(path: str, source: str | None = None) -> CocoFile:
    """Reads a COCO instances file.

    Args:
        path: of the file.
        source: what messages call it; the path if None.

    Raises:
        ValueError: if it is not a valid COCO file; names file, entry, value and what was expected.
    """
    source = source or path
    with without_garbage_collection():
        lists = read_lists(path, _LISTS, _WIDE_LISTS, optional=frozenset({"annotations"}), what="a COCO file")
        classes = read_classes(lists["categories"], source)
        images = read_images(lists["images"], source)
        entries = lists.pop("annotations", None)
        return CocoFile(classes, images, None if entries is None else _read_objects(entries, classes, images, source))


def keep_coco_file(path: str, source: str | None = None) -> CocoFile:
    """`read_coco_file`, and what was read stays in memory for `take_coco_file`, if it is the largest so far."""
    state = _state(path)
    file = read_coco_file(path, source)
    if not _kept or len(next(iter(_kept.values())).images.ids) < len(file.images.ids):
        _kept.clear()
        _kept[state] = file
    return file


def take_coco_file(path: str, source: str | None = None) -> CocoFile:
    """What `keep_coco_file` has kept, which is given away once and while the file is the same; otherwise read."""
    file = _kept.pop(_state(path), None)
    return read_coco_file(path, source) if file is None else file


def forget_coco_file() -> None:
    """Frees what `keep_coco_file` has kept, in a process that is not going to take it."""
    _kept.clear()


def _state(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def _read_objects(entries: Sequence[Any], classes: CocoClasses, images: CocoImages, source: str) -> CocoObjects:
    given = Entries(entries, "annotation", source)
    given.require("image_id", "category_id", "bbox", category_id="; panoptic files are given to --coco-panoptic")
    ids, image_ids = _annotation_ids(given), given.ids("image_id")
    image_of = match_ids(images.ids, image_ids)
    _require_some_image(image_of, image_ids, images.ids, source)
    kept = np.flatnonzero(image_of >= 0)
    if len(kept) < len(entries):
        given, image_of = Entries([entries[i] for i in kept.tolist()], "annotation", source), image_of[kept]
        ids = [ids[i] for i in kept.tolist()] if ids else []
    _require_no_ignore(given)
    boxes = _boxes(given)
    masks, faults = _masks(given, images.sizes[image_of])
    return CocoObjects(
        ids=ids,
        image_of=image_of,
        classes=class_indices(given, classes.ids),
        boxes_xywh=boxes,
        crowd=given.flags("iscrowd"),
        areas=_areas(given, boxes, masks),
        segmentations=masks,
        faults=faults,
        keypoints=_keypoints(given),
        orphans=len(image_ids) - len(kept),
    )


def _masks(given: Entries, sizes: np.ndarray) -> tuple[list[Any], list[str]]:
    values = [None if value is UNSET else value for value in given.values("segmentation")]
    if not values or type(given.entries[0]) is _Annotation:
        return read_polygons(values, sizes)
    found = [read_segmentation(value, *size) for value, size in zip(values, sizes.tolist(), strict=True)]
    return [mask for mask, _ in found], [fault for _, fault in found]


def _annotation_ids(given: Entries) -> list[Id]:
    """[] if there are none: nothing refers to them."""
    if all(value is UNSET for value in given.values("id")):
        return []
    given.require("id")
    minival = "minival" in os.path.basename(given.source)  # COCO 2014's own minival sets repeat some
    return given.ids() if minival else given.distinct_ids()


def _require_some_image(image_of: np.ndarray, wanted: Sequence[Id], known: Sequence[Id], source: str) -> None:
    """Annotations of no image are left out; when that is all of them, the ids are of two kinds."""
    if len(wanted) and (image_of < 0).all():
        raise ValueError(
            f"{source}: none of the {len(wanted)} annotations belongs to an image of the file: they have image_id "
            f"{_kinds(wanted)}, but the images have id {_kinds(known)}: write the same ids in both"
        )


def _kinds(ids: Sequence[Id]) -> str:
    kind = "texts" if isinstance(ids[0], str) else "numbers"
    return f"{listed([shown(x) for x in ids[:3]], len(ids))} ({kind})"


def _require_no_ignore(given: Entries) -> None:
    which = np.flatnonzero(given.flags("ignore"))
    if len(which):
        raise ValueError(
            f'{given.source}: {given.label(int(which[0]))} has "ignore" 1 ({len(which)} annotations have), which '
            'detectron2 does not read: mark it with "iscrowd": 1, or remove it'
        )


def _boxes(given: Entries) -> np.ndarray:
    """(A, 4) float64."""
    values = given.values("bbox")
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        boxes = _plain_numbers(list(chain.from_iterable(values)), -MAX_COORDINATE, MAX_COORDINATE)
        if boxes is not None:
            return boxes.reshape(-1, 4)
    read = given.read("bbox", json_values.box, values, "boxes are not four finite numbers")
    return np.array(read, dtype=np.float64).reshape(-1, 4)


def _plain_numbers(values: list[Any], least: float, most: float) -> np.ndarray | None:
    """(N,) float64; None if some are not numbers from `least` to `most`."""
    if not set(map(type, values)) <= {int, float}:
        return None
    try:
        array = np.fromiter(values, dtype=np.float64, count=len(values))
    except OverflowError:
        return None
    return array if ((array >= least) & (array <= most)).all() else None


def _areas(given: Entries, boxes: np.ndarray, segmentations: Sequence[Any]) -> np.ndarray:
    """(A,) float64."""
    values = given.values("area")
    plain = set(map(type, values)) <= {int, float}
    for i in () if plain else [i for i, value in enumerate(values) if value is UNSET or value is None]:
        width, height = boxes[i, 2:].clip(0).tolist()
        values[i] = width * height if segmentations[i] is None else mask_area(segmentations[i])
    areas = _plain_numbers(values, 0, json_values.MAX_AREA)
    return np.array(given.read("area", json_values.area, values), dtype=np.float64) if areas is None else areas


def _keypoints(given: Entries) -> list[list[float] | None]:
    values = [None if value is UNSET or not value else value for value in given.values("keypoints")]
    return given.read("keypoints", json_values.keypoints, values)
