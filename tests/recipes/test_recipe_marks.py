"""Which settings are marked as departures from the paper, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import CfgNode

from detr_d2.engine.startup.summary import recipe_line
from detr_d2.model_zoo import get_config, list_configs
from detr_d2.recipes.recipe import RECIPES, compare, differing_settings, known_training_images, recipe_of, sentences
from detr_d2.recipes.settings import Recipe, Setting


def marked(*options: Any, config: str = "detr_r50.yaml", images: int | None = 118_287) -> dict[str, tuple[str, str]]:
    """Setting -> mark and sentence, of those that differ from what the shipped config has."""
    before = {row.setting: row for row in compare(get_config(config), num_images=images)}
    cfg = get_config(config)
    cfg.merge_from_list(list(options))
    rows = compare(cfg, num_images=images)
    return {
        row.setting: (row.mark, row.effect)
        for row in rows
        if row.setting not in before or row.mark != before[row.setting].mark
    }


PAPER_CONFIGS = [
    "Base-DETR.yaml", "detr_r50.yaml", "detr_r101.yaml", "detr_r50_dc5.yaml", "detr_r101_dc5.yaml"
]  # fmt: skip


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_configs_of_the_paper_have_no_difference(name: str):
    """The YAML against the table of facts; the two notes are deliberate."""
    cfg = get_config(name)
    assert known_training_images(cfg) == 118_287
    rows = compare(cfg, num_images=known_training_images(cfg))
    assert len(rows) > 50
    assert differing_settings(rows) == ""
    assert {row.setting for row in rows if row.mark} == {"classes", "rounding of image sizes"}


def test_every_config_of_detr_can_be_compared():
    for name in list_configs():
        cfg = get_config(name)
        if cfg.MODEL.META_ARCHITECTURE == "DETR":
            for images in (None, 1, 1000):
                assert compare(cfg, num_images=images)


BATCH_16 = ["SOLVER.IMS_PER_BATCH", 16, "SOLVER.STEPS", (2_956_800,), "SOLVER.MAX_ITER", 3_696_000]  # 7,392 it an epoch
RESNET_34 = ["MODEL.RESNETS.DEPTH", 34, "MODEL.WEIGHTS", "torchvision://ResNet34_Weights.IMAGENET1K_V1"]
ADAMW_WORD = "a larger rate may spoil"


@pytest.mark.parametrize(
    ("options", "setting", "mark", "words"),
    [
        (["INPUT.FORMAT", "BGR"], "channel order", "differs", "red and blue exchanged"),
        (["MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]], "pixel mean", "differs", "shifted inputs"),
        (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]], "pixel std", "differs", "another scale"),
        (["MODEL.RESNETS.NORM", "BN"], "batch norm", "differs", "poor statistics"),
        (["MODEL.BACKBONE.FREEZE_AT", 0], "frozen layers", "differs", "layer2 to layer4"),
        (["MODEL.RESNETS.STRIDE_IN_1X1", True], "stride in 1x1", "differs", "3x3"),
        (RESNET_34, "backbone", "differs", "no published AP"),
        (["MODEL.WEIGHTS", ""], "initial weights", "differs", "starts elsewhere"),
        (["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"], "initial weights", "differs", "elsewhere"),
        (["MODEL.WEIGHTS", "torchvision://ResNet50_Weights.IMAGENET1K_V2"], "initial weights", "differs", "elsewhere"),
        (["MODEL.WEIGHTS", "mine/model_final.pth"], "initial weights", "note", "elsewhere"),
        (["MODEL.DETR.IN_FEATURES", ["res4"]], "feature map", "differs", "resolution"),
        (["MODEL.DETR.FREEZE", ["backbone"]], "frozen parts", "differs", "do not learn"),
        (["MODEL.DETR.POSITION_ENCODING.NAME", "learned"], "position encoding", "differs", "do not fit"),
        (["MODEL.DETR.POSITION_ENCODING.TEMPERATURE", 20.0], "position encoding", "differs", "do not fit"),
        (["MODEL.DETR.TRANSFORMER.NUM_ENCODER_LAYERS", 3], "layers", "differs", "every layer"),
        (["MODEL.DETR.TRANSFORMER.HIDDEN_DIM", 128], "hidden width", "differs", "capacity"),
        (["MODEL.DETR.TRANSFORMER.NUM_HEADS", 4], "heads", "differs", "heads"),
        (["MODEL.DETR.TRANSFORMER.FEEDFORWARD_DIM", 1024], "feed-forward width", "differs", "capacity"),
        (["MODEL.DETR.TRANSFORMER.DROPOUT", 0.0], "dropout", "differs", "regularisation"),
        (["MODEL.DETR.TRANSFORMER.DETR.PRE_NORM", True], "pre-norm", "differs", "post-norm"),
        (["MODEL.DETR.TRANSFORMER.ACTIVATION", "gelu"], "activation", "differs", "non-linearity"),
        (["MODEL.DETR.NUM_QUERIES", 300], "queries", "differs", "objects of an image"),
        (["MODEL.DETR.AUX_LOSS", False], "auxiliary losses", "differs", "last decoder layer"),
        (["MODEL.DETR.CLASS_WEIGHTS", [1.0, 2.0]], "class weights", "differs", "count more"),
        (["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"], "classification", "differs", "matching cost"),
        (["SOLVER.SLOW_NAMES", ["query_embed"]], "slow parameters", "differs", "more slowly"),
        (["MODEL.DETR.CRITERION.CE_NORM", "global"], "cross-entropy mean over", "note", "all processes"),
        (["MODEL.DETR.CRITERION.NO_OBJECT_WEIGHT", 1.0], "no-object weight", "differs", "without an object"),
        (["MODEL.DETR.CRITERION.LOSS_L1", 2.0], "loss weights: class, L1, GIoU", "differs", "balance"),
        (["MODEL.DETR.MATCHER.COST_CLASS", 2.0], "matcher costs: class, L1, GIoU", "differs", "matched"),
        (["SOLVER.OPTIMIZER", "SGD"], "optimizer", "differs", "AdamW"),
        (["SOLVER.BASE_LR", 2e-4], "learning rate", "differs", ADAMW_WORD),
        (["SOLVER.BASE_LR", 5e-5], "learning rate", "differs", "more slowly"),
        (["SOLVER.BACKBONE_MULTIPLIER", 1.0], "backbone learning rate factor", "differs", "stable training"),
        (["SOLVER.BACKBONE_MULTIPLIER", 0.01], "backbone learning rate factor", "differs", "adapts more slowly"),
        (["SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_NORM", 1e-4], "weight decay", "differs", "regularisation"),
        (["SOLVER.WEIGHT_DECAY_NORM", 0.0], "weight decay of norms", "differs", "every parameter alike"),
        (["SOLVER.BIAS_LR_FACTOR", 2.0], "biases", "differs", "as they treat weights"),
        (["SOLVER.WEIGHT_DECAY_BIAS", 0.0], "biases", "differs", "as they treat weights"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", False], "gradient clipping", "differs", "reach the weights"),
        (["SOLVER.CLIP_GRADIENTS.FULL_MODEL", False], "gradient clipping", "differs", "direction of the step"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01], "gradient clipping", "differs", "another length"),
        (["SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0], "gradient clipping", "differs", "another length"),
        (["SOLVER.REFERENCE_WORLD_SIZE", 8], "batch and rate follow the GPUs", "differs", "linearly"),
        (["SOLVER.AMP.ENABLED", True], "mixed precision", "note", "float32"),
        (["SOLVER.EMA_DECAY", 0.999], "average of the weights", "differs", "evaluated and saved"),
        (["SOLVER.WARMUP_ITERS", 1000, "SOLVER.WARMUP_FACTOR", 0.001], "warm-up", "differs", "smaller"),
        (["SOLVER.MAX_ITER", 800_000], "schedule", "differs", "converges slowly"),
        (["SOLVER.STEPS", (400_000,)], "schedule", "differs", "converges slowly"),
        (["SOLVER.GAMMA", 0.5], "schedule", "differs", "converges slowly"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], "schedule", "differs", "drops it once"),
        (["SOLVER.IMS_PER_BATCH", 32, "SOLVER.ACCUM_STEPS", 2], "micro-batches a step", "note", "mean of means"),
        (BATCH_16, "images a step", "note", "the authors' README"),
        (["DATALOADER.FILTER_EMPTY_ANNOTATIONS", True], "images without objects", "differs", "left out"),
        (["DATALOADER.ASPECT_RATIO_GROUPING", True], "batches of one orientation", "differs", "at random"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "sampler", "differs", "equally often"),
        (["INPUT.RANDOM_FLIP", "none"], "flip", "differs", "mirrored"),
        (["INPUT.RANDOM_TRANSPOSE", True], "transposition", "differs", "swapped"),
        (["INPUT.COLOR_JITTER", 0.5], "change of colours", "differs", "brightness"),
        (["INPUT.CROP.SIZE", (300, 600)], "crop", "differs", "random crops"),
        (["INPUT.DETR_MIN_SIZES", (400,)], "short sides before the crop", "differs", "other scales"),
        (["INPUT.MIN_SIZE_TRAIN", (800,)], "short sides", "differs", "other scales"),
        (["INPUT.MIN_SIZE_TRAIN", (480, 800), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "short sides", "differs", ""),
        (["INPUT.MAX_SIZE_TRAIN", 1000], "longest side", "differs", "another scale"),
        (["INPUT.MIN_SIZE_TEST", 600], "test size: short, longest", "differs", "800"),
        (["INPUT.RESIZE_ROUNDING", "authors"], "rounding of image sizes", "", ""),
        (["MODEL.DETR.NUM_CLASSES", 91], "classes", "", ""),
        (["TEST.DETECTIONS_PER_IMAGE", 50], "detections per image", "differs", "100"),
        (["MODEL.DETR.SCORE_THRESH_TEST", 0.5], "score threshold", "differs", "lowers AP"),
        (["SEED", -1], "seed", "note", "makes runs differ"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_marks(options: list[Any], setting: str, mark: str, words: str):
    found = marked(*options)
    assert set(found) == {setting}
    assert found[setting][0] == mark
    assert words in found[setting][1]


def test_crop_off_and_detectron2s_augmentation_leave_out_what_does_not_apply():
    assert set(marked("INPUT.CROP.ENABLED", False)) == {"crop"}
    found = marked("INPUT.DETR_AUGMENTATION", "off")
    assert set(found) == {"augmentation"}
    cfg = get_config("detr_r50.yaml")
    cfg.INPUT.DETR_AUGMENTATION = "off"
    assert not {"crop", "short sides before the crop"} & {row.setting for row in compare(cfg)}


def test_dc5_by_detectron2s_builder_is_marked():
    stock = ["MODEL.BACKBONE.NAME", "build_resnet_backbone"]
    assert marked(*stock) == {}  # without dilation the builders agree
    ((mark, effect),) = marked(*stock, config="detr_r50_dc5.yaml").values()
    assert mark == "differs"
    assert "dilates all three blocks" in effect


def test_another_backbone_has_no_settings_of_a_resnet():
    cfg = get_config("detr_r50.yaml")
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    rows = {row.setting: row for row in compare(cfg)}
    assert rows["backbone"].here == "build_swin_backbone"
    assert rows["backbone"].mark == "differs"
    assert not {"batch norm", "stride in 1x1", "frozen layers", "dilations of res5"} & set(rows)


def test_a_linearly_scaled_rate_is_called_so():
    found = marked(*BATCH_16, "SOLVER.BASE_LR", 2.5e-5)
    assert "scaled linearly from 64 to 16 images" in found["learning rate"][1]
    found = marked("SOLVER.ACCUM_STEPS", 4, "SOLVER.BASE_LR", 4e-4)
    assert "scaled linearly from 64 to 256 images" in found["learning rate"][1]
    assert ADAMW_WORD in marked(*BATCH_16, "SOLVER.BASE_LR", 2e-4)["learning rate"][1]


def test_rate_of_the_paper_with_a_batch_of_16_is_not_marked():
    assert set(marked(*BATCH_16)) == {"images a step"}  # 7,392 iterations an epoch: still 500 and 400 epochs


def test_300_epochs_are_the_papers_too():
    assert marked("SOLVER.STEPS", (369_600,), "SOLVER.MAX_ITER", 554_400) == {}


def test_epochs_of_other_data_and_of_unknown_data():
    cfg = get_config("detr_r50.yaml")
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 4, "SOLVER.STEPS", (2000,), "SOLVER.MAX_ITER", 2730])
    row = {row.setting: row for row in compare(cfg, num_images=364)}["schedule"]
    assert row.here == "30.0 epochs, x 0.1 after 22.0 epochs"  # 91 iterations an epoch
    assert row.mark == "differs"
    row = {row.setting: row for row in compare(cfg)}["schedule"]
    assert row.here == "2,730 iterations, x 0.1 after 2,000 iterations"
    assert row.mark == "note"
    assert "unknown" in row.effect
    cfg.DATASETS.TRAIN = ("mine",)
    assert known_training_images(cfg) is None
    with pytest.raises(ValueError, match="number of training images is 0"):
        compare(cfg, num_images=0)


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="META_ARCHITECTURE is 'GeneralizedRCNN': recipes are known for 'DETR' alone"):
        compare(get_config("faster_rcnn_r50_fpn.yaml"))


def test_another_paper_is_one_more_table(monkeypatch: pytest.MonkeyPatch):
    cfg = get_config("detr_r50.yaml")
    cfg.MODEL.DETR.TRANSFORMER.NAME = "OtherTransformer"
    assert recipe_of(cfg).title == "DETR (Carion et al. 2020)"  # a user's own is compared with DETR's
    assert "another network" in marked("MODEL.DETR.TRANSFORMER.NAME", "OtherTransformer")["transformer"][1]
    queries = Setting("queries", "MODEL.DETR.NUM_QUERIES", (300,), "Sec. 5", "fewer objects fit.")
    monkeypatch.setitem(RECIPES, "OtherTransformer", Recipe("Other (2021)", [queries]))
    (row,) = compare(cfg)
    assert (row.here, row.paper, row.mark) == ("100", "300", "differs")
    assert sentences([row], "differs") == ["queries: fewer objects fit. (MODEL.DETR.NUM_QUERIES)"]


def test_sources_and_keys_of_the_table():
    cfg = get_config("detr_r50.yaml")
    for setting in (setting for recipe in RECIPES.values() for setting in recipe.settings):
        assert setting.source
        for key in setting.keys.split():
            _value(cfg, key)  # raises KeyError for a key that is not there


def _value(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def test_line_at_the_start_of_training():
    cfg = get_config("quickstart/detr_shapes.yaml")
    line = recipe_line(cfg, [])
    assert line.startswith("Differs from the recipe of DETR (Carion et al. 2020) in: backbone, initial weights, ")
    assert "\n" not in line
    assert line.endswith("check-recipe --config-file ./output/quickstart/detr/config.yaml")
    assert "learning rate," in line
    assert " learning rate," not in recipe_line(cfg, [], without_keys={"SOLVER.BASE_LR"})
    assert recipe_line(get_config("detr_r50.yaml"), []) == ""
    assert recipe_line(get_config("faster_rcnn_r50_fpn.yaml"), []) == ""


DEFORMABLE_CONFIGS = [
    f"deformable_detr_r50{variant}.yaml"
    for variant in ("", "_single_scale", "_single_scale_dc5", "_refine", "_two_stage")
]


@pytest.mark.parametrize("name", DEFORMABLE_CONFIGS)
def test_the_deformable_configs_are_held_to_their_own_paper(name: str):
    cfg = get_config(name)
    assert recipe_of(cfg).title.startswith("Deformable DETR")
    rows = compare(cfg, num_images=118_287)
    assert [row.setting for row in rows if row.mark == "differs"] == []
    assert {"slow parameters", "sampling points", "feature levels"} <= {row.setting for row in rows}
    assert "no-object weight" not in {row.setting for row in rows}


def test_a_deformable_config_with_detrs_settings_is_marked():
    cfg = get_config("deformable_detr_r50.yaml")
    cfg.SOLVER.SLOW_NAMES, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH = [], 1e-4, 16
    cfg.MODEL.DETR.CRITERION.CLASSIFICATION = "softmax"
    cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE.MIXED_SELECTION = True
    marks = {row.setting: row.effect for row in compare(cfg) if row.mark == "differs"}
    settings = {"slow parameters", "learning rate", "images a step", "classification", "mixed query selection"}
    assert settings <= marks.keys()
    assert "scaled linearly from 32 to 16" in marks["learning rate"]
