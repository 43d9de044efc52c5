"""How right a model is and what it costs, as records; units are those of `records`."""

from __future__ import annotations

from dataclasses import dataclass

FEWEST = 6
"""Images, or rounds, that an interval takes: a model that is better on each of five may be so by chance (1 in 16)."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval (percentiles of a bootstrap over images).

    Args:
        value: on the images as they are.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float


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
        boundary_iou: median Boundary IoU of the objects found at mask IoU 0.5 with their detections, 0-100: how well
            the model draws what it finds.
        matched: those objects.
        failed_images: images whose masks the model could not predict; their objects count as missed.
        evaluator: package with its version.
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
class StageLatency:
    """Time of one part of the model for one image.

    Args:
        stage: "total", "backbone", "transformer", "proposals" (RPN), "heads", "post-processing" (decoding, NMS, and
            all else); stages other than "total" sum up to about the total.
        p50_ms, p95_ms: median and 95th percentile.
    """

    stage: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Throughput:
    """Images per second when several images go in together.

    Args:
        batch_size: images at once.
        images_per_second: median; NaN where it did not fit into memory.
    """

    batch_size: int
    images_per_second: float


@dataclass(frozen=True)
class Cost:
    """What the model costs. Times were taken with all models in turn.

    Args:
        parameters: all of them.
        gflops: multiply-adds of one image, in 10^9, mean over `flops_images`, the NMS and element-wise work excluded.
        flops_images: images that were counted.
        flops_uncounted: operators that the count left out -> how often they ran.
        image_size: (height, width) that enters the network, in pixels, median of the timed images.
        latency: per stage; the first is "total".
        throughput: per batch size.
        peak_memory_mb: of a fresh process that runs the model on one image at a time: on a GPU what torch allocated,
            on a CPU the resident size of the process, libraries included.
        repeat: timed rounds.
        device: "cpu" or "cuda".
        backbone_path: "fast" for detectron2's ResNet as this package runs it, "plain" for any other backbone; "" in
            older files.
    """

    parameters: int
    gflops: float
    flops_images: int
    flops_uncounted: dict[str, int]
    image_size: list[int]
    latency: list[StageLatency]
    throughput: list[Throughput]
    peak_memory_mb: float
    repeat: int
    device: str
    backbone_path: str = ""
