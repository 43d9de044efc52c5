"""What a file says of its model beside the tensors: heads and dilation, which the tensors do not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

HEADS, DILATED = "num_heads", "dilated"


def stated_architecture(content: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Number of heads and whether the backbone is dilated (DC5), where they are known.

    Args:
        content: checkpoint; "args" is the command line in the authors' training files.
        config: `config.json` of transformers.
    """
    args = vars(content["args"]) if hasattr(content.get("args"), "__dict__") else {}
    stated: dict[str, Any] = {HEADS: args.get("nheads"), DILATED: args.get("dilation")}
    if config is not None:
        backbone = config.get("backbone_config") or {}
        stated[HEADS] = config.get("encoder_attention_heads", stated[HEADS])
        stated[DILATED] = bool(config.get("dilation")) or backbone.get("output_stride") == 16
    return {key: value for key, value in stated.items() if value is not None}


def check_architecture(content: Mapping[str, Any], model: nn.Module, source: str) -> None:
    """Compares what a checkpoint says of its model ("architecture") with a model.

    Raises:
        ValueError: they differ; the tensors would fit all the same, and the predictions be wrong.
    """
    stated = content.get("architecture", {})
    found = {getattr(module, "num_heads", None) for module in model.get_submodule("transformer").modules()}
    heads = [x for x in found if isinstance(x, int)]
    if HEADS in stated and heads and heads != [stated[HEADS]]:
        raise ValueError(
            f"{source} is a model with {stated[HEADS]} attention heads, but MODEL.DETR.TRANSFORMER.NUM_HEADS is "
            f"{heads[0]}."
        )
    convolutions = [x for x in model.get_submodule("backbone").modules() if isinstance(x, nn.Conv2d)]
    dilated = any(max(x.dilation) > 1 for x in convolutions)
    if DILATED in stated and convolutions and dilated != bool(stated[DILATED]):
        raise ValueError(
            f"{source} is a model {'with' if stated[DILATED] else 'without'} a dilated backbone (DC5): set "
            f"MODEL.RESNETS.RES5_DILATION to {2 if stated[DILATED] else 1}, or take the config of that model."
        )
