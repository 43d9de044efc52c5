"""Parts of a model that are not trained."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def freeze_part(model: nn.Module, name: str) -> None:
    """Takes the gradients from all modules called `name`; their batch norms stop updating.

    Args:
        model: is changed.
        name: dotted name of a module, or its last components.

    Raises:
        ValueError: if no module has that name.
    """
    found = [(path, module) for path, module in model.named_modules() if path == name or path.endswith("." + name)]
    if not found:
        raise ValueError(
            f"MODEL.DETR.FREEZE names {name!r}, which is no module of the model; its parts are "
            f"{[child for child, _ in model.named_children()]} and what is inside them."
        )
    for path, module in found:
        module.requires_grad_(False)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, FrozenBatchNorm2d.convert_frozen_batchnorm(module))
