"""The recipe of DETR, as one table of facts.

Paper: End-to-End Object Detection with Transformers (Carion et al. 2020, arXiv 2005.12872). Sources that are file names
are those of the authors' code, facebookresearch/detr at commit 29901c5.
"""

from __future__ import annotations

from . import readers as read
from .settings import DIFFERS, NOTE, Recipe, Run, Setting

COCO_TRAIN_IMAGES = 118_287  # train2017, images without annotations included

_LR, _BATCH = 1e-4, 64
_OTHER_BATCH = 16  # of the command in the authors' README, with the same learning rates


def _weights_mark(run: Run) -> str:
    """A checkpoint to fine-tune is no departure; another ImageNet network is."""
    name = run.cfg.MODEL.WEIGHTS
    other = "ImageNet" in name or name.startswith("torchvision://") or name.rpartition("/")[2].startswith("resnet")
    return DIFFERS if not name or other else NOTE


def _learning_rate(run: Run) -> str:
    lr = run.cfg.SOLVER.BASE_LR
    if run.batch != _BATCH and abs(lr * _BATCH / (_LR * run.batch) - 1) < 0.01:
        return (
            f"it is the paper's {_LR:g} scaled linearly from {_BATCH} to {run.batch} images; the authors keep {_LR:g} "
            "for 64 and for 16 images."
        )
    if lr > _LR:
        return "a larger rate may spoil pretrained weights or never begin to learn."
    return "it learns more slowly, and the drop comes before it has converged."


def _backbone_rate(run: Run) -> str:
    if run.cfg.SOLVER.BACKBONE_MULTIPLIER > 0.1:
        return "the authors found the smaller rate important for stable training, above all in the first epochs."
    return "the backbone adapts more slowly than the authors' 1e-5 lets it."


def _clipping_effect(run: Run) -> str:
    clip = run.cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return "single large gradients reach the weights; early training is less stable."
    if not clip.FULL_MODEL:
        return "every parameter is clipped by itself, which changes the direction of the step and clips far less."
    return "gradients keep another length; AdamW hides part of it, as it is the same factor for all parameters."


def _batch_effect(run: Run) -> str:
    if run.batch == _OTHER_BATCH:
        return "the paper's results are of 64 images a step; the command of the authors' README has 16, same rates."
    return "other gradient noise and another number of steps an epoch; the learning rate does not follow by itself."


def _schedule_effect(run: Run) -> str:
    if run.cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return "the paper trains at one rate, and drops it once to a tenth for the last third or fifth of the epochs."
    if run.num_images is None:
        return "its epochs are unknown, because the number of training images is."
    return "DETR converges slowly: the paper's 300 epochs cost 1.5 AP against 500; fewer cost more."


def schedule_mark(run: Run) -> str:
    """Without the number of images only the shape of the schedule can be compared."""
    keys = run.cfg.SOLVER
    one_drop = sum(step < keys.MAX_ITER for step in keys.STEPS) == 1 and abs(keys.GAMMA - 0.1) < 1e-6
    same_shape = keys.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and one_drop
    return NOTE if run.num_images is None and same_shape else DIFFERS


_PAPER, _APPENDIX, _MAIN = "paper, Sec. 4", "paper, appendix A.4", "main.py"
_DATA, _BACKBONE = "datasets/coco.py", "models/backbone.py"
_D = "MODEL.DETR"

_INPUT = [
    Setting("channel order", "INPUT.FORMAT", ("RGB",), _DATA,
            "the weights of torchvision were trained on RGB; in BGR they see red and blue exchanged."),
    Setting("pixel mean", "MODEL.PIXEL_MEAN", ((123.675, 116.28, 103.53),), _DATA,
            "the pretrained filters meet shifted inputs (the paper's are torchvision's means x 255)."),
    Setting("pixel std", "MODEL.PIXEL_STD", ((58.395, 57.12, 57.375),), _DATA,
            "the pretrained filters meet inputs of another scale (with 1.0, some 57 times larger)."),
]  # fmt: skip

_NETWORK = [
    Setting("backbone", "MODEL.BACKBONE.NAME MODEL.RESNETS.DEPTH", ("ResNet-50", "ResNet-101"), _PAPER,
            "another network has no published AP to compare with.", read.backbone),
    Setting("initial weights", "MODEL.WEIGHTS", ("torchvision, ImageNet V1",), _APPENDIX,
            "training starts elsewhere than the authors' did.", read.weights, _weights_mark),
    Setting("stride in 1x1", "MODEL.RESNETS.STRIDE_IN_1X1", (False,), _BACKBONE,
            "torchvision's weights were trained with the stride in the 3x3 convolution.",
            lambda run: read.resnet(run, bool(run.cfg.MODEL.RESNETS.STRIDE_IN_1X1))),
    Setting("batch norm", "MODEL.RESNETS.NORM", ("FrozenBN",), _APPENDIX,
            "the authors freeze statistics and affine maps; a few images per GPU make poor statistics.",
            lambda run: read.resnet(run, run.cfg.MODEL.RESNETS.NORM)),
    Setting("frozen layers", "MODEL.BACKBONE.FREEZE_AT", ("stem and res2",), _BACKBONE,
            "other parts of the backbone learn than the authors' layer2 to layer4.", read.frozen),
    Setting("dilations of res5", "MODEL.RESNETS.RES5_DILATION MODEL.BACKBONE.NAME", ((1, 1, 1), (1, 2, 2)), _BACKBONE,
            "detectron2's own builder dilates all three blocks, and the authors' DC5 weights lose accuracy there: set "
            "MODEL.BACKBONE.NAME build_detr_resnet_backbone.", read.res5_dilations),
    Setting("feature map", f"{_D}.IN_FEATURES", (("res5",),), _BACKBONE,
            "the transformer sees maps of another resolution."),
    Setting("frozen parts", f"{_D}.FREEZE", ((),), _MAIN, "these parts do not learn."),
    Setting("position encoding", f"{_D}.POSITION_ENCODING.NAME {_D}.POSITION_ENCODING.TEMPERATURE "
            f"{_D}.POSITION_ENCODING.OFFSET", ("sine, temperature 10000, offset 0",), _APPENDIX,
            "the authors' weights do not fit another encoding.", read.position_encoding),
    Setting("transformer", f"{_D}.TRANSFORMER.NAME", ("DETRTransformer",), _PAPER,
            "this is another network; what it shares with DETR is compared all the same."),
    Setting("layers", f"{_D}.TRANSFORMER.NUM_ENCODER_LAYERS {_D}.TRANSFORMER.NUM_DECODER_LAYERS", ((6, 6),), _PAPER,
            "every layer counts: without an encoder the paper loses 3.9 AP (Table 2).", read.layers),
    Setting("hidden width", f"{_D}.TRANSFORMER.HIDDEN_DIM", (256,), _MAIN, "another capacity."),
    Setting("heads", f"{_D}.TRANSFORMER.NUM_HEADS", (8,), _PAPER, "another split of the width into heads."),
    Setting("feed-forward width", f"{_D}.TRANSFORMER.FEEDFORWARD_DIM", (2048,), _MAIN, "another capacity."),
    Setting("dropout", f"{_D}.TRANSFORMER.DROPOUT", (0.1,), _PAPER, "another regularisation of the transformer."),
    Setting("pre-norm", f"{_D}.TRANSFORMER.DETR.PRE_NORM", (False,), _MAIN,
            "norms stand before the sub-layers; the published weights are of post-norm."),
    Setting("activation", f"{_D}.TRANSFORMER.ACTIVATION", ("relu",), _MAIN, "another non-linearity."),
    Setting("queries", f"{_D}.NUM_QUERIES", (100,), _APPENDIX,
            "it bounds the objects of an image, and shifts the balance between objects and no object."),
    Setting("head", f"{_D}.HEAD.NAME", ("DETRHead",), "paper, Sec. 3.2", "classes and boxes are read off otherwise."),
    Setting("classes", f"{_D}.NUM_CLASSES", ("91",), "models/detr.py",
            "the authors' head has a row for each COCO id up to 90, 11 of them never used; this one has a row a class.",
            read.classes, NOTE),
]  # fmt: skip

_LOSSES = [
    Setting("criterion", f"{_D}.CRITERION.NAME", ("SetCriterion",), "paper, Sec. 3.1", "this is another loss."),
    Setting("classification", f"{_D}.CRITERION.CLASSIFICATION", ("softmax",), "paper, Sec. 3.1",
            "logits, matching cost, loss and scores are others, and the published class heads do not fit."),
    Setting("loss weights: class, L1, GIoU", f"{_D}.CRITERION.LOSS_CLASS {_D}.CRITERION.LOSS_L1 "
            f"{_D}.CRITERION.LOSS_GIOU", ((1.0, 5.0, 2.0),), _APPENDIX, "another balance of classes and boxes.",
            read.loss_weights),
    Setting("matcher costs: class, L1, GIoU", f"{_D}.MATCHER.COST_CLASS {_D}.MATCHER.COST_L1 {_D}.MATCHER.COST_GIOU",
            ((1.0, 5.0, 2.0),), _MAIN, "other predictions are matched with the objects.", read.matcher_costs),
    Setting("no-object weight", f"{_D}.CRITERION.NO_OBJECT_WEIGHT", (0.1,), _PAPER,
            "the many queries without an object weigh more, or less, against those with one."),
    Setting("auxiliary losses", f"{_D}.AUX_LOSS", (True,), "paper, Sec. 3.2",
            "only the last decoder layer is supervised, and training converges more slowly."),
    Setting("class weights", f"{_D}.CLASS_WEIGHTS", ((),), _MAIN, "some classes count more than others."),
    Setting("cross-entropy mean over", f"{_D}.CRITERION.CE_NORM", ("local",), "models/detr.py",
            "the mean is taken over all processes and micro-batches instead of each process's own images.", None, NOTE),
]  # fmt: skip

_OPTIMIZER = [
    Setting("optimizer", "SOLVER.OPTIMIZER", ("ADAMW",), _APPENDIX,
            "attention rarely trains well with another optimizer than AdamW.",
            lambda run: run.cfg.SOLVER.OPTIMIZER.upper()),
    Setting("learning rate", "SOLVER.BASE_LR", (_LR,), _APPENDIX, _learning_rate),
    Setting("backbone learning rate factor", "SOLVER.BACKBONE_MULTIPLIER", (0.1,), _APPENDIX, _backbone_rate),
    Setting("slow parameters", "SOLVER.SLOW_NAMES SOLVER.SLOW_MULTIPLIER", ((),), _MAIN,
            "parameters with these parts in their names learn more slowly."),
    Setting("weight decay", "SOLVER.WEIGHT_DECAY", (1e-4,), _APPENDIX, "another regularisation."),
    Setting("weight decay of norms", "SOLVER.WEIGHT_DECAY_NORM", (1e-4,), _MAIN,
            "the authors decay every parameter alike, norms included; detectron2's default exempts them.",
            read.norm_decay),
    Setting("biases", "SOLVER.BIAS_LR_FACTOR SOLVER.WEIGHT_DECAY_BIAS", ("as weights",), _MAIN,
            "the authors treat biases as they treat weights.", read.bias_rule),
    Setting("gradient clipping", "SOLVER.CLIP_GRADIENTS.ENABLED SOLVER.CLIP_GRADIENTS.FULL_MODEL "
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE SOLVER.CLIP_GRADIENTS.CLIP_VALUE SOLVER.CLIP_GRADIENTS.NORM_TYPE",
            ("norm of all gradients together at 0.1",), _APPENDIX, _clipping_effect, read.clipping),
    Setting("images a step", "SOLVER.IMS_PER_BATCH SOLVER.ACCUM_STEPS", (_BATCH,), _PAPER, _batch_effect,
            lambda run: run.batch, lambda run: NOTE if run.batch == _OTHER_BATCH else DIFFERS),
    Setting("micro-batches a step", "SOLVER.ACCUM_STEPS", (1,), _MAIN,
            "box losses are those of the whole batch; with CE_NORM local the cross-entropy is a mean of means.",
            None, NOTE),
    Setting("batch and rate follow the GPUs", "SOLVER.REFERENCE_WORLD_SIZE", (False,), _MAIN,
            "on another number of processes detectron2 scales batch and learning rate linearly.",
            lambda run: run.cfg.SOLVER.REFERENCE_WORLD_SIZE != 0),
    Setting("mixed precision", "SOLVER.AMP.ENABLED", (False,), _MAIN,
            "the authors trained in float32; here boxes, matching and losses still are.", None, NOTE),
    Setting("average of the weights", "SOLVER.EMA_DECAY", (0.0,), _MAIN,
            "an average over the last steps is evaluated and saved instead of the weights."),
    Setting("warm-up", "SOLVER.WARMUP_ITERS SOLVER.WARMUP_FACTOR", ("none",), _MAIN,
            "the first steps are smaller; harmless where it is short.", read.warm_up),
    Setting("schedule", "SOLVER.MAX_ITER SOLVER.STEPS SOLVER.GAMMA SOLVER.LR_SCHEDULER_NAME",
            ("500 epochs, x 0.1 after 400 epochs", "300 epochs, x 0.1 after 200 epochs"), _PAPER, _schedule_effect,
            read.schedule, schedule_mark),
]  # fmt: skip

_TRAINING_DATA = [
    Setting("images without objects", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", ("kept",), _DATA,
            "they are left out: the model never sees a scene in which every query must say no object.",
            lambda run: "left out" if run.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else "kept"),
    Setting("batches of one orientation", "DATALOADER.ASPECT_RATIO_GROUPING", (False,), _MAIN,
            "batches hold wide or high images only; less padding, but batches are no longer drawn at random."),
    Setting("sampler", "DATALOADER.SAMPLER_TRAIN", ("TrainingSampler",), _MAIN,
            "images are no longer seen equally often."),
    Setting("augmentation", "INPUT.DETR_AUGMENTATION", ("two branches",), _PAPER,
            "images are not cropped as DETR's are; the paper reports that its crops raise AP.", read.augmentation),
    Setting("flip", "INPUT.RANDOM_FLIP", ("horizontal",), _DATA, "half of the images are not mirrored horizontally."),
    Setting("transposition", "INPUT.RANDOM_TRANSPOSE", (False,), _DATA,
            "half of the images have rows and columns swapped, which is for images without an up and a down."),
    Setting("change of colours", "INPUT.COLOR_JITTER", (0.0,), _DATA,
            "brightness, contrast and saturation are changed at random."),
    Setting("crop", "INPUT.CROP.ENABLED INPUT.CROP.TYPE INPUT.CROP.SIZE",
            ("half of the images, absolute_range 384 to 600",), _DATA,
            "the paper reports that its random crops raise AP.", read.crop),
    Setting("short sides before the crop", "INPUT.DETR_MIN_SIZES", ((400, 500, 600),), _DATA,
            "objects in crops appear at other scales.", read.sizes_before_crop),
    Setting("short sides", "INPUT.MIN_SIZE_TRAIN INPUT.MIN_SIZE_TRAIN_SAMPLING", (tuple(range(480, 801, 32)),), _DATA,
            "objects appear at other scales.", read.train_sizes),
    Setting("longest side", "INPUT.MAX_SIZE_TRAIN", (1333,), _DATA, "narrow images appear at another scale."),
    Setting("seed", "SEED", (42,), _MAIN,
            "any seed will do; none (-1) makes runs differ. Even 42 does not repeat the authors' random numbers.",
            None, NOTE),
]  # fmt: skip

_EVALUATION = [
    Setting("test size: short, longest", "INPUT.MIN_SIZE_TEST INPUT.MAX_SIZE_TEST", ((800, 1333),), _DATA,
            "the published AP is measured at 800 and at most 1,333 pixels.",
            lambda run: (run.cfg.INPUT.MIN_SIZE_TEST, run.cfg.INPUT.MAX_SIZE_TEST)),
    Setting("rounding of image sizes", "INPUT.RESIZE_ROUNDING", ("authors",), "datasets/transforms.py",
            "about half of all images are a pixel longer than with the authors' code.", None, NOTE),
    Setting("detections per image", "TEST.DETECTIONS_PER_IMAGE", (100,), "models/detr.py",
            "AP counts 100 detections an image, and the paper keeps all queries."),
    Setting("score threshold", "MODEL.DETR.SCORE_THRESH_TEST", (0.0,), "models/detr.py",
            "dropping detections lowers AP; set it for pictures, not for evaluation."),
]  # fmt: skip

DETR_RECIPE = Recipe(
    "DETR (Carion et al. 2020)", [*_INPUT, *_NETWORK, *_LOSSES, *_OPTIMIZER, *_TRAINING_DATA, *_EVALUATION]
)
