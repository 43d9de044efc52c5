"""Small models with masks, images with drawn objects, and a mask head that knows the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Boxes, Instances
from tiny_models import random_input
from torch import Tensor

from detr_d2.modeling import MASK_HEAD_REGISTRY, MaskHead, MaskInputs

MASKS = ["MODEL.MASK_ON", True, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4"]]
PANOPTIC = [
    *MASKS, "MODEL.DETR.PANOPTIC.ENABLED", True, "MODEL.DETR.NUM_CLASSES", 5, "MODEL.DETR.PANOPTIC.NUM_THINGS", 3,
]  # fmt: skip


def segmentation_input(height: int, width: int, count: int, **extra: Any) -> dict[str, Any]:
    """One image with `count` bright rectangles on a dark one, their boxes and masks."""
    x = random_input(height, width, count, **extra)
    instances = x["instances"]
    boxes = instances.gt_boxes.tensor.round()
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    x["image"] = torch.full((3, height, width), 20, dtype=torch.uint8)
    for k, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        masks[k, y0:y1, x0:x1] = True
        x["image"][int(instances.gt_classes[k]), y0:y1, x0:x1] = 255
    instances.gt_boxes, instances.gt_masks = Boxes(boxes), BitMasks(masks)
    return x


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of 0 and 1, by turns, column by column."""
    lengths, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


@MASK_HEAD_REGISTRY.register()
class Truth(MaskHead):
    """Gives query q the q-th ground-truth mask of its image, at the size of the padded images."""

    images: list[Instances]

    def __init__(self, cfg: Any, _shapes: Any) -> None:
        super().__init__(in_features=cfg.MODEL.DETR.MASK_HEAD.IN_FEATURES, chunk_size=3)
        self.scale = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, inputs: MaskInputs, queries: Sequence[Tensor]) -> Tensor:
        height, width = inputs.padded_size
        masks = []
        for instances, indices in zip(self.images, queries, strict=True):
            count = max([len(instances), *(indices + 1).tolist()])  # queries without an object have an empty mask
            truth = F.pad(instances.gt_masks.tensor.float(), (0, 0, 0, 0, 0, count - len(instances)))[indices]
            masks.append(F.pad(truth, (0, width - truth.shape[2], 0, height - truth.shape[1])))
        return self.scale * (2 * torch.cat(masks) - 1)

    def segment(self, inputs: MaskInputs, image: int, queries: Tensor) -> Tensor:
        everything, self.images = self.images, [self.images[image]]
        try:
            return super().segment(inputs, image, queries)
        finally:
            self.images = everything
