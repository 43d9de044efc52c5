"""What may come out of a checkpoint: plain values, arrays, and dense tensors on the CPU."""

from __future__ import annotations

import argparse
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_DEEPEST = 50
_VALUES = (str, bytes, bytearray, int, float, complex, bool, type(None))
_OF_TORCH = (torch.dtype, torch.device, torch.layout)
_DTYPES = frozenset(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
)
_UNFINISHED = object()
_KEYS = (str, bytes, int, float, bool, type(None))


class NotDataError(Exception):
    """A file asks for more than plain data; the message says for what, as the end of a sentence."""


class DamagedError(Exception):
    """A file is no pickle, or not a whole one; the message says why."""


def require(holds: bool) -> None:
    """Raises DamagedError if the operations of a file do not fit together."""
    if not holds:
        raise DamagedError("its operations do not fit together")


def check_key(key: Any) -> Any:
    """Returns a key of a dictionary, or an element of a set, if its hash takes no longer than it is long."""
    flat = type(key) is tuple and len(key) <= 8 and all(type(x) in _KEYS for x in key)
    if not flat and type(key) not in _KEYS:
        raise NotDataError(f"it has a {type(key).__name__} as a key")
    return key


def set_items(pairs: dict[Any, Any], items: list[Any]) -> None:
    """Adds key, value, key, value, ... to a dictionary."""
    require(len(items) % 2 == 0)
    pairs.update(zip(map(check_key, items[::2]), items[1::2], strict=True))


def plain(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Copies containers; attributes that a file has set on them stay behind.

    Args:
        value: what a file holds.
        leaf: returns what stands for a value that is no container and no plain value of Python.

    Raises:
        NotDataError: it is nested too deeply, contains itself, or `leaf` refuses a part of it.
    """
    return _plain(value, leaf, {}, 0)


def _plain(value: Any, leaf: Callable[[Any], Any], done: dict[int, Any], depth: int) -> Any:
    if type(value) in _VALUES:
        return value
    if id(value) in done:  # shared: without this, a file could ask for exponentially many copies
        if done[id(value)] is _UNFINISHED:
            raise NotDataError("it has a value that contains itself")
        return done[id(value)]
    if depth > _DEEPEST:
        raise NotDataError(f"its values are nested more than {_DEEPEST} deep")
    done[id(value)] = _UNFINISHED
    done[id(value)] = made = _rebuilt(value, leaf, lambda item: _plain(item, leaf, done, depth + 1))
    return made


def _rebuilt(value: Any, leaf: Callable[[Any], Any], each: Callable[[Any], Any]) -> Any:
    kind = type(value)
    if kind in (dict, OrderedDict):
        return {each(key): each(item) for key, item in dict.items(value)}
    if kind is Counter:  # of the milestones of a learning rate
        return Counter({each(key): each(item) for key, item in dict.items(value)})
    if kind is argparse.Namespace:  # of the authors' command line
        return argparse.Namespace(**{str(key): each(item) for key, item in vars(value).items()})
    if kind in (list, tuple, set, frozenset, torch.Size):
        items: Iterator[Any] = (each(item) for item in value)
        return kind(items)
    return leaf(value)


def plain_tensor(value: Any, most_bytes: int) -> Any:
    """A dense tensor of a plain type on the CPU, without gradient or hooks; dtypes and devices as they are.

    Args:
        value: no container and no plain value of Python.
        most_bytes: the size of the file: an expanded tensor may stand for more than that.

    Raises:
        NotDataError: it is anything else.
    """
    if type(value) in _OF_TORCH:
        return value
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise NotDataError(f"it has a {type(value).__name__}")
    tensor = Tensor.detach(value)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
        kind = "sparse" if tensor.layout != torch.strided else str(tensor.dtype).removeprefix("torch.")
        raise NotDataError(f"it has a {kind} tensor on the device {tensor.device}")
    if tensor.numel() * tensor.element_size() > most_bytes:
        raise NotDataError(f"it has a tensor of shape {tuple(tensor.shape)} that takes more memory than the file")
    return tensor
