"""`linear` against `torch.nn.functional.linear`; modules choose between them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_d2.layers import MLP, Accelerated, Linear, MultiHeadAttention, linear, set_acceleration


def leaves(shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    x, weight, offset = torch.randn(*shape, 6, dtype=dtype), torch.randn(9, 6, dtype=dtype), torch.randn(9, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), offset.requires_grad_() if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (5,), (2, 7), (2, 3, 4), (0, 4)], ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> None:
    x, weight, offset = leaves(shape, dtype, bias)
    tensors = [t for t in (x, weight, offset) if t is not None]
    got, expected = linear(x, weight, offset), F.linear(x, weight, offset)
    torch.testing.assert_close(got, expected)
    incoming = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, tensors, incoming), torch.autograd.grad(expected, tensors, incoming), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, offset), expected)


def test_inputs_that_are_not_contiguous() -> None:
    x, weight = torch.randn(6, 5, 2), torch.randn(6, 9)
    torch.testing.assert_close(linear(x.transpose(0, 2), weight.T, None), F.linear(x.transpose(0, 2), weight.T))
    x.requires_grad_()
    incoming = torch.randn(9, 5, 2).transpose(0, 2)
    (got,) = torch.autograd.grad(linear(x.transpose(0, 2), weight.T, None), x, incoming)
    (expected,) = torch.autograd.grad(F.linear(x.transpose(0, 2), weight.T), x, incoming)
    torch.testing.assert_close(got, expected)


def test_an_expanded_input() -> None:
    x, weight = torch.randn(1, 5, 12).expand(3, -1, -1).chunk(2, dim=-1)[1], torch.randn(9, 6)
    torch.testing.assert_close(linear(x, weight, None), F.linear(x, weight))


@pytest.mark.parametrize("needed", range(3))
def test_each_gradient_alone(needed: int) -> None:
    tensors = leaves((4,), torch.float32, True)
    alone = [t if i == needed else t.detach() for i, t in enumerate(tensors) if t is not None]
    (got,) = torch.autograd.grad(linear(*alone).square().sum(), alone[needed])
    (expected,) = torch.autograd.grad(F.linear(*alone).square().sum(), alone[needed])
    torch.testing.assert_close(got, expected)


def test_second_derivatives() -> None:
    x, weight, _ = leaves((4,), torch.float32, False)
    results = []
    for function in (linear, F.linear):
        (first,) = torch.autograd.grad(function(x, weight, None).pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (x, weight)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


def test_autocast_decides_the_type() -> None:
    x, weight, offset = leaves((3,), torch.float32, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, offset).dtype == torch.bfloat16


def onednn_calls(module: nn.Module, *inputs: Tensor) -> int:
    with torch.profiler.profile() as profile:
        module(*inputs)
    return sum("linear_pointwise" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("training", [False, True])
def test_modules_can_be_told_to_take_the_plain_way(training: bool) -> None:
    x = torch.randn(2, 3, 8)
    attention = MultiHeadAttention(embed_dim=8, num_heads=2)
    parts: list[tuple[nn.Module, tuple[Tensor, ...]]] = [
        (Linear(8, 4), (x,)),
        (MLP(input_dim=8, hidden_dim=8, output_dim=4, num_layers=2), (x,)),
        (attention, (x, x, x)),
    ]
    for module, inputs in parts:
        module.train(training)
        fast = module(*inputs)
        assert onednn_calls(module, *inputs)
        set_acceleration(module, inference=training, training=not training)
        assert not onednn_calls(module, *inputs)
        torch.testing.assert_close(module(*inputs), fast)


def test_is_a_linear_layer() -> None:
    module = Linear(8, 4)
    assert isinstance(module, nn.Linear)
    assert isinstance(module, Accelerated)
    assert list(module.state_dict()) == ["weight", "bias"]
