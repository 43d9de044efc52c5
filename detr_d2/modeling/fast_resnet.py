"""detectron2's ResNet, faster: folded batch norms, channels-last maps, one operator for convolution, sum and ReLU.

The modules, their names and the results (up to rounding) are detectron2's. A block that is not one of detectron2's own
`BasicStem`, `BasicBlock` and `BottleneckBlock`, whose norm cannot be folded now (batch norm in training, group norm),
or that somebody watches with hooks, runs its own `forward`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from ..layers.acceleration import Accelerated
from ..layers.fused_convolution import fused_convolution
from .folding import FoldedConvolutions, has_hooks, is_foldable

_CONVOLUTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    BasicStem: ("conv1",),
    BasicBlock: ("conv1", "conv2"),
    BottleneckBlock: ("conv1", "conv2", "conv3"),
}


class FastResNet(Accelerated, ResNet):
    """A `ResNet` with another way to the same maps.

    While a graph is being traced, exported or compiled, and where `Accelerated` is told so, it is detectron2's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._folded = FoldedConvolutions()

    @classmethod
    def of(cls, resnet: ResNet) -> FastResNet:
        """The same network, made of the same modules."""
        fast = cls.__new__(cls)
        fast.__dict__.update(resnet.__dict__, _folded=FoldedConvolutions())
        return fast

    def refresh(self) -> None:
        """Forgets the folded weights; needed after weights were written to through `.data` only."""
        self._folded.clear()

    def train(self, mode: bool = True) -> FastResNet:
        """As `nn.Module.train`; forgets the folded weights."""
        self.refresh()
        super().train(mode)
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module._apply`, which moves and casts; forgets the folded weights."""
        self.refresh()
        return super()._apply(*args, **kwargs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (B, C, H, W) to {name: (B, C, H / stride, W / stride)}."""
        if not self.is_accelerated() or self.num_classes is not None or x.dim() != 4:
            return super().forward(x)
        outputs = {}
        x = self._stem(self.stem, x.contiguous(memory_format=torch.channels_last))
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = self._stage(stage, x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def _stem(self, stem: Any, x: Tensor) -> Tensor:
        if not _is_known(stem, BasicStem):
            return stem(x)
        x = self._convolve(stem.conv1, x, relu=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def _stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        if type(stage) is not nn.Sequential or has_hooks(stage):
            return stage(x)
        is_private = False  # what enters a stage may be an output of the network
        for block in stage:
            is_known = _is_known(block, BasicBlock, BottleneckBlock)
            x = self._block(block, x, is_private=is_private) if is_known else block(x)
            is_private = is_known
        return x

    def _block(self, block: Any, x: Tensor, *, is_private: bool) -> Tensor:
        """Runs a block; nobody else reads `x` if it is private."""
        *first, last = _CONVOLUTIONS[type(block)]
        y = x = x.to(_compute_dtype(x))
        for name in first:
            y = self._convolve(getattr(block, name), y, relu=True)
        has_shortcut = block.shortcut is not None
        residual = self._convolve(block.shortcut, x) if has_shortcut else x
        return self._convolve(
            getattr(block, last), y, relu=True, residual=residual, overwrite=is_private or has_shortcut
        )

    def _convolve(self, convolution: nn.Module, x: Tensor, **after: Any) -> Tensor:
        dtype = _compute_dtype(x)
        return fused_convolution(x.to(dtype), self._folded.get(convolution, dtype), **after)


def accelerated(backbone: Backbone) -> Backbone:
    """The backbone, as a `FastResNet` if it is detectron2's ResNet; every other one as it is."""
    return FastResNet.of(backbone) if type(backbone) is ResNet else backbone


def _is_known(block: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether a block is exactly of one of these classes and does nothing but what its class does."""
    if type(block) not in classes or has_hooks(block):
        return False
    convolutions = [getattr(block, name) for name in _CONVOLUTIONS[type(block)]]
    if getattr(block, "shortcut", None) is not None:
        convolutions.append(block.shortcut)
    return all(map(is_foldable, convolutions))


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which autocast, or the lack of it, has a convolution of `x` computed."""
    casts = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if casts else x.dtype
