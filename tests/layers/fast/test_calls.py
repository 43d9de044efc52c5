"""When calls are seen through, and what is kept between calls."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad

from detr_d2.layers.fast.calls import is_captured


class Doubles(nn.Module):
    """Triples its input where nobody sees through the call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if is_captured() else 3)


def test_a_graph_is_seen() -> None:
    module, x = Doubles().eval(), torch.ones(2)
    assert module(x).tolist() == [3, 3]
    assert torch.jit.trace(module, x, check_trace=False)(x).tolist() == [2, 2]
    assert torch.export.export(module, (x,)).module()(x).tolist() == [2, 2]


def test_transformations_are_seen() -> None:
    module, x = Doubles(), torch.ones(2)
    assert torch.func.grad(lambda x: module(x).sum())(x).tolist() == [2, 2]
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(module(forward_ad.make_dual(x, x))).tangent
    assert tangent.tolist() == [2, 2]
    assert module(x).tolist() == [3, 3]
