"""COCO panoptic files: JSON with `segments_info`, and PNGs in which a segment's id is R + 256 G + 65536 B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..panoptic_classes import PanopticClasses
from .coco_json import load_json, parse_categories, require_keys
from .images import read_image

_MOST_NAMED = 10  # ids or files named in one message


@dataclass(frozen=True)
class PanopticFile:
    """A panoptic JSON file whose structure, ids and classes have been checked.

    Attributes:
        things, stuff: category id -> name, in the order of the ids.
        images: image id -> its entry in the file.
        annotations: image id -> its entry in the file; images without one are not part of the dataset.
    """

    things: dict[int, str]
    stuff: dict[int, str]
    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]

    @property
    def is_thing(self) -> dict[int, bool]:
        return {**dict.fromkeys(self.things, True), **dict.fromkeys(self.stuff, False)}


def read_panoptic_file(json_file: str) -> PanopticFile:
    """Reads and checks a panoptic JSON file; once in a process, unless it changes.

    Raises:
        ValueError: if it is missing or not a COCO panoptic file; names file, entry, value and what was expected.
    """
    try:
        status = os.stat(json_file)
    except OSError as error:
        raise ValueError(
            f"panoptic file {json_file} cannot be read ({error.strerror}): check the path given to --coco-panoptic"
        ) from error
    return _read(os.path.abspath(json_file), (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _read(json_file: str, _state: tuple[int, int]) -> PanopticFile:
    """Forgets what it knows of a file whose size or time of change is another."""
    content = load_json(json_file)
    names, ids = parse_categories(content["categories"], json_file)
    require_keys(content["categories"], ("isthing",), f"{json_file}: category")
    kinds = {category["id"]: bool(category["isthing"]) for category in content["categories"]}
    named = dict(zip(ids, names, strict=True))
    if not any(kinds.values()):
        raise ValueError(f'{json_file} has no category with "isthing": 1: expected at least one class of things')
    require_keys(content["images"], ("id", "file_name", "width", "height"), f"{json_file}: image")
    images = {image["id"]: image for image in content["images"]}
    require_keys(content["annotations"], ("image_id", "file_name", "segments_info"), f"{json_file}: annotation")
    annotations: dict[int, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in images or image_id in annotations:
            problem = "has two annotations" if image_id in images else 'is not among "images"'
            raise ValueError(
                f"{json_file}: image {image_id!r} of {annotation['file_name']} {problem}: expected one each"
            )
        _check_segments(annotation["segments_info"], kinds, f"{json_file}: {annotation['file_name']}")
        annotations[image_id] = annotation
    if not annotations:
        raise ValueError(f'{json_file} has an empty list "annotations": every image needs an entry with its PNG')
    return PanopticFile(
        things={i: name for i, name in named.items() if kinds[i]},
        stuff={i: name for i, name in named.items() if not kinds[i]},
        images=images,
        annotations=annotations,
    )


def _check_segments(segments: list[dict[str, Any]], kinds: dict[int, bool], where: str) -> None:
    require_keys(segments, ("id", "category_id"), f"{where}: segment")
    unknown = [segment for segment in segments if segment["category_id"] not in kinds]
    if unknown:
        listed = ", ".join(f"segment {s['id']} has category_id {s['category_id']!r}" for s in unknown[:_MOST_NAMED])
        raise ValueError(
            f"{where}: {listed}, an unknown class; the file's category ids are {sorted(kinds)[:20]}: add the class to "
            '"categories", or correct the segments'
        )
    ids = [segment["id"] for segment in segments]
    if len(set(ids)) < len(ids) or 0 in ids:
        problem = "id 0, which means void" if 0 in ids else "the same id twice"
        raise ValueError(f"{where}: segments_info has {problem}: give each segment of an image a number of its own")


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
        raise ValueError(
            f"panoptic PNG {png_file} is {ids.shape[1]}x{ids.shape[0]} pixels, but its image is {size[1]}x{size[0]}"
        )
    unknown = sorted(set(np.unique(ids).tolist()) - {segment["id"] for segment in segments} - {0})
    if unknown:
        raise ValueError(
            f"panoptic PNG {png_file} has {len(unknown)} ids that its segments_info does not list, such as "
            f"{unknown[:_MOST_NAMED]}: expected an RGB picture whose pixels are R + 256 G + 65536 B of a segment's id"
        )
    return ids


def panoptic_records(
    file: PanopticFile, classes: PanopticClasses, png_root: str, image_root: str
) -> list[dict[str, Any]]:
    """detectron2's dicts of a panoptic file, `segments_info` with contiguous ids and `isthing`."""
    kinds = file.is_thing
    ids = {dataset_id: classes.category_id(row) for row, dataset_id in enumerate(classes.dataset_ids)}
    return [
        {
            "file_name": os.path.join(image_root, file.images[image_id]["file_name"]),
            "image_id": image_id,
            "height": file.images[image_id]["height"],
            "width": file.images[image_id]["width"],
            "pan_seg_file_name": os.path.join(png_root, annotation["file_name"]),
            "segments_info": [
                {**segment, "category_id": ids[segment["category_id"]], "isthing": kinds[segment["category_id"]]}
                for segment in annotation["segments_info"]
            ],
        }
        for image_id, annotation in file.annotations.items()
    ]
