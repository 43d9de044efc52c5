"""Opening a file of weights: what it is, is told by its content; nothing in it is run; weights end up under "model"."""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from ...files import other_kind
from .array_pickle import ArrayReader, finish
from .pickle_reader import BoundedFile
from .plain_data import DamagedError, NotDataError, plain, plain_tensor
from .torch_file import MAGIC_NUMBER, read_legacy, read_zip

_ZIP = b"PK\x03\x04"
_NO_CHECKPOINTS = {
    b"{": "JSON, not weights: give the file with the weights that belongs to it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x89HDF": "of HDF5: save the weights by torch.save or safetensors",
    b"\x93NUMPY": "a single array of numpy: save the weights by torch.save or safetensors",
}

# What torch.compile, FSDP and activation checkpointing name the module that they wrap, whichever part of a model it is.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# What files of this package say besides the weights -> its type, and what it is.
_FACTS: dict[str, tuple[Any, str]] = {
    "class_names": (list[str], "a list of names"),
    "category_ids": (list[int | float | str], "a list of numbers or names"),
    "num_things": (int, "a number"),
    "panoptic_layout": (str, "a name"),
}


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a local checkpoint: of `torch.save`, safetensors, or a `.pkl` of detectron2's zoo, whatever its name.

    Returns:
        The dictionary in the file: plain values, numpy arrays, and dense tensors on the CPU.

    Raises:
        ValueError: if the file holds anything but data, is damaged, or is not a dictionary.
        ModuleNotFoundError: if the file needs a package of the extra `hf`.
        FileNotFoundError: if there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The checkpoint {path} does not exist: check its path.")
    try:
        checkpoint = _reader(path)(path)
    except ModuleNotFoundError:
        raise
    except NotDataError as error:
        raise ValueError(
            f"The checkpoint {path} holds more than tensors and plain data ({_first_line(error)}); it is not read, "
            "because such a file can run code or take any memory. Use a file from a source that saves a state dict."
        ) from error
    except Exception as error:  # a damaged file can fail in any way, also by naming an impossible place in it
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"The checkpoint {path} cannot be read ({_first_line(error)}): the file is damaged, incomplete or not a "
            "checkpoint; download or save it again."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"The checkpoint {path} holds a {type(checkpoint).__name__}, expected a dictionary of tensors."
        )
    return checkpoint


def _reader(path: str) -> Callable[[str], Any]:
    """Which function reads a file, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if head.startswith(_ZIP):
        return read_zip
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors
    if not head.strip(b"\0 \t\r\n"):
        raise DamagedError("it is empty" if not head else "it begins with nothing but zeros or spaces")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    what = next((what for begin, what in _NO_CHECKPOINTS.items() if start.startswith(begin)), other_kind(start))
    if what:
        raise DamagedError(f"it is {what}")
    return read_legacy if MAGIC_NUMBER.to_bytes(10, "little") in head else _read_arrays


def _read_arrays(path: str) -> Any:
    with open(path, "rb") as file:
        stream = BoundedFile(file)
        return plain(ArrayReader(stream, stream.size).load(), finish)


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModuleNotFoundError(f'{path} needs the package safetensors: pip install "detr_d2[hf]".') from error
    size = os.path.getsize(path)
    return {name: plain_tensor(tensor, size) for name, tensor in load_file(path).items()}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ((lines or [type(error).__name__])[0])[:160].rstrip(".")


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
    for key, (kind, expected) in _FACTS.items():
        try:
            msgspec.convert(content.get(key), kind | None)
        except msgspec.ValidationError as error:  # noqa: PERF203  (four of them)
            found = _describe(content[key])
            raise ValueError(
                f"{path} is no checkpoint of this package: {key} is {found}, expected {expected}."
            ) from error


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
