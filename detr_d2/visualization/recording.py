"""Records with what a model's modules are called, by forward hooks: the model runs as always and is left as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..layers import MultiHeadAttention, MultiScaleDeformableAttention

ATTENTION = (MultiHeadAttention, MultiScaleDeformableAttention)
"""The attention modules whose weights can be computed from their inputs."""


@dataclass(frozen=True)
class Call:
    """One call of a module's `forward`.

    Args:
        module: that was called.
        arguments: what it was given, by the names of its parameters.
        output: what it returned.
    """

    module: nn.Module
    arguments: dict[str, Any]
    output: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def reads_itself(self) -> bool:
        """Whether tokens attend to each other, rather than to an encoded image."""
        return isinstance(self.module, MultiHeadAttention) and self["query"] is self["key"]


@contextmanager
def recorded_calls(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Inside, the calls of the modules are appended to the list, in their order; outside, no hook is left.

    Tensors are kept as they are, not copied, so that recording costs next to nothing.

    Args:
        modules: each at most once.
    """
    calls: list[Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        calls.append(Call(module=module, arguments=dict(bound.arguments), output=output))

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def attention_of_layer(transformer: nn.Module, part: str, layer: int | None) -> list[nn.Module]:
    """The attention modules of one layer.

    Args:
        transformer: with `encoder.layers` and `decoder.layers`, as every transformer of this package.
        part: "encoder" or "decoder".
        layer: counted from 1; None for the last one.

    Returns:
        Nothing when that part has no layers and none was asked for.

    Raises:
        ValueError: there is no such layer, or no attention in it that can be looked into.
    """
    layers = getattr(getattr(transformer, part, None), "layers", None)
    if layers is None:
        raise ValueError(
            f"MODEL.DETR.TRANSFORMER.NAME {type(transformer).__name__} has no {part}.layers, so its attention cannot "
            "be found; give a config with a transformer of detr_d2"
        )
    if layer is None and len(layers) == 0:
        return []
    if layer is not None and not 1 <= layer <= len(layers):
        raise ValueError(f"the {part} has {len(layers)} layers, so there is no layer {layer}; they count from 1")
    found: list[nn.Module] = [
        module for module in layers[-1 if layer is None else layer - 1].modules() if isinstance(module, ATTENTION)
    ]
    if not found:
        raise ValueError(
            f"the {part} layers of {type(transformer).__name__} hold no attention of detr_d2.layers, so it cannot be "
            "looked into; give a config with a transformer of detr_d2"
        )
    return found


def choose_head(x: Tensor, head: int | None, dim: int) -> Tensor:
    """One head of attention weights, or their mean over all heads.

    Args:
        x: weights.
        head: counted from 1; None for the mean.
        dim: of `x` that counts the heads.

    Returns:
        `x` without that dimension.

    Raises:
        ValueError: there is no such head.
    """
    if head is None:
        return x.mean(dim)
    check_head(x.shape[dim], head)
    return x.select(dim, head - 1)


def check_head(num_heads: int, head: int) -> None:
    """Raises ValueError if a head, counted from 1, does not exist."""
    if not 1 <= head <= num_heads:
        raise ValueError(f"the attention has {num_heads} heads, so there is no head {head}; they count from 1")
