"""The images of a run on which its models disagree most, and the worst of each."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.arrays import GroundTruth
from .finished import Finished
from .gallery_data import Pick, gallery_image, pick_images, shown_detections
from .records.pictures import GalleryImage


def gallery(finished: Sequence[Finished], truth: GroundTruth) -> list[GalleryImage]:
    """The images of the gallery, with what each model found there.

    Args:
        finished: the models that did not fail.
        truth: N images.
    """
    f1 = {x.measured.record.label: x.measured.f1_per_image for x in finished}
    return [_image(finished, truth, pick) for pick in pick_images(truth, f1)] if f1 else []


def _image(finished: Sequence[Finished], truth: GroundTruth, pick: Pick) -> GalleryImage:
    detections, half = {}, 0
    for model in finished:
        record, candidates = model.measured.record, model.candidates(pick.index)
        if candidates is not None and record.shipped is not None:
            detections[record.label] = shown_detections(candidates, record.shipped, model.class_map)
        if record.operating is not None:  # the halves are the same for all
            half = record.operating.half_of[pick.index]
    return gallery_image(truth, pick, detections, half=half)
