"""Every config key that DETR adds to detectron2's defaults, one sentence each, and the config that has them."""

from __future__ import annotations

from collections.abc import Sized

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import MetadataCatalog

from .config_node import CfgNode
from .panoptic_classes import PanopticClasses
from .renamed_keys import REMOVED, RENAMED


def _model_keys() -> CN:
    detr = CN()
    # Number of classes K; 0 takes it from the training data before the model is built. "No object" is class index K.
    detr.NUM_CLASSES = 0
    # Number of object queries N (paper, Sec. 3.2): the most objects that one image can yield.
    detr.NUM_QUERIES = 100
    # Backbone feature maps that the neck reads, finest first (DETR reads one: "res5").
    detr.IN_FEATURES = ["res5"]
    # Feature maps that the transformer reads; those beyond IN_FEATURES are made by the neck (paper of Deformable DETR:
    # 4 from 3).
    detr.NUM_FEATURE_LEVELS = 1
    # Train every decoder layer with its own set loss (paper, Sec. 3.2, "Auxiliary decoding losses").
    detr.AUX_LOSS = True
    # Parts without gradients: dotted module names or their last components ("backbone", "encoder", ...).
    detr.FREEZE = []
    # How a checkpoint begins the class head: "rows" takes it over if it has as many rows; "names" takes the rows of
    # classes with the same name; "none" begins anew.
    detr.CLASS_HEAD_FROM = "rows"
    # K weights of the classes in the cross-entropy, in the order of the metadata; [] weighs all with 1.
    detr.CLASS_WEIGHTS = []
    # Detections scored below this are dropped by the model itself; 0 keeps every query, as COCO AP needs.
    detr.SCORE_THRESH_TEST = 0.0
    # IoU of class-wise NMS on the detections, for a model that still repeats itself; 1.0 for none, as in the paper.
    detr.NMS_THRESH_TEST = 1.0
    # A query yields its best class alone also with "focal", where it may otherwise yield one detection for every class.
    detr.ONE_CLASS_PER_QUERY = False

    # Faster ways to the same predictions, up to rounding: folded batch norms, channels-last, fused operators. False for
    # the plain model.
    detr.OPTIMIZE_INFERENCE = True
    # The same for training, with the same gradients.
    detr.OPTIMIZE_TRAINING = True
    # "float32", or "bfloat16" or "float16" to predict under autocast: less exact, faster where the processor has it.
    detr.INFERENCE_DTYPE = "float32"
    # Recompute every block of a ResNet in the backward pass instead of keeping it in memory: slower, same results. Not
    # with batch norms that train. TRANSFORMER.RECOMPUTE does the same for the transformer.
    detr.RECOMPUTE_BACKBONE = False

    detr.POSITION_ENCODING = CN()
    # "sine" (fixed, paper default) or "learned" (at most 50 x 50 feature cells).
    detr.POSITION_ENCODING.NAME = "sine"
    # Base T of the sine frequencies T^(-2i/d) (paper, appendix A.4).
    detr.POSITION_ENCODING.TEMPERATURE = 10000.0
    # Added to the cell index before normalising: 0 in DETR, -0.5 in Deformable DETR.
    detr.POSITION_ENCODING.OFFSET = 0.0

    detr.NECK = CN()
    # Name in NECK_REGISTRY: "Projection" (one map) or "ChannelMapper" (any number of levels).
    detr.NECK.NAME = "Projection"

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
    # "relu", "gelu", "silu" or "prelu".
    detr.TRANSFORMER.ACTIVATION = "relu"
    # Recompute every layer in the backward pass instead of keeping it in memory: slower, same results.
    detr.TRANSFORMER.RECOMPUTE = False

    # Each node below holds what one paper's transformer reads, and those that build on it; others do not look there.
    detr.TRANSFORMER.DETR = CN()
    # Normalise before each sub-layer instead of after its residual sum.
    detr.TRANSFORMER.DETR.PRE_NORM = False

    detr.TRANSFORMER.DEFORMABLE = CN()
    # Deformable attention: points K that each head samples on each level (Zhu et al. 2021, Eq. 3).
    detr.TRANSFORMER.DEFORMABLE.NUM_POINTS = 4
    # Deformable attention: which implementation samples; "auto" takes the fastest that the device has.
    detr.TRANSFORMER.DEFORMABLE.SAMPLING_BACKEND = "auto"
    # Every decoder layer corrects the boxes of the layer before (Zhu et al. 2021, Sec. 4.2, "Iterative Bounding Box
    # Refinement").
    detr.TRANSFORMER.DEFORMABLE.BOX_REFINEMENT = False
    # The queries are the encoder's best proposals (same place, "Two-Stage Deformable DETR"); needs BOX_REFINEMENT.
    detr.TRANSFORMER.DEFORMABLE.TWO_STAGE = False
    # Of the proposals the queries take only their place, and learn their content ("mixed query selection": Zhang et al.
    # 2023, DINO, Sec. 3.4; in the form of Jia et al. 2023, H-DETR); needs TWO_STAGE.
    detr.TRANSFORMER.DEFORMABLE.MIXED_SELECTION = False

    detr.HEAD = CN()
    # Name in QUERY_HEAD_REGISTRY: "DETRHead", or "ReferenceHead" for boxes relative to reference points.
    detr.HEAD.NAME = "DETRHead"

    detr.CRITERION = CN()
    # Name in CRITERION_REGISTRY.
    detr.CRITERION.NAME = "SetCriterion"
    # "softmax" with "no object" (DETR), or "focal": a sigmoid per class with focal loss (Deformable DETR and later). It
    # sets loss, matching cost, decoding and number of logits together; NO_OBJECT_WEIGHT and CE_NORM are softmax's.
    detr.CRITERION.CLASSIFICATION = "softmax"
    # Cross-entropy is divided by the class weights of this process's batch ("local", the authors' rule) or by
    # their mean over all processes and accumulated micro-batches ("global").
    detr.CRITERION.CE_NORM = "local"
    # Class weight of "no object" (paper, Sec. 4: 0.1).
    detr.CRITERION.NO_OBJECT_WEIGHT = 0.1
    # Loss weights: lambda_class, lambda_L1, lambda_iou (paper, appendix A.4).
    detr.CRITERION.LOSS_CLASS = 1.0
    detr.CRITERION.LOSS_L1 = 5.0
    detr.CRITERION.LOSS_GIOU = 2.0
    # Loss weights of masks, focal and dice (authors' code: 1 and 1); without MODEL.MASK_ON there are none.
    detr.CRITERION.LOSS_MASK = 1.0
    detr.CRITERION.LOSS_DICE = 1.0

    detr.MASK_HEAD = CN()
    # Name in MASK_HEAD_REGISTRY; MODEL.MASK_ON decides whether there is a mask head.
    detr.MASK_HEAD.NAME = "DETRMaskHead"
    # Three feature maps of the backbone, finest first, that refine the masks; the last may be the transformer's own.
    detr.MASK_HEAD.IN_FEATURES = ["res2", "res3", "res4"]
    # Queries of an image that go through the mask head at once when predicting; less needs less memory.
    detr.MASK_HEAD.CHUNK_SIZE = 16

    detr.PANOPTIC = CN()
    # Classes are things and stuff of panoptic data, and one panoptic map per image is predicted besides the instances;
    # without MASK_ON the model learns their boxes only, the first of two steps.
    detr.PANOPTIC.ENABLED = False
    # A query becomes part of the map if it scores more than this (authors' code: 0.85).
    detr.PANOPTIC.SCORE_THRESH = 0.85
    # Segments of this many pixels or fewer are given to the others (authors' code: 4).
    detr.PANOPTIC.MIN_AREA = 4
    # Also predict "sem_seg", a score of every class at every pixel.
    detr.PANOPTIC.SEM_SEG = True
    # How many of the classes, the first, are things; the rest is stuff. 0 takes it from the training data.
    detr.PANOPTIC.NUM_THINGS = 0
    # detectron2's ids of stuff: "separated" counts from 1, "standard" on from the things. Taken from the training data
    # together with NUM_THINGS.
    detr.PANOPTIC.LAYOUT = "separated"

    detr.MATCHER = CN()
    # Weights of the matching cost (paper, Eq. 1); independent of the loss weights.
    detr.MATCHER.COST_CLASS = 1.0
    detr.MATCHER.COST_L1 = 5.0
    detr.MATCHER.COST_GIOU = 2.0
    return detr


def _timm_keys() -> CN:
    keys = CN()
    # Model of the timm library that BACKBONE.NAME "build_timm_backbone" builds.
    keys.NAME = "swin_tiny_patch4_window7_224"
    # Its stages (of a ViT: its blocks), counted from 1, whose maps are returned.
    keys.OUT_FEATURES = ["stage2", "stage3", "stage4"]
    # Start from timm's own weights, downloaded if need be.
    keys.PRETRAINED = False
    # Further arguments of the model by name; none are needed.
    keys.OPTIONS = CN(new_allowed=True)
    return keys


def _resnet_keys() -> CN:
    keys = CN()
    # The ResNet of any other detector than DETR, also under an FPN, runs as DETR's does: the same maps and gradients up
    # to rounding, sooner. DETR has OPTIMIZE_INFERENCE and OPTIMIZE_TRAINING.
    keys.FAST = True
    return keys


def _training_keys() -> CN:
    keys = CN({"SOLVER": {"CLIP_GRADIENTS": {}, "AMP": {}}, "INPUT": {}, "DATASETS": {}, "TEST": {}})
    # "SGD" (detectron2's) or "ADAMW".
    keys.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone divided by BASE_LR (paper: 0.1).
    keys.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Parameters whose names contain one of these parts learn at BASE_LR x SLOW_MULTIPLIER (Deformable DETR:
    # "reference_points", "sampling_offsets").
    keys.SOLVER.SLOW_NAMES = []
    # Learning rate of the SLOW_NAMES divided by BASE_LR (Zhu et al. 2021, appendix A.4: 0.1).
    keys.SOLVER.SLOW_MULTIPLIER = 0.1
    # Clip the norm of all gradients together to CLIP_GRADIENTS.CLIP_VALUE; detectron2's own types clip each parameter.
    keys.SOLVER.CLIP_GRADIENTS.FULL_MODEL = False
    # "float16" (with a gradient scaler, GPUs) or "bfloat16"; on a CPU autocast always means bfloat16.
    keys.SOLVER.AMP.DTYPE = "float16"
    # Micro-batches of IMS_PER_BATCH images whose gradients make one step.
    keys.SOLVER.ACCUM_STEPS = 1
    # Evaluate and save an exponential moving average of the weights: over the last ninth of the steps, and at most over
    # 1 / (1 - EMA_DECAY) of them (0.999: 1,000). 0 for the weights themselves.
    keys.SOLVER.EMA_DECAY = 0.0

    # DETR's two-branch augmentation: "on", "off", or "auto" (on for the DETR meta-architecture).
    keys.INPUT.DETR_AUGMENTATION = "auto"
    # Short sides of the resize that precedes the crop in the second branch (no limit on the long side).
    keys.INPUT.DETR_MIN_SIZES = (400, 500, 600)
    # With DETR's augmentation RANDOM_FLIP may also be "both", and there are two keys that others do not take:
    # Swap rows and columns of half of the images, for those without an up and a down (microscopes, aerial views).
    keys.INPUT.RANDOM_TRANSPOSE = False
    # Brightness, contrast and saturation change by random factors from 1 - COLOR_JITTER to 1 + COLOR_JITTER.
    keys.INPUT.COLOR_JITTER = 0.0
    # Rounding of image sizes by Trainer and our predictor: "detectron2", or "authors" for those of DETR's own code.
    keys.INPUT.RESIZE_ROUNDING = "detectron2"

    # COCO-format data to register in every process: "NAME=annotations.json:image_root".
    keys.DATASETS.COCO = []
    # COCO panoptic data likewise: "NAME=panoptic.json:png_root:image_root", optionally with ":instances.json".
    keys.DATASETS.COCO_PANOPTIC = []
    # Boxes without area after clipping to the image: "skip" them (the authors' rule) or stop with an "error".
    keys.DATASETS.INVALID_ANNOTATIONS = "skip"

    # Keep model_best.pth, the checkpoint with the highest box AP.
    keys.TEST.BEST_CHECKPOINT = True
    return keys


def add_detr_config(cfg: CN) -> None:
    """Adds the keys of this plugin to a detectron2 config.

    Keys that are there already keep their values: a second call changes nothing, and another plugin's `MODEL.DETR` is
    completed, not replaced. Files with keys that have been renamed end with the new name; `detr_d2.get_cfg` reads them.

    Args:
        cfg: what `detectron2.config.get_cfg()` returns.
    """
    _complete(cfg, CN({"MODEL": {"DETR": _model_keys(), "TIMM": _timm_keys(), "RESNETS": _resnet_keys()}}))
    _complete(cfg, _training_keys())
    if not any(map(cfg.key_is_renamed, RENAMED)):  # not the second call
        for old, new in RENAMED.items():
            cfg.register_renamed_key(old, new, "the config of detr_d2.get_cfg() reads the old name too.")
        for key in REMOVED:
            cfg.register_deprecated_key(key)


def _complete(node: CN, keys: CN) -> None:
    """Adds those keys to a node that it lacks."""
    for name, value in keys.items():
        if name not in node:
            node[name] = value
        elif isinstance(value, CN) and isinstance(node[name], CN):
            _complete(node[name], value)


def get_cfg() -> CfgNode:
    """Returns detectron2's default config with the keys of this plugin; its `merge_from_file` reads files as data."""
    cfg = CfgNode(get_detectron2_cfg())
    add_detr_config(cfg)
    return cfg


def with_num_classes(cfg: CN) -> CN:
    """Fills in `MODEL.DETR.NUM_CLASSES: 0` from the metadata of the training data, on a copy.

    Raises:
        ValueError: if the metadata does not know the classes either.
    """
    if cfg.MODEL.DETR.NUM_CLASSES > 0:
        return cfg
    classes: Sized | None = None
    if cfg.MODEL.DETR.PANOPTIC.ENABLED:
        classes = PanopticClasses.from_config(cfg)
    elif len(cfg.DATASETS.TRAIN):
        classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if not classes:
        raise ValueError(
            "MODEL.DETR.NUM_CLASSES is 0 and the training data (DATASETS.TRAIN: "
            f"{list(cfg.DATASETS.TRAIN)}) has no class names in its metadata: set MODEL.DETR.NUM_CLASSES, or register "
            "the dataset with its thing_classes before the model is built."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.NUM_CLASSES = len(classes)
    cfg.freeze()
    return cfg
