"""Outputs of the whole network against `transformers`, through the converter in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity_models import (
    FLOAT32,
    FLOAT64,
    assert_close,
    assert_predictions_close,
    build_detr,
    padded_images,
    published_cfg,
    randomise,
)

from detr_d2.checkpoint import Checkpointer
from detr_d2.layers import SinePositionEncoding
from detr_d2.other_libraries.references import build_transformers_model, transformers_forward

pytest.importorskip("transformers")


def cases(*names: str) -> Any:
    """Config and kind of backbone; that of transformers itself, "native", has no dilation. R101 is R50, but longer."""
    values = [
        pytest.param(
            *(f"detr_{name.partition('-')[0]}.yaml", name.endswith("-timm")),
            marks=[pytest.mark.slow] if name.startswith("r101") else [],
        )
        for name in names
    ]
    return pytest.mark.parametrize(("config", "timm"), values, ids=names)


@cases("r50-timm", "r50-native", "r101-timm", "r50_dc5-timm")
def test_ours_in_transformers(config: str, timm: bool):
    cfg = published_cfg(config)
    model = build_detr(cfg)
    theirs = build_transformers_model(cfg, model.state_dict(), timm=timm)
    images, mask = padded_images()
    with torch.no_grad():
        got = model.predict(images, all_layers=False)[:2]
        expected = transformers_forward(theirs)(images.tensor, mask)
    assert_predictions_close(f"{config}, float32", got, expected, FLOAT32)


@pytest.mark.usefixtures("our_sine_in_transformers")
@cases("r50-timm", "r101-native", "r50_dc5-timm")
def test_ours_in_transformers_in_double_precision(config: str, timm: bool):
    cfg = published_cfg(config)
    model = build_detr(cfg, torch.float64)
    theirs = build_transformers_model(cfg, model.state_dict(), timm=timm).double()
    images, mask = padded_images(torch.float64, [(64, 96), (96, 64)])
    with torch.no_grad():
        got = model.predict(images, all_layers=False)[:2]
        expected = transformers_forward(theirs)(images.tensor, mask)
    assert_predictions_close(f"{config}, float64", got, expected, FLOAT64)


@pytest.mark.usefixtures("our_sine_in_transformers")
@cases("r50-native", "r101-timm")
def test_transformers_in_ours(config: str, timm: bool, tmp_path: Path):
    cfg = published_cfg(config)
    theirs = fresh_transformers_model(cfg, timm=timm)
    theirs.save_pretrained(tmp_path)
    model = build_detr(cfg)
    Checkpointer(model).load(str(tmp_path / "model.safetensors"))
    for dtype, atol in ((torch.float32, FLOAT32), (torch.float64, FLOAT64)):
        images, mask = padded_images(dtype, [(64, 96), (96, 64)])
        with torch.no_grad():
            got = model.to(dtype).predict(images, all_layers=False)[:2]
            expected = transformers_forward(theirs.to(dtype))(images.tensor, mask)
        assert_predictions_close(f"transformers' own {config}, {dtype}", got, expected, atol)


def fresh_transformers_model(cfg: Any, *, timm: bool) -> Any:
    """`DetrForObjectDetection` as its own library initialises it, then with every bias and norm moved."""
    import transformers

    depth = cfg.MODEL.RESNETS.DEPTH
    if timm:
        backbone: dict[str, Any] = {"use_timm_backbone": True, "backbone": f"resnet{depth}"}
    else:
        blocks = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
        stages: dict[str, Any] = {"depths": blocks, "out_features": ["stage4"]}
        backbone = {
            "use_timm_backbone": False,
            "backbone": None,
            "backbone_config": transformers.ResNetConfig(**stages),
        }
    backbone.update(num_labels=91, use_pretrained_backbone=False)
    config = transformers.DetrConfig(**backbone)
    model = transformers.DetrForObjectDetection(config)
    randomise(model)
    return model.eval()


def test_position_encodings_differ_by_rounding_only():
    """`transformers` computes the sine encoding in the type of the model, the authors and this package in float32."""
    from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

    mask = torch.zeros(1, 25, 34, dtype=torch.bool)
    mask[:, 21:] = mask[:, :, 30:] = True
    ours = SinePositionEncoding(num_channels=256)((25, 34), mask, torch.device("cpu"))
    build = DetrSinePositionEmbedding(128, normalize=True)
    theirs = build(torch.Size([1, 256, 25, 34]), torch.device("cpu"), torch.float64, (~mask).double())
    assert_close("sine encoding in float32 and float64", ours.double(), theirs, 2e-6)
