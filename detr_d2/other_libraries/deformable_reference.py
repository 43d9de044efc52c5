"""The code of Deformable DETR's authors, built to be compared with this one; see `references`.

Their sampling operator need not be compiled: their own version in plain PyTorch stands in for it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torchvision
from detectron2.config import CfgNode
from torch import Tensor, nn

from .references import authors_arguments, authors_modules, build_authors_model

_OPERATOR = "MultiScaleDeformableAttention"  # of their CUDA extension


def is_deformable(cfg: CfgNode) -> bool:
    """Whether the config is of a Deformable DETR."""
    return bool(cfg.MODEL.DETR.TRANSFORMER.NAME == "DeformableTransformer")


def build_authors_network(cfg: CfgNode) -> nn.Module:
    """The authors' DETR or Deformable DETR for a config, with random weights.

    Raises:
        ValueError: as `build_authors_model` and `build_authors_deformable`.
    """
    return build_authors_deformable(cfg) if is_deformable(cfg) else build_authors_model(cfg)[0]


def build_authors_deformable(cfg: CfgNode) -> nn.Module:
    """The authors' Deformable DETR for a config, with random weights.

    Raises:
        ValueError: if `DEFORMABLE_DETR_REPO` names no checkout, or the authors' code has no such model.
    """
    if cfg.MODEL.RESNETS.DEPTH < 50:
        raise ValueError(f"the authors' Deformable DETR has no ResNet-{cfg.MODEL.RESNETS.DEPTH}, only 50 and deeper.")
    if cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION:
        raise ValueError("the authors' Deformable DETR has no mixed query selection.")
    with authors_deformable_modules() as authors, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = authors.module("models.backbone")
        backbone.is_main_process = lambda: False  # or it would download ImageNet weights
        deformable = cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE
        arguments = authors_arguments(
            cfg,
            num_feature_levels=cfg.MODEL.DETR.NUM_FEATURE_LEVELS,
            enc_n_points=deformable.NUM_POINTS,
            dec_n_points=deformable.NUM_POINTS,
            two_stage=deformable.TWO_STAGE,
        )
        detr: Any = authors.module("models.deformable_detr")
        return detr.DeformableDETR(
            backbone.build_backbone(arguments),
            authors.module("models.deformable_transformer").build_deforamble_transformer(arguments),
            num_classes=cfg.MODEL.DETR.NUM_CLASSES,
            num_queries=cfg.MODEL.DETR.NUM_QUERIES,
            num_feature_levels=cfg.MODEL.DETR.NUM_FEATURE_LEVELS,
            aux_loss=True,
            with_box_refine=deformable.BOX_REFINEMENT,
            two_stage=deformable.TWO_STAGE,
        )


@contextmanager
def authors_deformable_modules() -> Iterator[SimpleNamespace]:
    """Their modules without the compiled operator, and with a version of torchvision that they read as a new one.

    Yields:
        As `authors_modules`.

    Raises:
        ValueError: if `DEFORMABLE_DETR_REPO` names no checkout.
    """
    version, operator = torchvision.__version__, sys.modules.get(_OPERATOR)
    torchvision.__version__ = "1.0"  # they take the first three characters of "0.29" for 0.2
    sys.modules[_OPERATOR] = ModuleType(_OPERATOR)
    try:
        with authors_modules("DEFORMABLE_DETR_REPO") as authors:
            _sample_in_pytorch(authors)
            yield authors
    finally:
        torchvision.__version__ = version
        del sys.modules[_OPERATOR]
        if operator is not None:
            sys.modules[_OPERATOR] = operator


def _sample_in_pytorch(authors: SimpleNamespace) -> None:
    function = authors.module("models.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch

    def sample(value: Tensor, shapes: Tensor, _start: Tensor, places: Tensor, weights: Tensor, _step: int) -> Tensor:
        return function(value, shapes.tolist(), places, weights)

    attention = authors.module("models.ops.modules.ms_deform_attn")
    attention.MSDeformAttnFunction = SimpleNamespace(apply=sample)
