"""The mask head: where each query attends in the image, refined to a mask by a small convolutional pyramid.

Paper: Carion et al. 2020, Sec. 4.4 and Fig. 8. Parameter names are the authors', `bbox_attention` inside the head.

Differs from the authors' code in form only: any choice of queries instead of all of them, as queries do not depend on
each other here; and what the first convolution makes of the image, alike for all queries of an image, is computed once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ...layers.fast.calls import does_only, forwards_of
from ..interface import Predictions, TransformerOutput, build_part
from .attention_maps import AttentionMaps

MASK_HEAD_REGISTRY = Registry("MASK_HEAD")
MASK_HEAD_REGISTRY.__doc__ = """
Mask heads: `MaskInputs` and the queries to segment in, mask logits out. A registered class is a `MaskHead` and called
with `cfg` and the backbone's shapes by name; see `DETRMaskHead`. Denoising queries are none of its.
"""

_CONVOLUTION = forwards_of(nn.Conv2d)
NUM_FEATURES = 3  # as many maps as the pyramid has adapters
MAX_GROUPS = 8  # of every GroupNorm


def build_mask_head(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> MaskHead | None:
    """Builds `MODEL.DETR.MASK_HEAD.NAME` from the registry, or nothing without `MODEL.MASK_ON`.

    Raises:
        ValueError: if the head does not fit the model, or panoptic segmentation is asked for with a sigmoid per class.
    """
    if cfg.MODEL.DETR.PANOPTIC.ENABLED and cfg.MODEL.DETR.CRITERION.CLASSIFICATION != "softmax":
        raise ValueError(
            'MODEL.DETR.PANOPTIC.ENABLED needs a softmax with "no object", but MODEL.DETR.CRITERION.CLASSIFICATION '
            f"is {cfg.MODEL.DETR.CRITERION.CLASSIFICATION!r}."
        )
    if not cfg.MODEL.MASK_ON:
        return None
    head = MASK_HEAD_REGISTRY.get(cfg.MODEL.DETR.MASK_HEAD.NAME)
    return build_part("MODEL.DETR.MASK_HEAD", head, cfg, shapes)


@dataclass
class MaskInputs:
    """What a mask head reads of B images.

    Attributes:
        features: maps of the backbone (B, C_i, H_i, W_i), finest first.
        source: (B, C, H, W), what the transformer read.
        memory: (B, H W, C), the encoder's output.
        padding_mask: (B, H, W), True on padding, or None when nothing is padded.
        hidden_states: (B, Q, C), the last decoder layer.
        padded_size: height and width of the padded images.
    """

    features: list[Tensor]
    source: Tensor
    memory: Tensor
    padding_mask: Tensor | None
    hidden_states: Tensor
    padded_size: tuple[int, int]

    def of_image(self, index: int) -> MaskInputs:
        """The same of one image, as a batch of one."""
        one = slice(index, index + 1)
        return replace(
            self,
            features=[x[one] for x in self.features],
            source=self.source[one],
            memory=self.memory[one],
            padding_mask=None if self.padding_mask is None else self.padding_mask[one],
            hidden_states=self.hidden_states[one],
        )


class MaskHead(nn.Module, ABC):
    """What the model needs of a mask head.

    Args:
        in_features: names of the maps of the backbone that it reads, finest first.
        chunk_size: queries that `segment` puts through at once.
    """

    def __init__(self, *, in_features: Sequence[str], chunk_size: int) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}, expected at least 1.")
        self.in_features = tuple(in_features)
        self.chunk_size = chunk_size

    def masks_of(
        self,
        predictions: Predictions,
        output: TransformerOutput,
        features: Mapping[str, Tensor],
        source: Tensor,
        padding_mask: Tensor | None,
        padded_size: tuple[int, int],
    ) -> Predictions:
        """The predictions together with their masks, computed when they are asked for.

        Args:
            predictions: of a batch, without denoising queries, which come first in the output.
            output: of the transformer.
            features: maps of the backbone by name.
            source, padding_mask, padded_size: see `MaskInputs`.
        """
        inputs = MaskInputs(
            features=[features[name] for name in self.in_features],
            source=source,
            memory=output.memory,
            padding_mask=padding_mask,
            hidden_states=output.hidden_states[-1][:, -predictions.logits.shape[2] :],
            padded_size=padded_size,
        )
        return predictions._replace(masks=QueryMasks(self, inputs))

    @abstractmethod
    def forward(self, inputs: MaskInputs, queries: Sequence[Tensor]) -> Tensor:
        """Computes the masks of some queries.

        Args:
            inputs: of B images.
            queries: (N_b,) indices of the queries of each image; none at all is allowed.

        Returns:
            Logits (N, h, w) that cover the padded images, the queries of the first image first.
        """

    def segment(self, inputs: MaskInputs, image: int, queries: Tensor) -> Tensor:
        """Mask logits (N, h, w) of queries (N,) of one image, `chunk_size` at a time to bound memory."""
        one = inputs.of_image(image)
        return torch.cat([self(one, [chunk]) for chunk in queries.split(self.chunk_size)])


@dataclass
class QueryMasks:
    """The masks of a batch, computed when they are asked for; see `Predictions.masks`.

    Attributes:
        head: that computes them.
        inputs: what it reads.
    """

    head: MaskHead
    inputs: MaskInputs

    def __call__(self, queries: Sequence[Tensor]) -> Tensor:
        """Mask logits (N, h, w) of some queries (N_b,) of each image."""
        return self.head(self.inputs, queries)


@MASK_HEAD_REGISTRY.register()
class DETRMaskHead(MaskHead):
    """Attention maps, then five convolutions that go from the transformer's map to the finest map of the backbone.

    Between them the maps of the backbone are added, coarsest first, each brought to the right width by an adapter. The
    coarsest may be as coarse as the transformer's own map (DC5, or a transformer on res4): then nothing is upsampled.

    Args:
        hidden_dim: C, a multiple of 16.
        num_heads: attention maps per query.
        in_features: names of three maps of the backbone, finest first.
        in_channels: their channels.
        chunk_size: queries that `segment` puts through at once.
    """

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int,
        num_heads: int,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        chunk_size: int = 16,
    ) -> None:
        super().__init__(in_features=in_features, chunk_size=chunk_size)
        if hidden_dim % 16:
            raise ValueError(f"hidden_dim is {hidden_dim}, but the mask head needs a multiple of 16.")
        self.hidden_dim = hidden_dim
        self.bbox_attention = AttentionMaps(hidden_dim=hidden_dim, num_heads=num_heads)
        first = hidden_dim + num_heads
        widths = [first, first, *(hidden_dim // 2**i for i in range(1, 5))]
        self.lay1, self.lay2, self.lay3, self.lay4, self.lay5 = (
            nn.Conv2d(n_in, n_out, kernel_size=3, padding=1) for n_in, n_out in pairwise(widths)
        )
        self.gn1, self.gn2, self.gn3, self.gn4, self.gn5 = (
            nn.GroupNorm(math.gcd(MAX_GROUPS, width), width) for width in widths[1:]
        )
        self.out_lay = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)
        self.adapter1, self.adapter2, self.adapter3 = (
            nn.Conv2d(n_in, n_out, kernel_size=1) for n_in, n_out in zip(in_channels[::-1], widths[2:5], strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.get_parameter("bias"))

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        _check(cfg, shapes)
        head, transformer = cfg.MODEL.DETR.MASK_HEAD, cfg.MODEL.DETR.TRANSFORMER
        return {
            "hidden_dim": transformer.HIDDEN_DIM,
            "num_heads": transformer.NUM_HEADS,
            "in_features": head.IN_FEATURES,
            "in_channels": [shapes[name].channels for name in head.IN_FEATURES],
            "chunk_size": head.CHUNK_SIZE,
        }

    def forward(self, inputs: MaskInputs, queries: Sequence[Tensor]) -> Tensor:
        """See `MaskHead.forward`; the logits have the size of the finest map."""
        hidden = [x[index] for x, index in zip(inputs.hidden_states, queries, strict=True)]
        tokens_mask = None if inputs.padding_mask is None else inputs.padding_mask.flatten(1)
        maps = self.bbox_attention(hidden, inputs.memory, tokens_mask).unflatten(-1, inputs.source.shape[-2:])
        image = _image_of_queries(queries, maps.device)
        x = F.relu(self.gn1(self._first_layer(inputs.source, maps, image)))
        x = F.relu(self.gn2(self.lay2(x)))
        stages = [
            (self.adapter1, self.lay3, self.gn3),
            (self.adapter2, self.lay4, self.gn4),
            (self.adapter3, self.lay5, self.gn5),
        ]
        for (adapter, layer, norm), feature in zip(stages, reversed(inputs.features), strict=True):
            x = F.interpolate(x, size=feature.shape[-2:], mode="nearest") + _spread(adapter(feature), image)
            x = F.relu(norm(layer(x)))
        return self.out_lay(x)[:, 0]

    def _first_layer(self, source: Tensor, maps: Tensor, image: Tensor) -> Tensor:
        """`lay1` of source (B, C, H, W) and attention maps (N, n, H, W) stacked, but the source is convolved once."""
        if not does_only(self.lay1, _CONVOLUTION):
            return self.lay1(torch.cat([_spread(source, image), maps.to(source.dtype)], dim=1))
        of_source, of_maps = self.lay1.weight.split([self.hidden_dim, maps.shape[1]], dim=1)
        shared = F.conv2d(source, of_source, self.lay1.bias, padding=1)
        return F.conv2d(maps.to(source.dtype), of_maps, padding=1) + _spread(shared, image)


def _image_of_queries(queries: Sequence[Tensor], device: torch.device) -> Tensor:
    """(N,), the image of each query."""
    return torch.cat([torch.full((len(x),), i, device=device) for i, x in enumerate(queries)])


def _spread(x: Tensor, image: Tensor) -> Tensor:
    """What each image has (B, C, H, W), for each query (N, C, H, W)."""
    return x if len(x) == 1 else x.index_select(0, image)


def _check(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> None:
    """Raises `ValueError` for a config whose model this head cannot segment with."""
    levels = cfg.MODEL.DETR.NUM_FEATURE_LEVELS
    if levels != 1:
        raise ValueError(
            f"MODEL.MASK_ON is True, but MODEL.DETR.NUM_FEATURE_LEVELS is {levels}: the mask head reads the memory of "
            "one level, so set MASK_ON to False or choose a model with one feature level."
        )
    names = list(cfg.MODEL.DETR.MASK_HEAD.IN_FEATURES)
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.DETR.MASK_HEAD.IN_FEATURES names {missing}, which the backbone does not output; it outputs "
            f"{sorted(shapes)}: add them to MODEL.RESNETS.OUT_FEATURES (or that of the backbone in use)."
        )
    strides = [shapes[name].stride for name in [*names, cfg.MODEL.DETR.IN_FEATURES[0]]]
    if len(names) != NUM_FEATURES or strides != sorted(strides):
        raise ValueError(
            f"MODEL.DETR.MASK_HEAD.IN_FEATURES is {names}, expected the names of {NUM_FEATURES} maps, finest first, "
            f"none coarser than {cfg.MODEL.DETR.IN_FEATURES[0]}, which the transformer reads."
        )
