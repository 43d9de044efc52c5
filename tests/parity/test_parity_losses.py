"""Losses, and their gradients for every parameter, against a naive set loss and against `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from naive_criterion import naive_set_loss
from parity_models import (
    assert_all_close,
    build_detr,
    double_precision_constants,
    gradients_of,
    in_float32,
    loss_of_all_layers,
    losses_of,
    padded_images,
    published_cfg,
    random_instances,
    small_cfg,
    targets_per_image,
    train_everything,
    transformers_tensors,
)
from torch import Tensor

from detr_d2.other_libraries.references import build_transformers_model

SMALL_SIZES = [(64, 96), (96, 64)]


@pytest.mark.parametrize(
    ("counts", "options"),
    [
        ([5, 9], []),
        ([0, 1], []),
        ([0, 0], []),
        ([15, 2], []),  # more objects than queries
        ([5, 9], ["CRITERION.NO_OBJECT_WEIGHT", 0.3, "CLASS_WEIGHTS", [0.5, 1.0, 2.0, 1.5, 3.0]]),
        ([5, 9], ["CRITERION.LOSS_CLASS", 2.0, "CRITERION.LOSS_L1", 3.0]),
        ([5, 9], ["MATCHER.COST_CLASS", 4.0, "MATCHER.COST_GIOU", 0.5, "AUX_LOSS", False]),
    ],
    ids=["two-images", "one-object", "all-empty", "too-many", "class-weights", "loss-weights", "costs-last-layer"],
)
def test_losses_and_gradients_equal_the_naive_loss(counts: list[int], options: list[Any]):
    """A tiny DETR in training mode, dropout off, through `forward`."""
    cfg = small_cfg("MODEL.DETR.TRANSFORMER.DROPOUT", 0.0, "MODEL.BACKBONE.FREEZE_AT", 0)
    cfg.merge_from_list([f"MODEL.DETR.{x}" if i % 2 == 0 else x for i, x in enumerate(options)])
    model = build_detr(cfg, torch.float64).train()
    inputs = random_instances(SMALL_SIZES, counts, num_classes=5)
    for x, size in zip(inputs, SMALL_SIZES, strict=True):
        x["image"] = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    losses = model(inputs)
    gradients = gradients_of(model, losses)

    detr = cfg.MODEL.DETR
    logits, boxes = model.predict(model.preprocess_image(inputs), all_layers=detr.AUX_LOSS)[:2]
    assert len(logits) == (3 if detr.AUX_LOSS else 1)
    expected = naive_set_loss(
        logits,
        boxes,
        targets_per_image(inputs, num_classes=5),
        num_classes=5,
        no_object_weight=in_float32(detr.CRITERION.NO_OBJECT_WEIGHT),
        class_weights=detr.CLASS_WEIGHTS or None,
        cost=(detr.MATCHER.COST_CLASS, detr.MATCHER.COST_L1, detr.MATCHER.COST_GIOU),
        weight=(detr.CRITERION.LOSS_CLASS, detr.CRITERION.LOSS_L1, detr.CRITERION.LOSS_GIOU),
    )
    assert_all_close("losses, naive", losses, expected, 1e-10)
    assert len(gradients) == len(list(model.parameters()))
    assert_all_close("gradients, naive", gradients, gradients_of(model, expected), 1e-10)


@pytest.mark.usefixtures("our_sine_in_transformers")
@pytest.mark.parametrize(
    ("config", "timm", "counts", "last_layer_only"),
    [
        pytest.param("detr_r50.yaml", True, [5, 9], False, marks=pytest.mark.slow),  # that of DC5 is on timm as well
        ("detr_r50.yaml", False, [0, 7], True),
        ("detr_r50_dc5.yaml", True, [3, 1], False),
        pytest.param("detr_r101.yaml", False, [2, 6], False, marks=pytest.mark.slow),
    ],
    ids=["r50-timm", "r50-native-last-layer", "r50_dc5-timm", "r101-native"],
)
def test_losses_and_gradients_equal_those_of_transformers(
    config: str, timm: bool, counts: list[int], last_layer_only: bool, tmp_path: Path
):
    pytest.importorskip("transformers")
    cfg = published_cfg(config, "MODEL.DETR.TRANSFORMER.DROPOUT", 0.0, "MODEL.BACKBONE.FREEZE_AT", 0)
    model = build_detr(cfg, torch.float64).train()
    images, mask = padded_images(torch.float64, SMALL_SIZES)
    inputs = random_instances(SMALL_SIZES, counts, num_classes=91)
    losses = losses_of(model, images, inputs, all_layers=not last_layer_only)

    theirs: Any = build_transformers_model(cfg, model.state_dict(), timm=timm).double()
    theirs.config.eos_coefficient = in_float32(theirs.config.eos_coefficient)
    train_everything(theirs)
    labels = targets_per_image(inputs, num_classes=91, labels="class_labels")
    if last_layer_only:
        with double_precision_constants():
            output = theirs(pixel_values=images.tensor, pixel_mask=(~mask).long(), labels=labels)
        total, unweighted = output.loss, output.loss_dict
    else:
        total, unweighted = loss_of_all_layers(theirs, images.tensor, mask, labels)
    assert_all_close(f"losses of {config}, transformers", losses, weighted(unweighted, theirs.config), 1e-10)
    torch.testing.assert_close(torch.stack(list(losses.values())).sum(), total, atol=0, rtol=1e-10)

    gradients = gradients_of(model, losses)
    total.backward()
    for parameter in theirs.parameters():  # a file of gradients instead of weights goes through the same converter
        parameter.data = parameter.grad
    expected = transformers_tensors(theirs, tmp_path)
    expected = {name: expected[name] for name, _ in model.named_parameters()}
    assert_all_close(f"gradients of {config}, transformers", gradients, expected, 1e-10)


def weighted(losses: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Our losses are weighted already; `transformers` returns them as they are, with a metric among them."""
    weights = {"loss_ce": 1, "loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    weight_of = {name: next((w for k, w in weights.items() if name.startswith(k)), None) for name in losses}
    return {name: weight * losses[name] for name, weight in weight_of.items() if weight is not None}
