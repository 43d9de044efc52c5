"""The gallery of the page of `compare`: images inside the page, and boxes as data that its script draws."""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..records.comparison import Comparison, ModelComparison
from ..records.pictures import Boxes, GalleryImage

MAX_SIDE = 640
"""Longest side of an embedded image, in pixels."""

_JPEG_QUALITY = 80
_DIGITS = 4  # of scores


@dataclass(frozen=True)
class Gallery:
    """What the script needs.

    Args:
        data: JSON: classes, labels of the models, per model the operating scores of the two halves (null: nothing
            counts), and per image its name, size, picture as a data URI, objects, detections per model, half, and for
            which of the models, by their places, it is among the worst.
        skipped: sentences on images that could not be read.
        left_out: images of the record beyond the number that was asked for.
    """

    data: dict[str, Any]
    skipped: list[str]
    left_out: int

    @property
    def num_images(self) -> int:
        """Embedded."""
        return len(self.data["images"])


def make_gallery(comparison: Comparison, limit: int) -> Gallery:
    """The first `limit` readable images of the record, each at most `MAX_SIDE` pixels wide and high."""
    labels = [model.label for model in comparison.models if not model.failed]
    images: list[dict[str, Any]] = []
    skipped: list[str] = []
    seen = 0
    for entry in comparison.gallery:
        if len(images) == limit:
            break
        seen += 1
        try:
            picture = _data_uri(find_image(entry.file_name, comparison.dataset.image_root))
        except Exception as error:  # decoders meet damaged files with whatever went wrong in them
            reason = getattr(error, "strerror", None) or error
            skipped.append(f"{entry.file_name} is not shown, as it cannot be read: {reason}")
        else:
            images.append(_record(entry, picture, labels))
    data = {
        "classes": comparison.dataset.class_names,
        "labels": labels,
        "scores": [_operating_scores(model) for model in comparison.models if not model.failed],
        "images": images,
    }
    return Gallery(data, skipped, left_out=len(comparison.gallery) - seen)


def find_image(file_name: str, image_root: str) -> Path:
    """As the record has it, else below the folder of the images."""
    below = Path(image_root, file_name)
    return below if image_root and not Path(file_name).is_file() and below.is_file() else Path(file_name)


def read_picture(path: Path) -> Image.Image:
    """An image as RGB, with the pixels that a model is given: upright, and of 16 bits the high byte."""
    with Image.open(path) as file:
        file.load()  # which turns a TIFF
        image = file if file.format == "TIFF" else _upright(file)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data, of which Pillow may say anything: the pixels are what counts
        return image


def _data_uri(path: Path) -> str:
    image = read_picture(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def without_images_elsewhere(comparison: Comparison) -> tuple[Comparison, list[str]]:
    """A record that somebody has sent, without the pictures that it would take from other folders than it says.

    Returns:
        The record, and the names of the images that were taken out of its gallery.
    """
    root = comparison.dataset.image_root and os.path.abspath(comparison.dataset.image_root)

    def below(entry: GalleryImage) -> bool:
        path = os.path.abspath(find_image(entry.file_name, comparison.dataset.image_root))
        return bool(root) and os.path.dirname(root) != root and os.path.commonpath([root, path]) == root

    inside = [entry for entry in comparison.gallery if below(entry)]
    outside = [entry.file_name for entry in comparison.gallery if not below(entry)]
    return replace(comparison, gallery=inside), outside


def _record(entry: GalleryImage, picture: str, labels: list[str]) -> dict[str, Any]:
    return {
        "name": Path(entry.file_name).name,
        "width": entry.width,
        "height": entry.height,
        "disagreement": round(entry.disagreement, 3),
        "picture": picture,
        "objects": _boxes(entry.objects),
        "detections": [_boxes(entry.detections.get(label, Boxes([], []))) for label in labels],
        "half": entry.half,
        "worstOf": [labels.index(label) for label in entry.worst_of if label in labels],
    }


def _operating_scores(model: ModelComparison) -> list[float | None]:
    """Rounded as the scores of the detections are, so that the one that has it counts."""
    scores = [] if model.operating is None else model.operating.scores
    return [round(x, _DIGITS) if math.isfinite(x) else None for x in scores]


def _boxes(boxes: Boxes) -> dict[str, list[Any]]:
    return {
        "boxes": [[round(x, 1) for x in box] for box in boxes.boxes],
        "classes": boxes.classes,
        "scores": [round(x, _DIGITS) for x in boxes.scores],
        "shipped": boxes.shipped,
        "crowd": boxes.crowd,
    }
