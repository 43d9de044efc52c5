"""Convolution, bias, residual sum and ReLU as one operation.

On CPUs oneDNN does all of it while the sums are still in registers; PyTorch's own sequence writes and reads the whole
map again for each step. Where oneDNN has no such operator (other devices and types, PyTorch built without it), the
steps run one after the other, with the same result up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .acceleration import onednn_fuses
from .linear import matrix_product


class Convolution(NamedTuple):
    """Weights and geometry of a two-dimensional convolution.

    Attributes:
        weight: (C_out, C_in / groups, kernel height, kernel width).
        bias: (C_out,), or None.
        stride, padding, dilation: (vertical, horizontal).
        groups: number of groups.
        scale: (C_out,), multiplies the rows of the weight, and has no gradient; None for ones. The product is not kept
            for the backward pass.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    scale: Tensor | None = None

    def scaled(self, dtype: torch.dtype) -> Convolution:
        """The same convolution in a type, its weight multiplied by the scale."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return self._replace(weight=_scaled(self.weight, self.scale).to(dtype), bias=bias, scale=None)


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    return weight if scale is None else weight * scale[:, None, None, None]


def fused_convolution(
    x: Tensor,
    convolution: Convolution,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Convolves, adds the bias and the residual, and applies ReLU.

    Gradients are those of the single steps, to any order; only the inputs and the result are kept for them. All is
    computed in the type of `x`.

    Args:
        x: (B, C_in, H, W), fastest in channels-last.
        convolution: what to convolve with.
        relu: whether there is a ReLU at the end.
        residual: (B, C_out, H_out, W_out), or None.
        overwrite: the result may take the place of `residual`, which nobody reads any more; ignored where gradients
            are needed.

    Returns:
        (B, C_out, H_out, W_out).
    """
    weight, bias, *geometry, scale = convolution
    tensors = (x, weight, bias, residual)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _WithGradients.apply(*tensors, scale, relu, *geometry)
    return _run(x, convolution.scaled(x.dtype), relu, residual, overwrite)


def _run(x: Tensor, convolution: Convolution, relu: bool, residual: Tensor | None, overwrite: bool) -> Tensor:
    if onednn_fuses(x):
        return _run_onednn(x, convolution, relu, residual, overwrite)
    y = F.conv2d(x, *convolution[:6])
    if residual is not None:
        y = y.add_(residual)
    return y.relu_() if relu else y


def _run_onednn(x: Tensor, convolution: Convolution, relu: bool, residual: Tensor | None, overwrite: bool) -> Tensor:
    weight, bias, stride, padding, dilation, groups, _ = convolution
    geometry = (padding, stride, dilation, groups)
    if residual is None:
        activation = "relu" if relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, [], None)
    after_sum: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
    if overwrite:
        return torch.ops.mkldnn._convolution_pointwise_.binary(residual, x, weight, bias, *geometry, *after_sum)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, residual, weight, bias, *geometry, *after_sum)


class _WithGradients(torch.autograd.Function):
    """Its backward is made of operators that have derivatives themselves, so that there are second ones as well."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        scale: Tensor | None,
        relu: bool,
        *geometry: Any,
    ) -> Tensor:
        convolution = Convolution(weight, bias, *geometry)._replace(scale=scale)
        y = _run(x, convolution.scaled(x.dtype), relu, residual, overwrite=False)
        ctx.save_for_backward(x, weight, scale, y if relu else None)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, y = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        by_x, by_weight, by_bias = _gradients(
            grad, x, _scaled(weight, scale).to(x.dtype), ctx.bias_sizes, ctx.geometry, ctx.needs_input_grad[:3]
        )
        if by_weight is not None:
            by_weight = _scaled(by_weight.to(weight.dtype), scale).to(weight.dtype)
        by_residual = grad if ctx.needs_input_grad[3] else None
        return by_x, by_weight, by_bias, by_residual, None, None, *(None for _ in ctx.geometry)


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    geometry: tuple[Any, ...],
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution by its input, its weight and its bias."""
    stride, padding, dilation, groups = geometry
    is_pointwise = weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0) and groups == 1
    if is_pointwise and x.dtype == torch.float32 and onednn_fuses(x) and not torch.is_grad_enabled():
        return _pointwise_gradients(grad, x, weight, needed)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, bias_sizes, stride, padding, dilation, False, (0, 0), groups, needed
    )


def _pointwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of a 1x1 convolution are matrix products, which PyTorch itself would hand to the slower library."""
    rows, x_rows = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (grad, x))  # views of channels-last maps
    by_x = by_weight = None
    if needed[0]:
        by_x = matrix_product(rows, weight[:, :, 0, 0]).view(-1, *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    if needed[1]:
        by_weight = matrix_product(rows.T, x_rows)[:, :, None, None]
    return by_x, by_weight, rows.sum(0) if needed[2] else None
