"""The shipped configs are the papers' recipes: every value beside its source.

Sources that are file names are those of the authors' code, facebookresearch/detr at commit 29901c5 and
fundamentalvision/Deformable-DETR at commit 11169a6.
"""

from __future__ import annotations

from typing import Any

import pytest

from detr_d2.data import uses_detr_augmentation
from detr_d2.model_zoo import get_config

D, T = "MODEL.DETR.", "MODEL.DETR.TRANSFORMER."
RESNET50, RESNET101 = (f"torchvision://ResNet{depth}_Weights.IMAGENET1K_V1" for depth in (50, 101))

# Carion et al. 2020.
DETR: dict[str, Any] = {
    # datasets/coco.py
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],  # 255 x (0.485, 0.456, 0.406)
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.RANDOM_TRANSPOSE": False,
    "INPUT.COLOR_JITTER": 0.0,
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute_range",
    "INPUT.CROP.SIZE": [384, 600],
    "INPUT.DETR_MIN_SIZES": (400, 500, 600),
    "INPUT.MIN_SIZE_TRAIN": tuple(range(480, 801, 32)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    # main.py
    "DATALOADER.ASPECT_RATIO_GROUPING": False,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "SEED": 42,
    "MODEL.DETR.FREEZE": [],
    "MODEL.DETR.CLASS_WEIGHTS": [],
    T + "HIDDEN_DIM": 256,
    T + "ACTIVATION": "relu",
    T + "DETR.PRE_NORM": False,
    D + "MATCHER.COST_CLASS": 1.0,
    D + "MATCHER.COST_L1": 5.0,
    D + "MATCHER.COST_GIOU": 2.0,
    "SOLVER.ACCUM_STEPS": 1,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.AMP.ENABLED": False,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # as weights
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.SLOW_NAMES": [],
    # models/backbone.py
    "MODEL.BACKBONE.NAME": "build_detr_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    D + "IN_FEATURES": ["res5"],
    # paper, Sec. 3 and 4
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.RES5_DILATION": 1,
    T + "NAME": "DETRTransformer",
    T + "NUM_ENCODER_LAYERS": 6,
    T + "NUM_DECODER_LAYERS": 6,
    T + "NUM_HEADS": 8,
    T + "FEEDFORWARD_DIM": 2048,
    T + "DROPOUT": 0.1,
    D + "HEAD.NAME": "DETRHead",
    D + "AUX_LOSS": True,
    D + "CRITERION.NAME": "SetCriterion",
    D + "CRITERION.CLASSIFICATION": "softmax",
    D + "CRITERION.NO_OBJECT_WEIGHT": 0.1,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.STEPS": (400 * (118_287 // 64),),
    "SOLVER.MAX_ITER": 500 * (118_287 // 64),
    "SOLVER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    # appendix A.4
    "MODEL.WEIGHTS": RESNET50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    D + "POSITION_ENCODING.NAME": "sine",
    D + "POSITION_ENCODING.TEMPERATURE": 10_000.0,
    D + "POSITION_ENCODING.OFFSET": 0.0,
    D + "NUM_QUERIES": 100,
    D + "CRITERION.LOSS_CLASS": 1.0,
    D + "CRITERION.LOSS_L1": 5.0,
    D + "CRITERION.LOSS_GIOU": 2.0,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.FULL_MODEL": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    # models/detr.py
    D + "CRITERION.CE_NORM": "local",
    D + "SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}

# Zhu et al. 2021, Sec. 5 and appendix A.4; the offset is in models/position_encoding.py, the batch in README.md.
DEFORMABLE: dict[str, Any] = {
    **DETR,
    D + "IN_FEATURES": ["res3", "res4", "res5"],
    D + "NUM_FEATURE_LEVELS": 4,
    D + "NECK.NAME": "ChannelMapper",
    D + "POSITION_ENCODING.OFFSET": -0.5,
    D + "NUM_QUERIES": 300,
    D + "HEAD.NAME": "ReferenceHead",
    T + "NAME": "DeformableTransformer",
    T + "FEEDFORWARD_DIM": 1024,
    T + "DEFORMABLE.NUM_POINTS": 4,
    T + "DEFORMABLE.BOX_REFINEMENT": False,
    T + "DEFORMABLE.TWO_STAGE": False,
    T + "DEFORMABLE.MIXED_SELECTION": False,
    D + "CRITERION.CLASSIFICATION": "focal",
    D + "CRITERION.LOSS_CLASS": 2.0,
    D + "MATCHER.COST_CLASS": 2.0,
    "SOLVER.BASE_LR": 2e-4,
    "SOLVER.SLOW_NAMES": ["reference_points", "sampling_offsets"],
    "SOLVER.SLOW_MULTIPLIER": 0.1,
    "SOLVER.IMS_PER_BATCH": 32,
    "SOLVER.STEPS": (40 * (118_287 // 32),),
    "SOLVER.MAX_ITER": 50 * (118_287 // 32),
}

R101 = {"MODEL.RESNETS.DEPTH": 101, "MODEL.WEIGHTS": RESNET101}
DC5 = {"MODEL.RESNETS.RES5_DILATION": 2}
REFINED = {T + "DEFORMABLE.BOX_REFINEMENT": True}
ONE_LEVEL = {D + "IN_FEATURES": ["res5"], D + "NUM_FEATURE_LEVELS": 1}
MASKS = {"MODEL.MASK_ON": True, D + "CRITERION.LOSS_MASK": 1.0, D + "CRITERION.LOSS_DICE": 1.0}  # main.py
FROZEN = {  # README.md: the box model stays, 25 epochs with one drop after 15, 8 GPUs with 2 of their 14,786 images
    D + "FREEZE": ["backbone", "neck", "transformer", "head"],
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.STEPS": (15 * 7_393,),
    "SOLVER.MAX_ITER": 25 * 7_393,
}
STUFF = {D + "PANOPTIC.ENABLED": True}
BOXES = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Base-DETR", DETR),
        ("detr_r50", DETR),
        ("detr_r50_dc5", DETR | DC5),
        ("detr_r101", DETR | R101),
        ("detr_r101_dc5", DETR | R101 | DC5),
        ("detr_r50_segm", DETR | MASKS),
        ("detr_r50_segm_frozen", DETR | MASKS | FROZEN | {"MODEL.WEIGHTS": BOXES}),
        ("detr_r50_panoptic", DETR | MASKS | STUFF),
        ("detr_r50_dc5_panoptic", DETR | MASKS | STUFF | DC5),
        ("detr_r101_panoptic", DETR | MASKS | STUFF | R101),
        ("deformable_detr_r50", DEFORMABLE),
        ("deformable_detr_r50_single_scale", DEFORMABLE | ONE_LEVEL),
        ("deformable_detr_r50_single_scale_dc5", DEFORMABLE | ONE_LEVEL | DC5),
        ("deformable_detr_r50_refine", DEFORMABLE | REFINED),
        ("deformable_detr_r50_two_stage", DEFORMABLE | REFINED | {T + "DEFORMABLE.TWO_STAGE": True}),
    ],
)
def test_shipped_config_is_the_papers(name: str, values: dict[str, Any]) -> None:
    cfg = get_config(name)
    assert uses_detr_augmentation(cfg)
    for key, expected in values.items():
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        assert value == expected, key
