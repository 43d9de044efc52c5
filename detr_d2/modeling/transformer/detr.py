"""The transformer of DETR.

Paper: Carion et al. 2020, End-to-End Object Detection with Transformers, Sec. 3.2 and appendix A.3.

In short: position encodings are added to queries and keys of every attention, never to values; the decoder starts from
zero content, so that the learned query embedding is all that tells one query from another; every decoder layer passes
through one shared LayerNorm before it is read.

Differs from the authors' code in form only: batch first, fused attention, and the query embedding lives here because
it is this paper's way of making queries. Parameter names below `encoder` and `decoder` are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...layers.attention import MultiHeadAttention
from ..interface import TRANSFORMER_REGISTRY, TransformerInputs, TransformerOutput

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "prelu": nn.PReLU}


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention, feed-forward network, and a norm for each.

    Args:
        hidden_dim: C.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward network.
        dropout: of attention weights, residuals and the feed-forward network.
        activation: of `ACTIVATIONS`.
        pre_norm: normalise the input of a sub-layer instead of the sum after it.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        activation: str = "relu",
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {sorted(ACTIVATIONS)}.")
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(embed_dim=hidden_dim, num_heads=num_heads, dropout=dropout)
        self.linear1 = nn.Linear(hidden_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def attend_self(self, x: Tensor, position: Tensor, attend: Tensor | None = None) -> Tensor:
        """Self-attention of tokens x (B, S, C); positions count for queries and keys, not for values."""
        query = x + position
        return self.self_attn(query, query, x, attend)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Maps (B, S, C) token by token."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class EncoderLayer(Layer):
    """Self-attention and feed-forward network (paper, Fig. 10 left)."""

    def forward(self, x: Tensor, position: Tensor, attend: Tensor | None) -> Tensor:
        """Encodes tokens x (B, S, C) at `position` (B or 1, S, C); `attend` as of `attention`."""
        if self.pre_norm:
            x = x + self.dropout(self.attend_self(self.norm1(x), position, attend))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attend_self(x, position, attend)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(Layer):
    """Self-attention among queries, cross-attention to the image, feed-forward network (paper, Fig. 10 right).

    Args: see `Layer`.
    """

    def __init__(self, *, hidden_dim: int, num_heads: int, dropout: float, **layer: Any) -> None:
        super().__init__(hidden_dim=hidden_dim, num_heads=num_heads, dropout=dropout, **layer)
        self.multihead_attn = MultiHeadAttention(embed_dim=hidden_dim, num_heads=num_heads, dropout=dropout)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(
        self, x: Tensor, query_position: Tensor, memory: Tensor, memory_key: Tensor, attend: Tensor | None
    ) -> Tensor:
        """Updates the queries.

        Args:
            x: (B, Q, C) content.
            query_position: (B, Q, C).
            memory: (B, S, C), the values of the cross-attention.
            memory_key: (B, S, C), memory with its position added.
            attend: True at keys of the image to read, see `attention`.

        Returns:
            (B, Q, C).
        """

        def attend_image(x: Tensor) -> Tensor:
            return self.multihead_attn(x + query_position, memory_key, memory, attend)

        if self.pre_norm:
            x = x + self.dropout(self.attend_self(self.norm1(x), query_position))
            x = x + self.dropout(attend_image(self.norm2(x)))
            return x + self.dropout(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout(self.attend_self(x, query_position)))
        x = self.norm2(x + self.dropout(attend_image(x)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class Stack(nn.Module):
    """Layers that run one after the other.

    Args:
        layers: in order.
        norm: of outputs, or None.
        recompute: keep nothing that is inside a layer for the backward pass of training, which runs it again: less
            memory for more time, and the same results, dropout included (Chen et al. 2016, Training Deep Nets with
            Sublinear Memory Cost).
    """

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.recompute = recompute

    def run(self, layer: nn.Module, *inputs: Any) -> Tensor:
        """The output of one layer."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class Encoder(Stack):
    """A stack of encoder layers; only the pre-norm variant ends in a LayerNorm."""

    def forward(self, x: Tensor, position: Tensor, attend: Tensor | None) -> Tensor:
        """Encodes (B, S, C) tokens."""
        for layer in self.layers:
            x = self.run(layer, x, position, attend)
        return x if self.norm is None else self.norm(x)


class Decoder(Stack):
    """A stack of decoder layers whose outputs all pass through one LayerNorm, which the next layer does not read."""

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        attend: Tensor | None,
        all_layers: bool,
    ) -> Tensor:
        """Returns (L, B, Q, C) for all layers, or (1, B, Q, C) for the last one."""
        memory_key = memory + position
        outputs = []
        for layer in self.layers:
            x = self.run(layer, x, query_position, memory, memory_key, attend)
            outputs.append(x)
        assert self.norm is not None
        return self.norm(torch.stack(outputs if all_layers else outputs[-1:]))


@TRANSFORMER_REGISTRY.register()
class DETRTransformer(nn.Module):
    """Encoder over the cells of one feature map, decoder over learned object queries.

    Args:
        hidden_dim: C.
        num_queries: Q.
        num_encoder_layers, num_decoder_layers: depth; the encoder may be empty.
        pre_norm, **layer: see `Layer`.
        recompute: see `Stack`.
    """

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int,
        num_queries: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        pre_norm: bool = False,
        recompute: bool = False,
        **layer: Any,
    ) -> None:
        super().__init__()
        layer.update(hidden_dim=hidden_dim, pre_norm=pre_norm)
        encoder_norm = nn.LayerNorm(hidden_dim) if pre_norm else None
        self.encoder = Encoder((EncoderLayer(**layer) for _ in range(num_encoder_layers)), encoder_norm, recompute)
        decoder_layers = (DecoderLayer(**layer) for _ in range(num_decoder_layers))
        self.decoder = Decoder(decoder_layers, nn.LayerNorm(hidden_dim), recompute)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # After the loop above: the authors keep it outside the transformer, where it stays N(0, 1).
        self.query_embed = nn.Embedding(num_queries, hidden_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        transformer = cfg.MODEL.DETR.TRANSFORMER
        return {
            "hidden_dim": transformer.HIDDEN_DIM,
            "num_queries": cfg.MODEL.DETR.NUM_QUERIES,
            "num_heads": transformer.NUM_HEADS,
            "feedforward_dim": transformer.FEEDFORWARD_DIM,
            "num_encoder_layers": transformer.NUM_ENCODER_LAYERS,
            "num_decoder_layers": transformer.NUM_DECODER_LAYERS,
            "dropout": transformer.DROPOUT,
            "activation": transformer.ACTIVATION,
            "pre_norm": transformer.DETR.PRE_NORM,
            "recompute": transformer.RECOMPUTE,
        }

    def forward(self, inputs: TransformerInputs) -> TransformerOutput:
        """Turns one feature map into object queries.

        Raises:
            ValueError: if more than one feature map is given.
        """
        if len(inputs.maps) != 1:
            raise ValueError(
                f"DETRTransformer reads one feature map, got {len(inputs.maps)}: let MODEL.DETR.IN_FEATURES name one."
            )
        tokens = inputs.maps[0].flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, S, C)
        position = inputs.positions[0].to(tokens.dtype).flatten(2).transpose(1, 2)
        mask = inputs.padding_masks[0]
        attend = None if mask is None else ~mask.flatten(1)[:, None, None]  # (B, 1, 1, S): by all heads and queries
        memory = self.encoder(tokens, position, attend)
        query_position = self.query_embed.weight.expand(tokens.shape[0], -1, -1)  # (Q, C) -> (B, Q, C)
        content = torch.zeros_like(query_position)
        hidden_states = self.decoder(content, query_position, memory, position, attend, inputs.all_layers)
        return TransformerOutput(hidden_states=hidden_states, memory=memory)
