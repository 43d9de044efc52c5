"""Whether a model is all right: do its parts, its config and its weights fit, and what does it say in training?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from .interface import Predictions

VISIBLE_BOXES = 20  # in pictures of training images

INFERENCE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Beginnings of parameter names in files of the authors, of their detectron2 wrapper and of Hugging Face.
FOREIGN_PREFIXES = (
    *("backbone.0.", "bbox_embed.", "bbox_predictor.", "class_embed.", "class_labels_classifier.", "detr."),
    *("input_proj.", "model.", "query_embed."),
)


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


def check_references(transformer: nn.Module, head: nn.Module, are_given: bool) -> None:
    """Raises `ValueError` if a head does not read the references that the transformer gives, if it does.

    A head that reads them says so by an attribute `reads_references`.
    """
    if are_given and not getattr(head, "reads_references", False):
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


@torch.no_grad()
def draw_training_image(batched_input: dict[str, Any], boxes_xyxy: Tensor, input_format: str) -> None:
    """Puts ground truth (left) and predictions (right) of one training image into the event storage.

    Args:
        batched_input: "image" (C, H, W) and "instances" with `gt_boxes`.
        boxes_xyxy: (N, 4) predictions in pixels of that image, best first; the first `VISIBLE_BOXES` are drawn.
        input_format: channel order of the image.
    """
    from detectron2.utils.visualizer import Visualizer  # brings matplotlib, which few processes need

    image = convert_image_to_rgb(batched_input["image"].permute(1, 2, 0), input_format)
    both = (batched_input["instances"].gt_boxes.tensor, boxes_xyxy[:VISIBLE_BOXES])
    drawn = [Visualizer(image, None).overlay_instances(boxes=x.detach().cpu().numpy()).get_image() for x in both]
    picture = np.concatenate(drawn, axis=1).transpose(2, 0, 1)  # (H, 2 W, 3) -> (3, H, 2 W)
    get_event_storage().put_image("Left: ground truth; right: best predictions", picture)
