"""Optimizer and learning-rate schedule from a config: the paper's recipe, and detectron2's own.

Paper: Carion et al. 2020, Sec. 4 and appendix A.4 (AdamW, backbone learning rate one tenth, gradients clipped to a
maximal norm of 0.1).

Differs from `detectron2.solver`:

* `SOLVER.OPTIMIZER` "ADAMW" beside "SGD", `SOLVER.BACKBONE_MULTIPLIER`, `SOLVER.SLOW_NAMES` and `SLOW_MULTIPLIER`;
* `SOLVER.CLIP_GRADIENTS.FULL_MODEL` clips the norm of all gradients together (detectron2 clips parameter by parameter).

A config that uses none of them gets exactly the optimizer of `detectron2.solver`; schedules are its own.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn
from torch.optim import Optimizer

OPTIMIZERS = ("SGD", "ADAMW")
BACKBONE_PREFIX = "backbone."
FUSED_DEVICES = ("cpu", "cuda")


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """Groups the trainable parameters by learning rate and weight decay.

    Parameters under `backbone.` get `SOLVER.BASE_LR x SOLVER.BACKBONE_MULTIPLIER`; the projection behind the backbone
    is not part of it (as in the authors' code). Others whose name contains a part listed in `SOLVER.SLOW_NAMES` get
    `SOLVER.BASE_LR x SOLVER.SLOW_MULTIPLIER`.

    Args:
        model: not wrapped by DistributedDataParallel.
        cfg: keys of `cfg.SOLVER`.

    Returns:
        `params`, `lr` and, for norms and biases, `weight_decay` of every group.
    """

    def lr_factor(name: str) -> float:
        if name.startswith(BACKBONE_PREFIX):
            return cfg.SOLVER.BACKBONE_MULTIPLIER
        return cfg.SOLVER.SLOW_MULTIPLIER if any(part in name for part in cfg.SOLVER.SLOW_NAMES) else 1.0

    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lr_factor,
    )


def with_global_clipping(optimizer: type[Optimizer], max_norm: float, norm_type: float = 2.0) -> type[Any]:
    """Makes a subclass of an optimizer whose `step` first clips the norm of all its gradients together.

    The norm before clipping is kept in the attribute `grad_norm`, a scalar tensor on the device of the gradients (None
    before the first step), so that logging it does not wait for the device.

    A `GradScaler` leaves it to fused optimizers to divide the gradients by its scale; that is done before clipping.

    Args:
        optimizer: class to derive from.
        max_norm: largest norm that passes unchanged.
        norm_type: p of the norm; `inf` for the largest absolute value.
    """

    class GloballyClipped(optimizer):  # type: ignore[misc, valid-type]
        grad_norm: Tensor | None = None

        def step(self, closure: Any = None) -> Any:
            _unscale(self)
            parameters = [p for group in self.param_groups for p in group["params"]]
            self.grad_norm = nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
            return super().step(closure)

    GloballyClipped.__name__ = GloballyClipped.__qualname__ = f"{optimizer.__name__}WithGlobalClipping"
    return GloballyClipped


def _unscale(optimizer: Optimizer) -> None:
    """Divides the gradients by the scale that a `GradScaler` has left to the optimizer, if it has."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    for gradient in gradients:
        gradient.div_(scale.to(gradient.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def _clipped_class(cfg: CfgNode, optimizer: type[Optimizer]) -> type[Optimizer]:
    """The class of optimizer that `SOLVER.CLIP_GRADIENTS` asks for."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not (clip.ENABLED and clip.FULL_MODEL):
        return maybe_add_gradient_clipping(cfg, optimizer)
    if clip.CLIP_TYPE != "norm":
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}, but FULL_MODEL clips by norm: set CLIP_TYPE to "
            "'norm', or FULL_MODEL to False."
        )
    if clip.CLIP_VALUE <= 0:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}, expected a norm above 0.")
    return with_global_clipping(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Builds the optimizer that `cfg.SOLVER` describes.

    Args:
        cfg: a config with the keys of `add_detr_config`.
        model: not wrapped by DistributedDataParallel.

    Raises:
        ValueError: for an unknown `SOLVER.OPTIMIZER`, a model without trainable parameters or a clip that makes no
            sense.
    """
    name = cfg.SOLVER.OPTIMIZER.upper()
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}, expected one of {', '.join(OPTIMIZERS)}.")
    groups = parameter_groups(model, cfg)
    if not groups:
        raise ValueError("The model has no trainable parameter: check MODEL.DETR.FREEZE and MODEL.BACKBONE.FREEZE_AT.")
    arguments: dict[str, Any] = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY, "foreach": True}
    if name == "ADAMW":
        if _can_fuse(cfg, groups):
            arguments.update(fused=True, foreach=None)
        return _clipped_class(cfg, torch.optim.AdamW)(groups, **arguments)
    arguments.update(momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV)
    return _clipped_class(cfg, torch.optim.SGD)(groups, **arguments)


def _can_fuse(cfg: CfgNode, groups: list[dict[str, Any]]) -> bool:
    """Whether one kernel may update all parameters: it reads and writes each number once.

    detectron2's clipping of single parameters does not know of the scale that fused optimizers are left with.
    """
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED and not cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL:
        return False
    parameters = [p for group in groups for p in group["params"]]
    return all(p.is_floating_point() and p.device.type in FUSED_DEVICES for p in parameters)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """detectron2's.

    Raises:
        ValueError: for a `SOLVER.LR_SCHEDULER_NAME` that is gone.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME == "OneCycleLR":
        raise ValueError('the schedule OneCycleLR is gone: set SOLVER.LR_SCHEDULER_NAME to "WarmupCosineLR".')
    return build_detectron2_lr_scheduler(cfg, optimizer)
