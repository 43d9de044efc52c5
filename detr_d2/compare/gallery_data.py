"""The images on which models disagree most, with everything that a page needs to draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.checks.records import json_id
from ..evaluation.arrays import GroundTruth
from .found.cache import CHUNK, CandidateCache
from .found.nms import Candidates, nms_order, scale_to_image
from .records.comparison import ShippedSettings
from .records.pictures import Boxes, GalleryImage

GALLERY_SIZE = 12
SHOWN_SCORE = 0.05
SHOWN_DETECTIONS = 300


def pick_images(
    ground_truth: GroundTruth, f1_per_image: Sequence[Sequence[float]], count: int = GALLERY_SIZE
) -> list[int]:
    """Indices of the images with the largest difference in F1 between two models; of equals, those with more objects.

    Args:
        ground_truth: N images.
        f1_per_image: (N,) of each model.
        count: the most to pick.
    """
    spread = disagreement(f1_per_image)
    return np.lexsort((np.arange(len(spread)), -ground_truth.objects_per_image(), -spread))[:count].tolist()


def disagreement(f1_per_image: Sequence[Sequence[float]]) -> np.ndarray:
    """(N,) largest difference between two models, 0-1."""
    values = np.array(f1_per_image, dtype=np.float64)
    return values.max(0) - values.min(0)


def gallery_image(
    ground_truth: GroundTruth, index: int, disagreement: float, detections: Mapping[str, Boxes]
) -> GalleryImage:
    """One image of the gallery.

    Args:
        ground_truth: N images.
        index: of the image.
        disagreement: of the models, 0-1.
        detections: label -> see `shown_detections`.
    """
    height, width = ground_truth.sizes[index].tolist()
    own = ground_truth.of_image(index)
    corners = ground_truth.boxes_xywh[own].copy()
    corners[:, 2:] += corners[:, :2]
    objects = Boxes(
        boxes=corners.tolist(), classes=ground_truth.classes[own].tolist(), crowd=ground_truth.crowd[own].tolist()
    )
    return GalleryImage(
        file_name=ground_truth.file_names[index],
        image_id=json_id(ground_truth.image_ids[index]),
        width=width,
        height=height,
        disagreement=disagreement,
        objects=objects,
        detections=dict(detections),
    )


def shown_detections(candidates: Candidates, settings: ShippedSettings, class_map: np.ndarray) -> Boxes:
    """The best scored detections of an image without NMS, and which of them the model returns in normal use."""
    boxes, nonempty = scale_to_image(candidates)
    shipped = np.zeros(len(candidates.scores), dtype=bool)
    shipped[nms_order(candidates, settings.nms_threshold)[: settings.max_detections]] = True
    classes = class_map[candidates.classes]
    order = nms_order(candidates, None)
    order = order[nonempty[order] & (classes[order] >= 0) & (candidates.scores[order] >= SHOWN_SCORE)]
    order = order[:SHOWN_DETECTIONS]
    return Boxes(
        boxes=np.round(boxes[order].astype(np.float64), 2).tolist(),
        classes=classes[order].tolist(),
        scores=np.round(candidates.scores[order].astype(np.float64), 4).tolist(),
        shipped=shipped[order].tolist(),
    )


def candidates_of_image(cache: CandidateCache, index: int, num_images: int) -> Candidates | None:
    """What a finished run knows of one image, from the last layer; None if the model crashed on it."""
    chunk = cache.chunks(num_images)[index // CHUNK]
    records = cache.read(chunk)
    record = records[index - chunk.start] if records else ""
    return None if isinstance(record, str) else record[-1]
