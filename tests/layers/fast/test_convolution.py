"""`fused_convolution` against its single steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detr_d2.layers.fast.convolution import Convolution, fused_convolution


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
    y = F.conv2d(x, *convolution)
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
    other = torch.randn_like(F.conv2d(x, *convolution)) if residual else None
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
