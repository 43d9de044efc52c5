"""Which settings are marked as departures from the paper, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import CfgNode

from detr_d2.engine.startup.summary import recipe_line
from detr_d2.model_zoo import get_config, list_configs
from detr_d2.recipes.effects import EFFECTS
from detr_d2.recipes.recipe import DETR, PAPERS, Row, compare, differing_settings, known_training_images, paper_of

TWO_STAGE = "MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE"


def changed(*options: Any, config: str = "detr_r50.yaml") -> CfgNode:
    cfg = get_config(config)
    cfg.merge_from_list(list(options))
    return cfg


def marked(*options: Any, config: str = "detr_r50.yaml", images: int | None = 118_287) -> dict[str, Row]:
    """Key -> row, of those that have a mark."""
    return {row.setting: row for row in compare(changed(*options, config=config), num_images=images) if row.mark}


def shipped() -> list[str]:
    return [f"{name}.yaml" for paper in PAPERS.values() for name in paper.configs]


@pytest.mark.parametrize("name", shipped())
def test_configs_of_the_papers_are_compared_with_themselves(name: str):
    cfg = get_config(name)
    assert known_training_images(cfg) == 118_287
    rows = compare(cfg, num_images=118_287)
    assert len(rows) > 60
    assert not any(row.mark for row in rows)
    assert {row.source for row in rows} <= {name, "detr_r50_segm.yaml"}


def test_every_config_of_detr_can_be_compared():
    for name in list_configs():
        cfg = get_config(name)
        if cfg.MODEL.META_ARCHITECTURE == "DETR":
            for images in (None, 1, 1000):
                assert compare(cfg, num_images=images)


def test_every_sentence_is_of_a_key():
    """Of one that is there, and under one start only."""
    keys = {row.setting for name in shipped() for row in compare(get_config(name))}
    for start in EFFECTS:
        assert any(key.startswith(start) for key in keys), start
    rows = compare(get_config("detr_r50.yaml"))
    assert len({row.setting for row in rows}) == len(rows)


BATCH_16 = ["SOLVER.IMS_PER_BATCH", 16, "SOLVER.STEPS", (2_956_800,), "SOLVER.MAX_ITER", 3_696_000]  # 7,392 it an epoch

MARKS: list[tuple[list[Any], str, str]] = [
    (["INPUT.FORMAT", "BGR"], "differs", "red and blue exchanged"),
    (["MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]], "differs", "shifted inputs"),
    (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]], "differs", "another scale"),
    (["MODEL.RESNETS.NORM", "BN"], "differs", "poor statistics"),
    (["MODEL.BACKBONE.FREEZE_AT", 0], "differs", "layer2 to layer4"),
    (["MODEL.RESNETS.STRIDE_IN_1X1", True], "differs", "3x3"),
    (["MODEL.WEIGHTS", ""], "differs", "starts elsewhere"),
    (["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"], "differs", "elsewhere"),
    (["MODEL.WEIGHTS", "torchvision://ResNet50_Weights.IMAGENET1K_V2"], "differs", "elsewhere"),
    (["MODEL.WEIGHTS", "mine/model_final.pth"], "note", "elsewhere"),
    (["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/torchvision/R-50.pkl"], "", ""),
    (["MODEL.WEIGHTS", "/mine/resnet50-0676ba61.pth"], "", ""),
    (["MODEL.DETR.IN_FEATURES", ["res4"]], "differs", "resolution"),
    (["MODEL.DETR.FREEZE", ["backbone"]], "differs", "other parts learn"),
    (["MODEL.DETR.POSITION_ENCODING.TEMPERATURE", 20.0], "differs", "do not fit"),
    (["MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 3], "differs", "every layer"),
    (["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 128], "differs", "capacity"),
    (["MODEL.DETR.TRANSFORMER.DETR.PRE_NORM", True], "differs", "post-norm"),
    (["MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE", True], "", ""),  # which DETR does not read
    (["MODEL.DETR.NUM_QUERIES", 300], "differs", "objects of an image"),
    (["MODEL.DETR.AUX_LOSS", False], "differs", "last decoder layer"),
    (["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"], "differs", "matching cost"),
    (["MODEL.DETR.CRITERION.CE_NORM", "global"], "note", "all processes"),
    (["MODEL.DETR.CRITERION.NO_OBJECT_WEIGHT", 1.0], "differs", "without an object"),
    (["MODEL.DETR.CRITERION.LOSS_L1", 2.0], "differs", "balance"),
    (["MODEL.DETR.MATCHER.COST_CLASS", 2.0], "differs", "matched"),
    (["SOLVER.SLOW_NAMES", ["query_embed"]], "differs", "more slowly"),
    (["SOLVER.OPTIMIZER", "SGD"], "differs", "AdamW"),
    (["SOLVER.OPTIMIZER", "adamw"], "", ""),
    (["SOLVER.BASE_LR", 2e-4], "differs", "may spoil"),
    (["SOLVER.BACKBONE_MULTIPLIER", 1.0], "differs", "stable training"),
    (["SOLVER.WEIGHT_DECAY_NORM", 0.0], "differs", "every parameter alike"),
    (["SOLVER.BIAS_LR_FACTOR", 2.0], "differs", "as they treat weights"),
    (["SOLVER.BIAS_LR_FACTOR", None], "", ""),
    (["SOLVER.WEIGHT_DECAY_BIAS", 1e-4], "", ""),
    (["SOLVER.CLIP_GRADIENTS.FULL_MODEL", False], "differs", "another direction"),
    (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01], "differs", "another length"),
    (["SOLVER.REFERENCE_WORLD_SIZE", 8], "differs", "linearly"),
    (["SOLVER.AMP.ENABLED", True], "note", "float32"),
    (["SOLVER.EMA_DECAY", 0.999], "differs", "evaluated and saved"),
    (["SOLVER.WARMUP_ITERS", 1000, "SOLVER.WARMUP_FACTOR", 0.001], "differs", "smaller"),
    (["SOLVER.WARMUP_ITERS", 1000], "", ""),  # from x 1
    (["SOLVER.MAX_ITER", 800_000], "differs", "is long"),
    (["DATALOADER.FILTER_EMPTY_ANNOTATIONS", True], "differs", "left out"),
    (["DATALOADER.ASPECT_RATIO_GROUPING", True], "differs", "at random"),
    (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "differs", "equally often"),
    (["INPUT.DETR_AUGMENTATION", "off"], "differs", "raise AP"),
    (["INPUT.DETR_AUGMENTATION", "on"], "", ""),
    (["INPUT.RANDOM_FLIP", "none"], "differs", "mirrored"),
    (["INPUT.CROP.SIZE", (300, 600)], "differs", "random crops"),
    (["INPUT.DETR_MIN_SIZES", (400,)], "differs", "other scales"),
    (["INPUT.MIN_SIZE_TRAIN", (800,)], "differs", "other scales"),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "differs", "other scales"),
    (["INPUT.MIN_SIZE_TEST", 600], "differs", "800"),
    (["INPUT.RESIZE_ROUNDING", "authors"], "note", "by a pixel"),
    (["MODEL.DETR.NUM_CLASSES", 91], "", ""),
    (["TEST.DETECTIONS_PER_IMAGE", 50], "differs", "100"),
    (["SEED", -1], "note", "makes runs differ"),
]


@pytest.mark.parametrize(("options", "mark", "words"), MARKS, ids=[f"{x[0]}={x[1]}" for x, _, _ in MARKS])
def test_marks(options: list[Any], mark: str, words: str):
    found = marked(*options)
    if not mark:
        assert not found
        return
    row = found.pop(options[0])
    assert not found
    assert row.mark == mark
    assert words in row.effect
    assert row.here != row.paper


@pytest.mark.parametrize(
    ("options", "here"),
    [
        (["SOLVER.STEPS", (400_000,)], "500 epochs, x 0.1 after 216 epochs"),
        (["SOLVER.GAMMA", 0.5], "500 epochs, x 0.5 after 400 epochs"),
        (["SOLVER.STEPS", ()], "500 epochs, no drop"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], "500 epochs, WarmupCosineLR"),
        (["SOLVER.STEPS", (369_600,), "SOLVER.MAX_ITER", 554_400], ""),  # 300 and 200, the paper's too
        (BATCH_16[2:], "2000 epochs, x 0.1 after 1600 epochs"),
    ],
)
def test_schedules(options: list[Any], here: str):
    found = marked(*options)
    assert set(found) == ({"SOLVER.MAX_ITER"} if here else set())
    assert not here or found["SOLVER.MAX_ITER"].here == here


def test_batches():
    assert set(marked(*BATCH_16)) == {"SOLVER.IMS_PER_BATCH"}  # still 500 and 400 epochs
    (row,) = marked("SOLVER.IMS_PER_BATCH", 32, "SOLVER.ACCUM_STEPS", 2).values()
    assert (row.setting, row.mark) == ("SOLVER.ACCUM_STEPS", "note")


def test_a_linearly_scaled_rate_is_called_so():
    found = marked(*BATCH_16, "SOLVER.BASE_LR", 2.5e-5)
    assert "scaled linearly from 64 to 16 images" in found["SOLVER.BASE_LR"].effect
    found = marked("SOLVER.ACCUM_STEPS", 4, "SOLVER.BASE_LR", 4e-4)
    assert "scaled linearly from 64 to 256 images" in found["SOLVER.BASE_LR"].effect
    assert "may spoil" in marked(*BATCH_16, "SOLVER.BASE_LR", 2e-4)["SOLVER.BASE_LR"].effect
    cfg = changed("SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 1e-4, config="deformable_detr_r50.yaml")
    assert "from 32 to 16" in {row.setting: row.effect for row in compare(cfg)}["SOLVER.BASE_LR"]


def test_the_nearest_config_is_taken():
    """By its model, whatever else differs."""
    rows = compare(changed("SEED", 1, "SOLVER.IMS_PER_BATCH", 4, TWO_STAGE, False, config="detr_r101_dc5.yaml"))
    assert {row.source for row in rows} == {"detr_r101_dc5.yaml"}
    rows = compare(changed(TWO_STAGE, True, config="deformable_detr_r50_refine.yaml"))
    assert {row.source for row in rows} == {"deformable_detr_r50_two_stage.yaml"}
    rows = compare(changed("MODEL.RESNETS.DEPTH", 34))
    assert {row.setting: (row.here, row.paper) for row in rows if row.mark == "differs"} == {
        "MODEL.RESNETS.DEPTH": ("34", "50")
    }


def test_another_backbone_has_no_settings_of_a_resnet():
    rows = {row.setting: row for row in compare(changed("MODEL.BACKBONE.NAME", "build_swin_backbone"))}
    assert rows["MODEL.BACKBONE.NAME"].mark == "differs"
    assert not any(key.startswith(("MODEL.RESNETS", "MODEL.BACKBONE.FREEZE_AT")) for key in rows)


def test_epochs_of_other_data_and_of_unknown_data():
    cfg = changed("SOLVER.IMS_PER_BATCH", 4, "SOLVER.STEPS", (2000,), "SOLVER.MAX_ITER", 2730)
    row = {row.setting: row for row in compare(cfg, num_images=364)}["SOLVER.MAX_ITER"]
    assert row.here == "30.0 epochs, x 0.1 after 22.0 epochs"  # 91 iterations an epoch
    assert row.mark == "differs"
    row = {row.setting: row for row in compare(cfg)}["SOLVER.MAX_ITER"]
    assert row.here == "2,730 iterations, x 0.1 after 2,000 iterations"
    assert row.mark == "note"
    assert "unknown" in row.effect
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    assert {row.setting: row for row in compare(cfg)}["SOLVER.MAX_ITER"].mark == "differs"
    cfg.DATASETS.TRAIN = ("mine",)
    assert known_training_images(cfg) is None
    with pytest.raises(ValueError, match="number of training images is 0"):
        compare(cfg, num_images=0)


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="META_ARCHITECTURE is 'GeneralizedRCNN': recipes are known for 'DETR' alone"):
        compare(get_config("faster_rcnn_r50_fpn.yaml"))


def test_a_users_transformer_is_compared_with_detr():
    cfg = changed("MODEL.DETR.TRANSFORMER.NAME", "OtherTransformer", TWO_STAGE, True)
    assert paper_of(cfg) is DETR
    found = {row.setting: row.effect for row in compare(cfg) if row.mark == "differs"}
    assert "another network" in found.pop("MODEL.DETR.TRANSFORMER.NAME")
    assert not found  # DETR says nothing about two stages


def test_line_at_the_start_of_training():
    cfg = get_config("quickstart/detr_shapes.yaml")
    line = recipe_line(cfg, [])
    assert line.startswith("Differs from the recipe of DETR (Carion et al. 2020) in: MODEL.BACKBONE.FREEZE_AT, MODEL.")
    assert "\n" not in line
    assert line.endswith("check-recipe --config-file ./output/quickstart/detr/config.yaml")
    assert " SOLVER.BASE_LR," in line
    assert "SOLVER.BASE_LR," not in recipe_line(cfg, [], without_keys={"SOLVER.BASE_LR"})
    assert recipe_line(get_config("detr_r50.yaml"), []) == ""
    assert recipe_line(get_config("faster_rcnn_r50_fpn.yaml"), []) == ""
    assert "SOLVER.MAX_ITER" not in differing_settings(compare(cfg, num_images=9), without_keys={"SOLVER.GAMMA"})
