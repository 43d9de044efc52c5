"""Ground truth and detections of a whole dataset as arrays, and a fingerprint that changes when the data do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.checks.records import image_ids, in_order_of_files, read_objects, registered_records
from ..data.registration import dataset_table, require_registered
from .records import DatasetSummary


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


def load_ground_truth(name: str) -> GroundTruth:
    """Reads a registered dataset that models are compared on.

    Raises:
        ValueError: it is not registered, has no class names, no image or no annotated boxes, or is no list of dicts; or
            a record cannot be used.
    """
    require_registered([name])
    dataset_table(name)  # whose checks come first
    records = registered_records(name)
    if records is None:
        raise ValueError(f"dataset {name} is no list of dicts, which a comparison needs")
    if not records:
        raise ValueError(f"dataset {name} holds no images; a comparison needs some")
    if not MetadataCatalog.get(name).get("thing_classes"):
        raise ValueError(f"dataset {name} has no class names (thing_classes in its metadata); a comparison needs them")
    without = next((x for x in records if "annotations" not in x), None)
    if without is not None:
        hint = ": add :instances.json to --coco-panoptic" if "segments_info" in without else ""
        raise ValueError(
            f"dataset {name} has no annotations for {without.get('file_name')}; a comparison needs them{hint}"
        )
    unsized = next((x for x in records if not (x.get("height") and x.get("width"))), None)
    if unsized is not None:
        raise ValueError(
            f"dataset {name} has no height and width for {unsized.get('file_name')}; a comparison needs them"
        )
    return ground_truth_of(name, records)


def ground_truth_of(name: str, records: Sequence[dict[str, Any]]) -> GroundTruth:
    """The ground truth in records, whoever made them; images in the order of their file names.

    Args:
        name: of the dataset, whose metadata name its classes; where they do not, there are no `class_names`.
        records: in detectron2's format.

    Raises:
        ValueError: a record cannot be used; see `detr_d2.data.checks.records`.
    """
    records = in_order_of_files(records)
    class_names = MetadataCatalog.get(name).get("thing_classes") or ()
    objects = [read_objects(name, record, len(class_names)) for record in records]
    flat = [x for image in objects for x in image]
    return GroundTruth(
        name=name,
        class_names=tuple(class_names),
        image_ids=tuple(image_ids(name, records)),
        file_names=tuple(str(x.get("file_name", "")) for x in records),
        sizes=np.array([(x.get("height") or 0, x.get("width") or 0) for x in records], dtype=np.int64).reshape(-1, 2),
        offsets=_offsets([len(image) for image in objects]),
        boxes_xywh=np.array([x.box_xywh for x in flat], dtype=np.float64).reshape(-1, 4),
        classes=np.array([x.class_index for x in flat], dtype=np.int64),
        crowd=np.array([x.crowd for x in flat], dtype=bool),
        areas=np.array([x.area for x in flat], dtype=np.float64),
        segmentations=tuple(x.segmentation for x in flat),
        mask_faults=tuple(x.mask_fault for x in flat),
        keypoints=tuple(x.keypoints for x in flat),
    )


def fingerprint(ground_truth: GroundTruth) -> str:
    """Hash of annotations, image list, and size and time of every image file and of the PNGs of panoptic data."""
    digest = hashlib.sha256(repr((ground_truth.class_names, ground_truth.image_ids)).encode())
    metadata = MetadataCatalog.get(ground_truth.name)
    if not os.path.isfile(metadata.get("json_file", "")):  # whose bytes hold the masks
        digest.update(repr(ground_truth.segmentations).encode())
    for path in (metadata.get("json_file"), metadata.get("panoptic_json")):
        if path and os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    pngs = metadata.get("panoptic_root")
    if pngs and os.path.isdir(pngs):
        with os.scandir(pngs) as entries:
            digest.update(repr(sorted((x.name, x.stat().st_size, x.stat().st_mtime_ns) for x in entries)).encode())
    for array in (ground_truth.boxes_xywh, ground_truth.classes, ground_truth.crowd, ground_truth.areas):
        digest.update(np.ascontiguousarray(array).tobytes())
    for path in ground_truth.file_names:
        status = os.stat(path) if os.path.exists(path) else None
        digest.update(repr((path, status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.hexdigest()[:32]


def summarise(ground_truth: GroundTruth, *, limited: bool, fingerprint: str) -> DatasetSummary:
    """What a reader has to know of the data."""
    metadata = MetadataCatalog.get(ground_truth.name)
    real = ~ground_truth.crowd
    per_class = np.bincount(ground_truth.classes[real], minlength=len(ground_truth.class_names))
    return DatasetSummary(
        name=ground_truth.name,
        annotations=str(metadata.get("json_file", "")),
        image_root=str(metadata.get("image_root", "")),
        num_images=len(ground_truth),
        limited=limited,
        num_objects=int(real.sum()),
        num_crowd=int(ground_truth.crowd.sum()),
        class_names=list(ground_truth.class_names),
        objects_per_class=per_class.tolist(),
        max_objects=int(ground_truth.objects_per_image().max(initial=0)),
        fingerprint=fingerprint,
    )
