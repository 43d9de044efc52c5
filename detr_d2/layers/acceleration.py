"""When a module may take a faster way to the same result."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_FUSED_OPERATORS = ("_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise")


class Accelerated(nn.Module):
    """Base of modules that have a plain and a faster way.

    Attributes:
        optimize_inference: False for the plain way in evaluation mode.
        optimize_training: False for the plain way in training mode.
    """

    optimize_inference: bool = True
    optimize_training: bool = True

    def is_accelerated(self) -> bool:
        """Whether to take the faster way now: never while something else is made of the calls; see `is_captured`."""
        wanted = self.optimize_training if self.training else self.optimize_inference
        return wanted and not is_captured()


def is_captured() -> bool:
    """Whether calls are being traced, exported, compiled, or transformed (`torch.func`, forward-mode derivatives)."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def set_acceleration(model: nn.Module, *, inference: bool, training: bool) -> None:
    """Chooses the way of all modules of a model."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.optimize_inference, module.optimize_training = inference, training


def onednn_fuses(x: Tensor) -> bool:
    """Whether oneDNN's fused operators, those that PyTorch's own compiler uses, can be called for such an input."""
    if x.device.type != "cpu" or x.numel() == 0 or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.mkldnn.enabled or not all(hasattr(torch.ops.mkldnn, name) for name in _FUSED_OPERATORS):
        return False
    return x.dtype == torch.float32 or (
        x.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
