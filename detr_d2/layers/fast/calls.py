"""When a faster way may stand for the calls of modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

Forwards = dict[type[nn.Module], Callable[..., Any]]


def is_captured() -> bool:
    """Whether calls are being traced, exported, compiled, or transformed (`torch.func`, forward-mode derivatives)."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


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
