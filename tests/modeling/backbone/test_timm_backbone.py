"""Backbones of timm: small random models; their maps are those that timm gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from tiny_deformable import tiny_deformable_cfg
from tiny_models import random_input

from detr_d2.config import get_cfg
from detr_d2.modeling import DETR, TimmBackbone

timm = pytest.importorskip("timm")

SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
VIT = {"depth": 3, "embed_dim": 48, "num_heads": 2}
MODELS: dict[str, tuple[dict[str, Any], list[str], dict[str, tuple[int, int]]]] = {
    "swin_tiny_patch4_window7_224": (SWIN, ["stage2", "stage4"], {"stage2": (48, 8), "stage4": (192, 32)}),
    "swinv2_tiny_window8_256": (SWIN, ["stage3"], {"stage3": (96, 16)}),
    "vit_tiny_patch16_224": (VIT, ["stage3", "stage2"], {"stage2": (48, 16), "stage3": (48, 16)}),
    "convnext_atto": ({"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}, ["stage1"], {"stage1": (8, 4)}),
}


def timm_keys(cfg: CfgNode, name: str, out_features: list[str], options: dict[str, Any]) -> CfgNode:
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_backbone", 0
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_FEATURES = name, out_features
    cfg.MODEL.TIMM.OPTIONS = CfgNode(options)
    return cfg


@pytest.mark.parametrize("name", MODELS)
def test_maps_have_the_promised_shapes_and_timms_values(name: str):
    options, features, shapes = MODELS[name]
    backbone = build_backbone(timm_keys(get_cfg(), name, features, options)).eval()
    assert isinstance(backbone, TimmBackbone)
    assert {k: (v.channels, v.stride) for k, v in backbone.output_shape().items()} == shapes
    assert backbone.size_divisibility == max(stride for _, stride in shapes.values())
    images = torch.randn(2, 3, 96, 160)  # not the size that the model was made for
    with torch.no_grad():
        maps, theirs = backbone(images), backbone.body(images)
    assert list(maps) == sorted(shapes)
    for (key, x), y in zip(maps.items(), theirs, strict=True):
        channels, stride = shapes[key]
        assert x.shape == (2, channels, 96 // stride, 160 // stride)
        assert torch.equal(x, y.permute(0, 3, 1, 2) if name.startswith("swin") else y)


def test_deformable_detr_on_swin_trains():
    cfg = tiny_deformable_cfg("multi_scale", "MODEL.DETR.IN_FEATURES", ["stage2", "stage3", "stage4"])
    model = build_model(timm_keys(cfg, "swin_tiny_patch4_window7_224", ["stage2", "stage3", "stage4"], SWIN))
    losses = model([random_input(70, 100, 2), random_input(64, 64, 1)])  # no multiples of the stride
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    model.eval()
    assert len(model([random_input(70, 100, 0)])[0]["instances"])


def test_detr_on_a_vit_runs():
    cfg = tiny_deformable_cfg("single_scale", "MODEL.DETR.IN_FEATURES", ["stage3"])
    model = build_model(timm_keys(cfg, "vit_tiny_patch16_224", ["stage3"], VIT)).eval()
    assert isinstance(model, DETR)
    assert model([random_input(50, 90, 0)])[0]["instances"].pred_boxes.tensor.isfinite().all()


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("swin_nano", ["stage1"], "TIMM.NAME is 'swin_nano', which timm does not know"),
        ("swin_tiny_patch4_window7_224", ["res3"], "OUT_FEATURES names 'res3', expected names like 'stage2'"),
        ("swin_tiny_patch4_window7_224", ["stage7"], r"OUT_FEATURES is \['stage7'\], but swin_.* does not have them"),
        ("vit_tiny_patch16_224", ["stage9"], r"OUT_FEATURES is \['stage9'\], but vit_.* does not have them"),
    ],
)
def test_mistakes_are_named(name: str, features: list[str], message: str):
    options = VIT if name.startswith("vit") else SWIN
    with pytest.raises(ValueError, match=message):
        build_backbone(timm_keys(get_cfg(), name, features, options))


def test_an_unknown_option_is_not_swallowed():
    with pytest.raises(TypeError, match="no_such_option"):
        build_backbone(timm_keys(get_cfg(), "vit_tiny_patch16_224", ["stage2"], {**VIT, "no_such_option": 1}))


def test_freezing_by_stages_is_refused():
    cfg = timm_keys(get_cfg(), "vit_tiny_patch16_224", ["stage2"], VIT)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    with pytest.raises(ValueError, match="FREEZE_AT is 2, but timm's models are not frozen by stages"):
        build_backbone(cfg)


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r'pip install "detr_d2\[hf\]"'):
        TimmBackbone(name="swin_tiny_patch4_window7_224", out_features=["stage2"])
