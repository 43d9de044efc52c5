"""`fused_convolution` against its single steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detr_d2.layers.fast.fused_convolution import Convolution, fused_convolution


def make(dtype: torch.dtype = torch.float32, kernel: int = 3, stride: int = 1, **changes: Any) -> Convolution:
    convolution = Convolution(
        weight=torch.randn(8, 4, kernel, kernel, dtype=dtype),
        bias=torch.randn(8, dtype=dtype),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        dilation=(1, 1),
        groups=1,
    )
    return convolution._replace(**changes)


def steps(x: Tensor, convolution: Convolution, relu: bool, residual: Tensor | None) -> Tensor:
    y = F.conv2d(x, *convolution[:6])
    y = y if residual is None else y + residual
    return y.relu() if relu else y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("residual", "overwrite"), [(False, False), (True, False), (True, True)], ids=["alone", "sum", "sum-in-place"]
)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_equals_the_steps(
    dtype: torch.dtype,
    channels_last: bool,
    relu: bool,
    residual: bool,
    overwrite: bool,
    kernel: int,
    stride: int,
    dilation: int,
) -> None:
    padding = dilation * (kernel // 2)
    convolution = make(dtype, kernel, stride, padding=(padding, padding), dilation=(dilation, dilation))
    x = torch.randn(2, 4, 9, 7, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    other = torch.randn_like(F.conv2d(x, *convolution[:6])) if residual else None
    expected = steps(x, convolution, relu, other)
    kept = None if other is None else other.clone()
    result = fused_convolution(x, convolution, relu=relu, residual=other, overwrite=overwrite)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    if other is not None and not overwrite:
        assert kept is not None
        assert torch.equal(other, kept)


def test_groups_and_no_bias() -> None:
    convolution = make(weight=torch.randn(8, 2, 3, 3), bias=None, groups=2)
    x = torch.randn(1, 4, 6, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        fused_convolution(x, convolution, relu=True), steps(x, convolution, True, None), atol=1e-5, rtol=1e-5
    )


def test_layouts_of_input_and_residual_may_differ() -> None:
    x, convolution = torch.randn(2, 4, 6, 5).contiguous(memory_format=torch.channels_last), make()
    residual = torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(
        fused_convolution(x, convolution, relu=True, residual=residual),
        steps(x, convolution, True, residual),
        atol=1e-5,
        rtol=1e-5,
    )


def test_an_empty_batch() -> None:
    assert fused_convolution(torch.zeros(0, 4, 6, 5), make(), relu=True).shape == (0, 8, 6, 5)


def test_without_onednn() -> None:
    x, convolution = torch.randn(2, 4, 6, 5), make()
    with torch.backends.mkldnn.flags(enabled=False):
        result = fused_convolution(x, convolution, relu=True)
    torch.testing.assert_close(result, steps(x, convolution, True, None), atol=1e-5, rtol=1e-5)


def leaves(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = ((2, 4, 6, 5), (8, 4, 3, 3), (8,), (2, 8, 3, 3))
    x, weight, bias, residual = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return x, weight, bias, residual


def of_leaves(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    convolution = make(weight=weight, bias=bias, stride=2)
    return fused_convolution(x, convolution, relu=True, residual=residual, overwrite=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_steps(dtype: torch.dtype) -> None:
    tensors = leaves(dtype)
    incoming = torch.randn(2, 8, 3, 3, dtype=dtype)
    got = torch.autograd.grad(of_leaves(*tensors), tensors, incoming)
    x, weight, bias, residual = tensors
    expected = torch.autograd.grad(
        steps(x, make(weight=weight, bias=bias, stride=2), True, residual), tensors, incoming
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (1, 1, 2), (3, 1, 1)])
def test_gradients_of_every_kind_of_convolution(kernel: int, stride: int, groups: int, channels_last: bool) -> None:
    weight, bias = torch.randn(8, 4 // groups, kernel, kernel).requires_grad_(), torch.randn(8).requires_grad_()
    convolution = make(kernel=kernel, stride=stride, weight=weight, bias=bias, groups=groups)
    x = torch.randn(2, 4, 6, 5)
    x = (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    tensors, expected = (x, weight, bias), steps(x, convolution, True, None)
    incoming = torch.randn_like(expected)
    got = torch.autograd.grad(fused_convolution(x, convolution, relu=True), tensors, incoming)
    for a, b in zip(got, torch.autograd.grad(expected, tensors, incoming), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_scale_of_the_rows_is_not_kept_but_counted() -> None:
    x, weight, bias, _ = leaves(torch.float64)
    scale = torch.rand(8, dtype=torch.float64) + 0.5
    convolution = make(weight=weight, bias=bias)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        y = fused_convolution(x, convolution._replace(scale=scale), relu=True)
    assert set(kept) == {tensor.data_ptr() for tensor in (x, weight, scale, y)}
    expected = steps(x, convolution._replace(weight=weight * scale[:, None, None, None]), True, None)
    torch.testing.assert_close(y, expected)
    for a, b in zip(
        torch.autograd.grad(y.square().sum(), (x, weight, bias)),
        torch.autograd.grad(expected.square().sum(), (x, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(fused_convolution(x, convolution._replace(scale=scale), relu=True), expected)


@pytest.mark.parametrize("needed", range(4))
def test_each_gradient_alone(needed: int) -> None:
    tensors = leaves(torch.float64)
    expected = torch.autograd.grad(of_leaves(*tensors).sum(), tensors[needed])
    alone = [x if i == needed else x.detach() for i, x in enumerate(tensors)]
    torch.testing.assert_close(torch.autograd.grad(of_leaves(*alone).sum(), tensors[needed]), expected)


def test_first_and_second_derivatives_by_differences() -> None:
    tensors = leaves(torch.float64)
    assert torch.autograd.gradcheck(of_leaves, tensors)
    assert torch.autograd.gradgradcheck(of_leaves, tensors)
