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
        class_names: one for each row of the class head but the last.
        timm: whether the backbone is timm's.

    Raises:
        ValueError: if `transformers` has no such DETR.
    """
    detr, transformer = cfg.MODEL.DETR, cfg.MODEL.DETR.TRANSFORMER
    dilated = cfg.MODEL.RESNETS.RES5_DILATION == 2
    _check(cfg, dilated=dilated, timm=timm)
    num_queries, width = state["model.query_position_embeddings.weight"].shape
    num_classes = len(state["class_labels_classifier.bias"]) - 1
    names = class_names or [f"class {i}" for i in range(num_classes)]
    config = {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "num_channels": 3,
        "num_queries": num_queries,
        "d_model": width,
        "encoder_layers": _count(state, "model.encoder.layers."),
        "decoder_layers": _count(state, "model.decoder.layers."),
        "encoder_attention_heads": transformer.NUM_HEADS,
        "decoder_attention_heads": transformer.NUM_HEADS,
        "encoder_ffn_dim": transformer.FEEDFORWARD_DIM,
        "decoder_ffn_dim": transformer.FEEDFORWARD_DIM,
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
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "use_pretrained_backbone": False,
    }
    return {**config, **_backbone(cfg.MODEL.RESNETS.DEPTH, dilated=dilated, timm=timm)}


def _backbone(depth: int, *, dilated: bool, timm: bool) -> dict[str, Any]:
    if timm:
        return {"use_timm_backbone": True, "backbone": f"resnet{depth}", "dilation": dilated}
    native = {
        "model_type": "resnet",
        "depths": _DEPTHS[depth],
        "layer_type": "bottleneck" if depth >= 50 else "basic",
        "hidden_sizes": [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512],
        "out_features": ["stage4"],
    }
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": native, "dilation": False}


def _check(cfg: CfgNode, *, dilated: bool, timm: bool) -> None:
    if dilated and not timm:
        raise ValueError("DC5 (MODEL.RESNETS.RES5_DILATION: 2) needs timm's backbone in transformers.")
    if cfg.MODEL.DETR.TRANSFORMER.PRE_NORM:
        raise ValueError("transformers has no DETR with MODEL.DETR.TRANSFORMER.PRE_NORM.")
    if cfg.MODEL.RESNETS.DEPTH not in _DEPTHS:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}, expected one of {sorted(_DEPTHS)}.")


def _whole(weight: float) -> float:
    """1.0 -> 1: `transformers` wants integers here."""
    return int(weight) if float(weight).is_integer() else weight


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def preprocessor_config(cfg: CfgNode) -> dict[str, Any]:
    """The content of preprocessor_config.json: RGB images of 0 to 1, normalised and resized as in the config."""
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean / 255 for mean in cfg.MODEL.PIXEL_MEAN],
        "image_std": [std / 255 for std in cfg.MODEL.PIXEL_STD],
        "do_pad": True,
    }
