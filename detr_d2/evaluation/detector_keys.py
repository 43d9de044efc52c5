"""The same thing under different keys: what each kind of detector calls its classes and its score threshold."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn


def get_num_classes(cfg: CfgNode) -> int:
    """K of the model that the config builds; 0 when it is to be taken from data."""
    if cfg.MODEL.META_ARCHITECTURE == "DETR":
        return cfg.MODEL.DETR.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES


def set_num_classes(cfg: CfgNode, num_classes: int) -> None:
    """Sets K for whatever detector the config builds."""
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes


def set_score_threshold(cfg: CfgNode, score_threshold: float) -> None:
    """Sets below which score a detector drops its detections, for whatever detector the config builds."""
    cfg.MODEL.DETR.SCORE_THRESH_TEST = score_threshold
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_threshold
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = score_threshold
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = score_threshold


def count_parameters(model: nn.Module) -> int:
    """All parameters, frozen ones too."""
    return sum(parameter.numel() for parameter in model.parameters())
