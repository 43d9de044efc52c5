"""COCO panoptic files: JSON with `segments_info`, and PNGs in which a segment's id is R + 256 G + 65536 B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from ...panoptic_classes import PanopticClasses
from ..coco import json_values
from ..coco.entries import (
    UNSET,
    CocoImages,
    Entries,
    class_indices,
    lists_with,
    match_ids,
    read_classes,
    read_images,
)
from ..coco.json_file import image_path, local_json, read_lists
from ..coco.json_values import MOST_NAMED, Id, Refused, shown
from ..image_errors import another_size
from ..images import read_image

_LARGEST_ID = 2**24 - 1  # that the colours of a PNG can hold


class _PanopticEntry(msgspec.Struct, gc=False):
    """An entry of "annotations": the PNG of one image."""

    image_id: Any = UNSET
    file_name: Any = UNSET
    segments_info: Any = UNSET


class _SegmentEntry(msgspec.Struct, gc=False):
    """An entry of "segments_info"."""

    id: Any = UNSET
    category_id: Any = UNSET
    iscrowd: Any = UNSET
    bbox: Any = UNSET


_LISTS = lists_with(_PanopticEntry)


@dataclass(frozen=True)
class PanopticFile:
    """A panoptic JSON file whose every value has been checked.

    Attributes:
        things, stuff: category id -> name, in the order of the ids.
        images: image id -> file name, and width and height.
        annotations: image id -> `file_name` and `segments_info`, whose flags and classes are as those of the
            categories; images without one are not part of the dataset.
    """

    things: dict[Id, str]
    stuff: dict[Id, str]
    images: dict[Id, tuple[str, tuple[int, int]]]
    annotations: dict[Id, dict[str, Any]]

    @property
    def is_thing(self) -> dict[Id, bool]:
        return {**dict.fromkeys(self.things, True), **dict.fromkeys(self.stuff, False)}


def read_panoptic_file(json_file: str) -> PanopticFile:
    """Reads and checks a panoptic JSON file; once in a process, unless it changes.

    Raises:
        ValueError: if it is missing or not a COCO panoptic file; names file, entry, value and what was expected.
    """
    path = os.path.abspath(local_json(json_file, "check the path given to --coco-panoptic", "panoptic file"))
    status = os.stat(path)
    return _read(path, json_file, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _read(path: str, source: str, _state: tuple[int, int]) -> PanopticFile:
    """Forgets what it knows of a file whose size or time of change is another."""
    lists = read_lists(path, _LISTS, optional=frozenset(), what="a COCO panoptic file")
    classes = read_classes(lists["categories"], source)
    kinds = _kinds(lists["categories"], source)
    named = dict(zip(classes.ids, classes.names, strict=True))
    images = read_images(lists["images"], source)
    return PanopticFile(
        things={i: name for i, name in named.items() if kinds[i]},
        stuff={i: name for i, name in named.items() if not kinds[i]},
        images=dict(zip(images.ids, zip(images.file_names, images.sizes.tolist(), strict=True), strict=True)),
        annotations=_annotations(lists["annotations"], images, classes.ids, source),
    )


def _kinds(entries: Sequence[Any], source: str) -> dict[Id, int]:
    """Category id -> whether it is a thing."""
    given = Entries(entries, "category", source)
    given.require("isthing")
    flags = given.read("isthing", _given_flag)
    if not any(flags):
        raise ValueError(f'{source} has no category with "isthing": 1: expected at least one class of things')
    return {entry.id: flag for entry, flag in zip(entries, flags, strict=True)}


def _given_flag(value: Any) -> int:
    """A flag for which None stands for nothing."""
    if value is None:
        raise Refused("0 or 1, true or false")
    return json_values.flag(value)


def _annotations(
    entries: Sequence[Any], images: CocoImages, class_ids: Sequence[Id], source: str
) -> dict[Id, dict[str, Any]]:
    if not entries:
        raise ValueError(f'{source} has an empty list "annotations": every image needs an entry with its PNG')
    given = Entries(entries, "annotation of image", source, name="image_id")
    given.require("image_id", "file_name", "segments_info")
    ids, names = given.ids("image_id"), given.read("file_name", json_values.text)
    image_of = match_ids(images.ids, ids).tolist()
    annotations: dict[Id, dict[str, Any]] = {}
    for entry, image_id, name, image in zip(entries, ids, names, image_of, strict=True):
        if image < 0 or images.ids[image] in annotations:
            problem = 'is not among "images"' if image < 0 else "has two annotations"
            raise ValueError(f"{source}: image {shown(image_id)} of {name} {problem}: expected one each")
        segments = _segments(entry.segments_info, class_ids, f"{source}: {name}")
        annotations[images.ids[image]] = {"file_name": name, "segments_info": segments}
    return annotations


def _segments(given: Any, class_ids: Sequence[Id], where: str) -> list[dict[str, Any]]:
    """Of one image, with the category ids of "categories" and `iscrowd` as a number."""
    try:
        entries = Entries(msgspec.convert(given, list[_SegmentEntry]), "segment", where)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: segments_info is {shown(given)}, expected a list of objects ({error})") from error
    entries.require("id", "category_id")
    ids, crowd = entries.read("id", _segment_id), entries.flags("iscrowd").tolist()
    boxes = entries.read("bbox", _box_or_none)
    classes = class_indices(entries, class_ids).tolist()
    if len(set(ids)) < len(ids) or 0 in ids:
        problem = "id 0, which means void" if 0 in ids else "the same id twice"
        raise ValueError(f"{where}: segments_info has {problem}: give each segment of an image a number of its own")
    segments = []
    for entry, segment_id, index, flag, box in zip(given, ids, classes, crowd, boxes, strict=True):
        segment = {**entry, "id": segment_id, "category_id": class_ids[index], "iscrowd": flag, "bbox": box}
        segments.append({key: value for key, value in segment.items() if value is not None})
    return segments


def _box_or_none(value: Any) -> list[float] | None:
    return None if value is None or value is UNSET else list(json_values.box(value))


def _segment_id(value: Any) -> int:
    expected = f"a whole number from 1 to {_LARGEST_ID:,}, which the colour of the segment stands for"
    found = json_values.number(value, least=0, most=_LARGEST_ID, expected=expected)
    if found != int(found):
        raise Refused(expected)
    return int(found)


def read_segment_ids(png_file: str, segments: Sequence[dict[str, Any]], size: tuple[int, int] | None) -> np.ndarray:
    """(H, W) int64 segment ids of the pixels, 0 for void.

    Args:
        png_file: of one image.
        segments: its `segments_info`.
        size: height and width that it must have; None for any.

    Raises:
        ValueError: if it is missing or broken, of another size, or has ids that `segments` do not describe; names file
            and ids.
    """
    try:
        channels = read_image(png_file, "RGB").astype(np.int64)
    except FileNotFoundError as error:
        raise ValueError(
            f"panoptic PNG {png_file} does not exist: check the folder of the PNGs and the file names in the JSON file"
        ) from error
    ids = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
    if size is not None and ids.shape != tuple(size):
        raise ValueError(another_size(png_file, (ids.shape[1], ids.shape[0]), (size[1], size[0]), "panoptic PNG"))
    unknown = sorted(set(np.unique(ids).tolist()) - {segment["id"] for segment in segments} - {0})
    if unknown:
        raise ValueError(
            f"panoptic PNG {png_file} has {len(unknown)} ids that its segments_info does not list, such as "
            f"{unknown[:MOST_NAMED]}: expected an RGB picture whose pixels are R + 256 G + 65536 B of a segment's id"
        )
    return ids


def panoptic_records(
    file: PanopticFile, classes: PanopticClasses, png_root: str, image_root: str
) -> list[dict[str, Any]]:
    """detectron2's dicts of a panoptic file, `segments_info` with contiguous ids and `isthing`."""
    kinds = file.is_thing
    ids = {dataset_id: classes.category_id(row) for row, dataset_id in enumerate(classes.dataset_ids)}
    records = []
    for image_id, annotation in file.annotations.items():
        name, (width, height) = file.images[image_id]
        segments = [
            {**x, "category_id": ids[x["category_id"]], "isthing": kinds[x["category_id"]]}
            for x in annotation["segments_info"]
        ]
        paths = {
            "file_name": image_path(image_root, name),
            "pan_seg_file_name": os.path.join(png_root, annotation["file_name"]),
        }
        records.append({**paths, "image_id": image_id, "height": height, "width": width, "segments_info": segments})
    return records
