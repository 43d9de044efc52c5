"""What a model's detections are as a set - duplicates, crowds, counts - as records; units are those of `records`."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Interval

USUAL_NMS = 0.5
"""IoU of the NMS that detectors usually ship with, which is tried on those that have none."""

FEWEST_OBJECTS = 20
"""A bin or a class of fewer objects says nothing: its interval is too narrow, and no verdict is drawn from it."""


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
    """Number of detections, as shipped and at the operating point, against the number of objects.

    Detections on crowd regions that count for no object are left out.

    Args:
        mean_error: mean over images of detections minus objects.
        mean_absolute_error: mean of its size.
        exact_share: images with the right number, 0-100.
        groups: by the number of objects, ascending.
    """

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
        missed: those that no detection counts for, at any score; see `ScorePoint`.
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


@dataclass(frozen=True)
class ScorePoint:
    """What depends on the score from which detections count, at one score.

    A detection counts for the object of its class that it overlaps most, if it does so by an IoU of 0.5 or more; an
    object is found if a detection counts for it; an extra box counts for an object that a better scored one counts for.

    Args:
        score: detections of this score or a higher one; NaN at the operating point, whose score depends on the image.
        precision, recall, f1: found objects over detections, over objects, and their harmonic mean, over all classes.
        extra: extra boxes in percent of the found objects; NaN if none is found.
        other_label: extra boxes of another class than the best scored detection of the object, whatever its own, in
            percent of the found objects; NaN if none is found.
        count_error: mean over images of the size of detections minus objects.
        crowds: recall in each `CrowdBin`, NaN for an empty one.
        crowds_without_nms: the same without NMS; empty where that is not known.
    """

    score: float
    precision: float
    recall: float
    f1: float
    extra: float
    other_label: float
    count_error: float
    crowds: list[float]
    crowds_without_nms: list[float]


@dataclass(frozen=True)
class ScoreCurve:
    """Precision, recall and F1 as in `ScorePoint` over the score, at some of the scores that detections have.

    Args:
        scores: ascending.
        precision, recall, f1: as many values.
    """

    scores: list[float]
    precision: list[float]
    recall: list[float]
    f1: list[float]


@dataclass(frozen=True)
class OperatingPoint:
    """The score from which a model's detections count as what it says.

    Args:
        given: whether the user gave it (`--score-threshold`).
        scores: of the two halves of the images (by a hash of the image id): for each the score of a detection with the
            best F1 on the other half; NaN if no score gives an F1 above 0, and then no detection counts.
        half_of: half, 0 or 1, of each image.
        at: all that depends on it.
        others: the same for fixed scores, ascending.
        curve: over the score.
    """

    given: bool
    scores: list[float]
    half_of: list[int]
    at: ScorePoint
    others: list[ScorePoint]
    curve: ScoreCurve


@dataclass(frozen=True)
class ExtraBoxes:
    """Boxes on objects that have a better scored one, see `ScorePoint`, at the operating point.

    Args:
        setting: "shipped", "without NMS", or "with NMS" (IoU `nms_threshold`); none that is a copy of another.
        nms_threshold: of that NMS, None where there is none.
        detections: that count.
        found: objects.
        extra, other_label: see `ScorePoint`.
        removed: objects found without NMS and lost in this setting; 0 without NMS.

    Without NMS there is no limit on detections either, or it would cut off what is counted here.
    """

    setting: str
    nms_threshold: float | None
    detections: int
    found: int
    extra: float
    other_label: float
    removed: int


@dataclass(frozen=True)
class CrowdBin:
    """Objects whose largest IoU with another object of their class is in [low, high), at the operating point.

    Args:
        low, high: of the bin; a first bin of 0 and 0 holds the objects that touch no other.
        num_objects: in it; under `FEWEST_OBJECTS` no verdict is drawn.
        recall: share of them that is found by the detections as shipped.
        recall_without_nms: by those without NMS and without the limit on detections; None if that is not known.
        chance: recall without NMS of a detector that sees only the objects that are found as shipped: where it sees one
            of two that overlap, its boxes around isolated objects, put there, find the other by chance; NaN if not
            known.
        lost: `recall_without_nms` minus `chance`, what NMS loses beyond what chance would find; never below 0; None if
            that is not known.
        ap: normalised AP at IoU 0.5: precision is R N / (R N + F), R the recall in the bin, N the objects of the class
            and F its false positives in the whole set; mean over the classes of the bin.
    """

    low: float
    high: float
    num_objects: int
    recall: Interval
    recall_without_nms: Interval | None
    chance: float
    lost: Interval | None
    ap: Interval


@dataclass(frozen=True)
class Cure:
    """What a way of removing duplicates at test time would give a model that does not use it.

    Args:
        name: "NMS" or "one label per query".
        setting: config key with its value; "" for predictions of other programs.
        ap, ap50: with it.
        at: at the operating point with it (its own scores chosen anew).
    """

    name: str
    setting: str
    ap: float
    ap50: float
    at: ScorePoint
