"""Detectors of detectron2 on a `FastResNet` under their FPN against the same on detectron2's ResNet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import FPN, ResNet
from detectron2.modeling import build_model as build_plain_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from fast_resnets import make
from tiny_baselines import tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_models import random_input, tiny_cfg
from torch import Tensor, nn

from detr_d2.modeling import accelerate, build_model, resnet_path
from detr_d2.modeling.backbone.fast_resnet import FastResNet


def tiny_mask_rcnn_cfg(*options: Any) -> CfgNode:
    return tiny_faster_rcnn_cfg(
        *["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"],
        *[
            "MODEL.ROI_MASK_HEAD.NUM_CONV",
            1,
            "MODEL.ROI_MASK_HEAD.CONV_DIM",
            8,
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
            4,
        ],
        *options,
    )


CONFIGS = {"faster_rcnn": tiny_faster_rcnn_cfg, "retinanet": tiny_retinanet_cfg, "mask_rcnn": tiny_mask_rcnn_cfg}
NORMS = ("FrozenBN", "BN", "GN", "")


def pair(kind: str, *options: Any) -> tuple[Any, Any]:
    """A detector on a fast ResNet, and one of the same weights on detectron2's; norms that are not the identity."""
    torch.manual_seed(0)
    cfg = CONFIGS[kind]("MODEL.BACKBONE.FREEZE_AT", 2, *options)
    # All proposals are trained on, so that rounding does not choose others.
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 60, 1.0
    fast: Any = build_model(cfg)
    plain: Any = build_plain_model(cfg)
    with torch.no_grad():
        for name, x in fast.backbone.bottom_up.state_dict().items():
            if ".norm." in name and name.endswith(("weight", "running_var")):
                x.uniform_(0.5, 1.0)
            elif ".norm." in name and x.is_floating_point():
                x.normal_(std=0.1)
    plain.load_state_dict(fast.state_dict())
    assert (type(fast.backbone.bottom_up), type(plain.backbone.bottom_up)) == (FastResNet, ResNet)
    return fast, plain


def batch() -> list[dict[str, Any]]:
    inputs = [random_input(64, 96, 3), random_input(80, 70, 2)]
    for x in inputs:
        instances = x["instances"]
        instances.gt_masks = BitMasks(torch.rand(len(instances), *instances.image_size) > 0.5)
    return inputs


def step(model: nn.Module, inputs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """The losses and the gradient of all parameters as vectors."""
    torch.manual_seed(1)  # proposals and anchors are sampled
    with EventStorage():
        losses = model.train()(inputs)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.stack([losses[name].detach() for name in sorted(losses)]), torch.cat(gradients)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_and_detections_are_the_same(kind: str, norm: str) -> None:
    fast, plain = (x.eval() for x in pair(kind, "MODEL.RESNETS.NORM", norm))
    assert (resnet_path(fast), resnet_path(plain)) == ("fast", "plain")
    images, inputs = torch.randn(2, 3, 64, 96), batch()
    with torch.inference_mode():
        got, expected = fast.backbone(images), plain.backbone(images)
        for name, value in expected.items():
            scale = value.abs().max()
            torch.testing.assert_close(got[name] / scale, value / scale, atol=1e-5, rtol=0)
        assert len(fast.backbone.bottom_up._folded) > 0 or norm == "GN"
        for a, b in zip(fast(inputs), plain(inputs), strict=True):
            torch.testing.assert_close(a["instances"].scores, b["instances"].scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_training_step_is_the_same(kind: str, norm: str) -> None:
    models = pair(kind, "MODEL.RESNETS.NORM", norm)
    inputs = batch()
    (losses, gradient), (expected, expected_gradient) = (step(x, inputs) for x in models)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_in_double_precision(norm: str) -> None:
    gradients = []
    for resnet in (make(norm, freeze_at=1), ResNet.__new__(ResNet)):
        if type(resnet) is ResNet:
            resnet.__dict__.update(make(norm, freeze_at=1).__dict__)
        fpn = FPN(resnet, ["res2", "res3"], 8).double().train()
        with torch.no_grad():
            for i, x in enumerate(fpn.parameters()):
                if x.dim() == 4 and x.shape[0] == 8:
                    x.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
        holder = nn.ModuleDict({"backbone": fpn})
        if isinstance(resnet, FastResNet):
            accelerate(holder)
        images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        torch.stack([x.square().mean() for x in fpn(images).values()]).sum().backward()
        gradients.append(torch.cat([x.grad.flatten() for x in fpn.parameters() if x.grad is not None]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-8


@pytest.mark.parametrize(("norm", "expected"), [("FrozenBN", True), ("", True), ("BN", False), ("GN", False)])
def test_under_a_pyramid_live_norms_train_in_detectron2s_own_way(norm: str, expected: bool) -> None:
    fast, _ = pair("faster_rcnn", "MODEL.RESNETS.NORM", norm)
    layouts = []
    fast.backbone.bottom_up.res3[0].register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for mode in (True, False):
        fast.backbone.train(mode)(torch.randn(1, 3, 64, 96))
    assert layouts == [expected, True]


def test_the_key_turns_it_off_and_detr_has_its_own() -> None:
    plain: Any = build_model(tiny_faster_rcnn_cfg("MODEL.RESNETS.FAST", False))
    assert (type(plain.backbone.bottom_up), resnet_path(plain)) == (ResNet, "plain")
    detr: Any = build_model(tiny_cfg("MODEL.DETR.OPTIMIZE_INFERENCE", False))
    assert (detr.backbone.fast_inference, detr.backbone.fast_training, resnet_path(detr)) == (False, True, "plain")
    assert resnet_path(build_model(tiny_cfg("MODEL.RESNETS.FAST", False))) == "fast"
    without_pyramid: list[Any] = [
        "MODEL.BACKBONE.NAME",
        "build_detr_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES",
        ["res3"],
    ]
    without_pyramid += ["MODEL.RETINANET.IN_FEATURES", ["res3"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16]]]
    for is_fast, expected in ((True, FastResNet), (False, ResNet)):
        retinanet: Any = build_model(tiny_retinanet_cfg(*without_pyramid, "MODEL.RESNETS.FAST", is_fast))
        assert type(retinanet.backbone) is expected


def test_a_detector_stays_a_module_like_any_other() -> None:
    fast, plain = (x.eval() for x in pair("retinanet"))
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in plain.named_modules()]
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain.backbone(images)["p3"]
        for model in (fast, copy.deepcopy(fast)):
            torch.testing.assert_close(model.backbone(images)["p3"], expected, atol=1e-4, rtol=1e-4)
