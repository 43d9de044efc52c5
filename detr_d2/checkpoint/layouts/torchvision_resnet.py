"""torchvision's ResNet weights under detectron2's names, and `torchvision://` paths for `MODEL.WEIGHTS`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...files import write_file
from ..locations import WeightsHandler, local_file
from ..reading.open import read_checkpoint
from .resnet import resnet_rules
from .rules import apply_rules

PREFIX = "torchvision://"


def is_torchvision_resnet(keys: Iterable[str]) -> bool:
    """Whether a state dict has torchvision's names for a ResNet."""
    return {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight"} <= set(keys)


def convert_torchvision_resnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames torchvision's ResNet to detectron2's, without the classifier and the batch counters.

    Raises:
        ConversionError: if it is another network than the plain ResNet.
    """
    kept = {
        name: tensor
        for name, tensor in state_dict.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    return apply_rules(kept, resnet_rules("", ""), source="the ResNet of torchvision")


def backbone_checkpoint(state_dict: dict[str, Tensor]) -> dict[str, Any]:
    """A converted backbone in the format of detectron2's zoo, which is matched to a model by name suffixes."""
    model = {key: value.cpu().numpy() for key, value in state_dict.items()}
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


def write_backbone_pkl(state_dict: dict[str, Tensor], path: str) -> None:
    """Writes `backbone_checkpoint(state_dict)` as a `.pkl`, by a protocol that is the same in every Python."""
    data = backbone_checkpoint(state_dict)
    write_file(path, lambda file: pickle.dump(data, file, protocol=4))


class TorchvisionHandler(WeightsHandler):
    """Resolves `torchvision://ResNet50_Weights.IMAGENET1K_V1` to a file that any detectron2 checkpointer reads."""

    prefix = PREFIX

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        source = local_file(_weights_url(path), force=force)
        converted = os.path.splitext(source)[0] + ".detectron2.pkl"
        if force or not os.path.isfile(converted):
            write_backbone_pkl(convert_torchvision_resnet(read_checkpoint(source)), converted)
        return converted


def _weights_url(path: str) -> str:
    from torchvision.models import get_weight

    name = path[len(PREFIX) :]
    try:
        return str(get_weight(name).url)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} names no weights of torchvision; expected for example {PREFIX}ResNet50_Weights.IMAGENET1K_V1."
        ) from error
