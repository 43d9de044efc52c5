"""What a model's detections are as a set - duplicates, crowds, counts - as records; units are those of `records`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NmsPoint:
    """What one way of removing duplicates leaves of one decoder layer's detections.

    Args:
        layer: decoder layer, from 1; the last one is what the model ships. Always 1 for models without decoder.
        nms_threshold: IoU of class-wise NMS; None: no NMS at all.
        shipped: whether this is what the model does when used (its own NMS or none, on its last layer).
        ap, ap50: of what is left, after the model's own limit on detections.
        kept_per_image: mean number that NMS leaves, before that limit.
        detections_per_image: mean number after it.
    """

    layer: int
    nms_threshold: float | None
    shipped: bool
    ap: float
    ap50: float
    kept_per_image: float
    detections_per_image: float


@dataclass(frozen=True)
class Duplicates:
    """Same-class detections on top of each other, among those scored at least `score_threshold`.

    Args:
        setting: "shipped", "without NMS", or "with NMS" (IoU `nms_threshold`).
        nms_threshold: of that NMS, None where there is none.
        score_threshold: of the detections that count.
        detections: how many there are.
        pairs_50, pairs_70: same-class pairs per image with IoU > 0.5 and > 0.7, mean over images.
        images_with_pairs: images with a pair of IoU > 0.5.
        covered: objects that a detection of their class overlaps with IoU >= 0.5.
        covered_twice: objects so overlapped by two or more.
        true_positives: objects found at IoU 0.5, one detection each (COCO's matching).
        removed_true_positives: objects found without NMS and lost in this setting; 0 without NMS.

    Without NMS there is no limit on detections either, or it would cut off what is counted here.
    """

    setting: str
    nms_threshold: float | None
    score_threshold: float
    detections: int
    pairs_50: float
    pairs_70: float
    images_with_pairs: int
    covered: int
    covered_twice: int
    true_positives: int
    removed_true_positives: int


@dataclass(frozen=True)
class CrowdingBin:
    """Objects whose largest IoU with another object of their class is in [low, high).

    Args:
        low, high: of the bin; a first bin of 0 and 0 holds the objects that touch no other.
        num_objects: in it.
        recall: share of them found at IoU 0.5 by the detections as shipped with score >= `score_threshold`.
        recall_without_nms: the same without NMS, and without the limit on detections.
        ap50: AP at IoU 0.50 of those objects, mean over classes; detections matched to others are ignored.
        score_threshold: of the two recalls.
    """

    low: float
    high: float
    num_objects: int
    recall: float
    recall_without_nms: float
    ap50: float
    score_threshold: float


@dataclass(frozen=True)
class CountGroup:
    """Images with `low` to `high` objects, both included.

    Args:
        low, high: objects of an image.
        num_images: such images.
        true_mean: mean number of objects.
        predicted_mean: mean number of detections.
        mean_absolute_error: of the number of detections.
    """

    low: int
    high: int
    num_images: int
    true_mean: float
    predicted_mean: float
    mean_absolute_error: float


@dataclass(frozen=True)
class Counting:
    """Number of detections, as shipped and scored at least `score_threshold`, against the number of objects.

    Args:
        score_threshold: of the detections that count.
        mean_error: mean over images of detections minus objects.
        mean_absolute_error: mean of its size.
        exact_share: images with the right number, 0-100.
        groups: by the number of objects, ascending.
    """

    score_threshold: float
    mean_error: float
    mean_absolute_error: float
    exact_share: float
    groups: list[CountGroup]


@dataclass(frozen=True)
class QueryGroup:
    """Images with `low` to `high` objects, both included.

    Args:
        low, high: objects of an image.
        num_images: such images.
        num_objects: in them.
        missed: those that no detection of their class overlaps with IoU >= 0.5, at any score, one detection each.
    """

    low: int
    high: int
    num_images: int
    num_objects: int
    missed: int


@dataclass(frozen=True)
class QueryLimit:
    """A DETR of N queries can find N objects at most, or as many as its limit on detections, where that is lower.

    Args:
        num_queries: N.
        max_objects: most objects of an image.
        images_over: images with more than that.
        objects_over: the objects beyond it, which cannot be found.
        groups: by the number of objects, ascending.
    """

    num_queries: int
    max_objects: int
    images_over: int
    objects_over: int
    groups: list[QueryGroup]
