"""Parts of a model that do not fit are refused when it is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone
from tiny_deformable import tiny_deformable, tiny_deformable_cfg
from tiny_models import random_input, tiny_cfg, tiny_detr
from torch import nn

from detr_d2.modeling import DETR, DeformableTransformer, DETRHead, Predictions, TransformerOutput
from detr_d2.modeling.backbone.unread_maps import check_maps_are_read

OUT = "MODEL.RESNETS.OUT_FEATURES"
IN = "MODEL.DETR.IN_FEATURES"


@pytest.mark.parametrize("variant", ["single_scale", "multi_scale", "refine", "two_stage"])
def test_a_head_that_ignores_references_is_refused(variant: str) -> None:
    with pytest.raises(
        ValueError, match=r"DETRHead does not read references: set MODEL\.DETR\.HEAD\.NAME to ReferenceHead"
    ):
        tiny_deformable(variant, "MODEL.DETR.HEAD.NAME", "DETRHead")


def test_references_that_were_not_announced_are_found_in_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeformableTransformer, "gives_references", False)
    model = tiny_deformable("single_scale", "MODEL.DETR.HEAD.NAME", "DETRHead")
    with pytest.raises(ValueError, match="DETRHead does not read references"):
        model([random_input(64, 64, 1)])


def test_a_head_may_say_that_it_reads_references() -> None:
    class Head(DETRHead):
        reads_references = True

        def forward(self, output: TransformerOutput) -> Predictions:
            logits, boxes = super().forward(output)[:2]
            assert output.reference_logits is not None
            references = torch.stack(list(output.reference_logits)).repeat(1, 1, 1, 2)
            return Predictions(logits, (boxes.logit() + references).sigmoid())

    cfg = tiny_deformable_cfg("single_scale")
    model = DETR(**{**DETR.from_config(cfg), "head": Head(cfg)})
    assert "loss_bbox" in model([random_input(64, 64, 1)])


@pytest.mark.parametrize(
    ("options", "unread", "served"),
    [
        ([OUT, ["res4", "res5"], IN, ["res4"]], ["res5"], "res5.0"),
        ([OUT, ["res2", "res3", "res5"], IN, ["res2"]], ["res3", "res5"], "res3.0"),
        (
            [
                *["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", IN, ["p5"], "MODEL.FPN.OUT_CHANNELS", 16],
                *[OUT, ["res2", "res3", "res4", "res5"], "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]],
            ],
            ["p2", "p3", "p4", "p6"],
            "fpn_lateral2.weight",
        ),
        (["MODEL.MASK_ON", True, OUT, ["res2", "res3", "res4", "res5"], IN, ["res4"]], ["res5"], "res5.0"),
    ],
)
def test_parameters_of_maps_that_nobody_reads_are_refused(options: list[Any], unread: list[str], served: str) -> None:
    with pytest.raises(ValueError, match="which nobody reads") as caught:
        tiny_detr(*options)
    message = str(caught.value)
    assert f"outputs {unread}, which" in message
    assert f"such as {served}" in message
    assert "MODEL.RESNETS.OUT_FEATURES" in message


@pytest.mark.parametrize(
    "options",
    [
        [OUT, ["res2", "res3", "res4"], IN, ["res4"]],
        [OUT, ["res4", "res5"], IN, ["res4"], "MODEL.BACKBONE.FREEZE_AT", 5],
        [OUT, ["res4", "res5"], IN, ["res4"], "MODEL.DETR.FREEZE", ["backbone"]],
        ["MODEL.MASK_ON", True, OUT, ["res2", "res3", "res4"], IN, ["res4"]],
    ],
)
def test_maps_that_nobody_reads_and_that_cost_nothing_are_let_be(options: list[Any]) -> None:
    model = tiny_detr("MODEL.RESNETS.NORM", "BN", *options)
    assert all(module.training for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d))
    assert model.get_buffer("backbone.stem.conv1.norm.num_batches_tracked").item() == 0


def test_everything_trainable_is_idle_where_what_is_read_is_frozen() -> None:
    backbone = build_backbone(tiny_cfg(OUT, ["res4", "res5"]))
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.startswith("res5."))
    with pytest.raises(ValueError, match=r" 5 of its trainable parameters, such as res5\.0"):
        check_maps_are_read(backbone, ["res4"])
