"""detectron2's ResNet, faster: folded batch norms, channels-last maps, one operator for convolution, sum and ReLU.

The modules, their names and the results (up to rounding) are detectron2's. A block that is not one of detectron2's own
`BasicStem`, `BasicBlock` and `BottleneckBlock`, whose norm cannot be folded now (batch norm in training, group norm),
that somebody watches with hooks or whose forward was replaced, runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from ...layers.fast.acceleration import Accelerated, Forwards, autocast_dtype, does_only, forwards_of, is_captured
from ...layers.fast.fused_convolution import fused_convolution
from ...layers.recompute import run_layer
from .folding import FoldedConvolutions, is_foldable

_CONVOLUTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    BasicStem: ("conv1",),
    BasicBlock: ("conv1", "conv2"),
    BottleneckBlock: ("conv1", "conv2", "conv3"),
}
_STEM = forwards_of(BasicStem)
_BLOCKS = forwards_of(BasicBlock, BottleneckBlock)
_STAGE = forwards_of(nn.Sequential)


class FastResNet(Accelerated, ResNet):
    """A `ResNet` with another way to the same maps.

    While a graph is being traced, exported or compiled, and where `Accelerated` is told so, it is detectron2's.

    Attributes:
        checkpoint: keep only what enters a block in training, and run the block again in the backward pass; see
            `checkpoint_backbone`.
    """

    checkpoint: bool = False

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
        """Forgets the folded weights; see the function `refresh`."""
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
        fast, checkpointed = self.is_accelerated(), self._is_checkpointed()
        if not (fast or checkpointed) or self.num_classes is not None or x.dim() != 4:
            return super().forward(x)
        self._folded.drop_stale()
        outputs = {}
        x = self._stem(self.stem, x.contiguous(memory_format=torch.channels_last)) if fast else self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            for block, run in self._steps(stage, fast):
                x = run_layer(run, x, checkpointed=checkpointed and _has_graph(block, x))
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def _is_checkpointed(self) -> bool:
        return self.checkpoint and self.training and torch.is_grad_enabled() and not is_captured()

    def _stem(self, stem: Any, x: Tensor) -> Tensor:
        if not _is_known(stem, _STEM):
            return stem(x)
        x = self._convolve(stem.conv1, x, relu=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def _steps(self, stage: Any, fast: bool) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        """The blocks of a stage, each with the function that runs it; the stage itself if it is not a plain row."""
        if not does_only(stage, _STAGE):
            yield stage, stage
            return
        is_private = False  # what enters a stage may be an output of the network
        for block in stage:
            is_known = fast and _is_known(block, _BLOCKS)
            yield block, partial(self._block, block, is_private=is_private) if is_known else block
            is_private = is_known

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


def refresh(model: nn.Module) -> None:
    """Makes a model forget what it has computed from its weights in evaluation mode; it is computed again when needed.

    Writes in place, new parameters, `load_state_dict`, steps of optimizers and changes of mode, device or type are
    followed without it, on a CPU every other write too. On other devices call it after writes that PyTorch does not
    count: through `.data`, NumPy or DLPack, by `torch.distributed` into a weight or a buffer, and by CUDA graphs.

    Args:
        model: any, also wrapped; parts that keep nothing are left alone.
    """
    for module in model.modules():
        if isinstance(module, FastResNet):
            module.refresh()


def checkpoint_backbone(backbone: nn.Module) -> None:
    """Has a ResNet run its blocks again in the backward pass of training instead of keeping what is inside them.

    Frozen blocks keep nothing anyway. Maps, losses and gradients stay the same.

    Raises:
        ValueError: the backbone is no ResNet, or has batch norms that train, which would count every batch twice.
    """
    key = "MODEL.DETR.RECOMPUTE_BACKBONE is True"
    if not isinstance(backbone, FastResNet):
        raise ValueError(f"{key}, but the backbone is a {type(backbone).__name__}, expected a ResNet: set it to False.")
    for name, module in backbone.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            raise ValueError(
                f"{key}, but the {type(module).__name__} backbone.{name} is not frozen and would count every batch "
                "twice: set MODEL.RESNETS.NORM to FrozenBN or GN, or RECOMPUTE_BACKBONE to False."
            )
    backbone.checkpoint = True


def _has_graph(block: nn.Module, x: Tensor) -> bool:
    """Whether anything is kept for the backward pass of a block."""
    return x.requires_grad or any(parameter.requires_grad for parameter in block.parameters())


def _is_known(block: nn.Module, forwards: Forwards) -> bool:
    """Whether a block is exactly of one of these classes and does nothing but what its class does."""
    if not does_only(block, forwards):
        return False
    convolutions = [getattr(block, name) for name in _CONVOLUTIONS[type(block)]]
    if getattr(block, "shortcut", None) is not None:
        convolutions.append(block.shortcut)
    return all(map(is_foldable, convolutions))


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which autocast, or the lack of it, has a convolution of `x` computed."""
    dtype = autocast_dtype(x)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype
