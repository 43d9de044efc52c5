"""Whether the parts of a model, its config and its weights fit: what does not fit learns less, or stops late."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sized
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from ..panoptic_classes import PanopticClasses
from .interface import Predictions

INFERENCE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Beginnings of parameter names in files of the authors, of their detectron2 wrapper and of Hugging Face.
FOREIGN_PREFIXES = (
    *("backbone.0.", "bbox_embed.", "bbox_predictor.", "class_embed.", "class_labels_classifier.", "detr."),
    *("input_proj.", "model.", "query_embed."),
)


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


def check_in_features(cfg: CfgNode, known: Collection[str]) -> None:
    """Raises `ValueError` if `MODEL.DETR.IN_FEATURES` names maps that the backbone does not output."""
    missing = [name for name in cfg.MODEL.DETR.IN_FEATURES if name not in known]
    if missing:
        raise ValueError(
            f"MODEL.DETR.IN_FEATURES names {missing}, which the backbone does not output; it outputs {sorted(known)}."
        )


def check_references(transformer: nn.Module, head: nn.Module) -> None:
    """Raises `ValueError` if the transformer gives references, and the head does not read them.

    The one says so by an attribute `gives_references`, the other by `reads_references`.
    """
    if getattr(transformer, "gives_references", False) and not getattr(head, "reads_references", False):
        raise ValueError(
            f"{type(transformer).__name__} has every query look around a reference, to which its box is relative, but "
            f"the head {type(head).__name__} does not read references: set MODEL.DETR.HEAD.NAME to ReferenceHead (a "
            "head of your own that reads them says so by reads_references = True)."
        )


def freeze_part(model: nn.Module, name: str) -> None:
    """Takes the gradients from all modules called `name`; their batch norms stop updating.

    Args:
        model: is changed.
        name: dotted name of a module, or its last components.

    Raises:
        ValueError: if no module has that name.
    """
    found = [(path, module) for path, module in model.named_modules() if f".{path}".endswith(f".{name}")]
    if not found:
        raise ValueError(
            f"freeze (MODEL.DETR.FREEZE) names {name!r}, which is no module of the model; its parts are "
            f"{[child for child, _ in model.named_children()]} and what is inside them."
        )
    for path, module in found:
        module.requires_grad_(False)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, FrozenBatchNorm2d.convert_frozen_batchnorm(module))


def check_state_dict(state_dict: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses state dicts of other models and libraries, and in evaluation mode incomplete ones of trained models.

    detectron2's own checkpointer, which `DefaultPredictor` uses, only warns about names that do not fit, and goes on
    with random weights.

    Raises:
        ValueError: if no key is known, some are those of another layout, such as the authors', or parameters are
            missing.
    """
    foreign = [key for key in state_dict if key.startswith(FOREIGN_PREFIXES)]
    if not foreign and not state_dict.keys() & model.state_dict().keys():
        foreign = list(state_dict)
    if foreign:
        raise ValueError(
            f"{len(foreign)} of the {len(state_dict)} keys of the checkpoint ({foreign[0]!r}, ...) are not named "
            "as in this DETR: it comes from another library or model. Convert the file first, by "
            "`python -m detr_d2 convert SRC DST --to detectron2`, or load it by train_net.py or a command of "
            "detr_d2, which convert it themselves."
        )
    absent = [name for name, _ in model.named_parameters() if name not in state_dict]
    if absent and not model.training and any(key.startswith("transformer.") for key in state_dict):
        raise ValueError(
            f"the checkpoint has no fitting values for {len(absent)} parameters of this DETR, such as {absent[0]}, "
            "and nothing would be predicted without them: check MODEL.DETR.NUM_CLASSES and the config."
        )


def describe_non_finite(predictions: Predictions, batched_inputs: list[dict[str, Any]], image_index: int) -> str:
    """The message about a batch in which nothing finite is predicted for an image: iteration, files, what to do."""
    iteration = get_event_storage().iter if has_event_storage() else "unknown"
    parts = {"logits": predictions.logits, "boxes": predictions.boxes_cxcywh}
    bad = [name for name, x in parts.items() if not x.isfinite().all()] or ["the encoder's proposals"]
    files = [x.get("file_name", f"image {i} of the batch") for i, x in enumerate(batched_inputs)]
    return (
        f"Iteration {iteration}: all predictions for {files[image_index]} are NaN or infinite "
        f"(in {' and '.join(bad)}; images of this batch: {', '.join(files)}). Lower SOLVER.BASE_LR, check that "
        "SOLVER.CLIP_GRADIENTS is on, or train with SOLVER.AMP.DTYPE bfloat16 instead of float16."
    )
