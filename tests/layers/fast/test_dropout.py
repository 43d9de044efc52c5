"""Our dropout, alone and in attention, against PyTorch's: the same numbers drawn, and less kept."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_d2.layers import Dropout, MultiHeadAttention, set_acceleration
from detr_d2.layers.fast.attention_dropout import attention_with_dropout

P = 0.3


def seeded(function: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(7)
    return function()


def kept_bytes(function: Callable[[], Tensor]) -> int:
    """Bytes of the different tensors that autograd keeps for a function."""
    found: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function()
    assert result.requires_grad
    return sum(x.untyped_storage().nbytes() for x in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
def test_draws_and_gradients_are_torchs(relu: bool, dtype: torch.dtype) -> None:
    x = torch.randn(3, 41, 5, dtype=dtype, requires_grad=True)
    activation = nn.ReLU() if relu else nn.GELU()
    results = []
    for module in (Dropout(P), nn.Dropout(P)):
        y = seeded(lambda m=module: m.after(activation, x) if isinstance(m, Dropout) else m(activation(x)))  # type: ignore[misc]
        results.append((y, *torch.autograd.grad(y.pow(3).sum(), x)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert 0.2 < float((seeded(lambda: Dropout(P)(torch.ones(5000))) == 0).float().mean()) < 0.4


def test_hooks_and_other_forwards_are_called() -> None:
    x = torch.randn(50)
    dropout, activation, calls = Dropout(P), nn.ReLU(), []
    for module in (dropout, activation):
        with module.register_forward_hook(lambda module, *_: calls.append(module)):
            dropout.after(activation, x)
    assert calls == [dropout, activation]
    setattr(activation, "forward", lambda x: x + 100)  # noqa: B010, as types have it otherwise
    assert dropout.after(activation, x).max() > 100
    setattr(dropout, "forward", lambda x: x * 0)  # noqa: B010
    assert dropout.after(nn.ReLU(), x).eq(0).all()


def test_second_derivatives() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    query = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    functions: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
        (x, lambda t: seeded(lambda: Dropout(P).after(nn.ReLU(), t))),
        (x, lambda t: seeded(lambda: Dropout(P)(t))),
        (query, lambda t: seeded(lambda: attention_with_dropout(t, t, t, None, P))),
    ]
    for leaf, function in functions:
        assert torch.autograd.gradcheck(function, leaf)
        assert torch.autograd.gradgradcheck(function, leaf)


def test_a_byte_or_nothing_is_kept() -> None:
    x = torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: Dropout(P)(x)) == 1000
    assert kept_bytes(lambda: Dropout(P).after(nn.ReLU(), x)) == 4000  # its result, which the next layer keeps anyway
    plain = Dropout(P)
    plain.optimize_training = False
    assert kept_bytes(lambda: plain.after(nn.ReLU(), x)) == 8000  # activation and mask


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all(p: float) -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    for y, kept in ((Dropout(p)(x), x), (Dropout(p).after(nn.ReLU(), x), x.relu())):
        torch.testing.assert_close(y, (1 - p) * kept)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert gradient.isfinite().all()


def test_evaluation_and_copies() -> None:
    module, x = Dropout(P), torch.randn(50)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(seeded(lambda m=other: m(x)), seeded(lambda: module(x)))  # type: ignore[misc]
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(module.after(nn.ReLU(), x), x.relu())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_is_torchs(dtype: torch.dtype, masked: bool) -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=dtype, requires_grad=True) for n in (5, 7, 7))
    attend = None
    if masked:
        attend = torch.ones(2, 1, 1, 7, dtype=torch.bool)
        attend[1, ..., 4:] = False
    got = seeded(lambda: attention_with_dropout(q, k, v, attend, P))
    expected = seeded(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=P))
    assert got.dtype == expected.dtype == dtype
    torch.testing.assert_close(got, expected)
    incoming = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(got, (q, k, v), incoming), torch.autograd.grad(expected, (q, k, v), incoming), strict=True
    ):
        torch.testing.assert_close(a, b, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)


def test_attention_weights_are_not_kept() -> None:
    attention = MultiHeadAttention(embed_dim=8, num_heads=2, dropout=P)
    x = torch.randn(1, 200, 8, requires_grad=True)
    pairs = 2 * 200 * 200
    tokens = 8 * 200 * 4  # bytes of one (B, S, C)
    assert kept_bytes(lambda: attention(x, x, x)) < pairs + 10 * tokens
    set_acceleration(attention, inference=True, training=False)
    assert kept_bytes(lambda: attention(x, x, x)) > 8 * pairs


def test_attention_module_under_autocast() -> None:
    attention = MultiHeadAttention(embed_dim=8, num_heads=2, dropout=P)
    x = torch.randn(1, 20, 8, requires_grad=True)
    exact = seeded(lambda: attention(x, x, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = seeded(lambda: attention(x, x, x))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
    (gradient,) = torch.autograd.grad(rounded.float().square().sum(), x)
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    torch.testing.assert_close(gradient, expected, atol=0.1, rtol=0.1)
