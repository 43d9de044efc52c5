"""Ten steps of the recipe's optimizer beside a plain loop: of the same network, and of `transformers`' network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from naive_criterion import naive_set_loss
from parity_models import (
    assert_all_close,
    assert_predictions_close,
    build_detr,
    in_float32,
    loss_of_all_layers,
    losses_of,
    padded_images,
    plain_adamw,
    random_instances,
    small_cfg,
    targets_per_image,
    transformers_tensors,
)
from torch import Tensor, nn

from detr_d2.other_libraries.references import build_transformers_model
from detr_d2.solver import build_optimizer

STEPS = 10
TOLERANCE = 1e-9
"""Of weights; weight decay moves those of 1 by 1e-7 in 10 steps, so that nothing of the recipe is below it."""

SIZES = [(32, 64), (64, 32)]

Batch = tuple[Any, Tensor, list[dict[str, Any]]]
Loss = Callable[[Batch], Tensor]


def random_batch(seed: int) -> Batch:
    """Padded images, their mask, objects; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed() + seed)
        return *padded_images(torch.float64, SIZES), random_instances(SIZES, [4 + seed % 3, seed % 2], num_classes=5)


def train_plainly(model: nn.Module, loss_of: Loss) -> None:
    """The authors' loop, without anything of this package."""
    optimizer = plain_adamw(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(random_batch(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def trained(start: Any, cfg: Any) -> dict[str, Tensor]:
    """Weights after as many steps of our optimizer."""
    model = copy.deepcopy(start).train()
    optimizer: Any = build_optimizer(cfg, model)
    for step in range(STEPS):
        optimizer.zero_grad()
        images, _, inputs = random_batch(step)
        torch.stack(list(losses_of(model, images, inputs).values())).sum().backward()
        optimizer.step()
        assert float(optimizer.grad_norm) > 0.1, "the gradients are too small for clipping to be seen"
    before = dict(start.named_parameters())
    weights = {name: x.detach() for name, x in model.named_parameters()}
    still = {name for name, x in weights.items() if torch.equal(x, before[name])}
    assert still == {name for name, x in model.named_parameters() if not x.requires_grad}
    assert max(float((x - before[name].detach()).abs().max()) for name, x in weights.items()) > 1e-3
    return weights


def test_ten_steps_equal_a_plain_loop():
    cfg = small_cfg("MODEL.DETR.TRANSFORMER.DROPOUT", 0.0, "MODEL.RESNETS.OUT_FEATURES", ["res4"])
    cfg.MODEL.DETR.IN_FEATURES = ["res4"]
    start = build_detr(cfg, torch.float64)
    reference = copy.deepcopy(start).train()

    def loss_of(batch: Batch) -> Tensor:
        images, _, inputs = batch
        logits, boxes = reference.predict(images, all_layers=True)[:2]
        targets = targets_per_image(inputs, num_classes=5)
        losses = naive_set_loss(logits, boxes, targets, num_classes=5, no_object_weight=in_float32(0.1))
        return torch.stack(list(losses.values())).sum()

    train_plainly(reference, loss_of)
    expected = {name: x.detach() for name, x in reference.named_parameters()}
    assert_all_close("weights after 10 steps, plain loop", trained(start, cfg), expected, TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("our_sine_in_transformers")
def test_ten_steps_equal_those_of_transformers(tmp_path: Path):
    pytest.importorskip("transformers")
    cfg = small_cfg("MODEL.DETR.TRANSFORMER.DROPOUT", 0.0)
    start = build_detr(cfg, torch.float64)
    reference: Any = build_transformers_model(cfg, start.state_dict(), timm=True).double()
    for name, parameter in reference.named_parameters():  # the authors' rule, which its library leaves to the user
        parameter.requires_grad_(
            "backbone" not in name or any(layer in name for layer in ("layer2", "layer3", "layer4"))
        )
    reference.config.eos_coefficient = in_float32(0.1)

    def loss_of(batch: Batch) -> Tensor:
        images, mask, inputs = batch
        labels = targets_per_image(inputs, num_classes=5, labels="class_labels")
        return loss_of_all_layers(reference, images.tensor, mask, labels)[0]

    train_plainly(reference, loss_of)
    weights = trained(start, cfg)
    expected = transformers_tensors(reference, tmp_path)
    assert_all_close(
        "weights after 10 steps, transformers", weights, {name: expected[name] for name in weights}, TOLERANCE
    )


def test_without_dropout_training_mode_changes_nothing():
    model = build_detr(small_cfg("MODEL.DETR.TRANSFORMER.DROPOUT", 0.0), torch.float64)
    images, _ = padded_images(torch.float64, SIZES)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        still = model.predict(images, all_layers=True)[:2]
        training = model.train().predict(images, all_layers=True)[:2]
    assert_predictions_close("training and evaluation mode", training, still, 0)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())  # batch norms above all
