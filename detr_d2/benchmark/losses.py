"""Losses of other implementations, weighted and named as ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..other_libraries.deformable_reference import authors_deformable_modules
from ..other_libraries.references import authors_arguments, authors_forward, build_authors_model
from .inputs import Inputs, normalised_batch, normalised_targets

FOCAL_ALPHA = 0.25
_TRAINED_STAGES = r"(layer[234]|stages\.[123])\."  # in the names of timm and of transformers

Losses = dict[str, Tensor]
"""Of the last decoder layer "loss_ce", "loss_bbox", "loss_giou"; of the layer i before it "loss_ce_i", ..."""


def authors_losses(model: nn.Module, cfg: CfgNode, device: str) -> Callable[[Inputs], Losses]:
    """Those of the authors of DETR or of Deformable DETR, for a model of theirs."""
    focal = cfg.MODEL.DETR.CRITERION.CLASSIFICATION == "focal"
    criterion: Any = (_focal_criterion(cfg) if focal else build_authors_model(cfg)[1]).to(device)
    forward = authors_forward(model)

    def losses(inputs: Inputs) -> Losses:
        logits, boxes = forward(*normalised_batch(inputs, cfg, device))[:2]
        return weighted_by_authors(criterion, logits, boxes, normalised_targets(inputs, device, "labels"))

    return losses


def weighted_by_authors(criterion: Any, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Losses:
    """A criterion of the authors on logits (L, B, Q, ...), boxes (L, B, Q, 4) and `normalised_targets`."""
    layers = [{"pred_logits": x, "pred_boxes": y} for x, y in zip(logits, boxes, strict=True)]
    found = criterion({**layers[-1], "aux_outputs": layers[:-1]}, targets)
    return {name: criterion.weight_dict[name] * x for name, x in found.items() if name in criterion.weight_dict}


def authors_weights(factors: Sequence[float], num_layers: int) -> dict[str, float]:
    """The `weight_dict` of their criterion: factors of the losses of class, L1 and GIoU, for every decoder layer."""
    layers = ["", *(f"_{i}" for i in range(num_layers - 1))]
    named = zip(("loss_ce", "loss_bbox", "loss_giou"), factors, strict=True)
    return {f"{name}{layer}": factor for name, factor in named for layer in layers}


def _focal_criterion(cfg: CfgNode) -> nn.Module:
    weights, detr = cfg.MODEL.DETR.CRITERION, cfg.MODEL.DETR
    factors = (weights.LOSS_CLASS, weights.LOSS_L1, weights.LOSS_GIOU)
    with authors_deformable_modules() as authors:
        matcher = authors.module("models.matcher").build_matcher(authors_arguments(cfg))
        return authors.module("models.deformable_detr").SetCriterion(
            detr.NUM_CLASSES,
            matcher,
            authors_weights(factors, detr.TRANSFORMER.NUM_DECODER_LAYERS),
            ["labels", "boxes"],
            focal_alpha=FOCAL_ALPHA,
        )


def transformers_losses(model: Any, cfg: CfgNode, device: str) -> Callable[[Inputs], Losses]:
    """Those of `transformers`, of all decoder layers.

    With `auxiliary_loss` its DETR (5.23) feeds the normed output of each decoder layer to the next one, which is
    another network. So the outputs of the layers are caught by hooks, normed as the last one is, and its loss function
    is called with all of them.
    """
    weights = cfg.MODEL.DETR.CRITERION
    factors = (weights.LOSS_CLASS, weights.LOSS_L1, weights.LOSS_GIOU)
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

    def losses(inputs: Inputs) -> Losses:
        images, mask = normalised_batch(inputs, cfg, device)
        labels = normalised_targets(inputs, device, "class_labels")
        if deformable:
            model.config.auxiliary_loss = True
            found = model(pixel_values=images, pixel_mask=(~mask).long(), labels=labels).loss_dict
        else:
            logits, boxes = detr_outputs(images, mask)
            model.config.auxiliary_loss = True
            found = model.loss_function(logits[-1], labels, images.device, boxes[-1], model.config, logits, boxes)[1]
        model.config.auxiliary_loss = False
        return weighted_by_kind(found, factors)

    return losses


def weighted_by_kind(found: Mapping[str, Tensor], factors: Sequence[float]) -> Losses:
    """The losses among what `transformers` returns, which are unweighted, times factors of class, L1 and GIoU."""
    by_kind = dict(zip(("ce", "bbox", "giou"), factors, strict=True))
    return {name: by_kind[name.split("_")[1]] * x for name, x in found.items() if name.startswith("loss_")}


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


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, float]:
    """Name and size of the largest difference between two sets of losses, absolute or relative, whichever is smaller.

    Raises:
        ValueError: they do not hold the same losses.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the implementations return different losses: {sorted(set(ours) ^ set(theirs))}")
    values = {name: (ours[name].item(), theirs[name].item()) for name in ours}
    differences = {name: abs(a - b) / max(1.0, abs(a), abs(b)) for name, (a, b) in values.items()}
    worst = max(differences, key=lambda name: differences[name])
    return worst, differences[worst]
