"""Where each kind of detector keeps its NMS, and how it is switched off."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..records import ShippedSettings

UNLIMITED = 10**6
"""Of detections per image. Not -1: RetinaNet would drop the last detection."""

FAMILIES = {
    "DETR": "DETR",
    "GeneralizedRCNN": "R-CNN",
    "PanopticFPN": "R-CNN",
    "RetinaNet": "dense",
}
"""Meta-architecture -> family of `ModelComparison`; what is not here is "other"."""


def family_of(cfg: CfgNode) -> str:
    """ "DETR", "R-CNN", "dense" or "other"."""
    return FAMILIES.get(cfg.MODEL.META_ARCHITECTURE, "other")


def shipped_settings(cfg: CfgNode) -> ShippedSettings:
    """How the model of a config decides what to return."""
    family = family_of(cfg)
    if family == "other":  # it says nothing of itself, and all that it returns counts
        return ShippedSettings(None, float("nan"), UNLIMITED, num_queries=None, nms_switched_off=False)
    keys = {"R-CNN": cfg.MODEL.ROI_HEADS, "dense": cfg.MODEL.RETINANET}.get(family)
    return ShippedSettings(
        nms_threshold=None if keys is None else float(keys.NMS_THRESH_TEST),
        score_threshold=float(cfg.MODEL.DETR.SCORE_THRESH_TEST if keys is None else keys.SCORE_THRESH_TEST),
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.DETECTIONS_PER_IMAGE >= 0 else UNLIMITED,
        num_queries=cfg.MODEL.DETR.NUM_QUERIES if family == "DETR" else None,
        nms_switched_off=True,
    )


def predicts_masks(cfg: CfgNode) -> bool:
    """Whether the model of a config segments what it detects."""
    return bool(cfg.MODEL.MASK_ON) and family_of(cfg) in ("DETR", "R-CNN")


def without_nms(cfg: CfgNode) -> CfgNode:
    """A copy of the config whose model returns every candidate: no NMS, no limit; masks and key points neither.

    The NMS of a region proposal network is part of its proposals and stays.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    cfg.MODEL.RETINANET.NMS_THRESH_TEST = 1.0
    if family_of(cfg) in ("R-CNN", "dense"):
        cfg.TEST.DETECTIONS_PER_IMAGE = UNLIMITED
    cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON and cfg.MODEL.META_ARCHITECTURE == "DETR"
    cfg.MODEL.KEYPOINT_ON = False
    return cfg
