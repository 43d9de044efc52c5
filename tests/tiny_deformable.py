"""Small models of Deformable DETR for tests."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_models import tiny_cfg
from torch import nn

from detr_d2.modeling import DETR

_TRANSFORMER = "MODEL.DETR.TRANSFORMER."
_SINGLE = ["MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.DETR.IN_FEATURES", ["res5"]]
_MULTI = [
    *["MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"], "MODEL.DETR.IN_FEATURES", ["res3", "res4", "res5"]],
    *["MODEL.DETR.NUM_FEATURE_LEVELS", 4],
]
_REFINE = [*_MULTI, _TRANSFORMER + "DEFORMABLE.BOX_REFINEMENT", True]

VARIANTS: dict[str, list[Any]] = {
    "single_scale": _SINGLE,
    "multi_scale": _MULTI,
    "refine": _REFINE,
    "two_stage": [*_REFINE, _TRANSFORMER + "DEFORMABLE.TWO_STAGE", True],
}
_MIXED = {"mixed": [*VARIANTS["two_stage"], _TRANSFORMER + "DEFORMABLE.MIXED_SELECTION", True]}


def tiny_deformable_cfg(variant: str, *options: Any) -> CfgNode:
    """A Deformable DETR of 8 queries on ResNet-18, that runs in milliseconds; `variant` may also be "mixed"."""
    return tiny_cfg(
        *["MODEL.DETR.NECK.NAME", "ChannelMapper", "MODEL.DETR.HEAD.NAME", "ReferenceHead"],
        *[_TRANSFORMER + "NAME", "DeformableTransformer", _TRANSFORMER + "HIDDEN_DIM", 64],
        *["MODEL.DETR.POSITION_ENCODING.OFFSET", -0.5],
        *["MODEL.DETR.CRITERION.CLASSIFICATION", "focal", "MODEL.DETR.CRITERION.LOSS_CLASS", 2.0],
        *["MODEL.DETR.MATCHER.COST_CLASS", 2.0],
        *{**VARIANTS, **_MIXED}[variant],
        *options,
    )


def tiny_deformable(variant: str, *options: Any) -> DETR:
    """Builds `tiny_deformable_cfg` through detectron2's registry."""
    model = build_model(tiny_deformable_cfg(variant, *options))
    assert isinstance(model, DETR)
    return model


@torch.no_grad()
def stir(model: nn.Module, size: float = 0.05) -> None:
    """Moves all parameters outside the backbone, so that none is zero and no two layers are alike."""
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            parameter.add_(size * torch.randn_like(parameter))
