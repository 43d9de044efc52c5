"""What a file of weights holds, whoever has written it: always a dictionary with the tensors under "model"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .safe_read import read_checkpoint


def read_model_file(path: str) -> dict[str, Any]:
    """Reads a file of weights as data.

    Args:
        path: local file: of `torch.save`, safetensors, a `.pkl` of detectron2's zoo or Caffe2, a `.pyth` of pycls.

    Returns:
        The content, its weights under "model" as names and tensors or arrays, without the prefix of
        DistributedDataParallel. "matching_heuristics" is set where names are to be matched by their ends.

    Raises:
        ValueError: the file cannot be read as data, or holds no weights.
        FileNotFoundError: there is no such file.
    """
    content = read_checkpoint(path)
    if path.endswith(".pkl"):
        content = _of_pkl(content)
    elif path.endswith(".pyth"):
        weights = {k: v for k, v in _model(content, "model_state", path).items() if not k.endswith("_tracked")}
        content = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
    elif "model" not in content:
        content = {"model": content}
    return {**content, "model": _model(content, "model", path)}


def _of_pkl(content: dict[str, Any]) -> dict[str, Any]:
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # detection models of Caffe2 have "blobs", its ImageNet models have not
    weights = {name: x for name, x in blobs.items() if not str(name).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _model(content: Mapping[str, Any], key: str, path: str) -> dict[str, Any]:
    weights = content.get(key)
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"{path} holds no weights: expected names and tensors under {key!r}, got {_describe(weights)}."
        )
    wrong = [name for name, x in weights.items() if not isinstance(x, torch.Tensor | np.ndarray)]
    if wrong or not all(isinstance(name, str) for name in weights):
        name = wrong[0] if wrong else next(name for name in weights if not isinstance(name, str))
        raise ValueError(
            f"{path} holds no weights: expected names and tensors, got {name!r}: {_describe(weights[name])}; the "
            f"keys are {', '.join(map(repr, list(weights)[:5]))}. Save {{'model': state_dict}}."
        )
    return {name.removeprefix("module."): x for name, x in weights.items()}


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an empty dictionary" if not value else "another dictionary"
    return "nothing" if value is None else f"a {type(value).__name__}"
