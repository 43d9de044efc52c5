"""Every config key that DETR adds to detectron2's defaults, one sentence each."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg


def _model_keys() -> CN:
    detr = CN()
    # Number of classes K; 0 takes it from the training data before the model is built. "No object" is class index K.
    detr.NUM_CLASSES = 0
    # Number of object queries N (paper, Sec. 3.2): the most objects that one image can yield.
    detr.NUM_QUERIES = 100
    # Backbone feature maps that the transformer reads (DETR reads one: "res5").
    detr.IN_FEATURES = ["res5"]
    # Train every decoder layer with its own set loss (paper, Sec. 3.2, "Auxiliary decoding losses").
    detr.AUX_LOSS = True
    # Parts without gradients: dotted module names or their last components ("backbone", "encoder", ...).
    detr.FREEZE = []
    # K weights of the classes in the cross-entropy, in the order of the metadata; [] weighs all with 1.
    detr.CLASS_WEIGHTS = []
    # Detections scored below this are dropped by the model itself; 0 keeps every query, as COCO AP needs.
    detr.SCORE_THRESH_TEST = 0.0

    detr.POSITION_ENCODING = CN()
    # "sine" (fixed, paper default) or "learned" (at most 50 x 50 feature cells).
    detr.POSITION_ENCODING.NAME = "sine"
    # Base T of the sine frequencies T^(-2i/d) (paper, appendix A.4).
    detr.POSITION_ENCODING.TEMPERATURE = 10000.0
    # Added to the cell index before normalising: 0 in DETR, -0.5 in Deformable DETR.
    detr.POSITION_ENCODING.OFFSET = 0.0

    detr.TRANSFORMER = CN()
    # Name in TRANSFORMER_REGISTRY.
    detr.TRANSFORMER.NAME = "DETRTransformer"
    # Width d of every token.
    detr.TRANSFORMER.HIDDEN_DIM = 256
    # Attention heads M; HIDDEN_DIM must be a multiple of it.
    detr.TRANSFORMER.NUM_HEADS = 8
    # Hidden width of the feed-forward networks.
    detr.TRANSFORMER.FEEDFORWARD_DIM = 2048
    detr.TRANSFORMER.NUM_ENCODER_LAYERS = 6
    detr.TRANSFORMER.NUM_DECODER_LAYERS = 6
    # Dropout of attention weights, residuals and feed-forward networks alike.
    detr.TRANSFORMER.DROPOUT = 0.1
    # Normalise before each sub-layer instead of after its residual sum.
    detr.TRANSFORMER.PRE_NORM = False
    # "relu" or "gelu".
    detr.TRANSFORMER.ACTIVATION = "relu"

    detr.HEAD = CN()
    # Name in QUERY_HEAD_REGISTRY.
    detr.HEAD.NAME = "DETRHead"

    detr.CRITERION = CN()
    # Name in CRITERION_REGISTRY.
    detr.CRITERION.NAME = "SetCriterion"
    # Cross-entropy is divided by the class weights of this process's batch ("local", the authors' rule) or by
    # their mean over all processes and accumulated micro-batches ("global").
    detr.CRITERION.CE_NORM = "local"
    # Class weight of "no object" (paper, Sec. 4: 0.1).
    detr.CRITERION.NO_OBJECT_WEIGHT = 0.1
    # Loss weights: lambda_class, lambda_L1, lambda_iou (paper, appendix A.4).
    detr.CRITERION.LOSS_CLASS = 1.0
    detr.CRITERION.LOSS_L1 = 5.0
    detr.CRITERION.LOSS_GIOU = 2.0

    detr.MATCHER = CN()
    # Weights of the matching cost (paper, Eq. 1); independent of the loss weights.
    detr.MATCHER.COST_CLASS = 1.0
    detr.MATCHER.COST_L1 = 5.0
    detr.MATCHER.COST_GIOU = 2.0
    return detr


def _training_keys() -> CN:
    keys = CN({"SOLVER": {"CLIP_GRADIENTS": {}, "AMP": {}}, "INPUT": {}, "DATASETS": {}, "TEST": {}})
    # "SGD" (detectron2's) or "ADAMW".
    keys.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone divided by BASE_LR (paper: 0.1).
    keys.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Clip the norm of all gradients together to CLIP_GRADIENTS.CLIP_VALUE; detectron2's own types clip each parameter.
    keys.SOLVER.CLIP_GRADIENTS.FULL_MODEL = False
    # "float16" (with a gradient scaler, GPUs) or "bfloat16"; on a CPU autocast always means bfloat16.
    keys.SOLVER.AMP.DTYPE = "float16"
    # Micro-batches of IMS_PER_BATCH images whose gradients make one step.
    keys.SOLVER.ACCUM_STEPS = 1
    # Fraction of MAX_ITER in which LR_SCHEDULER_NAME "OneCycleLR" warms up.
    keys.SOLVER.ONE_CYCLE_PCT = 0.1

    # DETR's two-branch augmentation: "on", "off", or "auto" (on for the DETR meta-architecture).
    keys.INPUT.DETR_AUGMENTATION = "auto"
    # Short sides of the resize that precedes the crop in the second branch (no limit on the long side).
    keys.INPUT.DETR_MIN_SIZES = (400, 500, 600)

    # COCO-format data to register in every process: "NAME=annotations.json:image_root".
    keys.DATASETS.COCO = []
    # Boxes without area after clipping to the image: "skip" them (the authors' rule) or stop with an "error".
    keys.DATASETS.INVALID_ANNOTATIONS = "skip"

    # Keep model_best.pth, the checkpoint with the highest box AP.
    keys.TEST.BEST_CHECKPOINT = True
    return keys


def add_detr_config(cfg: CN) -> None:
    """Adds the keys of this plugin to a detectron2 config.

    Keys that are there already keep their values: a second call changes nothing, and another plugin's `MODEL.DETR` is
    completed, not replaced.

    Args:
        cfg: what `detectron2.config.get_cfg()` returns.
    """
    _complete(cfg, CN({"MODEL": {"DETR": _model_keys()}}))
    _complete(cfg, _training_keys())


def _complete(node: CN, keys: CN) -> None:
    """Adds those keys to a node that it lacks."""
    for name, value in keys.items():
        if name not in node:
            node[name] = value
        elif isinstance(value, CN) and isinstance(node[name], CN):
            _complete(node[name], value)


def get_cfg() -> CN:
    """Returns detectron2's default config with the keys of this plugin."""
    cfg = get_detectron2_cfg()
    add_detr_config(cfg)
    return cfg
