"""The module of deformable attention: projections, locations, weights, and how it starts."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from deformable_cases import naive_attention
from torch import Tensor, nn

from detr_d2.layers import MultiScaleDeformableAttention, deformable_attention

LEVELS = {
    "one": [(5, 7)],
    "several": [(6, 4), (3, 5), (2, 2)],
    "single cells": [(1, 1), (3, 1), (1, 4), (1, 1)],
}
PLAIN = ("torch", "grid_sample")


def module(**arguments: object) -> MultiScaleDeformableAttention:
    """In float64, with random weights instead of the initial ones."""
    sizes = {"embed_dim": 12, "num_heads": 3, "num_levels": 2, "num_points": 4, **arguments}
    attention = MultiScaleDeformableAttention(**sizes).double()  # type: ignore[arg-type]
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention


def naive_module(
    attention: MultiScaleDeformableAttention,
    query: Tensor,
    reference: Tensor,
    tokens: Tensor,
    shapes: list[tuple[int, int]],
) -> Tensor:
    images, queries, _ = query.shape
    heads, levels, points = attention.num_heads, attention.num_levels, attention.num_points[0]
    offsets = attention.sampling_offsets(query).view(images, queries, heads, levels, points, 2)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(shapes):
        for p in range(points):
            offset, point = offsets[:, :, :, level, p], reference[:, :, None, level]
            if reference.shape[-1] == 2:
                locations[:, :, :, level, p, 0] = point[..., 0] + offset[..., 0] / width
                locations[:, :, :, level, p, 1] = point[..., 1] + offset[..., 1] / height
            else:
                locations[:, :, :, level, p] = point[..., :2] + offset / points * point[..., 2:] / 2
    weights = attention.attention_weights(query).view(images, queries, heads, -1).exp()
    weights = (weights / weights.sum(-1, keepdim=True)).view(images, queries, heads, levels, points)
    value = attention.value_proj(tokens).view(images, tokens.shape[1], heads, -1)
    return attention.output_proj(naive_attention(value, shapes, locations, weights))


@pytest.mark.parametrize("numbers", [2, 4])
def test_module_equals_the_definition(numbers: int) -> None:
    attention, shapes = module(), [(4, 3), (2, 3)]
    query, tokens = torch.randn(2, 5, 12).double(), torch.randn(2, 18, 12).double()
    reference = torch.rand(2, 5, 2, numbers).double()
    output = attention(query, reference, tokens, shapes)
    torch.testing.assert_close(output, naive_module(attention, query, reference, tokens, shapes))


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("numbers", [2, 4])
def test_levels_with_different_numbers_of_points(numbers: int, backend: str) -> None:
    """Against the sum over levels of attention to each alone, weighted by its share of the softmax."""
    attention, shapes = module(num_points=[3, 1], backend=backend), [(4, 3), (2, 3)]
    query, tokens = torch.randn(2, 5, 12).double(), torch.randn(2, 18, 12).double()
    reference = torch.rand(2, 5, 2, numbers).double()
    offsets = attention.sampling_offsets(query).view(2, 5, 3, 4, 2)
    weights = attention.attention_weights(query).view(2, 5, 3, 4).softmax(-1)
    value = attention.value_proj(tokens).view(2, 18, 3, 4)
    read = torch.zeros(2, 5, 12).double()
    for level, points, tokens_of in ((0, slice(0, 3), slice(0, 12)), (1, slice(3, 4), slice(12, 18))):
        around = reference[:, :, None, level, None]
        if numbers == 2:
            shift = offsets[..., points, :] / torch.tensor(shapes[level][::-1])
        else:
            shift = offsets[..., points, :] / (points.stop - points.start) * around[..., 2:] / 2
        locations = (around[..., :2] + shift)[..., None, :, :]
        read += naive_attention(value[:, tokens_of], [shapes[level]], locations, weights[..., None, points])
    output, expected = attention(query, reference, tokens, shapes), attention.output_proj(read)
    torch.testing.assert_close(output, expected)
    gradients = []
    for attention.backend in PLAIN:
        total = attention(query, reference, tokens, shapes).square().sum()
        gradients.append(torch.autograd.grad(total, list(attention.parameters())))
    torch.testing.assert_close(*gradients)
    assert all(gradient.any() for gradient in gradients[0])


def test_different_numbers_of_points_start_along_the_rays() -> None:
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=2, num_points=[1, 2])
    offsets = attention.sampling_offsets.bias.view(4, 3, 2)
    torch.testing.assert_close(offsets[1], torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]), atol=1e-6, rtol=0)
    for wrong in ([1], [1, 0]):
        with pytest.raises(ValueError, match="num_points is"):
            MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=2, num_points=wrong)


def test_padding_reads_as_zero() -> None:
    attention, shapes = module(), [(4, 3), (2, 3)]
    query, tokens, reference = torch.randn(1, 5, 12).double(), torch.randn(1, 18, 12).double(), torch.rand(1, 5, 2, 2)
    mask = torch.zeros(1, 18, dtype=torch.bool)
    mask[0, [2, 5, 8, 11, 14, 17]] = True  # the last column of both levels
    masked = attention(query, reference, tokens, shapes, mask)
    loud = tokens.clone()
    loud[mask] = 1e6
    torch.testing.assert_close(attention(query, reference, loud, shapes, mask), masked)
    attention.value_proj.bias.data.zero_()
    silent = tokens.masked_fill(mask[..., None], 0)  # without a bias, a zero token has zero values
    torch.testing.assert_close(
        attention(query, reference, tokens, shapes, mask), attention(query, reference, silent, shapes)
    )


def test_initialisation() -> None:
    attention = MultiScaleDeformableAttention(embed_dim=256, num_heads=8, num_levels=4, num_points=4)
    shapes = {name: tuple(x.shape) for name, x in attention.named_parameters()}
    square = {"weight": (256, 256), "bias": (256,)}
    sizes = {"sampling_offsets": square, "attention_weights": {"weight": (128, 256), "bias": (128,)}}
    sizes |= {"value_proj": square, "output_proj": square}
    assert shapes == {f"{name}.{part}": size for name, parts in sizes.items() for part, size in parts.items()}
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]

    def check() -> None:
        offsets = attention.sampling_offsets.bias.detach().view(8, 4, 4, 2)
        expected = torch.tensor(directions)[:, None, None] * torch.arange(1, 5)[:, None]
        torch.testing.assert_close(offsets, expected.float().expand(8, 4, 4, 2), rtol=0, atol=1e-5)
        zero = (attention.sampling_offsets.weight, *attention.attention_weights.parameters())
        assert not any(x.any() for x in (*zero, attention.value_proj.bias, attention.output_proj.bias))
        for layer in (attention.value_proj, attention.output_proj):
            bound = math.sqrt(6 / 512)
            assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound

    check()
    for parameter in attention.parameters():
        nn.init.ones_(parameter)
    attention.reset_parameters()
    check()


def test_new_module_attends_evenly() -> None:
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=1, num_points=2)
    nn.init.eye_(attention.value_proj.weight)
    nn.init.eye_(attention.output_proj.weight)
    tokens = torch.arange(25.0).view(1, 25, 1).expand(1, 25, 8)  # 5 y + x
    output = attention(torch.randn(1, 1, 8), torch.full((1, 1, 1, 2), 0.5), tokens, [(5, 5)])
    # From the middle, 12, the heads go right, down, left, up: by 1 and by 2 cells.
    torch.testing.assert_close(output[0, 0, ::2], torch.tensor([13.5, 19.5, 10.5, 4.5]))


def test_mixed_precision_keeps_locations(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=2, num_levels=1, num_points=2)
    seen: list[Tensor] = []

    def spy(value: Tensor, shapes: list[tuple[int, int]], *rest: Tensor, backend: str) -> Tensor:
        seen.extend([value, rest[0]])
        return deformable_attention(value, shapes, *rest, backend=backend)

    monkeypatch.setattr(sys.modules[MultiScaleDeformableAttention.__module__], "deformable_attention", spy)
    reference = torch.tensor([[[[0.50390625 + 2**-14, 0.5]]]])  # 2**-14 is lost in half precision
    with torch.autocast("cpu", torch.bfloat16):
        output = attention(torch.randn(1, 1, 8), reference, torch.randn(1, 4, 8), [(2, 2)])
    assert seen[0].dtype == torch.bfloat16
    assert seen[1].dtype == torch.float32
    assert seen[1][0, 0, 0, 0, 0, 0].item() == pytest.approx(reference[..., 0].item() + 0.5, abs=1e-7)
    output.float().sum().backward()
    assert attention.sampling_offsets.bias.grad is not None


def test_module_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.deformable_detr import modeling_deformable_detr as theirs

    config = transformers.DeformableDetrConfig(d_model=16, num_feature_levels=2, use_pretrained_backbone=False)
    reference_module = theirs.DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=4).double()
    attention = module(embed_dim=16, num_heads=4)
    reference_module.load_state_dict(attention.state_dict())
    shapes = [(5, 4), (2, 3)]
    query, tokens = torch.randn(2, 6, 16).double(), torch.randn(2, 26, 16).double()
    mask = torch.rand(2, 26) < 0.3
    for numbers in (2, 4):
        reference = torch.rand(2, 6, 2, numbers).double()
        expected, _ = reference_module(
            hidden_states=query,
            attention_mask=~mask,
            encoder_hidden_states=tokens,
            reference_points=reference,
            spatial_shapes=torch.tensor(shapes),
            spatial_shapes_list=shapes,
        )
        torch.testing.assert_close(attention(query, reference, tokens, shapes, mask), expected)


def test_module_mistakes() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of the number of heads 4"):
        MultiScaleDeformableAttention(embed_dim=10, num_heads=4, num_levels=1, num_points=1)
    with pytest.raises(ValueError, match="'fast', expected one of auto"):
        MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=1, num_points=1, backend="fast")
    attention, query, tokens = module(), torch.zeros(1, 2, 12).double(), torch.zeros(1, 5, 12).double()
    with pytest.raises(ValueError, match="built for 2 levels, got 1 and reference points for 2"):
        attention(query, torch.zeros(1, 2, 2, 2), tokens, [(1, 5)])
    with pytest.raises(ValueError, match="built for 2 levels, got 2 and reference points for 1"):
        attention(query, torch.zeros(1, 2, 1, 2), tokens, [(1, 4), (1, 1)])
    with pytest.raises(ValueError, match="2 \\(x, y\\) or 4"):
        attention(query, torch.zeros(1, 2, 2, 3), tokens, [(1, 4), (1, 1)])
