"""How right a model is, as records; units are those of `comparison`."""

from __future__ import annotations

from dataclasses import dataclass, field

FEWEST = 6
"""Images, or rounds, that an interval takes: a model that is better on each of five may be so by chance (1 in 16)."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval.

    Args:
        value: on the images as they are; of several checkpoints their mean.
        low, high: bounds; NaN where there are none: too few images, or two checkpoints.
        checkpoints: the figure of each checkpoint, where a model has several.
    """

    value: float
    low: float
    high: float
    checkpoints: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ClassMetrics:
    """One class, as shipped.

    Args:
        name: of the class.
        num_objects: crowd regions not counted.
        ap: mean over IoU 0.50:0.95.
        ap50: at IoU 0.50.
        ar: average recall at the largest number of detections.
    """

    name: str
    num_objects: int
    ap: float
    ap50: float
    ar: float


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's figures of the detections as shipped.

    Args:
        ap, ap50, ap75: average precision.
        ap_small, ap_medium, ap_large: by the object's area, below 32^2, to 96^2, above, in pixels.
        ar_1, ar_10, ar_max: average recall with 1, 10, `max_detections` detections per image and class.
        ar_small, ar_medium, ar_large: with `max_detections`, by area.
        max_detections: COCO's limit per image and class: 100, or the model's own where that is higher.
        per_class: K entries.
        evaluator: package with its version.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_max: float
    ar_small: float
    ar_medium: float
    ar_large: float
    max_detections: int
    per_class: list[ClassMetrics]
    evaluator: str


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision over recall, the mean of the classes, as shipped.

    Args:
        iou: required overlap; None for the mean over 0.50:0.95.
        recall: 101 values, 0 to 100.
        precision: as many, 0 to 100.
    """

    iou: float | None
    recall: list[float]
    precision: list[float]


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error in the manner of TIDE (Bolya et al. 2020).

    Args:
        kind: "classification", "localisation", "both", "duplicate", "background" or "missed".
        count: detections (for "missed": objects) with it.
        delta_ap50: AP50 that would be gained if an oracle repaired this kind alone.
    """

    kind: str
    count: int
    delta_ap50: float


@dataclass(frozen=True)
class MaskMetrics:
    """The masks of instances, as shipped.

    Args:
        ap, ap50, ap75, ap_small, ap_medium, ap_large: COCO's average precision of masks.
        boundary_ap, boundary_ap50: the same, where two masks overlap by the smaller of mask IoU and Boundary IoU.
        boundary_iou: median Boundary IoU with its detections of the objects that all models find at mask IoU 0.5,
            0-100: how well the model draws what it finds.
        matched: those objects.
        failed_images: images whose masks the model could not predict; their objects count as missed.
        evaluator: package with its version.
        boundary_ious: of every object, NaN for one that is not found, while there are models to come; then empty.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    boundary_ap: float
    boundary_ap50: float
    boundary_iou: float
    matched: int
    failed_images: int
    evaluator: str
    boundary_ious: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PanopticMetrics:
    """Panoptic quality, as shipped.

    Args:
        pq, sq, rq: panoptic, segmentation and recognition quality, mean over the classes that occur.
        pq_things, sq_things, rq_things: over things alone.
        pq_stuff, sq_stuff, rq_stuff: over stuff alone.
        failed_images: images that the model could not process; they count as images without any segment.
    """

    pq: float
    sq: float
    rq: float
    pq_things: float
    sq_things: float
    rq_things: float
    pq_stuff: float
    sq_stuff: float
    rq_stuff: float
    failed_images: int = 0


@dataclass(frozen=True)
class ConfusionMatrix:
    """What objects are taken for, at the operating point.

    Args:
        names: K names, of those classes that occur among the objects or the detections.
        counts: (K + 1, K + 1): object of class i with a detection of class j; the last row is detections without an
            object, the last column objects without a detection.
    """

    names: list[str]
    counts: list[list[int]]
