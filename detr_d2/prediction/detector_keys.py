"""The same thing under different keys: what each kind of detector calls its classes and its score threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint.class_head import CLASS_HEAD


def get_num_classes(cfg: CfgNode) -> int:
    """K of the model that the config builds; 0 when it is to be taken from data."""
    keys = {"DETR": cfg.MODEL.DETR, "RetinaNet": cfg.MODEL.RETINANET}
    return keys.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS).NUM_CLASSES


def num_classes_of_head(cfg: CfgNode, state: Mapping[str, Any]) -> int:
    """K of the model whose weights a file holds, by the rows of its class head; 0 if it has none.

    Args:
        cfg: of the model.
        state: name -> tensor or array, under the names of the model.
    """
    rows = {name: len(state[name]) for name in state if name.endswith((".weight", ".bias"))}
    if cfg.MODEL.META_ARCHITECTURE == "DETR":
        heads = [count for name, count in rows.items() if CLASS_HEAD.fullmatch(name)]
        no_object = int(cfg.MODEL.DETR.CRITERION.CLASSIFICATION == "softmax")
        return max(0, heads[0] - no_object) if heads else 0
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":  # a row for each anchor and class; four for each anchor's box
        return 4 * rows.get("head.cls_score.bias", 0) // rows.get("head.bbox_pred.bias", 1)
    return max(0, rows.get("roi_heads.box_predictor.cls_score.bias", 0) - 1)


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
