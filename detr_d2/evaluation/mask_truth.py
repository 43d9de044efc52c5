"""The masks of a dataset's objects, in the order in which `GroundTruth` has the objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from ..data import category_ids
from ..data.registration import is_coco_file
from .boundary import Rle, encode
from .compare_data import GroundTruth


@dataclass(frozen=True)
class MaskTruth:
    """Masks of the M objects of `GroundTruth`.

    Args:
        masks: M of them, at the size of their images.
        areas: (M,), square pixels: as annotated, where that is known, else of the mask.
    """

    masks: list[Rle]
    areas: np.ndarray


def load_mask_truth(ground_truth: GroundTruth) -> MaskTruth | None:
    """Reads the masks of a dataset; None if an object has none, as in data for boxes.

    Raises:
        ValueError: a mask is not as large as its image, or not in a form that COCO or detectron2 has.
    """
    annotations = _annotations(ground_truth)
    flat = [x for image in annotations for x in image]
    if any(not _has_mask(x) for x in flat):
        return None
    masks = [
        _to_rle(x["segmentation"], (int(height), int(width)), file_name)
        for image, (height, width), file_name in zip(
            annotations, ground_truth.sizes, ground_truth.file_names, strict=True
        )
        for x in image
    ]
    assert len(masks) == len(ground_truth.classes)
    areas = [x["area"] if "area" in x else coco_mask.area(mask) for x, mask in zip(flat, masks, strict=True)]
    return MaskTruth(masks, np.array(areas, dtype=np.float64))


def _annotations(ground_truth: GroundTruth) -> list[list[dict[str, Any]]]:
    """Of each image, in the order of `load_ground_truth`."""
    metadata = MetadataCatalog.get(ground_truth.name)
    of_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in ground_truth.image_ids}
    if is_coco_file(ground_truth.name):
        known = set(category_ids(metadata))
        with open(metadata.json_file, encoding="utf-8") as file:
            annotations = json.load(file)["annotations"]
        for x in annotations:
            if x["image_id"] in of_image and x["category_id"] in known:
                of_image[x["image_id"]].append(x)
    else:
        for record in DatasetCatalog.get(ground_truth.name):
            if int(record["image_id"]) in of_image:
                of_image[int(record["image_id"])] = record["annotations"]
    return [of_image[image_id] for image_id in ground_truth.image_ids]


def _has_mask(annotation: dict[str, Any]) -> bool:
    mask = annotation.get("segmentation")
    return mask is not None and len(mask) > 0


def _to_rle(mask: Any, size: tuple[int, int], file_name: str) -> Rle:
    """From polygons, run lengths or a bitmap."""
    if isinstance(mask, np.ndarray):
        rle = encode(mask)
    elif isinstance(mask, dict):
        compressed = not isinstance(mask["counts"], list)
        rle = mask if compressed else coco_mask.frPyObjects(mask, *size)
    else:
        rle = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    if tuple(rle["size"]) != size:
        raise ValueError(
            f"a mask of {file_name} is {tuple(rle['size'])} (height, width), but the image {size}: correct its "
            "segmentation in the annotations"
        )
    return dict(rle)
