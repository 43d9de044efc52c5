from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from deformable_cases import Case, naive_attention, random_case
from torch import Tensor, nn

from detr_d2.layers import deformable_attention
from detr_d2.layers.deformable_attention import corners as deformable_corners

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
