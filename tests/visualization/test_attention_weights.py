"""Attention weights recomputed from recorded inputs, and the hooks that record them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import random_input, tiny_detr
from torch import Tensor, nn

from detr_d2.layers import MultiHeadAttention
from detr_d2.visualization.attention import Call, attention_of_layer, attention_weights, heads_shown, recorded_calls


def record(module: nn.Module, *args: Tensor | None) -> Call:
    with recorded_calls([module]) as calls:
        module(*args)
    (call,) = calls
    return call


def random_call(*, padded: bool) -> Call:
    """Two images, 5 queries, 7 keys of which the second image pads the last three, 4 heads."""
    module = MultiHeadAttention(embed_dim=16, num_heads=4).eval()
    nn.init.normal_(module.in_proj_bias)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[1, 4:] = padded
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    return record(module, query, key, value, ~mask[:, None, None] if padded else None)


def test_hand_computed() -> None:
    module = MultiHeadAttention(embed_dim=1, num_heads=1)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.tensor([[1.0], [1.0], [1.0]]))
    keys = torch.tensor([[[0.0], [math.log(3)], [7.0]]])
    attend = torch.tensor([[True, True, False]])
    call = record(module, torch.tensor([[[0.0], [1.0]]]), keys, keys, attend)
    weights = attention_weights(call, torch.tensor([1, 0]))
    # Query 1 scores 0 and ln 3, query 0 nothing; the third key is padding.
    torch.testing.assert_close(weights, torch.tensor([[[[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]]]))


@pytest.mark.parametrize("padded", [False, True])
def test_rows_sum_to_one_and_padding_gets_nothing(padded: bool) -> None:
    weights = attention_weights(random_call(padded=padded), torch.arange(5))
    assert weights.shape == (2, 4, 5, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert (weights[1, :, :, 4:] == 0).all() == padded
    assert (weights[0] > 0).all()


@pytest.mark.parametrize("padded", [False, True])
def test_times_the_values_they_are_the_output(padded: bool) -> None:
    call = random_call(padded=padded)
    module = call.module
    assert isinstance(module, MultiHeadAttention)
    weights = attention_weights(call, torch.arange(5))
    values = F.linear(call["value"], module.in_proj_weight[32:], module.in_proj_bias[32:])
    heads = torch.stack([weights[:, h] @ values[..., 4 * h : 4 * h + 4] for h in range(4)], dim=2)
    torch.testing.assert_close(module.out_proj(heads.flatten(2)), call.output)


def test_a_mask_of_pairs() -> None:
    module = MultiHeadAttention(embed_dim=16, num_heads=4).eval()
    attend = torch.rand(5, 7) < 0.5
    attend[:, 3] = True
    weights = attention_weights(
        record(module, *(torch.randn(1, n, 16) for n in (5, 7, 7)), attend), torch.tensor([4, 2])
    )
    assert torch.equal(weights[0, 1] > 0, attend[[4, 2]])


def test_same_as_pytorchs_own_module() -> None:
    call = random_call(padded=True)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(call.module.state_dict())
    arguments = (call["query"], call["key"], call["value"], ~call["attend"][:, 0, 0])
    _, expected = theirs(*arguments, average_attn_weights=False)
    torch.testing.assert_close(attention_weights(call, torch.arange(5)), expected)
    torch.testing.assert_close(attention_weights(call, torch.tensor([3, 1])), expected[:, :, [3, 1]])


def test_each_query_has_its_own_keys_where_the_mask_says_so() -> None:
    module = MultiHeadAttention(embed_dim=4, num_heads=2)
    x, attend = torch.randn(1, 3, 4), torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    weights = attention_weights(record(module, x, x, x, attend[None, None]), torch.tensor([2, 0]))
    assert ((weights[0] > 0) == attend[[2, 0]]).all()


def test_heads() -> None:
    assert heads_shown(2, None) == [0, 1]
    assert heads_shown(2, 2) == [1]
    for head in (0, 3):
        with pytest.raises(ValueError, match=f"2 heads, so there is no head {head}"):
            heads_shown(2, head)


def test_recording_changes_nothing_and_leaves_no_hook() -> None:
    model = tiny_detr().eval()
    inputs = [random_input(64, 96, 1), random_input(80, 48, 1)]
    with torch.no_grad():
        before = model(inputs)
        with recorded_calls(m for m in model.modules() if isinstance(m, MultiHeadAttention)) as calls:
            during = model(inputs)
        after = model(inputs)
    assert len(calls) == 2 + 2 * 3  # encoder layers, and two attentions in each decoder layer
    for result in (during, after):
        for x, y in zip(result, before, strict=True):
            assert torch.equal(x["instances"].scores, y["instances"].scores)
            assert torch.equal(x["instances"].pred_boxes.tensor, y["instances"].pred_boxes.tensor)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_hook_is_left_after_an_error() -> None:
    module = MultiHeadAttention(embed_dim=4, num_heads=2)
    with pytest.raises(RuntimeError), recorded_calls([module]):
        module(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    assert not module._forward_hooks


def test_arguments_are_known_by_name_however_they_are_given() -> None:
    module = MultiHeadAttention(embed_dim=4, num_heads=2)
    x = torch.randn(1, 3, 4)
    with recorded_calls([module]) as calls:
        module(x, x, value=x)
        module(x, key=torch.randn(1, 3, 4), value=x, attend=None)
    assert calls[0]["value"] is x
    assert calls[0]["attend"] is None
    assert [call.reads_itself for call in calls] == [True, False]


def test_layers_are_counted_from_one_and_the_last_is_the_default() -> None:
    transformer: Any = tiny_detr().transformer
    layers = transformer.decoder.layers
    assert attention_of_layer(transformer, "decoder", None) == [layers[2].self_attn, layers[2].multihead_attn]
    assert attention_of_layer(transformer, "decoder", 1) == [layers[0].self_attn, layers[0].multihead_attn]
    assert attention_of_layer(transformer, "encoder", 2) == [transformer.encoder.layers[1].self_attn]
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"the decoder has 3 layers, so there is no layer {layer}"):
            attention_of_layer(transformer, "decoder", layer)


def test_foreign_transformers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear has no encoder\.layers"):
        attention_of_layer(nn.Linear(1, 1), "encoder", None)
    foreign: Any = nn.Module()
    foreign.encoder = nn.Module()
    foreign.encoder.layers = nn.ModuleList([nn.Linear(1, 1)])
    with pytest.raises(ValueError, match="hold no attention of detr_d2"):
        attention_of_layer(foreign, "encoder", None)
