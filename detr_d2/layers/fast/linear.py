"""Linear layers of float32 on CPUs through oneDNN, forward and backward.

PyTorch hands products of float32 matrices to MKL, which on processors of other makers than its own runs at half of
what they can do; it hands convolutions, and linear layers of other types, to oneDNN, which does not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .acceleration import Accelerated, autocast_dtype, onednn_fuses


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, by the faster library; the same values and gradients up to rounding.

    Args:
        x: (..., C_in).
        weight: (C_out, C_in).
        bias: (C_out,), or None.

    Returns:
        (..., C_out).
    """
    if not (x.dtype == weight.dtype == torch.float32 and onednn_fuses(x)) or autocast_dtype(x) is not None:
        return F.linear(x, weight, bias)
    tensors = (x, weight, bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _WithGradients.apply(*tensors)
    return _run(x, weight, bias)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _run(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows, x_rows = grad.reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
        by_x = matrix_product(rows, weight).view_as(x) if need_x else None
        by_weight = matrix_product(rows.T, x_rows) if need_weight else None
        return by_x, by_weight, rows.sum(0) if need_bias else None


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """(n, k) x (k, m), by the faster library unless somebody wants the derivative."""
    if torch.is_grad_enabled() or a.dtype != torch.float32 or not (onednn_fuses(a) and b.numel()):
        return a @ b
    return _run(a.contiguous(), b.T, None)


class Linear(Accelerated, nn.Linear):
    """`torch.nn.Linear` by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., C_in) to (..., C_out)."""
        return linear(x, self.weight, self.bias) if self.is_accelerated() else super().forward(x)
