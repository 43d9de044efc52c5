"""Panoptic quality of what a model has segmented in a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ...evaluation.panoptic_quality import PanopticCounts, Segments
from ..masks import Segment, Segmentation, decode
from ..records.figures import PanopticMetrics


def panoptic_metrics(
    truths: Iterable[Segments],
    images: Sequence[Segmentation],
    row_of: Callable[[Segment], int],
    *,
    num_classes: int,
    num_things: int,
) -> PanopticMetrics:
    """Measures the maps of a model; an image that it could not process counts as one without segments.

    Args:
        truths: the maps of N images.
        images: what the model segments in each.
        row_of: row of a segment's class; raises ValueError if the data have no such class.
        num_classes, num_things: of the data; things are the first rows.
    """
    counts = PanopticCounts(num_classes)
    for truth, image in zip(truths, images, strict=True):
        height, width = truth.ids.shape
        ids = np.zeros((height, width), dtype=np.int32)  # 0 is void
        segments = dict(enumerate(image.segments or [], start=1))
        for number, segment in segments.items():
            ids[decode(segment.counts, (height, width)) > 0] = number
        counts.add(Segments(ids, {number: row_of(x) for number, x in segments.items()}), truth)
    found = counts.groups(num_things)
    figures = {
        key.lower() + suffix: value
        for group, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
        for key, value in found[group].items()
    }
    return PanopticMetrics(**figures, failed_images=sum(bool(x.error) for x in images))
