"""What `compare` finds about the masks and panoptic maps of a model, as records; a part of `compare_results`."""

from __future__ import annotations

from dataclasses import dataclass


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
        evaluator: "pycocotools" with its version.
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
