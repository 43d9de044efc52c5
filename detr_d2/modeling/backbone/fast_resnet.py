"""detectron2's ResNet, faster: folded batch norms, channels-last maps, one operator for convolution, sum and ReLU.

The modules, their names and the results (up to rounding) are detectron2's. A block through which gradients go, that is
not one of detectron2's own `BasicStem`, `BasicBlock` and `BottleneckBlock`, whose norm cannot be folded now (batch norm
in training, group norm), that somebody watches with hooks or whose forward was replaced, runs as it is, on
channels-last maps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, ResNet
from detectron2.modeling import build_model as build_plain_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...layers.fast.calls import Forwards, does_only, forwards_of, is_captured
from ...layers.fast.convolution import fused_convolution
from .folding import FoldedConvolutions, is_foldable

_CONVOLUTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    BasicStem: ("conv1",),
    BasicBlock: ("conv1", "conv2"),
    BottleneckBlock: ("conv1", "conv2", "conv3"),
}
_STEM = forwards_of(BasicStem)
_BLOCKS = forwards_of(BasicBlock, BottleneckBlock)
_STAGE = forwards_of(nn.Sequential)


class FastResNet(ResNet):
    """A `ResNet` with another way to the same maps, which is not taken while something else is made of the calls.

    Made by `of` alone.

    Attributes:
        fast_inference, fast_training: False for detectron2's own way in evaluation mode, in training mode.
        recompute: keep only what enters a block in training; see `recompute_backbone`.
    """

    fast_inference: bool = True
    fast_training: bool = True
    recompute: bool = False
    _folded: FoldedConvolutions

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
        is_seen_through = is_captured()
        fast = (self.fast_training if self.training else self.fast_inference) and not is_seen_through
        recompute = self.recompute and self.training and not is_seen_through
        if not (fast or recompute) or self.num_classes is not None or x.dim() != 4:
            return super().forward(x)
        self._folded.drop_stale()
        x = self._stem(self.stem, x.contiguous(memory_format=torch.channels_last)) if fast else self.stem(x)
        outputs = {"stem": x}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = outputs[name] = self._stage(stage, x, fast=fast, recompute=recompute)
        return {name: outputs[name] for name in outputs if name in self._out_features}

    def _stem(self, stem: Any, x: Tensor) -> Tensor:
        if _needs_gradients(stem, x) or not _is_known(stem, _STEM):
            return stem(x)
        return F.max_pool2d(self._convolve(stem.conv1, x, relu=True), kernel_size=3, stride=2, padding=1)

    def _stage(self, stage: Any, x: Tensor, *, fast: bool, recompute: bool) -> Tensor:
        is_private = False  # what enters a stage may be an output of the network
        for block in stage if does_only(stage, _STAGE) else [stage]:
            needs_gradients = _needs_gradients(block, x)
            if fast and not needs_gradients and _is_known(block, _BLOCKS):
                x = self._block(block, x, is_private=is_private)
                is_private = True
                continue
            x = checkpoint(block, x, use_reentrant=False) if recompute and needs_gradients else block(x)
            is_private = False
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

    @torch.no_grad()
    def _convolve(self, convolution: nn.Module, x: Tensor, **after: Any) -> Tensor:
        dtype = _compute_dtype(x)
        return fused_convolution(x.to(dtype), self._folded.get(convolution, dtype), **after)


def build_model(cfg: CfgNode) -> nn.Module:
    """As detectron2's `build_model`; with `MODEL.RESNETS.FAST` the ResNet of any detector is a `FastResNet`.

    A DETR chooses by keys of its own.
    """
    model = build_plain_model(cfg)
    if cfg.MODEL.RESNETS.get("FAST", True) and not any(isinstance(x, FastResNet) for x in model.modules()):
        accelerate(model)
    return model


def accelerate(model: nn.Module, *, inference: bool = True, training: bool = True) -> None:
    """Makes every ResNet inside a model, under an FPN too, a `FastResNet` of the same modules; other parts stay.

    Under an FPN a ResNet whose norms are neither frozen nor absent trains in detectron2's own way: the pyramid loses
    more by channels-last maps than the blocks win.

    Args:
        model: any that holds its backbone as a submodule.
        inference, training: whether to take the faster way in evaluation mode, in training mode.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            resnet = FastResNet.of(child) if type(child) is ResNet else child
            if isinstance(resnet, FastResNet):
                resnet.fast_inference = inference
                resnet.fast_training = training and not (isinstance(parent, FPN) and _has_live_norms(resnet))
                setattr(parent, name, resnet)


def resnet_path(model: nn.Module) -> str:
    """Which ResNet predicts in a model: "fast" for a `FastResNet`, "plain" for any other backbone."""
    resnets = [x for x in model.modules() if isinstance(x, FastResNet)]
    return "fast" if any(x.fast_inference for x in resnets) else "plain"


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


def recompute_backbone(backbone: nn.Module) -> None:
    """Has a ResNet run its blocks again in the backward pass of training instead of keeping what is inside them.

    Frozen blocks keep nothing anyway. Maps, losses and gradients stay the same.

    Paper: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.

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
    backbone.recompute = True


def _needs_gradients(block: nn.Module, x: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters()))


def _has_live_norms(resnet: ResNet) -> bool:
    return any(isinstance(x, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)) for x in resnet.modules())


def _is_known(block: nn.Module, forwards: Forwards) -> bool:
    """Whether a block is exactly of one of these classes and does nothing but what its class does."""
    if not does_only(block, forwards):
        return False
    convolutions = [getattr(block, name) for name in _CONVOLUTIONS[type(block)]]
    if getattr(block, "shortcut", None) is not None:
        convolutions.append(block.shortcut)
    return all(map(is_foldable, convolutions))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type to which autocast has an operation on `x` computed; None without autocast for its device."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which autocast, or the lack of it, has a convolution of `x` computed."""
    dtype = autocast_dtype(x)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype
