"""DETR in the authors' layout (left), in that of this package and in that of their detectron2 wrapper (right)."""

from __future__ import annotations

from .resnet import resnet_rules
from .rules import Drop, Rename, Rule

BODY = "backbone.0.body."


def same_names(*templates: str, optional: bool = False, prefix: str = "") -> list[Rule]:
    return [Rename(template, f"{prefix}{template}", optional=optional) for template in templates]


def _transformer(prefix: str = "") -> list[Rule]:
    """Encoder and decoder under the authors' own names. The encoder may be empty; its last norm is pre-norm's."""
    encoder, decoder = "transformer.encoder.layers.{L}", "transformer.decoder.layers.{L}"
    stacked = ("in_proj_weight", "in_proj_bias", "out_proj.{p}")
    parts = (*(f"self_attn.{x}" for x in stacked), "linear{J}.{p}", "norm{J}.{p}")
    cross = [f"multihead_attn.{x}" for x in stacked]
    return [
        *same_names(*(f"{encoder}.{part}" for part in parts), optional=True, prefix=prefix),
        *same_names(*(f"{decoder}.{part}" for part in (*parts, *cross)), prefix=prefix),
        *same_names("transformer.encoder.norm.{p}", optional=True, prefix=prefix),
        *same_names("transformer.decoder.norm.{p}", prefix=prefix),
    ]


DETECTRON2: list[Rule] = [
    *resnet_rules(BODY, "backbone."),
    *_transformer(),
    Rename("backbone.1.{e}.weight", "position_encoding.{e}.weight", optional=True),  # learned rows and columns
    Rename("input_proj.{p}", "neck.input_proj.{p}"),
    Rename("query_embed.weight", "transformer.query_embed.weight"),
    Rename("class_embed.{p}", "head.class_embed.{p}"),
    Rename("bbox_embed.layers.{N}.{p}", "head.bbox_embed.layers.{N}.{p}"),
]

# `detr/d2`: the authors' names behind "detr.", around detectron2's backbone. Its files also hold weights of the loss.
WRAPPER: list[Rule] = [
    *resnet_rules(BODY, "detr.backbone.0.backbone."),
    *_transformer("detr."),
    *same_names("input_proj.{p}", "query_embed.weight", "class_embed.{p}", "bbox_embed.layers.{N}.{p}", prefix="detr."),
    Drop("criterion.empty_weight", on_right=True),
]
