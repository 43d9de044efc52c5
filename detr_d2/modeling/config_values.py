"""Values of a config that need more than reading: an open number of classes, names of maps and of a number format."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec

from ..panoptic_classes import PanopticClasses

INFERENCE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def with_num_classes(cfg: CfgNode) -> CfgNode:
    """Fills in `MODEL.DETR.NUM_CLASSES: 0` from the metadata of the training data, on a copy.

    Raises:
        ValueError: if the metadata does not know the classes either.
    """
    if cfg.MODEL.DETR.NUM_CLASSES > 0:
        return cfg
    classes: Sized | None = None
    if cfg.MODEL.DETR.PANOPTIC.ENABLED:
        classes = PanopticClasses.from_config(cfg)
    elif len(cfg.DATASETS.TRAIN):
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if not classes:
        raise ValueError(
            "MODEL.DETR.NUM_CLASSES is 0 and the training data (DATASETS.TRAIN: "
            f"{list(cfg.DATASETS.TRAIN)}) has no class names in its metadata: set MODEL.DETR.NUM_CLASSES, or register "
            "the dataset with its thing_classes before the model is built."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.NUM_CLASSES = len(classes)
    cfg.freeze()
    return cfg


def inference_dtype_of(cfg: CfgNode) -> torch.dtype:
    """The type that `MODEL.DETR.INFERENCE_DTYPE` names.

    Raises:
        ValueError: if it names none of `INFERENCE_DTYPES`.
    """
    name = cfg.MODEL.DETR.INFERENCE_DTYPE
    if name not in INFERENCE_DTYPES:
        raise ValueError(f"MODEL.DETR.INFERENCE_DTYPE is {name!r}, expected one of {', '.join(INFERENCE_DTYPES)}.")
    return INFERENCE_DTYPES[name]


def check_in_features(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> None:
    """Raises `ValueError` if `MODEL.DETR.IN_FEATURES` names maps that the backbone does not output."""
    missing = [name for name in cfg.MODEL.DETR.IN_FEATURES if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.DETR.IN_FEATURES names {missing}, which the backbone does not output; it outputs {sorted(shapes)}."
        )
