from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest
import torch
from deformable_cases import Case, naive_attention, random_case
from torch import Tensor, nn

from detr_d2.layers import MultiScaleDeformableAttention, deformable_attention, deformable_corners

LEVELS = {
    "one": [(5, 7)],
    "several": [(6, 4), (3, 5), (2, 2)],
    "single cells": [(1, 1), (3, 1), (1, 4), (1, 1)],
}
PLAIN = ("torch", "grid_sample")


def gradients(case: Case, grad: Tensor, backend: str) -> tuple[Tensor, ...]:
    return torch.autograd.grad(deformable_attention(*case, backend=backend), case.leaves, grad)


@pytest.mark.parametrize("backend", [*PLAIN, "export", "auto"])
@pytest.mark.parametrize("shapes", LEVELS.values(), ids=list(LEVELS))
def test_equals_the_definition(shapes: list[tuple[int, int]], backend: str) -> None:
    case = random_case(shapes, points=3)
    output = deformable_attention(*case, backend=backend)
    torch.testing.assert_close(output, naive_attention(*case), rtol=0, atol=1e-13)


def test_by_hand() -> None:
    # Two heads of one channel on a map of one line, [10, 20, 40], and one of a single cell, [8].
    value = torch.tensor([[10.0, -10.0], [20.0, -20.0], [40.0, -40.0], [8.0, -8.0]]).view(1, 4, 2, 1)
    # x = 2 / 3 is 1.5 cells: half of 20 and of 40. x = 0 is half a cell before the first. y = 1 is half a cell below.
    locations = torch.tensor([[[2 / 3, 0.5], [0.5, 0.5]], [[0.0, 0.5], [0.5, 1.0]]]).view(1, 1, 2, 2, 1, 2)
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).view(1, 1, 2, 2, 1)
    for backend in PLAIN:
        output = deformable_attention(value, [(1, 3), (1, 1)], locations, weights, backend=backend)
        torch.testing.assert_close(output, torch.tensor([[[0.5 * 30 + 0.5 * 8, -0.25 * 5 - 0.75 * 4]]]))


@pytest.mark.parametrize("backend", [*PLAIN, "export"])
@pytest.mark.parametrize("shapes", LEVELS.values(), ids=list(LEVELS))
def test_gradients(shapes: list[tuple[int, int]], backend: str) -> None:
    case = random_case(shapes, images=1, queries=2, channels=2)
    assert torch.autograd.gradcheck(
        lambda value, *rest: deformable_attention(value, shapes, *rest, backend=backend), case.leaves
    )


@pytest.mark.parametrize("shapes", [[(4, 8)], [(4, 1), (1, 1), (2, 4)]])
def test_on_the_edges(shapes: list[tuple[int, int]]) -> None:
    """On whole cells and on the rim the surface has an edge; all backends take the same side of it."""
    levels = len(shapes)
    steps = torch.arange(-3.0, 22.0).double()
    cells = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1) / 2  # in halves of a cell
    sizes = torch.tensor([(w, h) for h, w in shapes]).double()
    locations = ((cells[:, None] + 0.5) / sizes)[None, :, None, :, None].requires_grad_()  # exact: powers of two
    weights = torch.rand(1, len(cells), 1, levels, 1).double().requires_grad_()
    value = torch.randn(1, sum(h * w for h, w in shapes), 1, 3).double().requires_grad_()
    case = Case(value, shapes, locations, weights)
    output = deformable_attention(*case, backend="torch")
    torch.testing.assert_close(output, naive_attention(*case), rtol=0, atol=1e-13)
    grad = torch.randn_like(output)
    for ours, theirs in zip(gradients(case, grad, "torch"), gradients(case, grad, "grid_sample"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    torch.set_num_threads(threads)
    case = random_case([(9, 4), (2, 1), (3, 3)], queries=11, heads=3)
    grad = torch.randn(2, 11, 15).double()
    whole = (deformable_attention(*case, backend="torch"), *gradients(case, grad, "torch"))
    monkeypatch.setattr(deformable_corners, "_POINTS_PER_PIECE", 40)  # two queries, or four
    monkeypatch.setattr(deformable_corners, "_ROWS_PER_PIECE", 7)
    pieces = (deformable_attention(*case, backend="torch"), *gradients(case, grad, "torch"))
    for a, b in zip(pieces, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", PLAIN)
def test_no_queries(backend: str) -> None:
    case = random_case([(2, 3)], queries=0)
    output = deformable_attention(*case, backend=backend)
    assert output.shape == (2, 0, 10)
    for gradient, leaf in zip(torch.autograd.grad(output.sum(), case.leaves), case.leaves, strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


def test_no_gradient_wanted() -> None:
    case = random_case([(2, 3)])
    with torch.no_grad():
        assert not deformable_attention(*case).requires_grad
    only_locations = Case(case.value.detach(), case.spatial_shapes, case.locations, case.weights.detach())
    (gradient,) = torch.autograd.grad(deformable_attention(*only_locations).sum(), only_locations.locations)
    torch.testing.assert_close(gradient, gradients(case, torch.ones(2, 3, 10).double(), "torch")[1])


def test_strided_arguments() -> None:
    case = random_case([(4, 3)])
    value, locations, weights = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.leaves)
    strided = Case(value, case.spatial_shapes, locations, weights)
    assert not strided.value.is_contiguous()
    output = deformable_attention(*strided, backend="torch")
    torch.testing.assert_close(output, deformable_attention(*case, backend="torch"))
    output.sum().expand(3).sum().backward()  # the incoming gradient is expanded


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_wild_locations_spoil_only_their_query(bad: float) -> None:
    case = random_case([(3, 4), (2, 2)], heads=3)
    locations = case.locations.detach().clone()
    locations[0, 1, 1, 0, 0, 0] = bad
    wild = case._replace(locations=locations.requires_grad_())
    output, expected = (deformable_attention(*x, backend="torch").unflatten(-1, (3, 5)) for x in (wild, case))
    assert bool(torch.isfinite(output[0, 1, 1]).all()) == (not math.isnan(bad))
    others = torch.ones(2, 3, 3, dtype=torch.bool)
    others[0, 1, 1] = False
    torch.testing.assert_close(output[others], expected[others])
    by_value, _, by_weights = gradients(wild, torch.ones(2, 3, 15).double(), "torch")
    assert torch.isfinite(by_value[1]).all()
    assert torch.isfinite(by_weights[others]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", PLAIN)
def test_half_precision_adds_in_float32(backend: str, dtype: torch.dtype) -> None:
    # 5000 queries read the same cell: in float16 the sum of ones would stop at 2048, in bfloat16 at 256.
    queries = 5000
    value = torch.ones(1, 1, 1, 1, dtype=dtype, requires_grad=True)
    locations = torch.full((1, queries, 1, 1, 1, 2), 0.5)
    weights = torch.ones(1, queries, 1, 1, 1, dtype=dtype)
    output = deformable_attention(value, [(1, 1)], locations, weights, backend=backend)
    assert output.dtype == dtype
    (gradient,) = torch.autograd.grad(output.sum(dtype=torch.float32), value)
    assert gradient.dtype == dtype
    assert gradient.item() == torch.tensor(queries).to(dtype).item()


def test_second_derivative_is_refused() -> None:
    case = random_case([(2, 3)])
    output = deformable_attention(*case, backend="torch")
    gradient = torch.autograd.grad(output.sum(), case.leaves, create_graph=True)
    for ours, expected in zip(gradient, gradients(case, torch.ones_like(output), "torch"), strict=True):
        assert torch.equal(ours, expected)
        with pytest.raises(RuntimeError, match="no second derivative"):
            ours.sum().backward(retain_graph=True)


def test_nothing_is_warned_about() -> None:
    case = random_case([(2, 3)])
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            deformable_attention(*case, backend="torch").sum().backward()
    finally:
        torch.set_warn_always(before)
    assert [str(x.message) for x in caught] == []


def test_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention as Theirs

    case = random_case(LEVELS["several"], points=4, dtype=torch.float32)
    shapes = torch.tensor(case.spatial_shapes)
    theirs = Theirs()(case.value, shapes, case.spatial_shapes, None, case.locations, case.weights, 64)
    grad = torch.randn_like(theirs)
    torch.testing.assert_close(deformable_attention(*case), theirs)
    for a, b in zip(gradients(case, grad, "auto"), torch.autograd.grad(theirs, case.leaves, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(2, 6, 10)}, "values \\(B, S, M, D\\)"),
        ({"locations": torch.zeros(2, 3, 2, 1, 2, 3)}, "got \\(2, 6, 2, 5\\)"),
        ({"spatial_shapes": [(2, 4)]}, "have 8 tokens"),
        ({"spatial_shapes": [(2, 2), (1, 2)]}, "for 1 levels and 2 heads"),
        ({"spatial_shapes": [(-2, -3)]}, "must have a cell"),
        ({"value": torch.zeros(2, 6, 3, 5)}, "values \\(2, 6, 3, 5\\) do not fit"),
        ({"value": torch.zeros(1, 6, 2, 5)}, "values \\(1, 6, 2, 5\\) do not fit"),
    ],
)
def test_shapes_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deformable_attention(*random_case([(2, 3)])._replace(**change))


def test_backends_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = random_case([(2, 3)], dtype=torch.float32)
    with pytest.raises(ValueError, match="'cuda', expected one of auto, torch"):
        deformable_attention(*case, backend="cuda")
    with pytest.raises(ValueError, match=r"'triton' .* the tensors are on cpu and not on a CUDA device"):
        deformable_attention(*case, backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="not float64"):
        deformable_attention(*random_case([(2, 3)]), backend="triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        deformable_attention(*case, backend="triton")
    on_meta = Case(case.value.to("meta"), case.spatial_shapes, case.locations.to("meta"), case.weights.to("meta"))
    with pytest.raises(ValueError, match=r"'torch' .* is for the CPU, the tensors are on meta"):
        deformable_attention(*on_meta, backend="torch")
    assert deformable_attention(*on_meta).shape == (2, 3, 10)


class _Function(nn.Module):
    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deformable_attention(value, [(4, 3), (2, 2)], locations, weights)


def test_torch_export_with_a_dynamic_batch() -> None:
    case = random_case([(4, 3), (2, 2)], dtype=torch.float32)
    images, queries = torch.export.Dim("images"), torch.export.Dim("queries")
    program = torch.export.export(
        _Function(),
        case.leaves,
        dynamic_shapes=({0: images}, {0: images, 1: queries}, {0: images, 1: queries}),
    )
    names = {str(node.target) for node in program.graph.nodes}
    assert any("grid_sampler" in name for name in names)
    other = random_case([(4, 3), (2, 2)], images=3, queries=7, dtype=torch.float32)
    torch.testing.assert_close(program.module()(*other.leaves), deformable_attention(*other))


def test_tracing_takes_the_plain_operators() -> None:
    case = random_case([(4, 3), (2, 2)], dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Function(), case.leaves)
    assert "grid_sampler" in str(traced.inlined_graph)
    other = random_case([(4, 3), (2, 2)], dtype=torch.float32)
    torch.testing.assert_close(traced(*other.leaves), deformable_attention(*other))


@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx(dynamo: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    import io

    case = random_case([(4, 3), (2, 2)], dtype=torch.float32)
    names = ["value", "locations", "weights"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            model = torch.onnx.export(_Function(), case.leaves, input_names=names, opset_version=18, dynamo=True)
            assert model is not None
            data = model.model_proto.SerializeToString()
        else:
            file = io.BytesIO()
            torch.onnx.export(_Function(), case.leaves, file, input_names=names, opset_version=16, dynamo=False)  # type: ignore[arg-type]
            data = file.getvalue()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    inputs = {name: x.detach().numpy() for name, x in zip(names, case.leaves, strict=True)}
    (output,) = session.run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(output), deformable_attention(*case).detach(), rtol=1e-4, atol=1e-5)


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
    heads, levels, points = attention.num_heads, attention.num_levels, attention.num_points
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
