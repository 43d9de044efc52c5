"""What a config has, in the words of a recipe: each function reads one setting that several keys make up.

None means that the setting does not apply.
"""

from __future__ import annotations

from typing import Any

from ..data import uses_detr_augmentation
from .settings import Run

_RESNET_BUILDERS = ("build_detr_resnet_backbone", "build_resnet_backbone")
_FROZEN_UP_TO = ("nothing", "stem", "stem and res2", "stem to res3", "stem to res4", "stem to res5")


def resnet(run: Run, value: Any) -> Any:
    """A value that only a ResNet has."""
    return value if run.cfg.MODEL.BACKBONE.NAME in _RESNET_BUILDERS else None


def backbone(run: Run) -> str:
    """The ResNet by its depth, another backbone by its builder."""
    return resnet(run, f"ResNet-{run.cfg.MODEL.RESNETS.DEPTH}") or run.cfg.MODEL.BACKBONE.NAME


# torch.hub's file names of the weights that the authors start from: torchvision's IMAGENET1K_V1.
_V1_FILES = {50: "resnet50-0676ba61.pth", 101: "resnet101-63fe2227.pth"}


def weights(run: Run) -> str | None:
    """The weights that training starts from; equal ones under one name. timm loads its own."""
    name, depth = run.cfg.MODEL.WEIGHTS, run.cfg.MODEL.RESNETS.DEPTH
    if run.cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        return None
    if not name:
        return "none: from scratch"
    if name in (
        f"torchvision://ResNet{depth}_Weights.IMAGENET1K_V1",
        f"detectron2://ImageNetPretrained/torchvision/R-{depth}.pkl",
    ) or name.rpartition("/")[2] == _V1_FILES.get(depth):
        return "torchvision, ImageNet V1"
    return name


def frozen(run: Run) -> str | None:
    """The parts that `MODEL.BACKBONE.FREEZE_AT` freezes."""
    at = run.cfg.MODEL.BACKBONE.FREEZE_AT
    return resnet(run, _FROZEN_UP_TO[at] if 0 <= at < len(_FROZEN_UP_TO) else f"FREEZE_AT {at}")


def res5_dilations(run: Run) -> tuple[int, ...] | None:
    """Of the three blocks; detectron2's own builder dilates all of them."""
    dilation = run.cfg.MODEL.RESNETS.RES5_DILATION
    ours = run.cfg.MODEL.BACKBONE.NAME == "build_detr_resnet_backbone"
    return resnet(run, (1 if ours else dilation, dilation, dilation))


def position_encoding(run: Run) -> str:
    """Kind and constants of the position encoding."""
    keys = run.cfg.MODEL.DETR.POSITION_ENCODING
    if keys.NAME != "sine":
        return keys.NAME
    return f"sine, temperature {keys.TEMPERATURE:g}, offset {keys.OFFSET:g}"


def layers(run: Run) -> tuple[int, int]:
    """Of the encoder and the decoder."""
    keys = run.cfg.MODEL.DETR.TRANSFORMER
    return keys.NUM_ENCODER_LAYERS, keys.NUM_DECODER_LAYERS


def loss_weights(run: Run) -> tuple[float, ...]:
    """Of class, L1 and GIoU."""
    keys = run.cfg.MODEL.DETR.CRITERION
    return keys.LOSS_CLASS, keys.LOSS_L1, keys.LOSS_GIOU


def matcher_costs(run: Run) -> tuple[float, ...]:
    """Of class, L1 and GIoU."""
    keys = run.cfg.MODEL.DETR.MATCHER
    return keys.COST_CLASS, keys.COST_L1, keys.COST_GIOU


def clipping(run: Run) -> str:
    """What is clipped, and at which value."""
    clip = run.cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return "none"
    if clip.FULL_MODEL:
        norm = "norm" if clip.NORM_TYPE == 2 else f"L{clip.NORM_TYPE:g} norm"
        return f"{norm} of all gradients together at {clip.CLIP_VALUE:g}"
    return f"{clip.CLIP_TYPE} of each parameter's gradient at {clip.CLIP_VALUE:g}"


def norm_decay(run: Run) -> float:
    """Weight decay of normalisation layers."""
    decay = run.cfg.SOLVER.WEIGHT_DECAY_NORM
    return run.cfg.SOLVER.WEIGHT_DECAY if decay is None else decay


def bias_rule(run: Run) -> str:
    """What is special about biases."""
    keys = run.cfg.SOLVER
    factor = 1.0 if keys.BIAS_LR_FACTOR is None else keys.BIAS_LR_FACTOR
    decay = keys.WEIGHT_DECAY if keys.WEIGHT_DECAY_BIAS is None else keys.WEIGHT_DECAY_BIAS
    if factor == 1.0 and decay == keys.WEIGHT_DECAY:
        return "as weights"
    return f"learning rate x {factor:g}, weight decay {decay:g}"


def warm_up(run: Run) -> str:
    """Length and start of the warm-up."""
    keys = run.cfg.SOLVER
    if keys.WARMUP_ITERS <= 0 or keys.WARMUP_FACTOR == 1.0:
        return "none"
    return f"{keys.WARMUP_ITERS:,} iterations from x {keys.WARMUP_FACTOR:g}"


def schedule(run: Run) -> str:
    """Length and drops, in epochs where the number of images is known."""
    keys = run.cfg.SOLVER
    length = span(run, keys.MAX_ITER)
    if keys.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return f"{length}, {keys.LR_SCHEDULER_NAME}"
    drops = [span(run, step) for step in keys.STEPS if step < keys.MAX_ITER]
    return f"{length}, x {keys.GAMMA:g} after {', '.join(drops)}" if drops else f"{length}, no drop"


def span(run: Run, iterations: int) -> str:
    """Iterations as epochs, where the number of images is known."""
    if run.num_images is None:
        return f"{iterations:,} iterations"
    epochs = iterations / max(1, run.num_images // run.batch)  # the authors leave the incomplete last batch out
    return f"{epochs:.0f} epochs" if epochs >= 100 else f"{epochs:.1f} epochs"


def augmentation(run: Run) -> str:
    """Whose training augmentation it is."""
    return "two branches" if uses_detr_augmentation(run.cfg) else "detectron2's"


def crop(run: Run) -> str | None:
    """The crop of DETR's augmentation."""
    keys = run.cfg.INPUT.CROP
    if not uses_detr_augmentation(run.cfg):
        return None
    if not keys.ENABLED:
        return "none"
    low, high = keys.SIZE
    return f"half of the images, {keys.TYPE} {low:g} to {high:g}"


def sizes_before_crop(run: Run) -> Any:
    """Short sides of the resize before the crop."""
    applies = uses_detr_augmentation(run.cfg) and run.cfg.INPUT.CROP.ENABLED
    return tuple(run.cfg.INPUT.DETR_MIN_SIZES) if applies else None


def train_sizes(run: Run) -> Any:
    """Short sides of the last resize."""
    sizes = tuple(run.cfg.INPUT.MIN_SIZE_TRAIN)
    return sizes if run.cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice" else f"any of {sizes[0]:,} to {sizes[-1]:,}"


def classes(run: Run) -> str:
    """Number of classes of the head."""
    return "from the data" if run.cfg.MODEL.DETR.NUM_CLASSES == 0 else f"{run.cfg.MODEL.DETR.NUM_CLASSES}"
