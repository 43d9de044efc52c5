"""A ResNet builder whose DC5 is the authors' DC5.

Everything else comes from detectron2's `BACKBONE_REGISTRY`. detectron2's own `RES5_DILATION: 2` dilates all blocks of
res5; torchvision's `replace_stride_with_dilation`, with which DETR-DC5 was trained, leaves the first one alone.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@BACKBONE_REGISTRY.register()
def build_detr_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds a ResNet from `MODEL.RESNETS`; with `RES5_DILATION: 2` the blocks of res5 have dilations 1, 2, 2.

    Args:
        cfg: reads DEPTH, NORM, OUT_FEATURES, STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, NUM_GROUPS, WIDTH_PER_GROUP,
            STRIDE_IN_1X1 and RES5_DILATION of MODEL.RESNETS, and MODEL.BACKBONE.FREEZE_AT.
        input_shape: channels of the image.

    Raises:
        ValueError: for a depth, dilation or width that does not exist.
    """
    resnets = cfg.MODEL.RESNETS
    _check(resnets)
    stem = BasicStem(in_channels=input_shape.channels, out_channels=resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    stages, in_channels = [], resnets.STEM_OUT_CHANNELS
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[resnets.DEPTH]):
        out_channels = resnets.RES2_OUT_CHANNELS * 2**index
        dilated = index == 3 and resnets.RES5_DILATION == 2
        kwargs: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "norm": resnets.NORM,
            "stride_per_block": [1 if index == 0 or dilated else 2] + [1] * (num_blocks - 1),
        }
        if resnets.DEPTH >= 50:
            kwargs.update(
                bottleneck_channels=resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**index,
                num_groups=resnets.NUM_GROUPS,
                stride_in_1x1=resnets.STRIDE_IN_1X1,
                dilation_per_block=[1] + [2 if dilated else 1] * (num_blocks - 1),
            )
        block = BottleneckBlock if resnets.DEPTH >= 50 else BasicBlock
        stages.append(ResNet.make_stage(block, num_blocks, **kwargs))
        in_channels = out_channels
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _check(resnets: CfgNode) -> None:
    if resnets.DEPTH not in BLOCKS_PER_STAGE:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}, expected one of {sorted(BLOCKS_PER_STAGE)}.")
    if resnets.RES5_DILATION not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION is {resnets.RES5_DILATION}, expected 1, or 2 for DC5.")
    if resnets.DEPTH < 50 and resnets.RES5_DILATION != 1:
        raise ValueError("MODEL.RESNETS.RES5_DILATION: 2 (DC5) needs bottleneck blocks: MODEL.RESNETS.DEPTH >= 50.")
    if resnets.DEPTH < 50 and resnets.RES2_OUT_CHANNELS != 64:
        raise ValueError("MODEL.RESNETS.RES2_OUT_CHANNELS must be 64 for MODEL.RESNETS.DEPTH 18 and 34.")
