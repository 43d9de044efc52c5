"""Sampling points recomputed from the inputs of deformable attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detr_d2.layers import MultiScaleDeformableAttention, deformable_attention
from detr_d2.visualization.attention import Call, recorded_calls, sampling_points

SHAPES = [(6, 8), (3, 4)]  # height, width


def record(module: nn.Module, *args: object) -> Call:
    with recorded_calls([module]) as calls:
        module(*args)
    return calls[0]


def random_call(coordinates: int) -> Call:
    module = MultiScaleDeformableAttention(embed_dim=16, num_heads=4, num_levels=2, num_points=3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    references = 0.2 + 0.6 * torch.rand(2, 5, 2, coordinates)
    tokens = torch.randn(2, 60, 16)
    mask = torch.zeros(2, 60, dtype=torch.bool)
    mask[1, [7, 15, 51]] = True
    return record(module, torch.randn(2, 5, 16), references, tokens, SHAPES, mask)


def test_hand_computed_around_a_point() -> None:
    module = MultiScaleDeformableAttention(embed_dim=4, num_heads=1, num_levels=2, num_points=2)
    with torch.no_grad():
        # Level 1: half a cell to the right, a cell down; level 2: nothing, two cells to the left.
        module.sampling_offsets.bias.copy_(torch.tensor([0.5, 0.0, 0.0, 1.0, 0.0, 0.0, -2.0, 0.0]))
        module.attention_weights.bias.copy_(torch.tensor([1.0, 2.0, 4.0, 1.0]).log())
    reference = torch.tensor([0.5, 0.25]).expand(1, 3, 2, 2)
    call = record(module, torch.zeros(1, 3, 4), reference, torch.zeros(1, 60, 4), SHAPES)
    locations, weights = sampling_points(call, IDS)
    expected = torch.tensor([[[0.5625, 0.25], [0.5, 0.25 + 1 / 6]], [[0.5, 0.25], [0.0, 0.25]]])
    torch.testing.assert_close(locations[0, 1, 0], expected)
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor([[0.125, 0.25], [0.5, 0.125]]))


IDS = torch.tensor([2, 0])


def test_hand_computed_around_a_box() -> None:
    module = MultiScaleDeformableAttention(embed_dim=4, num_heads=1, num_levels=1, num_points=2)
    with torch.no_grad():
        module.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0, 0.0, -2.0]))
    box = torch.tensor([0.5, 0.4, 0.2, 0.4]).expand(1, 3, 1, 4)
    locations, _ = sampling_points(record(module, torch.zeros(1, 3, 4), box, torch.zeros(1, 48, 4), SHAPES[:1]), IDS)
    # An offset of 1 of 2 points is a quarter of the width, an offset of 2 half of the height: the box's own edge.
    torch.testing.assert_close(locations[0, 0, 0, 0], torch.tensor([[0.55, 0.4], [0.5, 0.2]]))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_values_at_the_points_are_the_output(coordinates: int) -> None:
    call = random_call(coordinates)
    module = call.module
    assert isinstance(module, MultiScaleDeformableAttention)
    locations, weights = sampling_points(call, torch.arange(5))
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 5, 4))
    values: Tensor = module.value_proj(call["value_tokens"]).masked_fill(call["padding_mask"][..., None], 0)
    read = deformable_attention(values.unflatten(-1, (4, -1)), SHAPES, locations, weights)
    torch.testing.assert_close(module.output_proj(read), call.output)


def test_rows_are_those_asked_for() -> None:
    call = random_call(2)
    every, some = sampling_points(call, torch.arange(5)), sampling_points(call, torch.tensor([4, 1]))
    for x, y in zip(some, every, strict=True):
        torch.testing.assert_close(x, y[:, [4, 1]])
