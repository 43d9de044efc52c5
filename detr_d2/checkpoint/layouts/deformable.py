"""Deformable DETR in the authors' layout (left), in that of this package and in that of `transformers` (right).

The authors save a head that all decoder layers share once per layer, and heads that refine boxes a second time inside
the decoder; `transformers` drops some of these names when it saves. Here every tensor has one name.
"""

from __future__ import annotations

from torch import Tensor

from .huggingface import BACKBONE, FEEDFORWARD, layer_rules, stacked_attention
from .official import BODY, same_names
from .resnet import native_resnet_rules, resnet_rules, timm_resnet_rules
from .rules import Rename, Rule, Shared, StateDict, matches

_ENCODER, _DECODER = "transformer.encoder.layers.{L}", "transformer.decoder.layers.{L}"
_HF_ENCODER, _HF_DECODER = "model.encoder.layers.{L}", "model.decoder.layers.{L}"

# As many names as there are decoder layers, in each layout.
_LAYERS = "transformer.decoder.layers.{C}.norm1.weight"
_HF_LAYERS = "model.decoder.layers.{C}.fc1.weight"

_SAMPLING = "{part}.{p}"  # sampling_offsets, attention_weights, value_proj, output_proj


def _transformer() -> list[Rule]:
    """The names that this package has from the authors; in the decoder norm1 is the cross-attention's."""
    return same_names(
        f"{_ENCODER}.self_attn.{_SAMPLING}",
        f"{_ENCODER}.linear{{J}}.{{p}}",
        f"{_ENCODER}.norm{{J}}.{{p}}",
        f"{_DECODER}.self_attn.in_proj_weight",
        f"{_DECODER}.self_attn.in_proj_bias",
        f"{_DECODER}.self_attn.out_proj.{{p}}",
        f"{_DECODER}.cross_attn.{_SAMPLING}",
        f"{_DECODER}.linear{{J}}.{{p}}",
        f"{_DECODER}.norm{{J}}.{{p}}",
        "transformer.level_embed",
    )


_ONE_STAGE: list[Rule] = [
    *same_names("transformer.reference_points.{p}"),
    Rename("query_embed.weight", "transformer.query_embed.weight"),
]
_TWO_STAGE: list[Rule] = same_names(
    "transformer.enc_output.{p}",
    "transformer.enc_output_norm.{p}",
    "transformer.pos_trans.{p}",
    "transformer.pos_trans_norm.{p}",
)

_BOX, _CLASS = "bbox_embed.{L}.layers.{N}.{p}", "class_embed.{L}.{p}"
_BOX_COPY, _CLASS_COPY = _BOX.replace("{L}", "{C}"), _CLASS.replace("{L}", "{C}")

_SHARED_HEADS: list[Rule] = [
    Shared((_CLASS_COPY,), ("head.class_embed.0.{p}",), (_LAYERS, _LAYERS)),
    Shared((_BOX_COPY,), ("head.bbox_embed.0.layers.{N}.{p}",), (_LAYERS, _LAYERS)),
]
_REFINING_HEADS: list[Rule] = [
    Rename(_CLASS, f"head.{_CLASS}"),
    Shared((_BOX, f"transformer.decoder.{_BOX}"), (f"head.{_BOX}",), (_LAYERS, _LAYERS)),
]
_TWO_STAGE_HEADS: list[Rule] = [
    Shared((_CLASS, f"transformer.decoder.{_CLASS}"), (f"head.{_CLASS}",), (_LAYERS, _LAYERS)),
    Shared((_BOX, f"transformer.decoder.{_BOX}"), (f"head.{_BOX}",), (_LAYERS, _LAYERS)),
]

_DETECTRON2: list[Rule] = [
    *resnet_rules(BODY, "backbone."),
    *_transformer(),
    Rename("input_proj.{L}.{J}.{p}", "neck.input_proj.{L}.{J}.{p}"),
]

DETECTRON2 = {
    "": [*_DETECTRON2, *_ONE_STAGE, *_SHARED_HEADS],
    "refine": [*_DETECTRON2, *_ONE_STAGE, *_REFINING_HEADS],
    "two_stage": [*_DETECTRON2, *_TWO_STAGE, *_TWO_STAGE_HEADS],
}


def _huggingface_transformer() -> list[Rule]:
    encoder = {**FEEDFORWARD, "norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}
    decoder = {**encoder, "norm1": "encoder_attn_layer_norm", "norm2": "self_attn_layer_norm"}
    return [
        *stacked_attention(f"{_DECODER}.self_attn", f"{_HF_DECODER}.self_attn", optional=False),
        Rename(f"{_ENCODER}.self_attn.{_SAMPLING}", f"{_HF_ENCODER}.self_attn.{_SAMPLING}"),
        Rename(f"{_DECODER}.cross_attn.{_SAMPLING}", f"{_HF_DECODER}.encoder_attn.{_SAMPLING}"),
        *layer_rules(_ENCODER, _HF_ENCODER, encoder),
        *layer_rules(_DECODER, _HF_DECODER, {**decoder, "norm3": "final_layer_norm"}),
        Rename("transformer.level_embed", "model.level_embed"),
        Rename("input_proj.{L}.{J}.{p}", "model.input_proj.{L}.{J}.{p}"),
    ]


_HF_ONE_STAGE: list[Rule] = [
    Rename("transformer.reference_points.{p}", "model.reference_points.{p}"),
    Rename("query_embed.weight", "model.query_position_embeddings.weight"),
]
_HF_TWO_STAGE: list[Rule] = [
    Rename(f"transformer.{part}.{{p}}", f"model.{part}.{{p}}")
    for part in ("enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
]
_HF_COPIES = (_LAYERS, _HF_LAYERS)
_HF_SHARED_HEADS: list[Rule] = [Shared((x,), (x,), _HF_COPIES) for x in (_CLASS_COPY, _BOX_COPY)]
_HF_BOXES = Shared((_BOX, f"transformer.decoder.{_BOX}"), (_BOX, f"model.decoder.{_BOX}"), _HF_COPIES)
_HF_REFINING_HEADS: list[Rule] = [Rename(_CLASS, _CLASS), _HF_BOXES]
_HF_TWO_STAGE_HEADS: list[Rule] = [
    Shared((_CLASS, f"transformer.decoder.{_CLASS}"), (_CLASS, f"model.decoder.{_CLASS}"), _HF_COPIES),
    _HF_BOXES,
]

_HF_VARIANTS = {
    "": [*_HF_ONE_STAGE, *_HF_SHARED_HEADS],
    "refine": [*_HF_ONE_STAGE, *_HF_REFINING_HEADS],
    "two_stage": [*_HF_TWO_STAGE, *_HF_TWO_STAGE_HEADS],
}

WITH_TIMM = {
    name: [*timm_resnet_rules(BODY, BACKBONE), *_huggingface_transformer(), *rules]
    for name, rules in _HF_VARIANTS.items()
}
WITHOUT_TIMM = {
    name: [*native_resnet_rules(BODY, BACKBONE), *_huggingface_transformer(), *rules]
    for name, rules in _HF_VARIANTS.items()
}


def with_tied_classifiers(state: StateDict) -> dict[str, Tensor]:
    """Gives every decoder layer a classifier where `transformers` has saved the first alone.

    Its version 5 ties the classifiers of a model with box refinement, which the authors do not.
    """
    layers = [int(values["C"]) for _, values in matches(_HF_LAYERS, state)]
    tied = {
        f"class_embed.{layer}.{part}": state[f"class_embed.0.{part}"].clone()
        for layer in layers
        for part in ("weight", "bias")
    }
    only_first = "class_embed.0.weight" in state and "class_embed.1.weight" not in state
    return {**tied, **state} if only_first else dict(state)
