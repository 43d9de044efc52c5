"""A whole Deformable DETR leaves PyTorch as `docs/deformable.md` shows: `torch.export`, and ONNX run by onnxruntime."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_deformable import stir, tiny_deformable, tiny_deformable_cfg
from torch import Tensor, nn

PAGE = (Path(__file__).parents[2] / "docs" / "deformable.md").read_text(encoding="utf-8")
SIZE = (64, 96)


def documented() -> str:
    """The code in the page's section on export."""
    section = PAGE[PAGE.index("## Export") : PAGE.index("## Convergence")]
    return "\n".join(line.removeprefix("    ") for line in section.splitlines() if line.startswith("    "))


def network(variant: str) -> nn.Module:
    """A small model in the wrapper of the page, with weights that tell images apart."""
    names: dict[str, Any] = {}
    exec(documented().partition("\ncfg =")[0], names)
    layers = "MODEL.DETR.TRANSFORMER.NUM_{}_LAYERS"
    model = tiny_deformable(variant, layers.format("ENCODER"), 1, layers.format("DECODER"), 2)
    stir(model)
    return names["Network"](model).eval()


def pixels(batch: int) -> Tensor:
    return 255 * torch.rand(batch, 3, *SIZE)


def assert_same_in_onnxruntime(model: str | bytes, module: nn.Module) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = pixels(1)
    outputs = session.run(["logits", "boxes"], {"images": images.numpy()})
    with torch.no_grad():
        expected = module(images)
    assert float(expected[1].std()) > 0.01  # boxes that differ
    for value, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), other, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "variant",
    [pytest.param("single_scale", marks=pytest.mark.slow), "two_stage", pytest.param("mixed", marks=pytest.mark.slow)],
)
def test_torch_export_with_a_dynamic_batch(variant: str) -> None:
    module = network(variant)
    with torch.no_grad():
        program = torch.export.export(module, (pixels(2),), dynamic_shapes=({0: torch.export.Dim("images")},))
        names = {str(node.target) for node in program.graph.nodes}
        assert any("grid_sampler" in name for name in names)
        images = pixels(3)
        torch.testing.assert_close(program.module()(images), module(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx(dynamo: bool) -> None:
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    module, file = network("two_stage"), io.BytesIO()
    options: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits", "boxes"]}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(module, (pixels(1),), opset_version=18, dynamo=True, **options)
            assert program is not None
            data = program.model_proto.SerializeToString()
        else:
            torch.onnx.export(module, (pixels(1),), file, opset_version=16, dynamo=False, **options)  # type: ignore[arg-type]
            data = file.getvalue()
    assert_same_in_onnxruntime(data, module)


@pytest.mark.slow
def test_what_the_page_says_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    code = documented()
    for theirs, ours in {
        'detr_d2.model_zoo.get_config("deformable_detr_r50.yaml")': "small",
        "480, 640": f"{SIZE[0]}, {SIZE[1]}",
        "deformable.onnx": str(tmp_path / "deformable.onnx"),
        "images = torch.zeros": "stir(network)\nimages = torch.zeros",
    }.items():
        assert code.count(theirs) == 1
        code = code.replace(theirs, ours)
    names: dict[str, Any] = {"small": tiny_deformable_cfg("refine"), "stir": stir}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    assert_same_in_onnxruntime(str(tmp_path / "deformable.onnx"), names["network"])
    images = pixels(1)
    with torch.no_grad():
        torch.testing.assert_close(names["program"].module()(images), names["network"](images), atol=1e-5, rtol=1e-5)
