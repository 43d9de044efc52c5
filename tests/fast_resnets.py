"""A small `FastResNet` whose norms are all different, and detectron2's own way through it."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from detr_d2.modeling.backbone.fast_resnet import FastResNet

ALL = ("stem", "res2", "res3")
IMAGES = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))


class OtherBlock(BottleneckBlock):
    """Not detectron2's: its result is doubled."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def make(norm: str = "FrozenBN", *, basic: bool = False, freeze_at: int = 0, **changes: Any) -> Any:
    """Two small stages, whose norms are all different."""
    torch.manual_seed(0)
    stem = BasicStem(3, 64 if basic else 32, norm=norm)
    stages, width = [], stem.out_channels
    for stride in (1, 2):
        kwargs: dict[str, Any] = {"in_channels": width, "out_channels": 64 * stride, "norm": norm}
        if basic:
            blocks = ResNet.make_stage(BasicBlock, 2, stride_per_block=[stride, 1], **kwargs)
        else:
            kwargs.update(bottleneck_channels=32, dilation_per_block=[1, stride], num_groups=2, **changes)
            blocks = ResNet.make_stage(BottleneckBlock, 2, stride_per_block=[stride, 1], **kwargs)
        stages.append(blocks)
        width = 64 * stride
    resnet = FastResNet.of(ResNet(stem, stages, out_features=list(ALL), freeze_at=freeze_at))
    norms: list[Any] = [
        module
        for module in resnet.modules()
        if isinstance(module, (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm))
    ]
    for module in norms:
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, std=0.2)
        module.running_mean.normal_(std=0.2)
        module.running_var.uniform_(0.5, 1.5)
    return resnet


def plain(resnet: Any, x: Tensor) -> dict[str, Tensor]:
    return ResNet.forward(resnet, x)


@torch.no_grad()
def assert_equal_to_plain(resnet: Any, x: Tensor = IMAGES, tolerance: float = 2e-5) -> None:
    x = x.to(resnet.stem.conv1.weight.dtype)
    expected, got = plain(resnet, x), resnet(x)
    assert list(got) == list(expected)
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(got[name] / scale, value / scale, atol=tolerance, rtol=0, msg=name)


def is_folded(resnet: Any) -> bool:
    return len(resnet._folded) > 0
