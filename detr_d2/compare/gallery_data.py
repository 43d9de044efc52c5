"""The images on which models disagree most, or fail, with everything that a page needs to draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.checks.records import json_id
from ..evaluation.arrays import GroundTruth
from .found.cache import CHUNK, CandidateCache
from .found.nms import Candidates, nms_order, scale_to_image
from .records.comparison import ShippedSettings
from .records.pictures import Boxes, GalleryImage

MOST_DIFFERING = 8
WORST_OF_MODEL = 3
SHOWN_SCORE = 0.05
SHOWN_DETECTIONS = 300


@dataclass(frozen=True)
class Pick:
    """An image of the gallery.

    Args:
        index: of the image.
        disagreement: largest difference of F1 between two models, 0-1.
        worst_of: labels of the models that have it among their worst.
    """

    index: int
    disagreement: float
    worst_of: list[str]


def pick_images(
    ground_truth: GroundTruth,
    f1_per_image: Mapping[str, Sequence[float]],
    *,
    differing: int = MOST_DIFFERING,
    worst: int = WORST_OF_MODEL,
) -> list[Pick]:
    """The images with the largest difference in F1 between two models, then the worst of each model.

    Of images that are equal in this, those with more objects come first. An image of F1 1 is nobody's worst.

    Args:
        ground_truth: N images.
        f1_per_image: label -> (N,), at the operating point; at least one model.
        differing: the most images to pick for their difference.
        worst: the most to pick for each model.
    """
    values = np.array(list(f1_per_image.values()), dtype=np.float64)  # (models, N)
    spread = values.max(0) - values.min(0)
    objects = ground_truth.objects_per_image()
    worst_of = {}
    for label, f1 in zip(f1_per_image, values, strict=True):
        order = np.lexsort((-objects, f1))
        worst_of[label] = order[f1[order] < 1][:worst].tolist()
    chosen = [*np.lexsort((-objects, -spread))[:differing].tolist(), *(i for x in worst_of.values() for i in x)]
    return [
        Pick(index, float(spread[index]), [label for label, images in worst_of.items() if index in images])
        for index in dict.fromkeys(chosen)
    ]


def gallery_image(ground_truth: GroundTruth, pick: Pick, detections: Mapping[str, Boxes], *, half: int) -> GalleryImage:
    """One image of the gallery.

    Args:
        ground_truth: N images.
        pick: one of them.
        detections: label -> see `shown_detections`.
        half: that the image belongs to, see `OperatingPoint`.
    """
    index = pick.index
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
        disagreement=pick.disagreement,
        objects=objects,
        detections=dict(detections),
        worst_of=pick.worst_of,
        half=half,
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
