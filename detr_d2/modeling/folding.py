"""Batch norms folded into the convolutions before them, kept until a weight changes.

A batch norm with fixed statistics is an affine map of each channel: scaling the rows of the convolution's weight gives
the same as scaling its output, and is exact for gradients too. The map is then neither multiplied nor kept for the
backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from detectron2.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import Tensor, nn

from ..layers.fused_convolution import Convolution

_BATCH_NORMS = (BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


def is_foldable(convolution: Any) -> bool:
    """Whether `folded` stands for all that a call of the module would do now: its class, its norm and no hooks."""
    if type(convolution) is not Conv2d or convolution.activation is not None or has_hooks(convolution):
        return False
    norm = convolution.norm
    if norm is None:
        return True
    if has_hooks(norm):
        return False
    if type(norm) is FrozenBatchNorm2d:
        return True
    return type(norm) in _BATCH_NORMS and not norm.training and norm.running_mean is not None


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to know when the module is called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def folded(convolution: Any) -> Convolution:
    """The convolution with its batch norm in it, differentiable by the parameters of both."""
    bias, scale = convolution.bias, None
    if convolution.norm is not None:
        dtype = torch.promote_types(convolution.weight.dtype, torch.float32)
        bias, scale = _shift_and_scale(bias, convolution.norm, dtype)
    geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    result = Convolution(convolution.weight, bias, *geometry, scale)
    return result.scaled(result.weight.dtype) if scale is not None and scale.requires_grad else result


def _shift_and_scale(bias: Tensor | None, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    shift = -mean if bias is None else bias.to(dtype) - mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(dtype)
    return shift, scale


class _Entry(NamedTuple):
    sources: tuple[Tensor, ...]
    aliases: tuple[Tensor, ...]  # keep the storages of the sources, so that no new one gets the same address
    state: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    result: Convolution


class FoldedConvolutions:
    """Folded convolutions, computed once and again when a tensor behind them was replaced or written to.

    Writes through `.data` leave no trace: call `clear()` after them. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[nn.Module, _Entry] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def get(self, convolution: nn.Module, dtype: torch.dtype) -> Convolution:
        """The folded convolution in a type; without gradients it is kept, in channels-last."""
        sources = _sources(convolution)
        if torch.is_grad_enabled() and any(x.requires_grad for x in sources):
            return _with_bias_in(dtype, folded(convolution))
        if any(x.is_inference() for x in sources):  # these do not count writes
            return folded(convolution).scaled(dtype)
        entry = self._entries.get(convolution)
        if entry is None or entry.dtype != dtype or not _is_current(entry, sources):
            entry = _make(convolution, sources, dtype)
            self._entries[convolution] = entry
        return entry.result

    def __deepcopy__(self, memo: dict[int, object]) -> FoldedConvolutions:
        return FoldedConvolutions()

    def __reduce__(self) -> tuple[type[FoldedConvolutions], tuple[()]]:
        return FoldedConvolutions, ()


def _sources(convolution: Any) -> tuple[Tensor, ...]:
    norm = convolution.norm
    tensors: tuple[Tensor | None, ...] = (convolution.weight, convolution.bias)
    if norm is not None:
        tensors += (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return tuple(x for x in tensors if x is not None)


def _state(sources: tuple[Tensor, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((x._version, x.data_ptr()) for x in sources)


def _is_current(entry: _Entry, sources: tuple[Tensor, ...]) -> bool:
    same = len(entry.sources) == len(sources) and all(x is y for x, y in zip(entry.sources, sources, strict=True))
    return same and entry.state == _state(sources)


def _make(convolution: nn.Module, sources: tuple[Tensor, ...], dtype: torch.dtype) -> _Entry:
    # An inference tensor could not take part in a later training step, where frozen layers use these weights.
    with torch.inference_mode(False), torch.no_grad():
        result = folded(convolution).scaled(dtype)
        result = result._replace(weight=result.weight.contiguous(memory_format=torch.channels_last))
        aliases = tuple(x.detach() for x in sources)
    return _Entry(sources, aliases, _state(sources), dtype, result)


def _with_bias_in(dtype: torch.dtype, convolution: Convolution) -> Convolution:
    """The weight is cast where it is used, so that no copy of it is kept."""
    return convolution if convolution.bias is None else convolution._replace(bias=convolution.bias.to(dtype))
