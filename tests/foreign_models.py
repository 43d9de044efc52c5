"""Checkpoints of other libraries, made from small models of this one."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from tiny_models import tiny_cfg
from torch import Tensor

from detr_d2 import model_zoo
from detr_d2.checkpoint.layouts.identify import MIXED, WITH_MASKS, Layout, convert
from detr_d2.modeling import DETR

DEFORMABLE = {  # family -> config
    "Deformable DETR": "deformable_detr_r50",
    "Deformable DETR with box refinement": "deformable_detr_r50_refine",
    "two-stage Deformable DETR": "deformable_detr_r50_two_stage",
    MIXED.family: "deformable_detr_r50_two_stage",
}


def small_cfg(*options: Any, family: str = "DETR") -> CfgNode:
    """A small model of a family on the whole of ResNet-18, as other libraries want it."""
    if family == "DETR":
        whole = ("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.DETR.IN_FEATURES", ["res5"])
        return tiny_cfg(*whole, *options)
    if family == WITH_MASKS:
        stages = ("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.DETR.IN_FEATURES", ["res5"])
        heads = ("MODEL.DETR.TRANSFORMER.NUM_HEADS", 8)  # transformers wants width and heads to be a multiple of 8
        return tiny_cfg("MODEL.MASK_ON", True, *stages, *heads, *options)
    cfg = model_zoo.get_config(DEFORMABLE[family])
    small = [
        "MODEL.DEVICE", "cpu",
        "MODEL.WEIGHTS", "",
        "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
        "MODEL.DETR.NUM_CLASSES", 3,
        "MODEL.DETR.NUM_QUERIES", 8,
        "MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 32,
        "MODEL.DETR.TRANSFORMER.NUM_HEADS", 4,
        "MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 64,
        "MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 1,
        "MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 2,
        "MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION", family == MIXED.family,
    ]  # fmt: skip
    cfg.merge_from_list([*small, *options])
    return cfg


def small_detr(*options: Any, family: str = "DETR") -> DETR:
    """Builds `small_cfg`; backbone statistics are random, and no two heads are alike."""
    model = DETR(small_cfg(*options, family=family))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.startswith("backbone"):
                buffer.uniform_(0.5, 1.5)
        for parameter in model.head.parameters():
            parameter.normal_(std=0.1)
    return model


def foreign_state(model: DETR, layout: Layout) -> dict[str, Tensor]:
    """Its state dict under the names of another library."""
    return convert(model.state_dict(), layout, source="a small model")


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Same names, same values bit by bit."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
