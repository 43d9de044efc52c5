"""How a config differs from the recipe of its paper: from that shipped config of the paper whose model is nearest.

Another paper is one more line in `PAPERS`, and sentences for its keys in `effects.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from textwrap import fill
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from ..data import uses_detr_augmentation
from ..model_zoo import get_config
from .effects import EFFECTS, NOTES

DIFFERS, NOTE = "differs", "note"

_COCO = 118_287  # images of train2017, those without annotations included
_KNOWN_SIZES = {f"coco_2017_train{kind}": _COCO for kind in ("", "_panoptic", "_panoptic_separated")}
_SCHEDULE = "SOLVER.MAX_ITER"
_CELL = 44  # characters of a cell in the table

# torch.hub's file names of the weights that the authors start from, torchvision's IMAGENET1K_V1.
_V1_FILES = {50: "resnet50-0676ba61.pth", 101: "resnet101-63fe2227.pth"}


@dataclass(frozen=True)
class Paper:
    """A paper: its title, the shipped configs that are its recipe, and other schedules that it has results of."""

    title: str
    configs: Sequence[str]
    other_schedules: Sequence[str] = ()


DETR = Paper(
    "DETR (Carion et al. 2020)",
    [
        *("detr_r50", "detr_r50_dc5", "detr_r101", "detr_r101_dc5", "detr_r50_segm", "detr_r50_segm_frozen"),
        *("detr_r50_panoptic", "detr_r50_dc5_panoptic", "detr_r101_panoptic", "detr_r50_panoptic_frozen"),
    ],
    ["300 epochs, x 0.1 after 200 epochs"],
)
_DEFORMABLE = [f"deformable_detr_r50{x}" for x in ("", "_single_scale", "_single_scale_dc5", "_refine", "_two_stage")]
# MODEL.DETR.TRANSFORMER.NAME -> its paper; a transformer that is not here is compared with DETR's.
PAPERS = {
    "DETRTransformer": DETR,
    "DeformableTransformer": Paper("Deformable DETR (Zhu et al. 2021)", _DEFORMABLE),
}


@dataclass(frozen=True)
class Row:
    """One setting of a config beside the paper's.

    Attributes:
        setting: its config key.
        keys: the config keys that make it up.
        here: what the config has, as text.
        paper: what the paper has, as text.
        source: the shipped config that has it.
        mark: "" where they agree, "differs", or "note" for what is worth knowing but no departure from the recipe.
        effect: what the difference does; "" where there is none.
    """

    setting: str
    keys: tuple[str, ...]
    here: str
    paper: str
    source: str
    mark: str = ""
    effect: str = ""


def paper_of(cfg: CfgNode) -> Paper:
    """The paper of the transformer that a config names.

    Raises:
        ValueError: if the config is not one of DETR.
    """
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}: recipes are known for 'DETR' alone, so there "
            "is nothing to compare this config with."
        )
    return PAPERS.get(cfg.MODEL.DETR.TRANSFORMER.NAME, DETR)


def known_training_images(cfg: CfgNode) -> int | None:
    """Number of images of `DATASETS.TRAIN` where it is a published dataset; None otherwise."""
    sizes = [_KNOWN_SIZES.get(name) for name in cfg.DATASETS.TRAIN]
    return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None


def compare(cfg: CfgNode, *, num_images: int | None = None) -> list[Row]:
    """Compares a config with its paper's recipe, setting by setting.

    Args:
        cfg: a config with the keys of `add_detr_config`.
        num_images: training images, from which epochs are counted; None if unknown.

    Returns:
        A row for every setting that has an effect in both, in the order of `EFFECTS`.

    Raises:
        ValueError: if the config is not one of DETR, or the number of images is not positive.
    """
    paper = paper_of(cfg)
    if num_images is not None and num_images < 1:
        raise ValueError(f"the number of training images is {num_images}, expected 1 or more.")
    here = dict(_settings(cfg, num_images))

    def distance(name: str) -> int:
        return sum(here.get(key, x) != x for key, x in _shipped(name).items() if key.startswith("MODEL."))

    name = min(paper.configs, key=distance)
    return [
        _row(key, here[key], theirs, name, cfg, paper if num_images else None)
        for key, theirs in _shipped(name).items()
        if key in here
    ]


def _row(key: str, here: str, theirs: str, name: str, cfg: CfgNode, paper: Paper | None) -> Row:
    """Of one setting; no paper where epochs are unknown."""
    keys = (key, "SOLVER.STEPS", "SOLVER.GAMMA", "SOLVER.LR_SCHEDULER_NAME") if key == _SCHEDULE else (key,)
    row = Row(key, keys, here, theirs, f"{name}.yaml")
    if here == theirs or (key == _SCHEDULE and paper is not None and here in paper.other_schedules):
        return row
    mark = NOTE if key in NOTES else DIFFERS
    effect = next(text for start, text in EFFECTS.items() if key.startswith(start))
    if key == "MODEL.WEIGHTS" and not ("ImageNet" in here or here.startswith(("none", "torchvision://"))):
        mark = NOTE  # a checkpoint to fine-tune is no departure; another ImageNet network is
    if key == _SCHEDULE and paper is None and "x 0.1 after" in here:
        mark, effect = NOTE, "its epochs are unknown, because the number of training images is."
    if key == "SOLVER.BASE_LR":
        effect = _linear_scaling(cfg, get_config(name)) or effect
    return Row(row.setting, keys, here, theirs, row.source, mark, effect)


@cache
def _shipped(name: str) -> dict[str, str]:
    return dict(_settings(get_config(name), _COCO))


def _settings(cfg: CfgNode, num_images: int | None) -> Iterator[tuple[str, str]]:
    """Key and value of every setting that has an effect, as texts that are equal where the effect is."""
    solver, unused = cfg.SOLVER, _unused(cfg)
    values = dict(_values(cfg)) | {
        "MODEL.WEIGHTS": _weights(cfg),
        "SOLVER.IMS_PER_BATCH": f"{_batch(cfg):,} images a step",
        "SOLVER.OPTIMIZER": solver.OPTIMIZER.upper(),
        "SOLVER.WARMUP_ITERS": solver.WARMUP_ITERS if solver.WARMUP_FACTOR != 1.0 else 0,
        _SCHEDULE: _schedule(cfg, num_images),
        "INPUT.DETR_AUGMENTATION": "on" if uses_detr_augmentation(cfg) else "off",
    }
    unset = {"SOLVER.BIAS_LR_FACTOR": 1.0, "SOLVER.WEIGHT_DECAY_BIAS": solver.WEIGHT_DECAY}
    unset["SOLVER.WEIGHT_DECAY_NORM"] = solver.WEIGHT_DECAY
    for start in EFFECTS:
        for key in values:
            if key.startswith(start) and not key.startswith(unused):
                yield key, _text(unset.get(key) if values[key] is None else values[key])


def _values(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _unused(cfg: CfgNode) -> tuple[str, ...]:
    """How the keys begin that nothing reads in this config."""
    criterion, transformer = "MODEL.DETR.CRITERION.", cfg.MODEL.DETR.TRANSFORMER.NAME
    without = {
        ("MODEL.RESNETS.", "MODEL.BACKBONE.FREEZE_AT"): "resnet" not in cfg.MODEL.BACKBONE.NAME,
        ("MODEL.WEIGHTS",): cfg.MODEL.BACKBONE.NAME == "build_timm_backbone",
        ("MODEL.DETR.TRANSFORMER.DETR.",): transformer == "DeformableTransformer",
        ("MODEL.DETR.TRANSFORMER.DEFORMABLE.",): transformer == "DETRTransformer",
        (criterion + "NO_OBJECT", criterion + "CE_NORM"): cfg.MODEL.DETR.CRITERION.CLASSIFICATION != "softmax",
        (criterion + "LOSS_MASK", criterion + "LOSS_DICE"): not cfg.MODEL.MASK_ON,
        ("INPUT.CROP.", "INPUT.DETR_MIN_SIZES"): not uses_detr_augmentation(cfg),
    }
    return ("SOLVER.BASE_LR_END", *(x for keys, idle in without.items() if idle for x in keys))


def _weights(cfg: CfgNode) -> str:
    """The weights that training starts from; those of torchvision under one name."""
    name, depth = cfg.MODEL.WEIGHTS, cfg.MODEL.RESNETS.DEPTH
    same = name == f"detectron2://ImageNetPretrained/torchvision/R-{depth}.pkl"
    same = same or name.rpartition("/")[2] == _V1_FILES.get(depth)
    return f"torchvision://ResNet{depth}_Weights.IMAGENET1K_V1" if same else name or "none: from scratch"


def _linear_scaling(cfg: CfgNode, shipped: CfgNode) -> str:
    """What is said of a rate that follows the batch; "" of any other."""
    (batch, lr), (theirs, their_lr) = ((_batch(x), x.SOLVER.BASE_LR) for x in (cfg, shipped))
    if batch == theirs or abs(lr * theirs / (their_lr * batch) - 1) > 0.01:
        return ""
    return f"it is the paper's {their_lr:g} scaled linearly from {theirs} to {batch} images."


def _schedule(cfg: CfgNode, num_images: int | None) -> str:
    """Length and drops, in epochs where the number of images is known."""
    keys, steps = cfg.SOLVER, max(1, (num_images or 0) // _batch(cfg))  # the authors leave the last, smaller batch out

    def span(iterations: int) -> str:
        epochs = iterations / steps
        return f"{epochs:.{0 if epochs >= 100 else 1}f} epochs" if num_images else f"{iterations:,} iterations"

    if keys.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return f"{span(keys.MAX_ITER)}, {keys.LR_SCHEDULER_NAME}"
    drops = ", ".join(span(step) for step in keys.STEPS if step < keys.MAX_ITER)
    return span(keys.MAX_ITER) + (f", x {keys.GAMMA:g} after {drops}" if drops else ", no drop")


def _batch(cfg: CfgNode) -> int:
    """Images of one optimizer step."""
    return cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUM_STEPS


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_text, value)) or "none" if isinstance(value, list | tuple) else str(value)


def table(rows: Sequence[Row]) -> str:
    """The columns setting, this config, the paper, mark, for a terminal."""
    lines = [(row.setting, fill(row.here, _CELL), fill(row.paper, _CELL), row.mark) for row in rows]
    headers = ("setting", "this config", "the paper", "mark")
    return tabulate(lines, headers=headers, tablefmt="simple", disable_numparse=True)


def differing_settings(rows: Sequence[Row], *, without_keys: Collection[str] = ()) -> str:
    """The keys of the settings that differ as one line of text, "" if there are none.

    Args:
        rows: from `compare`.
        without_keys: leave out the settings of these config keys, and of those below them.
    """
    said = tuple(without_keys)
    names = [row.setting for row in rows if row.mark == DIFFERS and not any(key.startswith(said) for key in row.keys)]
    return ", ".join(names)
