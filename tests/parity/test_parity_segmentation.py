"""Masks, their losses and gradients against `transformers` and, where a checkout is at hand, the authors' code.

`DETR_REPO=/path/to/detr make test ARGS="tests/parity/test_parity_segmentation.py -s"`
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from parity_models import (
    FLOAT32,
    FLOAT64,
    assert_all_close,
    assert_close,
    authors_losses,
    authors_twin,
    build_detr,
    gradients_of,
    losses_of,
    needs_authors,
    padded_images,
    published_cfg,
    random_instances,
    targets_per_image,
    train_everything,
    under_names_of,
)

from detr_d2.other_libraries.references import (
    authors_forward,
    build_authors_model,
    build_transformers_model,
    our_forward,
    transformers_forward,
)

SIZES = [(96, 128), (130, 70)]  # neither side of the padded images is a multiple of all strides
NAMES = ("logits", "boxes", "masks")


def segmentation_cfg(config: str, *options: Any) -> CfgNode:
    """A shipped config with a narrow and short transformer, 12 queries and 5 classes."""
    small: list[Any] = ["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 128, "MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 64]
    small += ["MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 2, "MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 3]
    small += ["MODEL.DETR.NUM_QUERIES", 12, "MODEL.DETR.TRANSFORMER.DROPOUT", 0.0]
    return published_cfg(config, *small, "MODEL.DETR.NUM_CLASSES", 5, *options)


def with_masks(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds random masks, which the losses do not need to fit the boxes."""
    for x in inputs:
        instances = x["instances"]
        instances.gt_masks = BitMasks(torch.rand(len(instances), *instances.image_size) < 0.3)
    return inputs


@pytest.mark.usefixtures("our_sine_in_transformers")
@pytest.mark.parametrize(("config", "timm"), [("detr_r50_segm.yaml", False), ("detr_r50_segm.yaml", True)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)], ids=str)
def test_masks_are_those_of_transformers(config: str, timm: bool, dtype: torch.dtype, atol: float):
    pytest.importorskip("transformers")
    cfg = segmentation_cfg(config)
    model = build_detr(cfg, dtype)
    theirs = build_transformers_model(cfg, model.state_dict(), timm=timm).to(dtype)
    images, mask = padded_images(dtype, SIZES)
    with torch.no_grad():
        got, expected = our_forward(model)(images.tensor, mask), transformers_forward(theirs)(images.tensor, mask)
    for name, x, y in zip(NAMES, got, expected, strict=True):
        assert_close(f"{name} of {config}, transformers, {dtype}", x, y, atol)


@needs_authors
@pytest.mark.parametrize("config", ["detr_r50_segm.yaml", "detr_r50_dc5_panoptic.yaml"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)], ids=str)
def test_masks_are_those_of_the_authors(config: str, dtype: torch.dtype, atol: float):
    cfg = segmentation_cfg(config, "MODEL.DETR.PANOPTIC.NUM_THINGS", 3, "MODEL.DETR.AUX_LOSS", False)
    model = build_detr(cfg, dtype)
    theirs, _ = authors_twin(model, cfg)
    images, mask = padded_images(dtype, SIZES)
    with torch.no_grad():
        got, expected = our_forward(model)(images.tensor, mask), authors_forward(theirs)(images.tensor, mask)
    for name, x, y in zip(NAMES, got, expected, strict=True):
        assert_close(f"{name} of {config}, authors, {dtype}", x, y, atol)


@needs_authors
@pytest.mark.parametrize("counts", [[4, 2], [0, 3], [15, 1], [0, 0]], ids=str)
def test_losses_and_gradients_are_those_of_the_authors(counts: list[int]):
    weights = ["MODEL.DETR.CRITERION.LOSS_MASK", 3.0, "MODEL.DETR.CRITERION.LOSS_DICE", 0.5]
    cfg = segmentation_cfg("detr_r50_segm.yaml", "MODEL.BACKBONE.FREEZE_AT", 0, *weights)
    model = build_detr(cfg, torch.float64).train()
    theirs, criterion = authors_twin(model, cfg)
    train_everything(theirs)
    images, mask = padded_images(torch.float64, SIZES)
    inputs = with_masks(random_instances(SIZES, counts, num_classes=5))
    targets = targets_per_image(inputs, num_classes=5)
    for target, x in zip(targets, inputs, strict=True):
        target["masks"] = x["instances"].gt_masks.tensor
    losses = losses_of(model, images, inputs)
    assert {"loss_mask", "loss_dice"} < losses.keys()
    expected = authors_losses(theirs, criterion, images.tensor, mask, targets)
    assert_all_close(f"losses of {counts} objects, authors", losses, expected, 1e-10)

    torch.stack(list(expected.values())).sum().backward()
    wanted = under_names_of(model, theirs, lambda x: x.grad)
    assert_all_close(f"gradients of {counts} objects, authors", gradients_of(model, losses), wanted, 1e-9)


@needs_authors
def test_a_new_mask_head_begins_as_the_authors():
    """The same spread of every parameter."""
    cfg = published_cfg("detr_r50_segm.yaml")
    model: Any = build_model(cfg)
    expected = under_names_of(model, build_authors_model(cfg)[0], lambda x: x.detach())
    head = {name: x.detach() for name, x in model.named_parameters() if name.startswith("mask_head.")}
    assert len(head) == 32
    for name, x in head.items():
        if x.dim() == 1:
            assert torch.equal(x, expected[name]), name
        else:
            chance = 0.02 + 3 / x.numel() ** 0.5  # the smallest has 144 numbers
            assert float(x.std()) == pytest.approx(float(expected[name].std()), rel=chance), name
            assert float(x.abs().max()) == pytest.approx(float(expected[name].abs().max()), rel=chance), name
