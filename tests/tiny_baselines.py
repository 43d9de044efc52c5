"""Small Faster R-CNN and RetinaNet with random weights, that return many overlapping detections in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from detr_d2.config import get_cfg

_COMMON = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.DEPTH", 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
    "INPUT.MIN_SIZE_TEST", 64,
    "INPUT.MAX_SIZE_TEST", 128,
    "TEST.DETECTIONS_PER_IMAGE", 20,
]  # fmt: skip


def tiny_faster_rcnn_cfg(*options: Any) -> CfgNode:
    """FPN, 3 classes, 60 proposals."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *_COMMON,
            "MODEL.META_ARCHITECTURE", "GeneralizedRCNN",
            "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
            "MODEL.RPN.POST_NMS_TOPK_TEST", 60,
            "MODEL.RPN.NMS_THRESH", 0.9,
            "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
            "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
            "MODEL.ROI_HEADS.NUM_CLASSES", 3,
            "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
            "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
        ]
    )  # fmt: skip
    cfg.merge_from_list(list(options))
    return cfg


def tiny_retinanet_cfg(*options: Any) -> CfgNode:
    """FPN, 3 classes."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *_COMMON,
            "MODEL.META_ARCHITECTURE", "RetinaNet",
            "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
            "MODEL.RETINANET.NUM_CLASSES", 3,
            "MODEL.RETINANET.NUM_CONVS", 1,
            "MODEL.RETINANET.PRIOR_PROB", 0.2,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 50,
        ]
    )  # fmt: skip
    cfg.merge_from_list(list(options))
    return cfg


def build_lively(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """The model with random weights whose scores and boxes differ from place to place."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    wanted = {"cls_score": 1.5, "bbox_pred": 0.4 if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else 2.0}
    parts = {name: part for name, part in model.named_modules() if name.rpartition(".")[2] in wanted}
    spreads: dict[str, list[float]] = {name: [] for name in parts}
    hooks = [
        part.register_forward_hook(lambda _m, _i, output, name=name: spreads[name].append(float(output.std())))
        for name, part in parts.items()
    ]
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    with torch.no_grad():
        model([{"image": image.float()}])
        for name, part in parts.items():
            part.weight.mul_(wanted[name.rpartition(".")[2]] / max(spreads[name]))
    for hook in hooks:
        hook.remove()
    return model
