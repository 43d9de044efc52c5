"""Values that nothing can work with are refused before anything is made of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from detr_d2 import cli, get_cfg
from detr_d2.commands import train
from detr_d2.engine.startup.setup import load_config

WRONG: list[tuple[str, Any, str]] = [
    ("SOLVER.MAX_ITER", 0, "1 or more"),
    ("SOLVER.MAX_ITER", -1, "1 or more"),
    ("SOLVER.CHECKPOINT_PERIOD", 0, "1 or more; more than MAX_ITER for a checkpoint at the end alone"),
    ("SOLVER.CHECKPOINT_PERIOD", -5, "1 or more"),
    ("SOLVER.WARMUP_ITERS", -1, "0 or more"),
    ("SOLVER.REFERENCE_WORLD_SIZE", -1, "0 or more"),
    ("SOLVER.STEPS", ["a"], "whole numbers of iterations"),
    ("SOLVER.STEPS", [math.nan], "whole numbers of iterations"),
    ("SOLVER.STEPS", [[]], "whole numbers of iterations"),
    ("SOLVER.SLOW_NAMES", [0], "parts of the names of parameters"),
    ("SOLVER.BASE_LR", math.nan, "a finite number"),
    ("SOLVER.GAMMA", math.inf, "a finite number"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", math.nan, "a finite number"),
    ("TEST.EVAL_PERIOD", -1, "0 or more; 0 for never in between"),
    ("TEST.EXPECTED_RESULTS", [3], "lists such as"),
    ("TEST.AUG.MIN_SIZES", [], "one whole number of pixels or more"),
    ("DATALOADER.NUM_WORKERS", -1, "0 or more"),
    ("INPUT.MIN_SIZE_TRAIN", [0], "one whole number of pixels or more"),
    ("INPUT.MIN_SIZE_TRAIN", [], "one whole number of pixels or more"),
    ("INPUT.DETR_MIN_SIZES", ["a"], "one whole number of pixels or more"),
    ("INPUT.MAX_SIZE_TEST", 0, "1 or more"),
    ("INPUT.CROP.SIZE", [0.5], "two numbers above 0"),
    ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "numbers above 0, by which pixels are divided"),
    ("VIS_PERIOD", -1, "0 or more"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "between", "a name such as choice, range"),
    ("SOLVER.MAX_ITER", 1 << 64, "a number of 64 bits"),
    ("MODEL.DETR.NUM_QUERIES", 0, "1 or more"),
    ("MODEL.DETR.TRANSFORMER.NUM_HEADS", 0, "1 or more"),
    ("MODEL.DETR.TRANSFORMER.NUM_DECODER_LAYERS", 0, "1 or more"),
    ("MODEL.DETR.FREEZE", [0], "names of modules"),
    ("MODEL.DETR.IN_FEATURES", [[]], "names of feature maps"),
    ("SOLVER.BASE_LR", -1e-4, "0 or more"),
    ("SOLVER.WEIGHT_DECAY_BIAS", [1.0], "0 or more, or None"),
    ("SOLVER.WEIGHT_DECAY_BIAS", "a", "0 or more, or None"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0, "more than 0"),
    ("TEST.DETECTIONS_PER_IMAGE", 0, "1 or more"),
    ("DATASETS.COCO", [1], "texts such as"),
    ("DATASETS.COCO_PANOPTIC", [[]], "texts such as"),
    ("INPUT.FORMAT", "rgb", "a name such as .*RGB"),
    ("MODEL.DEVICE", "gpu", "a device of torch"),
    ("MODEL.DEVICE", "", "a device of torch"),
    ("MODEL.PIXEL_MEAN", [1.0, 2.0], "a number each for every channel"),
    ("MODEL.PIXEL_MEAN", [], "a number each for every channel"),
    ("MODEL.RESNETS.NORM", "Frozen", "a name such as FrozenBN"),
    ("MODEL.RESNETS.OUT_FEATURES", ["res9"], "names out of"),
    ("MODEL.RESNETS.OUT_FEATURES", [], "names out of"),
    ("MODEL.DETR.CLASS_WEIGHTS", ["a"], "numbers above 0"),
    ("MODEL.DETR.CLASS_WEIGHTS", [0, 0], "numbers above 0"),
    ("MODEL.DETR.SCORE_THRESH_TEST", 1.5, "less than 1"),
    ("MODEL.DETR.NMS_THRESH_TEST", 0.0, "more than 0, at most 1, which is no NMS"),
    ("MODEL.DETR.NMS_THRESH_TEST", 70.0, "more than 0, at most 1"),
    ("MODEL.DETR.POSITION_ENCODING.TEMPERATURE", 0.0, "more than 0"),
    ("MODEL.DETR.TRANSFORMER.DROPOUT", 1.5, "0 to 1"),
    ("MODEL.DETR.CRITERION.LOSS_L1", -5.0, "0 or more"),
    ("MODEL.DETR.MATCHER.COST_CLASS", -1.0, "0 or more"),
    ("MODEL.META_ARCHITECTURE", "DETTR", "a name such as DETR"),
    ("MODEL.BACKBONE.NAME", "build_resnet", "a name such as .*build_resnet_backbone"),
]


def config_of(key: str, value: Any, folder: Path) -> str:
    """Path of a new config file in which one key has a value."""
    for name in reversed(key.split(".")):
        value = {name: value}
    path = folder / "a.yaml"
    path.write_text(yaml.safe_dump(value))
    return str(path)


@pytest.mark.parametrize(("key", "value", "expected"), WRONG, ids=lambda x: str(x)[:40])
def test_a_value_that_nothing_can_work_with_is_said(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    path = config_of(key, value, tmp_path)
    with pytest.raises(ValueError, match=rf"^{key} is .*, expected {expected}"):
        load_config(path)


@pytest.mark.parametrize("key", ["SOLVER.MAX_ITER", "INPUT.FORMAT", "OUTPUT_DIR", "SEED"])
def test_a_key_without_a_value_is_said(key: str, tmp_path: Path) -> None:
    path = config_of(key, None, tmp_path)
    with pytest.raises(ValueError, match=rf"^{key} has no value \(null in YAML"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MODEL:", "a.yaml: MODEL is None, expected keys of its own"),
        ("SOLVER: 3", "a.yaml: SOLVER is 3, expected keys of its own"),
        ("MODEL: {DETR: }", r"Type mismatch .*CfgNode'> vs. <class 'NoneType'>\) for config key: MODEL.DETR$"),
        ("SOLVER: {AMP: 3}", r"Type mismatch .*CfgNode'> vs. <class 'int'>\) for config key: SOLVER.AMP$"),
    ],
)
def test_a_value_in_the_place_of_keys_is_said(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("part", ["TRANSFORMER", "HEAD", "NECK", "CRITERION", "MASK_HEAD"])
def test_parts_that_nobody_has_registered_are_said(part: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL.DETR.{part}.NAME is 'Nothing', expected a name such as \w+"):
        load_config("detr_r50.yaml", [f"MODEL.DETR.{part}.NAME", "Nothing"])


def test_names_and_sizes_are_checked_where_they_count() -> None:
    with pytest.raises(ValueError, match=r"INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range', which needs two sizes"):
        load_config("", ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(1, 2, 3)"])
    load_config("", ["INPUT.CROP.TYPE", "x"])
    load_config("", ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "x"])
    with pytest.raises(ValueError, match=r"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is 'x', expected a name such as .*norm"):
        load_config("", ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "x", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"])
    load_config("", ["MODEL.PIXEL_STD", "[57.0]"])  # for all channels
    with pytest.raises(ValueError, match=r"INPUT.CROP.TYPE is 'x', expected a name such as .*relative"):
        load_config("", ["INPUT.CROP.TYPE", "x", "INPUT.CROP.ENABLED", "True"])


def test_overrides_are_checked_and_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(train.main, ["--config-file", "detr_r50.yaml", "SOLVER.CHECKPOINT_PERIOD", "0"]) == cli.USER_ERROR
    assert capsys.readouterr().err.startswith("error: SOLVER.CHECKPOINT_PERIOD is 0, expected 1 or more")


def test_what_may_be_endless_or_nothing_may() -> None:
    options = [
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
        "1e999",
        "SOLVER.WEIGHT_DECAY_BIAS",
        "None",
        "INPUT.MIN_SIZE_TEST",
        "0",
    ]
    assert math.inf == load_config("", options).SOLVER.CLIP_GRADIENTS.NORM_TYPE


def test_shipped_configs_pass() -> None:
    for name in ("quickstart/detr_shapes_panoptic.yaml", "quickstart/retinanet_shapes.yaml", "detr_r50_dc5.yaml"):
        load_config(name)
    assert get_cfg().SOLVER.WEIGHT_DECAY_BIAS is None
