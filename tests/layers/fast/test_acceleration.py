"""Which way modules take, and what is kept between calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from detr_d2.layers import Accelerated, Linear, set_acceleration
from detr_d2.layers.deformable_attention.attention import _kept_table


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_way_is_chosen_for_each_mode(inference: bool, training: bool) -> None:
    module = Accelerated()
    set_acceleration(nn.Sequential(module), inference=inference, training=training)
    assert module.train().is_accelerated() == training
    assert module.eval().is_accelerated() == inference


def test_never_in_a_graph() -> None:
    class Doubles(Accelerated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (3 if self.is_accelerated() else 2)

    module, x = Doubles().eval(), torch.ones(2)
    assert module(x).tolist() == [3, 3]
    assert torch.jit.trace(module, x, check_trace=False)(x).tolist() == [2, 2]
    assert torch.export.export(module, (x,)).module()(x).tolist() == [2, 2]


def test_never_in_a_transformation() -> None:
    layer, x = Linear(4, 3), torch.randn(5, 4)
    weight = layer.weight.detach().requires_grad_(False)

    def total(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).sum()

    expected = x.sum(0).expand(3, 4)
    torch.testing.assert_close(torch.func.grad(total)(weight), expected)
    layer.requires_grad_(False)
    direction = torch.ones_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent, direction @ weight.T)
    assert layer.eval().is_accelerated()


def test_tables_kept_in_inference_mode_serve_in_training() -> None:
    with torch.inference_mode():
        table = _kept_table(((5, 3), (2, 1)), torch.device("cpu"))
    assert not table.is_inference()
    assert table.tolist() == [[5, 3, 0], [2, 1, 15]]
    assert _kept_table(((5, 3), (2, 1)), torch.device("cpu")) is table
