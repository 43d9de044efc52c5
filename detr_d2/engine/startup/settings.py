"""Values of a config that its types allow and that nothing can work with: said when it is read, not after a step."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.solver.build import GradientClipType
from PIL import Image

from ...config import get_cfg
from ...modeling import (
    CRITERION_REGISTRY,
    MASK_HEAD_REGISTRY,
    NECK_REGISTRY,
    QUERY_HEAD_REGISTRY,
    TRANSFORMER_REGISTRY,
)


@dataclass(frozen=True)
class _Rule:
    """What a value must be; `expected` says so as the end of a sentence."""

    holds: Callable[[Any], bool]
    expected: str


def _at_least(least: float, hint: str = "") -> _Rule:
    return _Rule(lambda value: value >= least, f"{least} or more{hint}")


def _each(holds: Callable[[Any], bool], expected: str, count: int = 0) -> _Rule:
    """Every element is so; with a count, there are as many."""
    return _Rule(lambda values: count in (0, len(values)) and all(map(holds, values)), expected)


def _between(least: float, most: float) -> _Rule:
    return _Rule(lambda value: least <= value <= most, f"{least} to {most}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_device(value: str) -> bool:
    """Whether torch knows the name, and whether tensors there have values."""
    try:
        return torch.device(value).type != "meta"
    except RuntimeError:
        return False


def _is_result(value: Any) -> bool:
    """Whether detectron2 can compare a result with it: task, metric, value, tolerance, perhaps of another kind."""
    texts_and_numbers = isinstance(value, list | tuple) and len(value) in (4, 5)
    return texts_and_numbers and all(map(_is_text, value[:2])) and all(map(_is_number, value[2:]))


_SIZES = _Rule(lambda values: len(values) > 0 and all(map(_is_size, values)), "one whole number of pixels or more")
_PERIOD = _at_least(0, "; 0 for never in between")
_NOT_NEGATIVE = _at_least(0)
_ABOVE_0 = _Rule(lambda value: value > 0, "more than 0")
_WEIGHTS = _Rule(lambda xs: all(_is_number(x) and x >= 0 for x in xs) and (any(xs) or not xs), "numbers above 0")

_RULES: dict[str, _Rule] = {
    "SOLVER.MAX_ITER": _at_least(1),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1, "; more than MAX_ITER for a checkpoint at the end alone"),
    "SOLVER.REFERENCE_WORLD_SIZE": _NOT_NEGATIVE,
    "SOLVER.WARMUP_ITERS": _NOT_NEGATIVE,
    "SOLVER.STEPS": _each(lambda x: type(x) is int and x >= 0, "whole numbers of iterations"),
    **{
        f"SOLVER.{name}": _NOT_NEGATIVE
        for name in (
            *("BASE_LR", "BASE_LR_END", "GAMMA", "MOMENTUM", "WARMUP_FACTOR", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM"),
            *("BACKBONE_MULTIPLIER", "BIAS_LR_FACTOR", "SLOW_MULTIPLIER"),
        )
    },
    "SOLVER.WEIGHT_DECAY_BIAS": _Rule(
        lambda value: value is None or (_is_number(value) and value >= 0), "0 or more, or None for WEIGHT_DECAY"
    ),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _ABOVE_0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _ABOVE_0,
    "SOLVER.SLOW_NAMES": _each(_is_text, "parts of the names of parameters"),
    "TEST.EVAL_PERIOD": _PERIOD,
    "TEST.DETECTIONS_PER_IMAGE": _at_least(1),
    "TEST.PRECISE_BN.NUM_ITER": _at_least(1),
    "TEST.EXPECTED_RESULTS": _each(_is_result, 'lists such as ["bbox", "AP", 42.0, 0.2]'),
    "TEST.AUG.MIN_SIZES": _SIZES,
    "TEST.AUG.MAX_SIZE": _at_least(1),
    "VIS_PERIOD": _PERIOD,
    "MODEL.DETR.NUM_QUERIES": _at_least(1),
    "MODEL.DETR.NUM_FEATURE_LEVELS": _at_least(1),
    **{
        f"MODEL.DETR.TRANSFORMER.{name}": _at_least(1)
        for name in ("HIDDEN_DIM", "NUM_HEADS", "FEEDFORWARD_DIM", "NUM_DECODER_LAYERS", "DEFORMABLE.NUM_POINTS")
    },
    "MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS": _NOT_NEGATIVE,
    "MODEL.DETR.MASK_HEAD.CHUNK_SIZE": _at_least(1),
    "MODEL.DETR.PANOPTIC.MIN_AREA": _NOT_NEGATIVE,
    "MODEL.DETR.CLASS_WEIGHTS": _WEIGHTS,
    "MODEL.DETR.SCORE_THRESH_TEST": _Rule(lambda value: value < 1, "less than 1, which no score is above"),
    "MODEL.DETR.NMS_THRESH_TEST": _Rule(lambda value: 0 < value <= 1, "more than 0, at most 1, which is no NMS"),
    "MODEL.DETR.POSITION_ENCODING.TEMPERATURE": _ABOVE_0,
    "MODEL.DETR.TRANSFORMER.DROPOUT": _between(0, 1),
    **{
        f"MODEL.DETR.CRITERION.{name}": _NOT_NEGATIVE
        for name in ("NO_OBJECT_WEIGHT", "LOSS_CLASS", "LOSS_L1", "LOSS_GIOU", "LOSS_MASK", "LOSS_DICE")
    },
    **{f"MODEL.DETR.MATCHER.{name}": _NOT_NEGATIVE for name in ("COST_CLASS", "COST_L1", "COST_GIOU")},
    "MODEL.DETR.IN_FEATURES": _each(_is_text, "names of feature maps"),
    "MODEL.DETR.MASK_HEAD.IN_FEATURES": _each(_is_text, "names of feature maps"),
    "MODEL.DETR.FREEZE": _each(_is_text, "names of modules"),
    "DATASETS.COCO": _each(_is_text, "texts such as NAME=annotations.json:image_root"),
    "DATASETS.COCO_PANOPTIC": _each(_is_text, "texts such as NAME=panoptic.json:png_root:image_root"),
    "DATALOADER.NUM_WORKERS": _NOT_NEGATIVE,
    "INPUT.MIN_SIZE_TRAIN": _SIZES,
    "INPUT.DETR_MIN_SIZES": _SIZES,
    "INPUT.MAX_SIZE_TRAIN": _at_least(1),
    "INPUT.MAX_SIZE_TEST": _at_least(1),
    "INPUT.MIN_SIZE_TEST": _at_least(0, "; 0 for images as they are"),
    "INPUT.CROP.SIZE": _each(lambda x: _is_number(x) and x > 0, "two numbers above 0", count=2),
    "MODEL.DEVICE": _Rule(_is_device, "a device of torch such as cpu, cuda or cuda:1"),
    "MODEL.PIXEL_MEAN": _each(_is_number, "numbers"),
    "MODEL.PIXEL_STD": _each(lambda x: _is_number(x) and x > 0, "numbers above 0, by which pixels are divided"),
}

# Norms and limits of gradients may be endless.
_MAY_BE_INFINITE = {"SOLVER.CLIP_GRADIENTS.NORM_TYPE", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE"}


# Keys of parts by name -> the registry that they are in: of every detector, and of DETR.
_PARTS = {"MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY, "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY}
_PARTS_OF_DETR = {
    "MODEL.DETR.TRANSFORMER.NAME": TRANSFORMER_REGISTRY,
    "MODEL.DETR.HEAD.NAME": QUERY_HEAD_REGISTRY,
    "MODEL.DETR.NECK.NAME": NECK_REGISTRY,
    "MODEL.DETR.CRITERION.NAME": CRITERION_REGISTRY,
    "MODEL.DETR.MASK_HEAD.NAME": MASK_HEAD_REGISTRY,
}
_FORMATS = ["BGR", "RGB", "L", "YUV-BT.601"]  # of detectron2; those of Pillow come to them
_RESNET_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
_NORMS = ["", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN"]
_CROPS = ("relative_range", "relative", "absolute", "absolute_range")


def check_settings(cfg: CfgNode) -> None:
    """Raises ValueError for the first key whose value is missing, not finite, or outside of what it can be.

    Args:
        cfg: with the parts of its user registered.
    """
    values = {}
    for key, value, default in _known_values(cfg, get_cfg()):
        if value is None and default is not None:
            kind = "keys of its own" if isinstance(default, CfgNode) else f"a value such as {default!r:.60}"
            raise ValueError(f"{key} has no value (null in YAML, None on the command line), expected {kind}.")
        endless = isinstance(value, float) and math.isinf(value) and key not in _MAY_BE_INFINITE
        if endless or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{key} is {value}, expected a finite number.")
        if type(value) is int and abs(value) >= 1 << 63:
            raise ValueError(f"{key} is {value}, expected a number of 64 bits.")
        values[key] = value
        rule = _RULES.get(key)
        if rule is not None and not rule.holds(value):
            raise ValueError(f"{key} is {value!r:.100}, expected {rule.expected}.")
    for key, names in _known_names(cfg):
        if values[key] not in names:
            close = difflib.get_close_matches(str(values[key]), names, n=5, cutoff=0.3) or names
            raise ValueError(f"{key} is {values[key]!r:.100}, expected a name such as {', '.join(close)}.")
    _check_pixels(cfg)
    features = cfg.MODEL.RESNETS.OUT_FEATURES
    if "resnet" in cfg.MODEL.BACKBONE.NAME and (not features or not set(features) <= set(_RESNET_FEATURES)):
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {features!r:.100}, expected names out of {', '.join(_RESNET_FEATURES)}."
        )
    sampling, sizes = "INPUT.MIN_SIZE_TRAIN_SAMPLING", cfg.INPUT.MIN_SIZE_TRAIN
    if values[sampling] == "range" and len(sizes) != 2:
        raise ValueError(f"{sampling} is 'range', which needs two sizes, but INPUT.MIN_SIZE_TRAIN is {sizes!r:.100}.")


def _check_pixels(cfg: CfgNode) -> None:
    """Mean and deviation must be for the same channels; one of a single number is for all of them."""
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if not mean or len(std) not in (1, len(mean)):
        raise ValueError(
            f"MODEL.PIXEL_MEAN is {mean!r:.100} and MODEL.PIXEL_STD {std!r:.100}, expected a number each for every "
            "channel of the images."
        )


def _known_names(cfg: CfgNode) -> Iterator[tuple[str, list[str]]]:
    """Keys whose value is one of some names, and these."""
    of_detr = _PARTS_OF_DETR if cfg.MODEL.META_ARCHITECTURE == "DETR" else {}
    for key, registry in {**_PARTS, **of_detr}.items():
        yield key, [name for name, _ in registry]
    yield "INPUT.MIN_SIZE_TRAIN_SAMPLING", ["choice", "range"]
    yield "INPUT.FORMAT", [*_FORMATS, *sorted({*Image.MODES} - {*_FORMATS})]
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        yield "MODEL.RESNETS.NORM", _NORMS
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        yield "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", [kind.value for kind in GradientClipType]
    if cfg.INPUT.CROP.ENABLED:
        yield "INPUT.CROP.TYPE", list(_CROPS)


def _known_values(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, value and default of every key that detectron2 or this package has."""
    for name, default in defaults.items():
        if name not in cfg:
            continue
        if isinstance(default, CfgNode) and isinstance(cfg[name], CfgNode):
            yield from _known_values(cfg[name], default, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", cfg[name], default
