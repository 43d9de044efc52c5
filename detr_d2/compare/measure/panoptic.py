"""Panoptic quality of what a model has segmented in a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from pycocotools import mask as coco_mask

from ...evaluation.panoptic import PanopticQualityEvaluator
from ..data import GroundTruth
from ..found.masks import Segment, Segmentation
from .mask_records import PanopticMetrics


def is_panoptic(name: str) -> bool:
    """Whether a registered dataset has panoptic ground truth."""
    metadata = MetadataCatalog.get(name)
    return bool(metadata.get("panoptic_json") and metadata.get("panoptic_root"))


def panoptic_metrics(ground_truth: GroundTruth, images: Sequence[Segmentation]) -> PanopticMetrics:
    """Measures the maps of a model; an image that it could not process counts as one without segments.

    Args:
        ground_truth: N images of a dataset with panoptic ground truth.
        images: what the model segments in each.

    Raises:
        ValueError: if its classes are not those of the data.
    """
    evaluator = PanopticQualityEvaluator(ground_truth.name)
    for image_id, size, image in zip(ground_truth.image_ids, ground_truth.sizes, images, strict=True):
        ids = _ids(image.segments or [], (int(size[0]), int(size[1])))
        segments = [
            {"id": number, "category_id": x.category_id, "isthing": x.isthing}
            for number, x in enumerate(image.segments or [], start=1)
        ]
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    results = evaluator.evaluate()
    assert results is not None
    found = results["panoptic_seg"]
    return PanopticMetrics(
        pq=found["PQ"],
        sq=found["SQ"],
        rq=found["RQ"],
        pq_things=found["PQ_th"],
        sq_things=found["SQ_th"],
        rq_things=found["RQ_th"],
        pq_stuff=found["PQ_st"],
        sq_stuff=found["SQ_st"],
        rq_stuff=found["RQ_st"],
        failed_images=sum(bool(x.error) for x in images),
    )


def _ids(segments: Sequence[Segment], size: tuple[int, int]) -> np.ndarray:
    """The map (H, W) int32, whose segments count from 1; 0 is void."""
    ids = np.zeros(size, dtype=np.int32)
    for number, segment in enumerate(segments, start=1):
        ids[coco_mask.decode({"size": list(size), "counts": segment.counts}) > 0] = number
    return ids
