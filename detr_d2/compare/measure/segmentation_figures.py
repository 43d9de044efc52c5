"""What a model segments, added to its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from detectron2.data import MetadataCatalog

from ...class_names import require_same_classes
from ...panoptic_classes import PanopticClasses
from ..data import GroundTruth
from ..found.masks import Segmentation
from ..mask_truth import MaskTruth
from ..records import ModelComparison
from .everything import coco_limit
from .masks import mask_metrics
from .panoptic import is_panoptic, panoptic_metrics


def segmentation_figures(
    record: ModelComparison,
    ground_truth: GroundTruth,
    truth: MaskTruth | None,
    images: Sequence[Segmentation],
    class_map: np.ndarray,
    class_names: Sequence[str] = (),
) -> ModelComparison:
    """A record with the figures of masks and panoptic maps, as far as model and data have both, and with notes.

    Args:
        record: of the model, with `shipped`.
        ground_truth: N images.
        truth: masks of their objects; None for data without.
        images: what the model segments in each.
        class_map: see `mask_metrics`.
        class_names: of the model; () where it does not know them.
    """
    assert record.shipped is not None
    notes, masks, panoptic = [], None, None
    failed = [(name, x.error) for name, x in zip(ground_truth.file_names, images, strict=True) if x.error]
    if failed:
        notes.append(
            f"its masks of {len(failed)} images could not be predicted and count as missed, first those of "
            f"{failed[0][0]} ({failed[0][1]})"
        )
    if truth is not None:
        notes += [truth.note] if truth.note else []
        limit = coco_limit(record.shipped)
        masks = mask_metrics(ground_truth, truth, images, class_map, max_detections=limit)
    if is_panoptic(ground_truth.name) and any(x.segments is not None for x in images):
        try:
            if class_names:
                _require_classes_of(ground_truth.name, class_names)
            panoptic = panoptic_metrics(ground_truth, images)
        except ValueError as error:  # the classes of another dataset; its boxes and masks can be measured all the same
            notes.append(f"its panoptic maps are not measured: {error}")
    return replace(record, masks=masks, panoptic=panoptic, notes=[*record.notes, *notes])


def _require_classes_of(dataset: str, class_names: Sequence[str]) -> None:
    """Raises ValueError if the segments of a model are of other classes than the data, or in another order.

    Args:
        dataset: with panoptic ground truth.
        class_names: of the model: things and stuff, or things alone.
    """
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(dataset), name=dataset)
    if classes is not None and classes.names:
        own = classes.names[: classes.num_things] if len(class_names) == classes.num_things else classes.names
        cure = "compare it on data with its classes in its order"
        require_same_classes(class_names, own, model_is="it has", data_are="the data have", cure=cure)
