import torch
from torch import nn

from detr_d2.layers import run_layer


def test_the_layer_runs_again_in_the_backward_pass_only_when_asked():
    layer = nn.Linear(3, 3)
    calls: list[int] = []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3)
    for checkpointed, expected in ((False, 1), (True, 2)):
        calls.clear()
        run_layer(layer, x, checkpointed=checkpointed).sum().backward()
        assert len(calls) == expected


def test_nothing_is_recomputed_without_gradients():
    with torch.no_grad():
        assert not run_layer(nn.Linear(3, 3), torch.randn(2, 3), checkpointed=True).requires_grad
