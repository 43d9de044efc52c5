"""When a module may take a faster way to the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

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


Forwards = dict[type[nn.Module], Callable[..., Any]]


def forwards_of(*classes: type[nn.Module]) -> Forwards:
    """The forward of each class, to be taken at import, before anybody may have replaced it; see `does_only`."""
    return {cls: cls.forward for cls in classes}


def does_only(module: nn.Module, forwards: Forwards) -> bool:
    """Whether a call of the module does what its class does and nothing else, so that something else may stand for it.

    Not so for other classes, for a forward that was replaced, in the module or in its class, and where hooks want to
    know of the call.

    Args:
        module: any.
        forwards: of the classes that are known, from `forwards_of`.
    """
    if type(module) not in forwards or getattr(module.forward, "__func__", None) is not forwards[type(module)]:
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not _has_any_global_hook()


def set_acceleration(model: nn.Module, *, inference: bool, training: bool) -> None:
    """Chooses the way of all modules of a model."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.optimize_inference, module.optimize_training = inference, training


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type to which autocast has an operation on `x` computed; None without autocast for its device."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def onednn_fuses(x: Tensor) -> bool:
    """Whether oneDNN's fused operators, those that PyTorch's own compiler uses, can be called for such an input."""
    if x.device.type != "cpu" or x.numel() == 0 or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.mkldnn.enabled or not all(hasattr(torch.ops.mkldnn, name) for name in _FUSED_OPERATORS):
        return False
    return x.dtype == torch.float32 or (
        x.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
