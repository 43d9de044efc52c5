"""Detections as a set: several of them on one object, how many there are, and what queries they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...evaluation.arrays import Detections, GroundTruth
from ..records.sets import CountGroup, Counting, ExtraBoxes, QueryGroup, QueryLimit
from .chance import Chance
from .crowds import Crowds
from .found import Found, find
from .operating import Operating

MAX_GROUPS = 8


@dataclass(frozen=True)
class SetFigures:
    """What is known of one model's detections as a set.

    Args:
        operating: its score.
        crowds: objects by how much they overlap.
    """

    operating: Operating
    crowds: Crowds

    @classmethod
    def of(
        cls,
        ground_truth: GroundTruth,
        shipped: Detections,
        without_nms: Detections | None,
        *,
        score_threshold: float | None = None,
    ) -> SetFigures:
        """From detections.

        Args:
            ground_truth: N images.
            shipped: detections as shipped.
            without_nms: those without NMS; None if they are not known.
            score_threshold: from which they count; None to choose it.
        """
        found, free, chance = find(ground_truth, shipped), None, None
        if without_nms is not None:
            free, chance = find(ground_truth, without_nms), Chance(ground_truth, shipped, without_nms)
        operating = Operating(ground_truth, found, free, given=score_threshold)
        known = chance if chance is not None and chance.known else None
        return cls(operating, Crowds(ground_truth, found, free, known))

    def resampled(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """The figures that have intervals, (R,) of each, if image i counts `draws[r, i]` times.

        The score from which detections count is chosen anew for each of the R draws.

        Args:
            draws: (R, N).

        Returns:
            "recall", "extra" and "count_error" of `ScorePoint`, and the figures of `Crowds`.
        """
        rows = [self._metrics(weights) for weights in draws]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _metrics(self, weights: np.ndarray) -> dict[str, float]:
        thresholds = self.operating.thresholds(weights)
        tally = self.operating.tally(thresholds, weights)
        figures = {"recall": tally.recall, "extra": tally.extra_share, "count_error": tally.count_error}
        return {**figures, **self.crowds.metrics(thresholds, weights)}


def extra_boxes(
    ground_truth: GroundTruth,
    operating: Operating,
    found: Found,
    without_nms: Found,
    *,
    setting: str,
    nms_threshold: float | None,
) -> ExtraBoxes:
    """Counts them among the detections that a user would see.

    Args:
        ground_truth: N images.
        operating: of the model.
        found: detections in this setting.
        without_nms: the model's detections without NMS, to see which objects are lost by it.
        setting: name of it, see `ExtraBoxes`.
        nms_threshold: of the NMS that made them, None for none.
    """
    thresholds = operating.thresholds()
    tally = operating.tally(thresholds, found=found)
    limit = thresholds[ground_truth.image_of]
    return ExtraBoxes(
        setting=setting,
        nms_threshold=nms_threshold,
        detections=round(tally.detections),
        found=round(tally.found),
        extra=tally.extra_share,
        other_label=tally.other_label_share,
        removed=int(((without_nms.object_scores >= limit) & ~(found.object_scores >= limit)).sum()),
    )


def count_groups(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Ranges (low, high) of numbers of objects, both included, that hold about equally many of the images."""
    values = np.unique(numbers)
    if len(values) <= MAX_GROUPS:
        return [(int(x), int(x)) for x in values]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, MAX_GROUPS + 1), method="lower"))
    starts = [int(edges[0]), *(int(x) + 1 for x in edges[1:-1])]
    return list(zip(starts, (*(x - 1 for x in starts[1:]), int(edges[-1])), strict=True))


def counting(ground_truth: GroundTruth, operating: Operating) -> Counting:
    """Compares the number of detections at the operating point with the number of objects, image by image."""
    true = ground_truth.objects_per_image()
    tally = operating.tally(operating.thresholds())
    error = tally.errors
    groups = []
    for low, high in count_groups(true):
        inside = (true >= low) & (true <= high)
        groups.append(
            CountGroup(
                low=low,
                high=high,
                num_images=int(inside.sum()),
                true_mean=float(true[inside].mean()),
                predicted_mean=float((true + error)[inside].mean()),
                mean_absolute_error=float(np.abs(error[inside]).mean()),
            )
        )
    return Counting(
        mean_error=float(error.mean()),
        mean_absolute_error=tally.count_error,
        exact_share=100 * float((error == 0).mean()),
        groups=groups,
    )


def query_limit(ground_truth: GroundTruth, shipped: Found, num_queries: int, max_detections: int) -> QueryLimit:
    """Relates the objects that were missed at any score to the number of objects of their images."""
    most = min(num_queries, max_detections)
    true = ground_truth.objects_per_image()
    missed = np.isneginf(shipped.object_scores) & ~ground_truth.crowd
    missed_per_image = np.bincount(ground_truth.image_of[missed], minlength=len(ground_truth))
    groups = []
    for low, high in count_groups(true):
        inside = (true >= low) & (true <= high)
        groups.append(
            QueryGroup(
                low=low,
                high=high,
                num_images=int(inside.sum()),
                num_objects=int(true[inside].sum()),
                missed=int(missed_per_image[inside].sum()),
            )
        )
    return QueryLimit(
        num_queries=num_queries,
        max_objects=int(true.max(initial=0)),
        images_over=int((true > most).sum()),
        objects_over=int(np.clip(true - most, 0, None).sum()),
        groups=groups,
    )
