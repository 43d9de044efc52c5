"""What the attention of a model reads, recomputed from what its modules are called with.

The calls are recorded by forward hooks: the model runs as always and is left as it was. The fused attention returns no
weights, so they are computed here, for the rows that somebody looks at only: those of all 3,400 tokens of a DC5 model
at COCO's size would take 370 MB a layer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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


def heads_shown(num_heads: int, head: int | None) -> list[int]:
    """Indices of the heads whose mean is shown: one, counted from 1, or with None all.

    Raises:
        ValueError: there is no such head.
    """
    if head is None:
        return list(range(num_heads))
    if not 1 <= head <= num_heads:
        raise ValueError(f"the attention has {num_heads} heads, so there is no head {head}; they count from 1")
    return [head - 1]


@torch.no_grad()
def attention_weights(call: Call, rows: Tensor) -> Tensor:
    """How much each of some queries reads from each key.

    Args:
        call: of a `MultiHeadAttention`.
        rows: (R,) indices of queries.

    Returns:
        (B, heads, R, S), float32 or wider; every row sums to 1 and is 0 at padded keys.

    Paper: Vaswani et al. 2017, Sec. 3.2.1.
    """
    module = call.module
    assert isinstance(module, MultiHeadAttention)
    width = module.in_proj_weight.shape[1]
    weight, bias = module.in_proj_weight.split(width), module.in_proj_bias.split(width)
    query = F.linear(call["query"][:, rows], weight[0], bias[0]).unflatten(-1, (module.num_heads, -1))
    key = F.linear(call["key"], weight[1], bias[1]).unflatten(-1, (module.num_heads, -1))
    scores = torch.einsum("brhd,bshd->bhrs", query, key) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    attend = call["attend"]
    if attend is not None:
        scores = scores.masked_fill(~(attend[..., rows, :] if attend.shape[-2] > 1 else attend), -math.inf)
    return scores.softmax(-1)


@torch.no_grad()
def sampling_points(call: Call, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The points that some queries sample.

    Args:
        call: of a `MultiScaleDeformableAttention`.
        rows: (R,) indices of queries.

    Returns:
        Their places (B, R, heads, levels, points, 2), (x, y) from 0 to 1 over the padded maps, and their weights
        (B, R, heads, levels, points); those of a head sum to 1.

    Paper: Zhu et al. 2021, Eq. 3 and appendix A.3.
    """
    module = call.module
    assert isinstance(module, MultiScaleDeformableAttention)
    query, reference = call["query"][:, rows], call["reference_points"][:, rows]  # (B, R, C), (B, R, levels, 2 or 4)
    return module.locations(query, reference, call["spatial_shapes"]), module.weights(query)
