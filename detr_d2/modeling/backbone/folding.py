"""Batch norms folded into the convolutions before them, kept until a weight changes.

A batch norm with fixed statistics is an affine map of each channel: scaling the rows of the convolution's weight gives
the same as scaling its output, and the map need not be multiplied.

A folded weight must never outlive what it was made of; `FoldedConvolutions` says how that is seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from detectron2.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ...layers.fast.calls import does_only, forwards_of
from ...layers.fast.convolution import Convolution

_PLAIN = (Tensor, nn.Parameter)
_CONVOLUTION = forwards_of(Conv2d)
_FROZEN_NORM = forwards_of(FrozenBatchNorm2d)
_BATCH_NORMS = forwards_of(BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


def is_foldable(convolution: Any) -> bool:
    """Whether `folded` stands for all that a call of the module would do now."""
    if not does_only(convolution, _CONVOLUTION) or convolution.activation is not None:
        return False
    norm = convolution.norm
    if norm is None or does_only(norm, _FROZEN_NORM):
        return True
    return does_only(norm, _BATCH_NORMS) and not norm.training and norm.running_mean is not None


@torch.no_grad()
def folded(convolution: Any, dtype: torch.dtype) -> Convolution:
    """The convolution with its batch norm in it, in a type; without gradients."""
    weight, bias, norm = convolution.weight, convolution.bias, convolution.norm
    if norm is not None:
        exact = torch.promote_types(weight.dtype, torch.float32)
        scale = (norm.running_var.to(exact) + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.to(exact)
        shift = -norm.running_mean.to(exact) if bias is None else bias.to(exact) - norm.running_mean.to(exact)
        weight, bias = weight * scale[:, None, None, None], shift * scale
        if norm.bias is not None:
            bias = bias + norm.bias.to(exact)
    geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    return Convolution(weight.to(dtype), None if bias is None else bias.to(dtype), *geometry)


class FoldedConvolutions:
    """Folded convolutions, kept as long as they are those of the weights.

    * What is trained is not kept while the module is in training mode.
    * On a CPU the values themselves are compared, by a checksum of every row of a weight: a write is seen however it
      was done.
    * Elsewhere a forward would have to wait for that. What is seen there is the trace of a write: a tensor that was
      replaced or whose version has changed, and the step of any optimizer (fused ones leave no version). Writes through
      `.data` and collectives into a weight leave none: call `clear()` after them.

    Call `drop_stale` before every use, once for all. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[nn.Module, _Entry] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def drop_stale(self) -> None:
        """Forgets everything if anything was written to, replaced or set otherwise."""
        if not self._is_current():
            self.clear()

    @torch.no_grad()
    def _is_current(self) -> bool:
        now: list[Tensor] = []
        kept: list[Tensor] = []
        for convolution, entry in list(self._entries.items()):
            sources = _sources(convolution)
            if entry.settings != _settings(convolution, sources):
                return False
            if isinstance(entry.evidence, Tensor):
                now += _checksums(sources)
                kept.append(entry.evidence)
            elif not entry.evidence.leads_to(sources):
                return False
        if not now:
            return True
        numbers = torch.cat(now)
        return type(numbers) is Tensor and torch.equal(numbers, torch.cat(kept))  # not those of a fake tensor

    def get(self, convolution: nn.Module, dtype: torch.dtype) -> Convolution:
        """The folded convolution in a type; what is kept is in channels-last."""
        sources = _sources(convolution)
        can_be_read = _can_be_read(sources)
        is_traceless = not can_be_read and any(x.is_inference() for x in sources)
        if is_traceless or (convolution.training and any(x.requires_grad for x in sources)):
            return folded(convolution, dtype)
        entry = self._entries.get(convolution)
        if entry is None or entry.dtype != dtype:
            result = _fold_to_keep(convolution, dtype)
            if type(result.weight) not in _PLAIN:  # fake tensors, say, which must not be met outside their mode
                return result
            evidence = torch.cat(_checksums(sources)).detach() if can_be_read else _Trace(sources)
            entry = _Entry(evidence, _settings(convolution, sources), dtype, result)
            self._entries[convolution] = entry
        return entry.result

    def __deepcopy__(self, memo: dict[int, object]) -> FoldedConvolutions:
        return FoldedConvolutions()

    def __reduce__(self) -> tuple[type[FoldedConvolutions], tuple[()]]:
        return FoldedConvolutions, ()


class _Entry(NamedTuple):
    evidence: Tensor | _Trace  # checksums where the sources can be read
    settings: tuple[Any, ...]
    dtype: torch.dtype
    result: Convolution


def _checksums(sources: tuple[Tensor, ...]) -> list[Tensor]:
    """Numbers that change when those in the sources do: one for each row of the weight, the others as they are."""
    weight, *others = sources
    if weight.dtype not in (torch.float32, torch.float64):
        weight = weight.float()  # a sum of short numbers would round small changes away
    if weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)  # the order in memory, so that nothing is copied
    rows = weight.flatten(1)
    return [rows.mv(_factors(rows.shape[1], rows.dtype)), *others]


# A factor for each number of a row, all different, so that a sum of products sees numbers that change places.
_FACTORS = torch.rand(2**15, generator=torch.Generator().manual_seed(0), device="cpu") + 0.5


def _factors(count: int, dtype: torch.dtype) -> Tensor:
    longer = _FACTORS if count <= len(_FACTORS) else _FACTORS.repeat(count // len(_FACTORS) + 1)
    return longer[:count].to(dtype)


class _Trace:
    """What a write to tensors leaves behind without reading them."""

    def __init__(self, sources: tuple[Tensor, ...]) -> None:
        self._sources = sources
        self._aliases = tuple(x.detach() for x in sources)  # keep the storages, so that no other gets the same address
        self._state = _state(sources)

    def leads_to(self, sources: tuple[Tensor, ...]) -> bool:
        """Whether the tensors are the same and nobody has written to them."""
        if len(sources) != len(self._sources) or any(x is not y for x, y in zip(sources, self._sources, strict=True)):
            return False
        return self._state == _state(sources)


def _state(sources: tuple[Tensor, ...]) -> tuple[Any, ...]:
    steps = _OPTIMIZER_STEPS.count if any(x.requires_grad for x in sources) else None
    return (steps, *((x._version, x.data_ptr()) for x in sources))


class _StepCounter:
    """Counts the steps of all optimizers of this process."""

    def __init__(self) -> None:
        self.count = 0
        register_optimizer_step_post_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


_OPTIMIZER_STEPS = _StepCounter()


def _sources(convolution: Any) -> tuple[Tensor, ...]:
    """The numbers in a convolution and its norm, whatever that is by now; the weight first."""
    norm = convolution.norm
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = (convolution.weight, convolution.bias, *(getattr(norm, name, None) for name in names))
    return tuple(x for x in tensors if x is not None)


def _can_be_read(sources: tuple[Tensor, ...]) -> bool:
    """Whether nothing has to be waited for; tensors of other classes may stand for numbers that are not here."""
    return all(x.is_cpu and type(x) in _PLAIN for x in sources)


def _settings(convolution: Any, sources: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """What the result depends on besides the numbers in the sources, and how those can be compared."""
    geometry = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    return (*geometry, getattr(convolution.norm, "eps", None), _can_be_read(sources), *(x.dtype for x in sources))


def _fold_to_keep(convolution: nn.Module, dtype: torch.dtype) -> Convolution:
    with torch.inference_mode(False):  # an inference tensor could not take part in a later training step
        result = folded(convolution, dtype)
        return result._replace(weight=result.weight.contiguous(memory_format=torch.channels_last))
