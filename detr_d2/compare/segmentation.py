"""What a model segments, added to its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..class_names import require_same_classes
from ..evaluation.arrays import GroundTruth
from ..evaluation.ground_truth import MaskTruth, load_mask_truth
from ..evaluation.panoptic import PanopticTruth, is_panoptic
from ..panoptic_classes import PanopticClasses
from .found.cache import config_hash
from .found.masks import SegmentationCache, collect_masks
from .masks import Segmentation
from .measure.everything import coco_limit
from .measure.masks import mask_metrics, over_shared_objects
from .measure.panoptic import panoptic_metrics
from .models import Contestant, unnamed
from .records.comparison import ModelComparison
from .records.figures import PanopticMetrics


class Segmented:
    """Adds to records what their models segment; the masks of the data are read once.

    Args:
        ground_truth: N images.
    """

    def __init__(self, ground_truth: GroundTruth) -> None:
        self.ground_truth = ground_truth

    def images_of(self, contestant: Contestant, label: str, folder: Path) -> list[Segmentation]:
        """What a model segments in each image, for which it is run as it is used; [] if the data have no masks.

        Args:
            contestant: the model.
            label: of the model.
            folder: of what the cache holds of it.
        """
        if not self._measured:
            return []
        names, files = self.ground_truth.class_names, self.ground_truth.file_names
        cache = SegmentationCache(folder / f"masks-{config_hash(contestant.cfg)[:16]}")
        with tqdm(total=len(files), desc=f"{label}: masks", unit="image", leave=False, disable=None) as bar:
            return collect_masks(
                lambda: contestant.load(nms=True, class_names=names)[0], files, cache, progress=bar.update
            )

    def of_images(
        self,
        record: ModelComparison,
        images: Sequence[Segmentation],
        class_map: np.ndarray,
        classes: Sequence[str] = (),
    ) -> ModelComparison:
        """The record with the figures of what is segmented in each image.

        Args:
            record: without.
            images: of each image; of `images_of`.
            class_map: see `mask_metrics`.
            classes: of the model.
        """
        if not self._measured:
            return replace(record, notes=[*record.notes, "its masks are not measured, as the data have none"])
        known = () if list(classes) == unnamed(len(classes)) else classes
        return segmentation_figures(record, self.ground_truth, self._truth, images, class_map, known)

    @property
    def _measured(self) -> bool:
        return self._truth is not None or is_panoptic(self.ground_truth.name)

    @cached_property
    def _truth(self) -> MaskTruth | None:
        return load_mask_truth(self.ground_truth)


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
        masks = mask_metrics(ground_truth, truth.masks, images, class_map, max_detections=limit)
    if is_panoptic(ground_truth.name) and any(x.segments is not None for x in images):
        try:
            panoptic = panoptic_figures(ground_truth, images, class_names)
        except ValueError as error:  # the classes of another dataset; its boxes and masks can be measured all the same
            notes.append(f"its panoptic maps are not measured: {error}")
    return replace(record, masks=masks, panoptic=panoptic, notes=[*record.notes, *notes])


def panoptic_figures(
    ground_truth: GroundTruth, images: Sequence[Segmentation], class_names: Sequence[str] = ()
) -> PanopticMetrics:
    """Measures panoptic maps.

    Args:
        ground_truth: N images of a dataset with panoptic ground truth.
        images: what the model segments in each.
        class_names: see `segmentation_figures`.

    Raises:
        ValueError: the classes of the model are not those of the data.
    """
    truth = PanopticTruth(ground_truth.name)
    if class_names:
        require_panoptic_classes(truth.classes, class_names)
    return panoptic_metrics(
        map(truth.segments_of, ground_truth.image_ids),
        images,
        lambda segment: truth.classes.row(segment.category_id, is_thing=segment.isthing),
        num_classes=len(truth.classes),
        num_things=truth.classes.num_things,
    )


def require_panoptic_classes(classes: PanopticClasses, class_names: Sequence[str]) -> None:
    """Raises ValueError if the segments of a model are of other classes than the data, or in another order.

    Args:
        classes: of the data.
        class_names: of the model: things and stuff, or things alone.
    """
    if classes.names:
        own = classes.names[: classes.num_things] if len(class_names) == classes.num_things else classes.names
        cure = "compare it on data with its classes in its order"
        require_same_classes(class_names, own, model_is="it has", data_are="the data have", cure=cure)


def with_shared_boundaries(records: Sequence[ModelComparison]) -> list[ModelComparison]:
    """The records of all models, the Boundary IoU of each over the objects that all with masks have found."""
    shared = iter(over_shared_objects([x.masks for x in records if x.masks is not None]))
    return [x if x.masks is None else replace(x, masks=next(shared)) for x in records]
