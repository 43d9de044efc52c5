"""What a file of weights holds, whoever has written it: always a dictionary with the tensors under "model"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .safe_read import read_checkpoint

# What torch.compile, FSDP and activation checkpointing name the module that they wrap, whichever part of a model it is.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# What files of this package say besides the weights -> what it is, its types, and whether it is a list of them.
_FACTS: dict[str, tuple[str, tuple[type, ...], bool]] = {
    "class_names": ("a list of names", (str,), True),
    "category_ids": ("a list of numbers or names", (int, float, str), True),
    "num_things": ("a number", (int,), False),
    "panoptic_layout": ("a name", (str,), False),
}


def read_model_file(path: str) -> dict[str, Any]:
    """Reads a file of weights as data.

    Args:
        path: local file: of `torch.save`, safetensors, a `.pkl` of detectron2's zoo or Caffe2, a `.pyth` of pycls.

    Returns:
        The content, its weights under "model" as names and tensors or arrays, without the names of wrappers such as
        DistributedDataParallel and torch.compile. "matching_heuristics" is set where names are matched by their ends.

    Raises:
        ValueError: the file cannot be read as data, or holds no weights.
        FileNotFoundError: there is no such file.
    """
    content = read_checkpoint(path)
    if "model_state" in content and "model" not in content:
        weights = {k: v for k, v in _model(content, "model_state", path).items() if not k.endswith("_tracked")}
        content = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
    elif "model" not in content:
        content = _of_caffe2(content) if _is_of_caffe2(content) else {"model": content}
    _check_facts(content, path)
    return {**content, "model": _model(content, "model", path)}


def _check_facts(content: Mapping[str, Any], path: str) -> None:
    """Checks that what files of this package say besides the weights is of the right kind."""
    for key, (expected, types, is_list) in _FACTS.items():
        value = content.get(key)
        items = value if is_list and isinstance(value, list | tuple) else [value]
        if value is not None and not all(type(item) in types for item in items):
            raise ValueError(
                f"{path} is no checkpoint of this package: {key} is {_describe(value)}, expected {expected}."
            )


def _is_of_caffe2(content: Mapping[str, Any]) -> bool:
    """Whether a file is of Caffe2: its detection models have "blobs", its ImageNet models are arrays and no tensors."""
    return "blobs" in content or any(isinstance(x, np.ndarray) for x in content.values())


def _of_caffe2(content: Mapping[str, Any]) -> dict[str, Any]:
    blobs = content.get("blobs", content)
    weights = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")} if isinstance(blobs, dict) else blobs
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _model(content: Mapping[str, Any], key: str, path: str) -> dict[str, Any]:
    weights = content.get(key)
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(
            f"{path} holds no weights: expected names and tensors under {key!r}, got {_describe(weights)}."
        )
    wrong = [name for name, x in weights.items() if not isinstance(x, Tensor | np.ndarray)]
    if wrong or not all(isinstance(name, str) for name in weights):
        name = wrong[0] if wrong else next(name for name in weights if not isinstance(name, str))
        raise ValueError(
            f"{path} holds no weights: expected names and tensors, got {name!r}: {_describe(weights[name])}; the "
            f"keys are {', '.join(map(repr, list(weights)[:5]))}. {_cure(weights)}"
        )
    names: dict[str, str] = {}
    for name in weights:
        if (first := names.setdefault(_unwrapped(name), name)) != name:
            raise ValueError(f"{path} holds a tensor twice, as {first!r} and as {name!r}: save one model's state dict.")
    return {plain: _in_native_order(weights[name]) for plain, name in names.items()}


def _cure(content: Mapping[Any, Any]) -> str:
    """What to do with a file that is not of the expected form, such as one of Lightning or timm."""
    within = [key for key, value in content.items() if isinstance(value, Mapping) and _are_tensors(value)]
    if not within:
        return "Save {'model': state_dict}."
    return f"Weights are under {' and '.join(map(repr, within))}: save {{'model': those}}, by the names of the model."


def _are_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(isinstance(x, Tensor | np.ndarray) for x in values.values())


def _unwrapped(name: str) -> str:
    """A name without what DistributedDataParallel, torch.compile and other wrappers put into it."""
    return _WRAPPERS.sub("", name).removeprefix("module.")


def _in_native_order(value: Tensor | np.ndarray) -> Tensor | np.ndarray:
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an empty dictionary" if not value else "another dictionary"
    return "nothing" if value is None else f"a {type(value).__name__}"
