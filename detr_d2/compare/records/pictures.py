"""Boxes on images, as records for the page; units are those of `comparison`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Boxes:
    """Objects of an image, or one model's detections without NMS, best first.

    Args:
        boxes: (M, 4), xyxy, pixels of the original image; detections are clipped to it.
        classes: M indices into `DatasetSummary.class_names`.
        scores: M values; empty for ground truth.
        shipped: M values: whether the model returns it in normal use; empty for ground truth.
        crowd: M values for ground truth; empty for detections.
    """

    boxes: list[list[float]]
    classes: list[int]
    scores: list[float] = field(default_factory=list)
    shipped: list[bool] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class GalleryImage:
    """An image on which the models disagree, or one of them fails.

    Args:
        file_name: path of the image.
        image_id: of the annotation file, a number or a text.
        width, height: in pixels.
        disagreement: largest difference between two models in AP50-style F1 on this image, 0-1.
        objects: ground truth.
        detections: label -> detections without NMS and of score >= 0.05, at most 300 of them.
        worst_of: labels of the models that have this among their worst images: lowest F1 at the operating point.
        half: of the image, see `OperatingPoint`.
    """

    file_name: str
    image_id: Any
    width: int
    height: int
    disagreement: float
    objects: Boxes
    detections: dict[str, Boxes]
    worst_of: list[str] = field(default_factory=list)
    half: int = 0


@dataclass(frozen=True)
class Removal:
    """A right detection that NMS took away, at the operating point: it finds an object that none of those left finds.

    Args:
        file_name: path of the image.
        image_id: of the annotation file.
        width, height: of the image, in pixels.
        class_index: of object and boxes.
        object_box: xyxy, pixels, as all boxes here.
        removed_box, removed_score: the detection that was right.
        kept_box, kept_score: the one for whose sake it was removed.
        iou: of the two.
    """

    file_name: str
    image_id: Any
    width: int
    height: int
    class_index: int
    object_box: list[float]
    removed_box: list[float]
    removed_score: float
    kept_box: list[float]
    kept_score: float
    iou: float
