"""What a model segments in an image, as run lengths."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Segment:
    """A segment of a panoptic map.

    Args:
        category_id: detectron2's contiguous id.
        isthing: of which kind.
        counts: run lengths.
    """

    category_id: int
    isthing: bool
    counts: str


@dataclass(frozen=True)
class Segmentation:
    """What a model segments in one image.

    Args:
        size: height and width of the image.
        scores, classes: of the N instances, best first; classes of the model.
        counts: run lengths of their masks; [] if the model has no masks of instances.
        segments: of the panoptic map; None if the model makes none.
        error: "" or what went wrong with the image; then all else is empty.
        boxes: of the instances, xyxy in pixels of the image; [] for a file of predictions, which has them elsewhere.
    """

    size: list[int]
    scores: list[float]
    classes: list[int]
    counts: list[str]
    segments: list[Segment] | None = None
    error: str = ""
    boxes: list[list[float]] = field(default_factory=list)


def encode(mask: np.ndarray) -> str:
    """Compressed run lengths of a mask (H, W) of 0 and 1, or False and True, as text."""
    return str(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"], "ascii")


def decode(counts: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 0 or 1."""
    return coco_mask.decode({"size": list(size), "counts": counts})
