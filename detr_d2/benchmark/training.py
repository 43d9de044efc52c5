"""Whole training steps of contestants: forward, losses, backward, clip and optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..solver import build_optimizer
from .contestants import Contestant
from .inputs import DETECTRON2, Inputs, autocast
from .losses import Losses, largest_difference


def total_of(losses: Losses) -> Tensor:
    """Their sum, in float32."""
    return torch.stack([x.float() for x in losses.values()]).sum()


def training_step(
    contestant: Contestant, cfg: CfgNode, inputs: Inputs, args: argparse.Namespace
) -> Callable[[], Losses]:
    """Puts a contestant into training mode and makes its step.

    Args:
        contestant: one; ours and detectron2's get the optimizer of `detr_d2.solver`, the others AdamW with the same
            settings as their own training code builds it.
        cfg: of the contestant, with the keys of `SOLVER`.
        inputs: the same in every step.
        args: of the command, which say what autocast there is.

    Returns:
        A function that takes one step and returns its losses.
    """
    contestant.model.train()
    ours = contestant.name.startswith(("ours", DETECTRON2))
    optimizer = build_optimizer(cfg, contestant.model) if ours else plain_adamw(contestant.model, cfg)

    def step() -> Losses:
        with autocast(contestant.name, args):
            losses = contestant.losses(inputs)
        total_of(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses

    return step


def plain_adamw(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """The optimizer of the authors' training loop: AdamW with two learning rates, after the clip of the norm."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    slow = [parameter for name, parameter in named if "backbone" in name]
    rest = [parameter for name, parameter in named if "backbone" not in name]
    rates = {"lr": cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER}
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": slow, **rates}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
    largest_norm = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_([*rest, *slow], largest_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def training_differences(contestants: Sequence[Contestant], inputs: Inputs) -> dict[str, dict[str, float]]:
    """Differences of the losses, and of the norm of all gradients, to the first contestant.

    Contestants must be without dropout, since libraries draw their random numbers in another order.

    Returns:
        name -> "losses", "gradient norm" -> absolute, or relative where the value exceeds 1.
    """
    results = {}
    for contestant in contestants:
        contestant.model.train()
        losses = contestant.losses(inputs)
        total_of(losses).backward()
        gradients = [x.grad for x in contestant.model.parameters() if x.grad is not None]
        norm = torch.stack([x.double().norm() for x in gradients]).norm().item()
        contestant.model.zero_grad()
        results[contestant.name] = {name: x.detach() for name, x in losses.items()}, norm
    if not results:
        return {}
    (expected, expected_norm), *_ = results.values()
    return {
        name: {
            "losses": largest_difference(losses, expected)[1],
            "gradient norm": abs(norm - expected_norm) / max(1.0, expected_norm),
        }
        for name, (losses, norm) in list(results.items())[1:]
    }
