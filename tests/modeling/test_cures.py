"""`MODEL.DETR.NMS_THRESH_TEST` and `ONE_CLASS_PER_QUERY` in every family, off unless asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Instances
from segmentation_cases import MASKS, PANOPTIC
from tiny_deformable import tiny_deformable_cfg
from tiny_models import random_input, tiny_cfg

from detr_d2.modeling import DETR, predictions_to_instances

NMS, ONE = "MODEL.DETR.NMS_THRESH_TEST", "MODEL.DETR.ONE_CLASS_PER_QUERY"
FOCAL = ["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"]

FAMILIES: dict[str, CfgNode] = {
    "DETR": tiny_cfg(),
    "focal DETR": tiny_cfg(*FOCAL),
    "Deformable DETR": tiny_deformable_cfg("refine"),
    "two-stage": tiny_deformable_cfg("two_stage"),
    "masks": tiny_cfg(*MASKS),
    "panoptic": tiny_cfg(*PANOPTIC),
}


def built(cfg: CfgNode, *options: Any) -> DETR:
    """The model with the same random weights whatever the options."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.DETR.SCORE_THRESH_TEST", 0.0, *options])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():  # Deformable DETR's boxes begin small and apart
        if re.fullmatch(r"head\.bbox_embed\.\d\.layers\.2\.bias", name):
            parameter.data[2:] += 0.4
    return model


def inputs() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    return [random_input(64, 96, 1), random_input(80, 64, 1)]


@torch.no_grad()
def returned(cfg: CfgNode, *options: Any) -> list[Instances]:
    """What the model returns for two images."""
    return [x["instances"] for x in built(cfg, *options)(inputs())]


@torch.no_grad()
def not_clipped(cfg: CfgNode) -> list[Instances]:
    """The same before boxes are clipped to the images."""
    model = built(cfg)
    images = model.preprocess_image(inputs())
    found = model.predict(images, all_layers=False)
    return predictions_to_instances(
        found.logits[-1],
        found.boxes_cxcywh[-1],
        images.image_sizes,
        score_threshold=0,
        max_detections=100,
        classification=model.classification,
        num_things=model.num_things,
    )


def columns(instances: Instances) -> list[torch.Tensor]:
    masks = [instances.pred_masks] if instances.has("pred_masks") else []
    return [instances.pred_boxes.tensor, instances.scores, instances.pred_classes, *masks]


@pytest.mark.parametrize("family", FAMILIES)
def test_nms_removes_what_it_would_remove_afterwards(family: str) -> None:
    cfg = FAMILIES[family]
    for raw, before, after in zip(not_clipped(cfg), returned(cfg), returned(cfg, NMS, 0.2), strict=True):
        left = batched_nms(raw.pred_boxes.tensor, raw.scores, raw.pred_classes, 0.2)
        assert 0 < len(left) < len(before) == len(raw)
        assert len(after) == len(left)
        for x, y in zip(columns(before[left]), columns(after), strict=True):
            torch.testing.assert_close(x, y)
        assert not after.has("query")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_yields_one_class(family: str) -> None:
    for before, after in zip(returned(FAMILIES[family]), returned(FAMILIES[family], ONE, True), strict=True):
        boxes = [tuple(x) for x in before.pred_boxes.tensor.tolist()]
        first = [i for i, x in enumerate(boxes) if x not in boxes[:i]]  # of each query, the best scored
        focal = FAMILIES[family].MODEL.DETR.CRITERION.CLASSIFICATION == "focal"
        assert (len(before), len(after)) == (24 if focal else 8, 8)
        assert len(first) == 8
        for x, y in zip(columns(before[first]), columns(after), strict=True):
            torch.testing.assert_close(x, y)


def test_nothing_changes_by_default() -> None:
    assert (tiny_cfg().MODEL.DETR.NMS_THRESH_TEST, tiny_cfg().MODEL.DETR.ONE_CLASS_PER_QUERY) == (1.0, False)
    for family in ("DETR", "Deformable DETR"):
        for x, y in zip(returned(FAMILIES[family]), returned(FAMILIES[family], NMS, 1.0, ONE, False), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(columns(x), columns(y), strict=True))
