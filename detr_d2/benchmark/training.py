"""Whole training steps of a benchmark's contestants: forward, losses, backward, clip and optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..solver import build_optimizer
from .contestants import DETECTRON2, Contestant
from .inputs import Inputs
from .losses import plain_adamw
from .set_losses import largest_difference

Precision = torch.dtype | None


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast to a type, or nothing for None."""
    return contextlib.nullcontext() if precision is None else torch.autocast(torch.device(device).type, precision)


def training_step(
    contestant: Contestant, cfg: CfgNode, inputs: Inputs, *, device: str, precision: Precision = None
) -> Callable[[], dict[str, Tensor]]:
    """Puts a contestant into training mode and makes its step.

    Args:
        contestant: one; ours and detectron2's get the optimizer of `detr_d2.solver`, the others AdamW with the same
            settings as their own training code builds it.
        cfg: of the contestant, with the keys of `SOLVER`.
        inputs: the same in every step.
        device: of the contestant.
        precision: autocast to this type.

    Returns:
        A function that takes one step and returns its losses.
    """
    contestant.model.train()
    update = _update(contestant, cfg)

    def step() -> dict[str, Tensor]:
        with autocast(device, precision):
            losses = contestant.losses(inputs)
        torch.stack([x.float() for x in losses.values()]).sum().backward()
        update()
        return losses

    return step


def _update(contestant: Contestant, cfg: CfgNode) -> Callable[[], None]:
    if not contestant.name.startswith(("ours", DETECTRON2)):
        return plain_adamw(contestant.model, cfg)
    optimizer = build_optimizer(cfg, contestant.model)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return update


def training_differences(contestants: Sequence[Contestant], inputs: Inputs) -> dict[str, dict[str, float]]:
    """Differences of the losses, and of the norm of all gradients, to the first contestant.

    Contestants must be without dropout, since libraries draw their random numbers in another order. Those of another
    detector are left out.

    Returns:
        name -> "losses", "gradient norm" -> absolute, or relative where the value exceeds 1.
    """
    results = {}
    for contestant in contestants:
        if contestant.network is None:
            continue
        contestant.model.train()
        losses = contestant.losses(inputs)
        torch.stack(list(losses.values())).sum().backward()
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
