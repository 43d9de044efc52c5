"""`build_detr_resnet_backbone` against torchvision's ResNet, through the conversion of torchvision's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detr_d2.checkpoint.layouts.torchvision_resnet import convert_torchvision_resnet
from detr_d2.config import get_cfg


def build(depth: int, dilation: int = 1, freeze_at: int = 0, norm: str = "FrozenBN") -> Any:
    cfg = get_cfg()
    options: list[Any] = ["MODEL.BACKBONE.NAME", "build_detr_resnet_backbone", "MODEL.RESNETS.DEPTH", depth]
    options += ["MODEL.RESNETS.RES5_DILATION", dilation, "MODEL.BACKBONE.FREEZE_AT", freeze_at]
    options += ["MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.NORM", norm]
    options += ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    options += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if depth < 50 else 256]
    cfg.merge_from_list(options)
    return build_backbone(cfg)


def randomise(model: nn.Module) -> None:
    """Gives every frozen batch norm its own affine map, so that a wrong name cannot go unseen."""
    for name, buffer in model.named_buffers():
        if name.endswith(("running_var", "weight")):
            buffer.uniform_(0.5, 1.5)
        else:
            buffer.normal_(0, 0.1)


@pytest.mark.parametrize(
    ("depth", "dilation"), [(18, 1), (50, 1), (50, 2), (101, 2)], ids=["r18", "r50", "r50-dc5", "r101-dc5"]
)
def test_equals_torchvision(depth: int, dilation: int):
    arguments: dict[str, Any] = {"weights": None, "norm_layer": FrozenBatchNorm2d}
    if dilation == 2:
        arguments["replace_stride_with_dilation"] = [False, False, True]
    theirs = getattr(torchvision.models, f"resnet{depth}")(**arguments)
    randomise(theirs)
    ours = build(depth, dilation)
    result = ours.load_state_dict(convert_torchvision_resnet(theirs.state_dict()), strict=True)
    assert not result.missing_keys
    image = torch.randn(1, 3, 97, 129)
    layers = IntermediateLayerGetter(theirs, {f"layer{i}": f"res{i + 1}" for i in range(1, 5)})
    with torch.no_grad():
        expected, got = layers(image), ours(image)
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(got[name] / scale, value / scale, atol=1e-5, rtol=0, msg=name)
    assert got["res5"].shape[-1] == (9 if dilation == 2 else 5)


def test_dc5_leaves_the_first_block_undilated():
    dilations = [block.conv2.dilation for block in build(50, 2).res5]
    assert dilations == [(1, 1), (2, 2), (2, 2)]
    assert build(50, 2).output_shape()["res5"].stride == 16


def test_freeze_at_two_freezes_stem_and_res2():
    backbone = build(50, freeze_at=2)
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    assert sum(p.numel() for p in backbone.parameters() if not p.requires_grad) == 222_400  # conv1 + layer1


@pytest.mark.parametrize(
    ("depth", "dilation", "message"), [(18, 2, "bottleneck"), (50, 3, "RES5_DILATION is 3"), (77, 1, "DEPTH is 77")]
)
def test_what_does_not_exist_is_refused(depth: int, dilation: int, message: str):
    with pytest.raises(ValueError, match=message):
        build(depth, dilation)
