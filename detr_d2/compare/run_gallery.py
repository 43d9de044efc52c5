"""The images of a run on which its models disagree most."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.arrays import GroundTruth
from .finished import Finished
from .gallery_data import disagreement, gallery_image, pick_images, shown_detections
from .records.pictures import GalleryImage


def gallery(finished: Sequence[Finished], truth: GroundTruth) -> list[GalleryImage]:
    """The images of largest disagreement, with what each model found there.

    Args:
        finished: the models that did not fail.
        truth: N images.
    """
    if not finished:
        return []
    f1 = [x.measured.f1_per_image for x in finished]
    spread = disagreement(f1)
    return [_image(finished, truth, i, float(spread[i])) for i in pick_images(truth, f1)]


def _image(finished: Sequence[Finished], truth: GroundTruth, index: int, spread: float) -> GalleryImage:
    detections = {}
    for model in finished:
        record, candidates = model.measured.record, model.candidates(index)
        if candidates is not None and record.shipped is not None:
            detections[record.label] = shown_detections(candidates, record.shipped, model.class_map)
    return gallery_image(truth, index, spread, detections)
