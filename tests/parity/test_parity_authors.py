"""The whole model, training and post-processing against the authors' code, where a checkout of it is at hand.

`DETR_REPO=/path/to/detr make test ARGS="tests/parity/test_parity_authors.py -s"`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from parity_models import (
    FLOAT32,
    FLOAT64,
    assert_all_close,
    assert_close,
    assert_predictions_close,
    authors_losses,
    authors_twin,
    build_detr,
    gradients_of,
    losses_of,
    needs_authors,
    padded_images,
    plain_adamw,
    published_cfg,
    random_instances,
    randomise,
    small_cfg,
    targets_per_image,
    train_everything,
    under_names_of,
)
from torch import nn

from detr_d2.checkpoint import Checkpointer
from detr_d2.other_libraries.references import authors_arguments, authors_forward, authors_modules, build_authors_model
from detr_d2.solver import build_optimizer

pytestmark = needs_authors

SMALL_SIZES = [(96, 128), (128, 64)]
NO_DROPOUT = ["MODEL.DETR.TRANSFORMER.DROPOUT", 0.0]
configs = pytest.mark.parametrize("config", ["detr_r50.yaml", "detr_r50_dc5.yaml", "detr_r101.yaml"])


@configs
def test_outputs_of_all_layers(config: str):
    cfg = published_cfg(config)
    model = build_detr(cfg)
    theirs, _ = authors_twin(model, cfg)
    for dtype, atol, sizes in ((torch.float32, FLOAT32, None), (torch.float64, FLOAT64, SMALL_SIZES)):
        images, mask = padded_images(dtype, *([sizes] if sizes else []))
        with torch.no_grad():
            got = model.to(dtype).predict(images, all_layers=True)[:2]
            expected = authors_forward(theirs.to(dtype))(images.tensor, mask)
        assert len(got[0]) == 6
        assert_predictions_close(f"{config}, {dtype}", got, expected, atol)


@pytest.mark.parametrize(
    "variant", [["POSITION_ENCODING.NAME", "learned"], ["TRANSFORMER.DETR.PRE_NORM", True]], ids=str
)
def test_outputs_of_the_variants(variant: list[Any]):
    cfg = small_cfg(f"MODEL.DETR.{variant[0]}", variant[1])
    model = build_detr(cfg, torch.float64)
    theirs, _ = authors_twin(model, cfg)
    images, mask = padded_images(torch.float64)
    with torch.no_grad():
        got = model.predict(images, all_layers=True)[:2]
        expected = authors_forward(theirs)(images.tensor, mask)
    assert_predictions_close(f"{variant}", got, expected, FLOAT64)


@configs
def test_losses_and_gradients(config: str):
    cfg = published_cfg(config, *NO_DROPOUT, "MODEL.BACKBONE.FREEZE_AT", 0)
    model = build_detr(cfg, torch.float64).train()
    theirs, criterion = authors_twin(model, cfg)
    train_everything(theirs)
    images, mask = padded_images(torch.float64, SMALL_SIZES)
    inputs = random_instances(SMALL_SIZES, [7, 3], num_classes=91)
    losses = losses_of(model, images, inputs)
    expected = authors_losses(theirs, criterion, images.tensor, mask, targets_per_image(inputs, num_classes=91))
    assert_all_close(f"losses of {config}, authors", losses, expected, 1e-10)

    torch.stack(list(expected.values())).sum().backward()
    gradients = gradients_of(model, losses)
    assert len(gradients) == len(list(model.parameters()))
    assert_all_close(
        f"gradients of {config}, authors", gradients, under_names_of(model, theirs, lambda x: x.grad), 1e-10
    )


@pytest.mark.parametrize("counts", [[0, 0], [0, 1], [15, 0], [4, 12]], ids=str)
def test_losses_of_unusual_batches(counts: list[int]):
    """No objects at all, a single one, and more objects than queries."""
    cfg = small_cfg(*NO_DROPOUT)
    model = build_detr(cfg, torch.float64).train()
    theirs, criterion = authors_twin(model, cfg)
    images, mask = padded_images(torch.float64, SMALL_SIZES)
    inputs = random_instances(SMALL_SIZES, counts, num_classes=5)
    targets = targets_per_image(inputs, num_classes=5)
    expected = authors_losses(theirs, criterion, images.tensor, mask, targets)
    assert_all_close(f"losses of {counts} objects, authors", losses_of(model, images, inputs), expected, 1e-10)


@pytest.mark.parametrize("config", ["detr_r50.yaml", "detr_r101.yaml"])
def test_dropout_falls_on_the_same_numbers(config: str):
    """Training mode, one image, dropout 0.1, the same seed: both draw the same masks in the same order.

    With more images the masks are the same numbers in another place, as the authors put the image second.
    """
    cfg = published_cfg(config)
    assert cfg.MODEL.DETR.TRANSFORMER.DROPOUT == 0.1
    model = build_detr(cfg, torch.float64).train()
    theirs, criterion = authors_twin(model, cfg)
    images, mask = padded_images(torch.float64, SMALL_SIZES[:1])
    inputs = random_instances(SMALL_SIZES[:1], [6], num_classes=91)
    seed = torch.initial_seed()
    losses = losses_of(model, images, inputs)
    torch.manual_seed(seed)
    first = losses_of(model, images, inputs)
    assert abs(float(losses["loss_ce"].detach() - first["loss_ce"].detach())) > 1e-4, "dropout is off"
    torch.manual_seed(seed)
    expected = authors_losses(theirs, criterion, images.tensor, mask, targets_per_image(inputs, num_classes=91))
    assert_all_close(f"losses of {config} with dropout, authors", first, expected, 1e-9)

    torch.stack(list(expected.values())).sum().backward()
    wanted = {name: x for name, x in under_names_of(model, theirs, lambda x: x.grad).items() if x is not None}
    assert_all_close(f"gradients of {config} with dropout, authors", gradients_of(model, first), wanted, 1e-7)


def test_the_same_parameters_are_trained():
    cfg = published_cfg("detr_r50.yaml")
    model = build_detr(cfg)
    flags = under_names_of(model, authors_twin(model, cfg)[0], lambda x: torch.full_like(x, float(x.requires_grad)))
    frozen = {name for name, flag in flags.items() if not flag.any()}
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == 11  # conv1, and ten convolutions of layer1


def test_new_models_begin_alike():
    """Every parameter of a new model has the authors' spread; biases that begin at zero and norms at one do so here."""
    cfg = published_cfg("detr_r50.yaml")
    model: Any = build_model(cfg)
    theirs, _ = build_authors_model(cfg)
    expected = under_names_of(model, theirs, lambda x: x.detach())
    for name, x in model.named_parameters():
        x, y = x.detach(), expected[name]
        if not y.any() or bool((y == 1).all()):
            assert torch.equal(x, y), name
        else:
            uncertain = 6 / x.numel() ** 0.5  # six standard errors of the ratio of two spreads
            assert float(x.std() / y.std()) == pytest.approx(1, abs=uncertain), name
            # torch's normal numbers are not quite independent: their mean is up to 12 standard errors off.
            shift = float(x.mean() - y.mean()) / float(y.std())
            assert shift == pytest.approx(0, abs=max(9 / x.numel() ** 0.5, 0.02)), name


def test_twenty_steps():
    cfg = small_cfg(*NO_DROPOUT)
    model = build_detr(cfg, torch.float64).train()
    theirs, criterion = authors_twin(model, cfg)
    optimizer, reference = build_optimizer(cfg, model), plain_adamw(theirs)
    sizes = [(64, 96), (96, 64)]
    for step in range(20):
        images, mask = padded_images(torch.float64, sizes)
        inputs = random_instances(sizes, [3 + step % 3, step % 2], num_classes=5)
        optimizer.zero_grad()
        torch.stack(list(losses_of(model, images, inputs).values())).sum().backward()
        optimizer.step()
        targets = targets_per_image(inputs, num_classes=5)
        losses = authors_losses(theirs, criterion, images.tensor, mask, targets)
        reference.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        reference.step()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert_all_close(
        "weights after 20 steps, authors", weights, under_names_of(model, theirs, lambda x: x.detach()), 1e-9
    )


def test_a_checkpoint_of_the_authors(tmp_path: Path):
    """Written as their main.py does, with the arguments of its command line, and loaded as MODEL.WEIGHTS."""
    cfg = published_cfg("detr_r50.yaml")
    theirs, _ = build_authors_model(cfg)
    randomise(theirs)
    optimizer = plain_adamw(theirs)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    content = {"model": theirs.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    content.update(lr_scheduler=scheduler.state_dict(), args=authors_arguments(cfg))
    torch.save(content, tmp_path / "checkpoint.pth")
    model = build_detr(cfg)
    Checkpointer(model).load(str(tmp_path / "checkpoint.pth"))
    images, mask = padded_images(sizes=SMALL_SIZES)
    with torch.no_grad():
        expected = authors_forward(theirs.eval())(images.tensor, mask)
        got = model.predict(images, all_layers=True)[:2]
    assert_predictions_close("the authors' checkpoint", got, expected, FLOAT32)


def test_preprocessing_and_postprocessing():
    """From pixels to the network, and from its predictions to boxes in the pixels of the original images."""
    cfg = small_cfg("MODEL.DETR.NUM_QUERIES", 100)
    model = build_detr(cfg)
    inputs: list[dict[str, Any]] = [
        {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "height": 3 * size[0], "width": 2 * size[1]}
        for size in SMALL_SIZES
    ]
    with authors_modules() as authors, torch.no_grad():
        normalise = authors.module("datasets.transforms").Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        batch = authors.module("util.misc").nested_tensor_from_tensor_list(
            [normalise(x["image"].float() / 255)[0] for x in inputs]
        )
        images = model.preprocess_image(inputs)
        logits, boxes_cxcywh = model.predict(images, all_layers=False)[:2]
        outputs = {"pred_logits": logits[-1], "pred_boxes": boxes_cxcywh[-1]}
        sizes = torch.tensor([[x["height"], x["width"]] for x in inputs])
        results = authors.module("models.detr").PostProcess()(outputs, sizes)
        detections = [x["instances"] for x in model(inputs)]
    assert_close("normalised and padded images", images.tensor, batch.tensors, 1e-5)
    for i, (ours, expected, x) in enumerate(zip(detections, results, inputs, strict=True)):
        order = expected["scores"].argsort(descending=True, stable=True)
        limits = torch.tensor([x["width"], x["height"]] * 2)
        boxes = expected["boxes"][order].clamp(min=torch.zeros(4), max=limits)  # as detectron2 does with all detections
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        assert_close(f"scores of image {i}", ours.scores, expected["scores"][order][inside], 0)
        assert torch.equal(ours.pred_classes, expected["labels"][order][inside])
        assert_close(f"boxes of image {i}, pixels", ours.pred_boxes.tensor, boxes[inside], 1e-3)
