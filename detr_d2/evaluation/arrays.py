"""The objects and the detections of a whole dataset as arrays, and as the content of COCO files; by numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_DETECTIONS = 100
"""COCO's limit on the detections of an image and class."""

Rle = dict[str, Any]
"""Compressed run lengths of a mask, as pycocotools has them: "size" (height, width) and "counts"."""


@dataclass(frozen=True)
class GroundTruth:
    """The objects of N images, those of one image after those of the one before.

    Args:
        name: of the dataset.
        class_names: K names.
        image_ids: N ids, as the dataset has them: numbers or texts, which only name the images.
        file_names: N paths.
        sizes: (N, 2), height and width in pixels.
        offsets: (N + 1,), objects of image i are `offsets[i]` to `offsets[i + 1]`.
        boxes_xywh: (M, 4) float64, pixels, as in the annotations.
        classes: (M,) class indices.
        crowd: (M,) bool; a crowd region is not an object, but detections on it are no mistakes.
        areas: (M,), square pixels: as annotated, else of the mask, else of the box.
        segmentations: M masks, see `RecordedObject`; None for an object without a usable one. () for none at all.
        mask_faults: M reasons why there is none, "" if there is one.
        keypoints: M lists, or None for an object without.
    """

    name: str
    class_names: tuple[str, ...]
    image_ids: tuple[Any, ...]
    file_names: tuple[str, ...]
    sizes: np.ndarray
    offsets: np.ndarray
    boxes_xywh: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segmentations: tuple[Any, ...] = ()
    mask_faults: tuple[str, ...] = ()
    keypoints: tuple[list[float] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_of(self) -> np.ndarray:
        """(M,) index of each object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def of_image(self, index: int) -> slice:
        """The objects of one image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def objects_per_image(self) -> np.ndarray:
        """(N,) numbers, crowd regions not counted."""
        return np.bincount(self.image_of[~self.crowd], minlength=len(self))

    def first(self, count: int) -> GroundTruth:
        """The first images only."""
        count = min(count, len(self))
        of_objects = ("boxes_xywh", "classes", "crowd", "areas", "segmentations", "mask_faults", "keypoints")
        parts = {name: getattr(self, name)[:count] for name in ("image_ids", "file_names", "sizes")}
        parts |= {name: getattr(self, name)[: int(self.offsets[count])] for name in of_objects}
        return replace(self, offsets=self.offsets[: count + 1], **parts)


@dataclass(frozen=True)
class Detections:
    """The detections of N images, those of each image together and best first.

    Args:
        offsets: (N + 1,), detections of image i are `offsets[i]` to `offsets[i + 1]`.
        boxes_xyxy: (D, 4) float32, pixels of the original image.
        scores: (D,) float32.
        classes: (D,) class indices of the dataset.
    """

    offsets: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @property
    def image_of(self) -> np.ndarray:
        """(D,) index of each detection's image."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def boxes_xywh(self) -> np.ndarray:
        """(D, 4) float64, but with the rounding of float32 that results written by detectron2 have."""
        boxes = self.boxes_xyxy.astype(np.float32).copy()
        boxes[:, 2:] -= boxes[:, :2]
        return boxes.astype(np.float64)

    def of_image(self, index: int) -> slice:
        """The detections of one image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def select(self, keep: np.ndarray) -> Detections:
        """Those for which `keep`, (D,) bool, holds."""
        counts = np.bincount(self.image_of[keep], minlength=len(self.offsets) - 1)
        return Detections(_offsets(counts), self.boxes_xyxy[keep], self.scores[keep], self.classes[keep])

    @classmethod
    def join(cls, images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Detections:
        """From (boxes_xyxy, scores, classes) of each image, best first."""
        empty = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        boxes, scores, classes = (np.concatenate([empty[i], *(x[i] for x in images)]) for i in range(3))
        return cls(_offsets([len(x[1]) for x in images]), boxes, scores, classes.astype(np.int64))


def _offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def coco_dataset(ground_truth: GroundTruth) -> dict[str, Any]:
    """The ground truth as the content of a COCO file in which all is numbered from 1, by the order it has here.

    What the dataset calls its images, annotations and classes may be anything; COCO's evaluation calculates with ids.
    """
    files = zip(ground_truth.file_names, ground_truth.sizes.tolist(), strict=True)
    unnamed = [f"class {k}" for k in range(int(ground_truth.classes.max(initial=-1)) + 1)]
    return {
        "info": {},
        "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, (name, (h, w)) in enumerate(files, 1)],
        "annotations": _annotations(
            ground_truth, area=ground_truth.areas.tolist(), iscrowd=ground_truth.crowd.astype(int).tolist()
        ),
        "categories": [{"id": k, "name": name} for k, name in enumerate(ground_truth.class_names or unnamed, start=1)],
    }


def coco_detections(detections: Detections) -> list[dict[str, Any]]:
    """Detections as annotations of such a file, with scores."""
    count = len(detections.scores)
    return _annotations(
        detections,
        area=detections.boxes_xywh[:, 2:].prod(1).tolist(),
        iscrowd=[0] * count,
        score=detections.scores.tolist(),
    )


def _annotations(boxes: GroundTruth | Detections, **more: list[Any]) -> list[dict[str, Any]]:
    columns = {
        "id": range(1, len(boxes.classes) + 1),
        "image_id": (boxes.image_of + 1).tolist(),
        "category_id": (boxes.classes + 1).tolist(),
        "bbox": boxes.boxes_xywh.tolist(),
        **more,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
