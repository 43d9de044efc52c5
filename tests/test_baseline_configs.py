"""The baselines differ from each other, and from DETR, in the model and its schedule, not in the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from detr_d2 import model_zoo

COCO_IMAGES = 118_287
BASELINES = ["faster_rcnn_r50_fpn.yaml", "faster_rcnn_r50_fpn_plus.yaml", "retinanet_r50_fpn.yaml"]
SMALL = ["quickstart/faster_rcnn_shapes.yaml", "quickstart/retinanet_shapes.yaml"]


def data_keys(name: str) -> dict[str, Any]:
    """What decides which pixels and boxes a model is trained on and evaluated with."""
    cfg = model_zoo.get_config(name)
    inputs = {key: value for key, value in cfg.INPUT.items() if key not in ("FORMAT", "DETR_AUGMENTATION")}
    return {"INPUT": inputs, "DATASETS": cfg.DATASETS, "DATALOADER": cfg.DATALOADER}


@pytest.mark.parametrize("name", BASELINES)
def test_same_data_and_augmentation_as_detr(name: str) -> None:
    assert data_keys(name) == data_keys("detr_r50.yaml")
    assert model_zoo.get_config(name).INPUT.DETR_AUGMENTATION == "on"


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_have_the_data_and_batch_of_the_small_detr(name: str) -> None:
    cfg, detr = model_zoo.get_config(name), model_zoo.get_config("quickstart/detr_shapes.yaml")
    assert data_keys(name) == data_keys("quickstart/detr_shapes.yaml")
    assert cfg.SOLVER.IMS_PER_BATCH == detr.SOLVER.IMS_PER_BATCH
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM) == (detr.MODEL.RESNETS.DEPTH, detr.MODEL.RESNETS.NORM)
    assert cfg.MODEL.FPN.OUT_CHANNELS == detr.MODEL.DETR.TRANSFORMER.HIDDEN_DIM


def test_both_detectors_of_real_data_see_the_same_images() -> None:
    baseline = "quickstart/faster_rcnn_bccd.yaml"
    assert data_keys(baseline) == data_keys("quickstart/deformable_detr_bccd.yaml")
    assert model_zoo.get_config(baseline).INPUT.DETR_AUGMENTATION == "on"


# Baseline -> the DETR that it is to be compared with.
SEGMENTATION = {
    "mask_rcnn_r50_fpn.yaml": "detr_r50_segm.yaml",
    "panoptic_fpn_r50.yaml": "detr_r50_panoptic.yaml",
    "quickstart/mask_rcnn_shapes.yaml": "quickstart/detr_shapes_segm.yaml",
}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_masks_come_from_the_same_data_as_those_of_detr(name: str) -> None:
    assert data_keys(name) == data_keys(SEGMENTATION[name])
    cfg = model_zoo.get_config(name)
    assert cfg.INPUT.DETR_AUGMENTATION == "on"
    assert cfg.MODEL.MASK_ON


def test_the_small_mask_head_learns_as_much_longer_as_that_of_detr() -> None:
    more, boxes = (
        [model_zoo.get_config(f"quickstart/{name}.yaml").SOLVER.MAX_ITER for name in names]
        for names in (("mask_rcnn_shapes", "detr_shapes_segm"), ("faster_rcnn_shapes", "detr_shapes"))
    )
    assert more[0] / boxes[0] == pytest.approx(more[1] / boxes[1], rel=0.05)
    weights = model_zoo.get_config("quickstart/mask_rcnn_shapes.yaml").MODEL.WEIGHTS
    assert weights == "output/quickstart/faster_rcnn/model_final.pth"


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn.yaml", "panoptic_fpn_r50.yaml"])
def test_segmenting_baselines_have_detectron2s_heads(name: str) -> None:
    cfg = model_zoo.get_config(name)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "", "meta", 80
    with torch.device("meta"):
        model = build_model(cfg)
    assert [x.out_channels for x in model.roi_heads.mask_head.modules() if isinstance(x, nn.Conv2d)] == [256] * 4 + [80]
    if name.startswith("panoptic"):
        assert model.sem_seg_head.predictor.out_channels == 54  # stuff, and 0 for things
        assert model.sem_seg_head.loss_weight == 0.5


def test_the_plus_recipe_reaches_the_model() -> None:
    cfg = model_zoo.get_config("faster_rcnn_r50_fpn_plus.yaml")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "", "cpu", 80
    model = build_model(cfg)
    box_head = model.roi_heads.box_predictor
    assert (box_head.box_reg_loss_type, box_head.loss_weight["loss_box_reg"]) == ("giou", 20.0)
    rpn = model.proposal_generator
    assert (rpn.box_reg_loss_type, rpn.loss_weight["loss_rpn_loc"]) == ("giou", 1.0)
    # detectron2's own weights: BGR, the stride in the first convolution of a block.
    assert model.input_format == "BGR"
    assert model.pixel_mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])
    assert model.pixel_std.flatten().tolist() == [1, 1, 1]
    assert (model.backbone.bottom_up.res3[0].conv1.stride, model.backbone.bottom_up.res3[0].conv2.stride) == (
        (2, 2),
        (1, 1),
    )


@pytest.mark.parametrize(
    ("name", "epochs"), [("faster_rcnn_r50_fpn_plus.yaml", 109.6), ("retinanet_r50_fpn.yaml", 36.5)]
)
def test_schedules(name: str, epochs: float) -> None:
    solver = model_zoo.get_config(name).SOLVER
    made = solver.MAX_ITER * solver.IMS_PER_BATCH / COCO_IMAGES
    assert made == pytest.approx(epochs, abs=0.05)
    assert all(step < solver.MAX_ITER for step in solver.STEPS)


def test_anchors_of_retinanet_are_thirds_of_an_octave() -> None:
    for name, factor in (("retinanet_r50_fpn.yaml", 4), ("quickstart/retinanet_shapes.yaml", 2)):
        sizes = model_zoo.get_config(name).MODEL.ANCHOR_GENERATOR.SIZES
        for stride, level in zip((8, 16, 32, 64, 128), sizes, strict=True):
            assert level == pytest.approx([factor * stride * 2 ** (i / 3) for i in range(3)], rel=1e-4)
