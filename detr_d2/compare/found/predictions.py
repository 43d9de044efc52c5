"""Detections that another program has made, from a file in COCO's results format to what a model's are kept as.

Nothing is changed in them: boxes are neither clipped nor dropped, so that their AP is that of COCO's own evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from ...data.checks.records import json_id, mask_rle
from ...data.coco import json_values
from ...data.coco.entries import UNSET, Entries
from ...data.coco.json_file import read_list
from ...data.coco.json_values import Refused
from ...data.coco.mask_faults import EMPTY, MISSING, compressed_rle, read_segmentation
from ...evaluation.arrays import GroundTruth, Rle
from ..masks import Segmentation
from .nms import Candidates
from .prediction_ids import classes_of, images_of, require_classes, require_form

WHAT = "a file of predictions"


class _Entry(msgspec.Struct, gc=False):
    """A detection in a file."""

    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    score: Any = UNSET
    segmentation: Any = UNSET
    keypoints: Any = UNSET


@dataclass(frozen=True)
class Predictions:
    """The detections of N images.

    Args:
        images: those of each image, best first; classes are those of the data.
        masks: the same with their masks; None for a file of boxes alone.
    """

    images: list[Candidates]
    masks: list[Segmentation] | None


class _Given(Entries):
    """The entries of a file, which messages call by their place."""

    def label(self, index: int) -> str:
        return f"{self.noun} #{index}"


def read_predictions(path: str, truth: GroundTruth, category_ids: Sequence[Any], *, limit: int) -> Predictions:
    """Reads and checks a file.

    Args:
        path: of a JSON list of objects with `image_id`, `category_id`, `score`, and `bbox` (x, y, width, height in
            pixels) or `segmentation`, or both.
        truth: the whole dataset.
        category_ids: K ids of its classes, as they stand in the data.
        limit: the first images of it that are used; detections of the others are left out.

    Raises:
        ValueError: the file is wrong; names it, the first wrong entry, what was expected, and the cure.
    """
    entries = read_list(path, _Entry, what=WHAT)
    if not entries:
        raise ValueError(f"{path} holds an empty list, no detection: write the results of the detector into it")
    given = _Given(entries, "detection", path)
    given.require("image_id", "category_id", "score", score="; annotations have none, results do")
    image_of = images_of(given, [json_id(x) for x in truth.image_ids], truth)
    classes = classes_of(given, [json_id(x) for x in category_ids])
    scores = np.array(given.read("score", _score, problem="scores cannot be used"))
    masks = _masks(given, truth.sizes[image_of])
    boxes_xywh = _boxes(given, masks)
    require_form(given, boxes_xywh, truth.sizes[image_of][:, ::-1])

    order = np.lexsort((-scores, image_of))  # of equal scores, the order of the file
    ends = np.cumsum(np.bincount(image_of, minlength=len(truth)))[:limit]
    of_image = np.split(order, ends)[: len(ends)]
    corners = boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    images = [
        Candidates(corners[own].astype(np.float32), scores[own].astype(np.float32), classes[own], None, (h, w))
        for own, (h, w) in zip(of_image, truth.sizes.tolist(), strict=False)
    ]
    require_classes(given, images, truth)
    if masks is None:
        return Predictions(images, None)
    segmented = [
        Segmentation([h, w], scores[own].tolist(), classes[own].tolist(), [masks[i]["counts"] for i in own])
        for own, (h, w) in zip(of_image, truth.sizes.tolist(), strict=False)
    ]
    return Predictions(images, segmented)


def _score(value: Any) -> float:
    expected = "a number from 0 to 1; percentages are divided by 100, logits go through the sigmoid or softmax"
    return json_values.number(value, least=0, most=1, expected=expected)


def _box(value: Any) -> tuple[float, float, float, float]:
    expected = "x, y, width and height in pixels, four finite numbers, the last two not negative"
    try:
        box = json_values.box(value)
    except Refused:
        box = (0.0, 0.0, -1.0, -1.0)
    if min(box[2:]) < 0:
        raise Refused(expected)
    return box


def _boxes(given: Entries, masks: Sequence[Rle] | None) -> np.ndarray:
    """(D, 4) float64, xywh; of a file of masks alone, those around them."""
    values = given.values("bbox")
    if masks is not None and all(x is UNSET for x in values):
        return np.array(coco_mask.toBbox(list(masks)), dtype=np.float64).reshape(-1, 4)
    points = any(x is not UNSET for x in given.values("keypoints"))
    given.require("bbox", bbox="; key points are not compared, only boxes and masks" if points else "")
    return np.array(given.read("bbox", _box, values, "boxes cannot be used"), dtype=np.float64).reshape(-1, 4)


def _masks(given: Entries, sizes: np.ndarray) -> list[Rle] | None:
    """D run lengths, whose counts are texts; None where no detection has a mask.

    Args:
        given: D detections.
        sizes: (D, 2), height and width of their images.
    """
    values: list[Any] = [None if x is UNSET else x for x in given.values("segmentation")]
    if all(x is None for x in values):
        return None
    masks = []
    for i, (value, (height, width)) in enumerate(zip(values, sizes.tolist(), strict=True)):
        mask, fault = read_segmentation(value, width, height)
        if fault == EMPTY:  # which may be predicted
            mask, fault = compressed_rle(value), ""
        if fault:
            cure = "give each a mask, or none" if fault == MISSING else "write an RLE of the size of the image"
            raise ValueError(f"{given.source}: {given.label(i)} {fault}: {cure}")
        rle = mask_rle(mask, (height, width))
        counts = rle["counts"]
        masks.append({"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode()})
    return masks
