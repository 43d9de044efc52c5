"""DETR in the authors' layout (left) and in that of Hugging Face `transformers` (right)."""

from __future__ import annotations

from collections.abc import Mapping

from .official import BODY
from .resnet import native_resnet_rules, timm_resnet_rules
from .rules import Rename, Rule, Stack

BACKBONE = "model.backbone.conv_encoder.model."


def stacked_attention(left: str, right: str, *, optional: bool) -> list[Rule]:
    """One stacked projection on the left, three on the right."""
    projections = [f"{right}.{x}_proj" for x in "qkv"]
    return [
        Stack(f"{left}.in_proj_weight", tuple(f"{x}.weight" for x in projections), optional=optional),
        Stack(f"{left}.in_proj_bias", tuple(f"{x}.bias" for x in projections), optional=optional),
        Rename(f"{left}.out_proj.{{p}}", f"{right}.out_proj.{{p}}", optional=optional),
    ]


FEEDFORWARD = {"linear1": "fc1", "linear2": "fc2"}


def layer_rules(left: str, right: str, names: Mapping[str, str], *, optional: bool = False) -> list[Rule]:
    """The modules of a layer, by their names on the left and on the right."""
    return [Rename(f"{left}.{x}.{{p}}", f"{right}.{y}.{{p}}", optional=optional) for x, y in names.items()]


def _huggingface_transformer() -> list[Rule]:
    """Files of `transformers` keep these names in version 5, whatever the modules are called in memory."""
    encoder, hf_encoder = "transformer.encoder.layers.{L}", "model.encoder.layers.{L}"
    decoder, hf_decoder = "transformer.decoder.layers.{L}", "model.decoder.layers.{L}"
    of_encoder = {**FEEDFORWARD, "norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}
    of_decoder = {**of_encoder, "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
    return [
        *stacked_attention(f"{encoder}.self_attn", f"{hf_encoder}.self_attn", optional=True),
        *layer_rules(encoder, hf_encoder, of_encoder, optional=True),
        *stacked_attention(f"{decoder}.self_attn", f"{hf_decoder}.self_attn", optional=False),
        *stacked_attention(f"{decoder}.multihead_attn", f"{hf_decoder}.encoder_attn", optional=False),
        *layer_rules(decoder, hf_decoder, of_decoder),
        Rename("transformer.decoder.norm.{p}", "model.decoder.layernorm.{p}"),
    ]


_HUGGINGFACE_HEADS: list[Rule] = [
    *(
        Rename(f"backbone.1.{left}.weight", f"model.{parent}position_embedding.{right}.weight", True, bool(parent))
        for parent in ("", "backbone.")  # version 4 has it in the backbone
        for left, right in (("row_embed", "row_embeddings"), ("col_embed", "column_embeddings"))
    ),
    Rename("input_proj.{p}", "model.input_projection.{p}"),
    Rename("query_embed.weight", "model.query_position_embeddings.weight"),
    Rename("class_embed.{p}", "class_labels_classifier.{p}"),
    Rename("bbox_embed.layers.{N}.{p}", "bbox_predictor.layers.{N}.{p}"),
]

WITH_TIMM: list[Rule] = [
    *timm_resnet_rules(BODY, BACKBONE),
    *_huggingface_transformer(),
    *_HUGGINGFACE_HEADS,
]
WITHOUT_TIMM: list[Rule] = [
    *native_resnet_rules(BODY, BACKBONE),
    *_huggingface_transformer(),
    *_HUGGINGFACE_HEADS,
]
