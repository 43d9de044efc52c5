"""Ground truth and detections of a whole dataset as arrays, and a fingerprint that changes when the data do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..data import category_ids
from ..data.registration import is_coco_file, require_registered
from .compare_results import DatasetSummary


@dataclass(frozen=True)
class GroundTruth:
    """The objects of N images, those of one image after those of the one before.

    Args:
        name: of the dataset.
        class_names: K names.
        image_ids: N ids, ascending.
        file_names: N paths.
        sizes: (N, 2), height and width in pixels.
        offsets: (N + 1,), objects of image i are `offsets[i]` to `offsets[i + 1]`.
        boxes_xywh: (M, 4) float64, pixels, as in the annotations.
        classes: (M,) class indices.
        crowd: (M,) bool; a crowd region is not an object, but detections on it are no mistakes.
        areas: (M,), of the segment where the annotations know it, in square pixels.
    """

    name: str
    class_names: tuple[str, ...]
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    sizes: np.ndarray
    offsets: np.ndarray
    boxes_xywh: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray

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
        objects = slice(0, int(self.offsets[count]))
        return GroundTruth(
            name=self.name,
            class_names=self.class_names,
            image_ids=self.image_ids[:count],
            file_names=self.file_names[:count],
            sizes=self.sizes[:count],
            offsets=self.offsets[: count + 1],
            boxes_xywh=self.boxes_xywh[objects],
            classes=self.classes[objects],
            crowd=self.crowd[objects],
            areas=self.areas[objects],
        )


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
    """Reads a registered dataset.

    Raises:
        ValueError: it is not registered, has no class names, no image or no annotated boxes, or is no list of dicts.
    """
    require_registered([name])
    records: Any = DatasetCatalog.get(name)
    class_names = MetadataCatalog.get(name).get("thing_classes")
    if not isinstance(records, list) or not records:
        raise ValueError(f"dataset {name} holds no images; a comparison needs some")
    if not class_names:
        raise ValueError(f"dataset {name} has no class names (thing_classes in its metadata); a comparison needs them")
    without = next((x for x in records if "annotations" not in x), None)
    if without is not None:
        hint = ": add :instances.json to --coco-panoptic" if "segments_info" in without else ""
        raise ValueError(
            f"dataset {name} has no annotations for {without.get('file_name')}; a comparison needs them{hint}"
        )
    records = sorted(records, key=lambda x: x["image_id"])
    objects = _coco_objects(name, records) if is_coco_file(name) else [_dict_objects(x) for x in records]
    rows = [row for image in objects for row in image]
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return GroundTruth(
        name=name,
        class_names=tuple(class_names),
        image_ids=tuple(int(x["image_id"]) for x in records),
        file_names=tuple(x["file_name"] for x in records),
        sizes=np.array([(x["height"], x["width"]) for x in records], dtype=np.int64),
        offsets=_offsets([len(image) for image in objects]),
        boxes_xywh=table[:, :4],
        classes=table[:, 4].astype(np.int64),
        crowd=table[:, 5] > 0,
        areas=table[:, 6],
    )


_Row = tuple[float, float, float, float, int, int, float]
"""x, y, width, height, class index, crowd, area."""


def _coco_objects(name: str, records: Sequence[dict[str, Any]]) -> list[list[_Row]]:
    """All annotations of the file, as COCO's own evaluation reads them: detectron2's loader drops areas."""
    metadata = MetadataCatalog.get(name)
    with open(metadata.json_file, encoding="utf-8") as file:
        annotations = json.load(file)["annotations"]
    index_of = {category: index for index, category in enumerate(category_ids(metadata))}
    of_image: dict[int, list[_Row]] = {x["image_id"]: [] for x in records}
    for x in annotations:
        box, index = x["bbox"], index_of.get(x["category_id"])
        if index is not None and x["image_id"] in of_image:
            area = x.get("area", box[2] * box[3])
            of_image[x["image_id"]].append((box[0], box[1], box[2], box[3], index, x.get("iscrowd", 0), area))
    return [of_image[x["image_id"]] for x in records]


def _dict_objects(record: dict[str, Any]) -> list[_Row]:
    rows = []
    for x in record["annotations"]:
        x1, y1, w, h = BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYWH_ABS)
        rows.append((x1, y1, w, h, x["category_id"], x.get("iscrowd", 0), x.get("area", w * h)))
    return rows


def fingerprint(ground_truth: GroundTruth) -> str:
    """Hash of annotations, image list, and size and time of every image file and of the PNGs of panoptic data."""
    digest = hashlib.sha256(repr((ground_truth.class_names, ground_truth.image_ids)).encode())
    metadata = MetadataCatalog.get(ground_truth.name)
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
