"""The JSON files beside the weights of a model of `transformers`: what its tensors do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

_DEPTHS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


def model_config(
    cfg: CfgNode, state: Mapping[str, Tensor], *, class_names: Sequence[str] | None, timm: bool
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        cfg: of the model; what the tensors tell is read off them instead.
        state: in the layout of `transformers`.
        class_names: in the order of the class head's rows, where they are known.
        timm: whether the backbone is timm's.

    Raises:
        ValueError: if `transformers` has no such model.
    """
    with_masks = "mask_head.out_lay.weight" in state
    state = {name.removeprefix("detr."): tensor for name, tensor in state.items()}
    deformable = "model.level_embed" in state
    _check(cfg, timm=timm, deformable=deformable)
    kind = _deformable_keys(cfg, state) if deformable else _detr_keys(cfg, state)
    num_labels = kind.pop("num_labels")
    if with_masks:
        kind.update(_mask_keys(cfg))
    names = class_names or [f"class {i}" for i in range(num_labels)]
    return {
        **_common_keys(cfg, state),
        **kind,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        **_backbone_keys(cfg, timm=timm, deformable=deformable, all_stages=with_masks),
    }


def _common_keys(cfg: CfgNode, state: Mapping[str, Tensor]) -> dict[str, Any]:
    detr, transformer = cfg.MODEL.DETR, cfg.MODEL.DETR.TRANSFORMER
    width, feedforward = state["model.decoder.layers.0.fc2.weight"].shape
    return {
        "num_channels": 3,
        "d_model": width,
        "encoder_layers": _count(state, "model.encoder.layers."),
        "decoder_layers": _count(state, "model.decoder.layers."),
        "encoder_attention_heads": transformer.NUM_HEADS,
        "decoder_attention_heads": transformer.NUM_HEADS,
        "encoder_ffn_dim": feedforward,
        "decoder_ffn_dim": feedforward,
        "activation_function": transformer.ACTIVATION,
        "dropout": transformer.DROPOUT,
        "attention_dropout": transformer.DROPOUT,
        "activation_dropout": transformer.DROPOUT,
        "position_embedding_type": detr.POSITION_ENCODING.NAME,
        "auxiliary_loss": False,
        "class_cost": _whole(detr.MATCHER.COST_CLASS),
        "bbox_cost": _whole(detr.MATCHER.COST_L1),
        "giou_cost": _whole(detr.MATCHER.COST_GIOU),
        "bbox_loss_coefficient": _whole(detr.CRITERION.LOSS_L1),
        "giou_loss_coefficient": _whole(detr.CRITERION.LOSS_GIOU),
        "eos_coefficient": detr.CRITERION.NO_OBJECT_WEIGHT,
    }


def _detr_keys(cfg: CfgNode, state: Mapping[str, Tensor]) -> dict[str, Any]:
    if cfg.MODEL.DETR.CRITERION.CLASSIFICATION != "softmax":
        raise ValueError("transformers has no DETR with MODEL.DETR.CRITERION.CLASSIFICATION focal.")
    if cfg.MODEL.DETR.TRANSFORMER.DETR.PRE_NORM:
        raise ValueError("transformers has no DETR with MODEL.DETR.TRANSFORMER.DETR.PRE_NORM.")
    return {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "num_queries": len(state["model.query_position_embeddings.weight"]),
        "num_labels": len(state["class_labels_classifier.bias"]) - 1,
    }


def _mask_keys(cfg: CfgNode) -> dict[str, Any]:
    names, adapted = list(cfg.MODEL.DETR.MASK_HEAD.IN_FEATURES), ["res2", "res3", "res4"]
    if names != adapted:
        raise ValueError(
            f"MODEL.DETR.MASK_HEAD.IN_FEATURES is {names}, but transformers has mask heads on {adapted} only."
        )
    return {
        "architectures": ["DetrForSegmentation"],
        "mask_loss_coefficient": _whole(cfg.MODEL.DETR.CRITERION.LOSS_MASK),
        "dice_loss_coefficient": _whole(cfg.MODEL.DETR.CRITERION.LOSS_DICE),
    }


def _deformable_keys(cfg: CfgNode, state: Mapping[str, Tensor]) -> dict[str, Any]:
    if cfg.MODEL.DETR.CRITERION.CLASSIFICATION != "focal":
        raise ValueError("transformers has no Deformable DETR with MODEL.DETR.CRITERION.CLASSIFICATION softmax.")
    levels, heads = len(state["model.level_embed"]), cfg.MODEL.DETR.TRANSFORMER.NUM_HEADS
    points = len(state["model.decoder.layers.0.encoder_attn.attention_weights.bias"]) // (levels * heads)
    two_stage = "model.enc_output.weight" in state
    return {
        "model_type": "deformable_detr",
        "architectures": ["DeformableDetrForObjectDetection"],
        "num_queries": cfg.MODEL.DETR.NUM_QUERIES,
        "two_stage_num_proposals": cfg.MODEL.DETR.NUM_QUERIES,
        "num_feature_levels": levels,
        "encoder_n_points": points,
        "decoder_n_points": points,
        "with_box_refine": two_stage or "model.decoder.bbox_embed.0.layers.0.weight" in state,
        "two_stage": two_stage,
        "num_labels": len(state["class_embed.0.bias"]),
    }


def _backbone_keys(cfg: CfgNode, *, timm: bool, deformable: bool, all_stages: bool) -> dict[str, Any]:
    """`all_stages`: the mask head reads the other maps of the backbone as well."""
    depth, dilated = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES5_DILATION == 2
    keys: dict[str, Any] = {"use_pretrained_backbone": False, "use_timm_backbone": timm, "dilation": dilated}
    if timm and not deformable:
        return {**keys, "backbone": f"resnet{depth}"}
    maps = ["res2", "res3", "res4", "res5"] if all_stages else cfg.MODEL.DETR.IN_FEATURES
    stages = [f"stage{int(name[3:]) - 1}" for name in maps]  # res5 -> stage4
    if timm:
        options = {"output_stride": 16} if dilated else {}
        indices = [int(stage[5:]) for stage in stages]
        config = {"model_type": "timm_backbone", "backbone": f"resnet{depth}", "out_indices": indices, **options}
        return {**keys, "backbone": None, "use_timm_backbone": False, "backbone_config": config}
    config = {
        "model_type": "resnet",
        "depths": _DEPTHS[depth],
        "layer_type": "bottleneck" if depth >= 50 else "basic",
        "hidden_sizes": [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512],
        "out_features": stages,
    }
    return {**keys, "backbone": None, "backbone_config": config}


def _check(cfg: CfgNode, *, timm: bool, deformable: bool) -> None:
    if cfg.MODEL.RESNETS.RES5_DILATION == 2 and not timm:
        raise ValueError("DC5 (MODEL.RESNETS.RES5_DILATION: 2) needs timm's backbone in transformers.")
    encoding = cfg.MODEL.DETR.POSITION_ENCODING
    needed = {
        "MODEL.DETR.TRANSFORMER.NAME": (
            cfg.MODEL.DETR.TRANSFORMER.NAME,
            "DeformableTransformer" if deformable else "DETRTransformer",
        ),
        "MODEL.DETR.POSITION_ENCODING.TEMPERATURE": (encoding.TEMPERATURE, 10000.0),
        "MODEL.DETR.POSITION_ENCODING.OFFSET": (encoding.OFFSET, -0.5 if deformable else 0.0),
        "MODEL.RESNETS.STRIDE_IN_1X1": (cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.RESNETS.DEPTH >= 50, False),
        "INPUT.FORMAT": (cfg.INPUT.FORMAT, "RGB"),
    }
    for key, (value, only) in needed.items():
        if value != only:
            raise ValueError(f"{key} is {value!r}, but transformers has such models with {only!r} only.")
    if cfg.MODEL.RESNETS.DEPTH not in _DEPTHS:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}, expected one of {sorted(_DEPTHS)}.")


def _whole(weight: float) -> float:
    """1.0 -> 1: `transformers` wants integers here."""
    return int(weight) if float(weight).is_integer() else weight


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def preprocessor_config(cfg: CfgNode) -> dict[str, Any]:
    """The content of preprocessor_config.json: RGB images of 0 to 1, normalised and resized as in the config."""
    panoptic = cfg.MODEL.MASK_ON and cfg.MODEL.DETR.PANOPTIC.ENABLED
    deformable = cfg.MODEL.DETR.TRANSFORMER.NAME == "DeformableTransformer"
    return {
        "image_processor_type": "DeformableDetrImageProcessor" if deformable else "DetrImageProcessor",
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean / 255 for mean in cfg.MODEL.PIXEL_MEAN],
        "image_std": [std / 255 for std in cfg.MODEL.PIXEL_STD],
        "do_pad": True,
    }
