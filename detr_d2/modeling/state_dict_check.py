"""Whether a state dict is one of the model that it is loaded into.

detectron2's own checkpointer, which `DefaultPredictor` uses, only warns about names that do not fit, and goes on with
random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

# Beginnings of parameter names in files of the authors, of their detectron2 wrapper and of Hugging Face.
FOREIGN_PREFIXES = (
    "backbone.0.",
    "bbox_embed.",
    "bbox_predictor.",
    "class_embed.",
    "class_labels_classifier.",
    "detr.",
    "input_proj.",
    "model.",
    "query_embed.",
)


def check_state_dict(state_dict: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses state dicts of other models and libraries, and in evaluation mode incomplete ones of trained models.

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
