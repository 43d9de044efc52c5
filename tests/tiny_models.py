"""Small models and random inputs for tests."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detr_d2.config import get_cfg
from detr_d2.modeling import DETR, Targets

NUM_CLASSES = 3


def tiny_cfg(*options: Any) -> CfgNode:
    """A DETR of 8 queries on ResNet-18's res4, that runs in milliseconds."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "MODEL.META_ARCHITECTURE", "DETR",
            "MODEL.DEVICE", "cpu",
            "MODEL.WEIGHTS", "",
            "MODEL.BACKBONE.NAME", "build_detr_resnet_backbone",
            "MODEL.BACKBONE.FREEZE_AT", 0,
            "MODEL.RESNETS.DEPTH", 18,
            "MODEL.RESNETS.NORM", "FrozenBN",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
            "MODEL.RESNETS.OUT_FEATURES", ["res4"],
            "MODEL.DETR.IN_FEATURES", ["res4"],
            "MODEL.DETR.NUM_CLASSES", NUM_CLASSES,
            "MODEL.DETR.NUM_QUERIES", 8,
            "MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 32,
            "MODEL.DETR.TRANSFORMER.NUM_HEADS", 4,
            "MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 64,
            "MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 2,
            "MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 3,
            "MODEL.DETR.TRANSFORMER.DROPOUT", 0.0,
            "INPUT.FORMAT", "RGB",
        ]
    )  # fmt: skip
    cfg.merge_from_list(list(options))
    return cfg


def tiny_detr(*options: Any) -> DETR:
    """Builds `tiny_cfg` through detectron2's registry."""
    model = build_model(tiny_cfg(*options))
    assert isinstance(model, DETR)
    return model


def random_boxes_xyxy(count: int, height: int, width: int) -> Tensor:
    """Boxes (count, 4) in pixels, inside the image, at least a tenth of it wide and high."""
    corner = torch.rand(count, 2) * 0.5
    size = 0.1 + torch.rand(count, 2) * 0.4
    return torch.cat([corner, corner + size], 1) * torch.tensor([width, height, width, height])


def random_input(height: int, width: int, count: int, **extra: Any) -> dict[str, Any]:
    """One image with `count` random objects in detectron2's input format."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(random_boxes_xyxy(count, height, width))
    instances.gt_classes = torch.randint(0, NUM_CLASSES, (count,))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances, **extra}


def random_predictions(
    layers: int, images: int, queries: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, K + 1) and boxes_cxcywh (L, B, Q, 4) as a head could give them."""
    logits = 2 * torch.randn(layers, images, queries, NUM_CLASSES + 1, dtype=dtype)
    boxes = torch.rand(layers, images, queries, 4, dtype=dtype) * 0.8 + 0.1
    return logits, boxes


def random_targets(counts: list[int]) -> Targets:
    """Packed targets with `counts` objects per image."""
    instances = [random_input(60, 80, count)["instances"] for count in counts]
    return Targets.from_instances(instances, num_classes=NUM_CLASSES)


def per_image(targets: Targets) -> list[dict[str, Tensor]]:
    """Packed targets as one dictionary an image, for `naive_criterion`."""
    labels = targets.labels.split(targets.counts)
    boxes = targets.boxes_cxcywh.split(targets.counts)
    return [{"labels": x, "boxes": y} for x, y in zip(labels, boxes, strict=True)]
