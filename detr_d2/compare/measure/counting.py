"""Numbers of objects: counted rightly or not, and more of them than a DETR has queries."""

from __future__ import annotations

import numpy as np

from ..data import Detections, GroundTruth
from ..records import CountGroup, Counting, QueryGroup, QueryLimit
from .duplicates import objects_found

MAX_GROUPS = 8


def count_groups(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Ranges (low, high) of numbers of objects, both included, that hold about equally many of the images."""
    values = np.unique(numbers)
    if len(values) <= MAX_GROUPS:
        return [(int(x), int(x)) for x in values]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, MAX_GROUPS + 1), method="lower"))
    starts = [int(edges[0]), *(int(x) + 1 for x in edges[1:-1])]
    return list(zip(starts, (*(x - 1 for x in starts[1:]), int(edges[-1])), strict=True))


def count_errors(ground_truth: GroundTruth, detections: Detections) -> np.ndarray:
    """(N,) detections minus objects of each image."""
    return np.diff(detections.offsets) - ground_truth.objects_per_image()


def counting(ground_truth: GroundTruth, shipped: Detections, *, score_threshold: float) -> Counting:
    """Compares the number of detections, from a score on, with the number of objects, image by image."""
    true = ground_truth.objects_per_image()
    error = count_errors(ground_truth, shipped.select(shipped.scores >= score_threshold))
    predicted = true + error
    groups = []
    for low, high in count_groups(true):
        inside = (true >= low) & (true <= high)
        groups.append(
            CountGroup(
                low=low,
                high=high,
                num_images=int(inside.sum()),
                true_mean=float(true[inside].mean()),
                predicted_mean=float(predicted[inside].mean()),
                mean_absolute_error=float(np.abs(error[inside]).mean()),
            )
        )
    return Counting(
        score_threshold=score_threshold,
        mean_error=float(error.mean()),
        mean_absolute_error=float(np.abs(error).mean()),
        exact_share=100 * float((error == 0).mean()),
        groups=groups,
    )


def query_limit(ground_truth: GroundTruth, shipped: Detections, num_queries: int, max_detections: int) -> QueryLimit:
    """Relates the objects that were missed at any score to the number of objects of their images."""
    most = min(num_queries, max_detections)
    true = ground_truth.objects_per_image()
    missed = ~objects_found(ground_truth, shipped) & ~ground_truth.crowd
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
