"""Losses of other implementations, weighted and named as ours, and the optimizer that their recipes use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..other_libraries.deformable_reference import authors_deformable_modules
from ..other_libraries.references import (
    authors_arguments,
    authors_forward,
    authors_modules,
    authors_repository,
    build_authors_model,
)
from .inputs import Inputs, normalised_batch, normalised_targets
from .set_losses import COST, NO_OBJECT_WEIGHT, Problem, SetLoss

FOCAL_ALPHA = 0.25
_TRAINED_STAGES = r"(layer[234]|stages\.[123])\."  # in the names of timm and of transformers


def authors_losses(model: nn.Module, cfg: CfgNode, device: str) -> Callable[[Inputs], dict[str, Tensor]]:
    """Those of the authors of DETR or of Deformable DETR, for a model of theirs."""
    focal = cfg.MODEL.DETR.CRITERION.CLASSIFICATION == "focal"
    criterion: Any = (_focal_criterion(cfg) if focal else build_authors_model(cfg)[1]).to(device)
    forward = authors_forward(model)

    def losses(inputs: Inputs) -> dict[str, Tensor]:
        logits, boxes = forward(*normalised_batch(inputs, cfg, device))[:2]
        layers = [{"pred_logits": x, "pred_boxes": y} for x, y in zip(logits, boxes, strict=True)]
        outputs = {**layers[-1], "aux_outputs": layers[:-1]}
        unweighted = criterion(outputs, normalised_targets(inputs, device, "labels"))
        return {
            name: criterion.weight_dict[name] * x for name, x in unweighted.items() if name in criterion.weight_dict
        }

    return losses


def _focal_criterion(cfg: CfgNode) -> nn.Module:
    weights, detr = cfg.MODEL.DETR.CRITERION, cfg.MODEL.DETR
    factors = {"loss_ce": weights.LOSS_CLASS, "loss_bbox": weights.LOSS_L1, "loss_giou": weights.LOSS_GIOU}
    layers = ["", *(f"_{i}" for i in range(detr.TRANSFORMER.NUM_DECODER_LAYERS - 1))]
    with authors_deformable_modules() as authors:
        matcher = authors.module("models.matcher").build_matcher(authors_arguments(cfg))
        return authors.module("models.deformable_detr").SetCriterion(
            detr.NUM_CLASSES,
            matcher,
            {f"{name}{layer}": factor for name, factor in factors.items() for layer in layers},
            ["labels", "boxes"],
            focal_alpha=FOCAL_ALPHA,
        )


def authors_set_loss(problem: Problem) -> SetLoss | None:
    """The criterion of DETR's authors on a problem of `set_losses`; None where `DETR_REPO` names no checkout."""
    try:
        authors_repository()
    except ValueError:
        return None
    layers = ["", *(f"_{i}" for i in range(len(problem.logits) - 1))]
    factors = {"loss_ce": COST["class"], "loss_bbox": COST["l1"], "loss_giou": COST["giou"]}
    weights = {f"{name}{layer}": factor for name, factor in factors.items() for layer in layers}
    with authors_modules() as authors:
        matcher = authors.module("models.matcher").HungarianMatcher(COST["class"], COST["l1"], COST["giou"])
        kinds = ["labels", "boxes", "cardinality"]
        criterion: Any = authors.module("models.detr").SetCriterion(
            problem.num_classes, matcher, weights, NO_OBJECT_WEIGHT, kinds
        )
    device = str(problem.logits.device)
    criterion.to(device)
    targets = normalised_targets([{"instances": x} for x in problem.instances], device, "labels")

    def work() -> dict[str, Tensor]:
        outputs = [
            {"pred_logits": x, "pred_boxes": y} for x, y in zip(problem.logits, problem.boxes_cxcywh, strict=True)
        ]
        unweighted = criterion({**outputs[-1], "aux_outputs": outputs[:-1]}, targets)
        return {name: weights[name] * x for name, x in unweighted.items() if name in weights}

    return work


def transformers_losses(model: Any, cfg: CfgNode, device: str) -> Callable[[Inputs], dict[str, Tensor]]:
    """Those of `transformers`, of all decoder layers.

    With `auxiliary_loss` its DETR (5.23) feeds the normed output of each decoder layer to the next one, which is
    another network. So the outputs of the layers are caught by hooks, normed as the last one is, and its loss function
    is called with all of them.
    """
    weights = cfg.MODEL.DETR.CRITERION
    factors = {"ce": weights.LOSS_CLASS, "bbox": weights.LOSS_L1, "giou": weights.LOSS_GIOU}
    deformable = not hasattr(model, "class_labels_classifier")
    caught: list[Tensor] = []
    if not deformable:
        for layer in model.model.decoder.layers:
            layer.register_forward_hook(lambda _module, _args, y: caught.append(y[0] if isinstance(y, tuple) else y))

    def detr_outputs(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        caught.clear()
        model.model(pixel_values=images, pixel_mask=(~mask).long())
        hidden_states = model.model.decoder.layernorm(torch.stack(caught))
        caught.clear()
        return model.class_labels_classifier(hidden_states), model.bbox_predictor(hidden_states).sigmoid()

    def losses(inputs: Inputs) -> dict[str, Tensor]:
        images, mask = normalised_batch(inputs, cfg, device)
        labels = normalised_targets(inputs, device, "class_labels")
        model.config.auxiliary_loss = True
        if deformable:
            found = model(pixel_values=images, pixel_mask=(~mask).long(), labels=labels).loss_dict
        else:
            model.config.auxiliary_loss = False
            logits, boxes = detr_outputs(images, mask)
            model.config.auxiliary_loss = True
            found = model.loss_function(logits[-1], labels, images.device, boxes[-1], model.config, logits, boxes)[1]
        model.config.auxiliary_loss = False
        return {name: factors[name.split("_")[1]] * x for name, x in found.items() if name.startswith("loss_")}

    return losses


def transformers_trainable(model: nn.Module, cfg: CfgNode) -> None:
    """Freezes of a model of `transformers` what the config freezes: the stem and the first stage, or nothing.

    Raises:
        ValueError: the config freezes something else.
    """
    frozen = cfg.MODEL.BACKBONE.FREEZE_AT
    if frozen not in (0, 2):
        raise ValueError(f"MODEL.BACKBONE.FREEZE_AT is {frozen}, expected 0 or 2 to train beside transformers")
    for name, parameter in model.named_parameters():
        if ".backbone." in name:
            parameter.requires_grad_(frozen == 0 or re.search(_TRAINED_STAGES, name) is not None)


def plain_adamw(model: nn.Module, cfg: CfgNode) -> Callable[[], None]:
    """The optimizer step of the authors' training loop: AdamW with two learning rates behind the clip of the norm."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    slow = [parameter for name, parameter in named if "backbone" in name]
    rest = [parameter for name, parameter in named if "backbone" not in name]
    groups: list[dict[str, Any]] = [
        {"params": rest},
        {"params": slow, "lr": cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER},
    ]
    optimizer = torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
    parameters = [*rest, *slow]

    def step() -> None:
        nn.utils.clip_grad_norm_(parameters, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        optimizer.step()
        optimizer.zero_grad()

    return step
