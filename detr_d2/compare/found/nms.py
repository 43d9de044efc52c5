"""NMS after the fact: what a detector would have returned with another NMS, from one run without it.

The steps are those of detectron2's detectors, in their order: class-wise NMS at the resolution of the network, the
limit on detections, then scaling to the image, clipping, and dropping boxes without area. NMS runs on the CPU; a GPU
may decide otherwise about two boxes whose IoU equals the threshold up to rounding. Where each kind of detector keeps
its own NMS, and how it is switched off, stands at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Boxes

from ...evaluation.arrays import Detections
from ..records.comparison import UNLIMITED, ShippedSettings


@dataclass(frozen=True)
class Candidates:
    """What a detector knows of one image before NMS.

    Args:
        boxes_xyxy: (N, 4) float32, pixels of the image that entered the network.
        scores: (N,) float32.
        classes: (N,) class indices of the model.
        network_size: (height, width) of that image; None for boxes that are in pixels of the original image already and
            stay as they are.
        image_size: (height, width) of the original image.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    network_size: tuple[int, int] | None
    image_size: tuple[int, int]


def nms_order(candidates: Candidates, threshold: float | None) -> np.ndarray:
    """Indices of the candidates that class-wise NMS leaves, best first.

    Args:
        candidates: of an image.
        threshold: IoU above which the lower scored of two boxes of a class is removed; None: no NMS.
    """
    if threshold is None or not len(candidates.scores):
        return np.argsort(-candidates.scores, kind="stable")
    boxes, scores = torch.from_numpy(candidates.boxes_xyxy), torch.from_numpy(candidates.scores)
    return batched_nms(boxes, scores, torch.from_numpy(candidates.classes.astype(np.int64)), threshold).numpy()


def scale_to_image(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) in pixels of the original image, clipped to it, and (N,) bool whether something is left of them."""
    if candidates.network_size is None:
        return candidates.boxes_xyxy, np.ones(len(candidates.scores), dtype=bool)
    boxes = Boxes(torch.from_numpy(candidates.boxes_xyxy.copy()))
    (height, width), (network_height, network_width) = candidates.image_size, candidates.network_size
    boxes.scale(width / network_width, height / network_height)
    boxes.clip(candidates.image_size)
    return boxes.tensor.numpy(), boxes.nonempty().numpy()


class OfflineNms:
    """The detections of a dataset under any NMS.

    Args:
        candidates: one entry per image.
        limit: most detections per image, applied after NMS.
        class_map: (model's K,) index in the dataset of each of the model's classes, -1 for those it does not have.
    """

    def __init__(self, candidates: Sequence[Candidates], *, limit: int, class_map: np.ndarray) -> None:
        self.candidates = candidates
        self.limit = limit
        self.class_map = class_map
        self._scaled = [scale_to_image(x) for x in candidates]

    def __call__(self, threshold: float | None, *, limited: bool = True) -> tuple[Detections, float]:
        """The detections that are left, and how many NMS leaves per image before the limit, if there is to be one."""
        images, kept = [], 0
        for x, (boxes, nonempty) in zip(self.candidates, self._scaled, strict=True):
            order = nms_order(x, threshold)
            kept += len(order)
            order = order[: self.limit] if limited else order
            classes = self.class_map[x.classes[order]]
            use = nonempty[order] & (classes >= 0)
            images.append((boxes[order[use]], x.scores[order[use]], classes[use]))
        return Detections.join(images), kept / max(1, len(images))


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
    keys = {"R-CNN": cfg.MODEL.ROI_HEADS, "dense": cfg.MODEL.RETINANET, "DETR": cfg.MODEL.DETR}[family]
    return ShippedSettings(
        nms_threshold=None if family == "DETR" and keys.NMS_THRESH_TEST >= 1 else float(keys.NMS_THRESH_TEST),
        score_threshold=float(keys.SCORE_THRESH_TEST),
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
    cfg.MODEL.DETR.NMS_THRESH_TEST = 1.0
    if family_of(cfg) in ("R-CNN", "dense"):
        cfg.TEST.DETECTIONS_PER_IMAGE = UNLIMITED
    cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON and cfg.MODEL.META_ARCHITECTURE == "DETR"
    cfg.MODEL.KEYPOINT_ON = False
    return cfg
