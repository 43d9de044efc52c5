"""What NMS removed, for the page of `compare`: crops of images around a right box and the one it was removed for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..records.comparison import Comparison, ModelComparison
from ..records.pictures import Removal
from .gallery import data_uri, find_image, read_picture, unreadable

MAX_SIDE = 240
"""Longest side of an embedded crop, in pixels."""

_MARGIN = 0.2  # on each side, of the longer side of what a crop must show
_SMALLEST_SIDE = 16  # pixels


@dataclass(frozen=True)
class Rectangle:
    """A box in a crop.

    Args:
        kind: "object", "removed" or "kept".
        x, y, width, height: pixels of the original image, from the corner of the crop.
    """

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Crop:
    """One removal.

    Args:
        picture: data URI.
        width, height: of the crop, in pixels of the original image.
        rectangles: object, kept and removed box, the last on top.
        alt: what the picture shows.
        caption: class, scores and IoU.
    """

    picture: str
    width: int
    height: int
    rectangles: list[Rectangle]
    alt: str
    caption: str


@dataclass(frozen=True)
class Strip:
    """The removals of a model.

    Args:
        label: of the model.
        says: a sentence on how many there are and what is shown.
        crops: best scored first.
        skipped: sentences on images that could not be read.
    """

    label: str
    says: str
    crops: list[Crop]
    skipped: list[str]


def removed_strips(comparison: Comparison) -> list[Strip]:
    """One for each model that is used with NMS and could be run without."""
    return [_strip(comparison, model) for model in comparison.models if _has_nms(model)]


def _has_nms(model: ModelComparison) -> bool:
    settings = model.shipped
    return not model.failed and settings is not None and settings.nms_switched_off and bool(settings.nms_threshold)


def _strip(comparison: Comparison, model: ModelComparison) -> Strip:
    made = [_crop_or_reason(removal, comparison) for removal in model.removals]
    crops = [x for x in made if isinstance(x, Crop)]
    skipped = dict.fromkeys(x for x in made if isinstance(x, str))
    return Strip(model.label, _says(model, len(crops)), crops, list(skipped))


def _crop_or_reason(removal: Removal, comparison: Comparison) -> Crop | str:
    try:
        return _crop(removal, comparison)
    except Exception as error:  # decoders meet damaged files with whatever went wrong in them
        return unreadable(removal.file_name, error)


def _says(model: ModelComparison, shown: int) -> str:
    number = next((x.removed for x in model.extra_boxes if x.setting == "shipped"), len(model.removals))
    if not number:
        return f"At its operating point NMS takes no right detection away from {model.label}."
    lost = "1 object loses its right detection" if number == 1 else f"{number:,} objects lose their right detections"
    verb = "is" if shown == 1 else "are"
    left_out = f"; {shown} of the highest scores {verb} shown" if 0 < shown < number else ""
    return f"{model.label}: {lost} to NMS{left_out}."


def _crop(removal: Removal, comparison: Comparison) -> Crop:
    picture = read_picture(find_image(removal.file_name, comparison.dataset.image_root))
    left, top, right, bottom = _window(removal)
    sx, sy = picture.width / removal.width, picture.height / removal.height  # 1 but for files that have changed
    image = picture.crop((round(left * sx), round(top * sy), round(right * sx), round(bottom * sy)))
    boxes = {"object": removal.object_box, "kept": removal.kept_box, "removed": removal.removed_box}
    name = comparison.dataset.class_names[removal.class_index]
    return Crop(
        picture=data_uri(image, MAX_SIDE),
        width=right - left,
        height=bottom - top,
        rectangles=[
            Rectangle(kind, round(x1 - left, 1), round(y1 - top, 1), round(x2 - x1, 1), round(y2 - y1, 1))
            for kind, (x1, y1, x2, y2) in boxes.items()
        ],
        alt=f"Part of {Path(removal.file_name).name}: an object ({name}), the right box on it that was removed, and "
        "the box that was kept instead, which overlap.",
        caption=f"{name}: {removal.removed_score:.2f} removed for {removal.kept_score:.2f}, IoU {removal.iou:.2f}",
    )


def _window(removal: Removal) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a square around the three boxes in whole pixels, or as much as the image has."""
    boxes = np.array([removal.object_box, removal.removed_box, removal.kept_box])
    size = np.array([removal.width, removal.height])
    low, high = np.maximum(boxes[:, :2].min(0), 0), np.minimum(boxes[:, 2:].max(0), size)
    side = np.minimum(max(_SMALLEST_SIDE, math.ceil((1 + 2 * _MARGIN) * (high - low).max())), size)
    start = np.clip(np.floor((low + high - side) / 2), 0, size - side)
    left, top, right, bottom = (int(x) for x in (*start, *(start + side)))
    return left, top, right, bottom
