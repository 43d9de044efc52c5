"""Convolution, bias, residual sum and ReLU as one operation, where nobody needs gradients.

On CPUs oneDNN does all of it while the sums are still in registers; PyTorch's own sequence writes and reads the whole
map again for each step. Where oneDNN has no such operator (other devices and types, PyTorch built without it), the
steps run one after the other, with the same result up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_OPERATORS = ("_convolution_pointwise", "_convolution_pointwise_")


class Convolution(NamedTuple):
    """Weights and geometry of a two-dimensional convolution.

    Attributes:
        weight: (C_out, C_in / groups, kernel height, kernel width).
        bias: (C_out,), or None.
        stride, padding, dilation: (vertical, horizontal).
        groups: number of groups.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def fused_convolution(
    x: Tensor,
    convolution: Convolution,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Convolves, adds the bias and the residual, and applies ReLU; without gradients.

    Args:
        x: (B, C_in, H, W) of the weight's type, fastest in channels-last.
        convolution: what to convolve with.
        relu: whether there is a ReLU at the end.
        residual: (B, C_out, H_out, W_out), or None.
        overwrite: the result may take the place of `residual`, which nobody reads any more.

    Returns:
        (B, C_out, H_out, W_out).
    """
    if not _onednn_fuses(x):
        y = F.conv2d(x, *convolution)
        if residual is not None:
            y = y.add_(residual)
        return y.relu_() if relu else y
    weight, bias, stride, padding, dilation, groups = convolution
    geometry = (padding, stride, dilation, groups)
    if residual is None:
        activation = "relu" if relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, [], None)
    after_sum: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
    if overwrite:
        return torch.ops.mkldnn._convolution_pointwise_.binary(residual, x, weight, bias, *geometry, *after_sum)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, residual, weight, bias, *geometry, *after_sum)


def _onednn_fuses(x: Tensor) -> bool:
    """Whether oneDNN's fused operators, those that PyTorch's own compiler uses, can be called for such an input."""
    if x.device.type != "cpu" or x.numel() == 0 or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.mkldnn.enabled or not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    return x.dtype == torch.float32 or (
        x.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
