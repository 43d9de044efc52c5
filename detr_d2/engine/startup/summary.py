"""What a run is going to do, as one table, and what in its settings looks like a mistake."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer

from ...config import get_cfg
from ...data import DatasetReport
from ...recipes.recipe import compare, differing_settings, paper_of
from ...solver import BACKBONE_PREFIX

_LARGE_LR_PRETRAINED = 3e-4  # AdamW destroys pretrained weights above it
_LARGE_LR = 1e-3


def summarise_run(cfg: CfgNode, model: nn.Module, optimizer: Optimizer, reports: Sequence[DatasetReport]) -> str:
    """The table that is shown before the first step.

    Args:
        cfg: of the run.
        model: not wrapped by DistributedDataParallel.
        optimizer: of the model.
        reports: of all datasets; those to train on are described.
    """
    train = [report for report in reports if report.split == "train"]
    images = sum(report.num_used_images for report in train)
    batch = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUM_STEPS
    rates = {id(p): group.get("initial_lr", group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = [
        ("images", f"{images:,}" if train else "unknown"),
        ("boxes per image", "; ".join(map(_boxes, train)) or "unknown"),
        *([("left out", "; ".join(left_out))] if (left_out := [x for x in map(_left_out, train) if x]) else []),
        ("classes", str(train[0].num_classes) if train else "unknown"),
        ("effective batch", _batch(cfg, batch)),
        ("iterations", f"{cfg.SOLVER.MAX_ITER:,}"),
        ("epochs", f"{cfg.SOLVER.MAX_ITER * batch / images:.1f}" if images else "unknown"),
        ("learning rate", _rates(rates[id(p)] for n, p in trainable.items() if not n.startswith(BACKBONE_PREFIX))),
        ("backbone learning rate", _rates(rates[id(p)] for n, p in trainable.items() if n.startswith(BACKBONE_PREFIX))),
        ("gradient clipping", _clipping(cfg)),
        ("trainable parameters", f"{sum(p.numel() for p in trainable.values()):,}"),
    ]
    return tabulate(rows, tablefmt="simple", disable_numparse=True)


def _boxes(report: DatasetReport) -> str:
    return f"mean {report.boxes_mean:.1f}, p99 {report.boxes_p99:g}, max {report.boxes_max}"


def _left_out(report: DatasetReport) -> str:
    """The annotations that are not trained on; "" if all are."""
    counts = {
        "crowds": report.num_crowd,
        "boxes without area": report.num_dropped,
        "objects without a usable mask": report.num_without_mask,
    }
    return ", ".join(f"{what} {count:,}" for what, count in counts.items() if count)


def _batch(cfg: CfgNode, batch: int) -> str:
    steps = cfg.SOLVER.ACCUM_STEPS
    return f"{batch} ({steps} micro-batches of {cfg.SOLVER.IMS_PER_BATCH})" if steps > 1 else str(batch)


def _clipping(cfg: CfgNode) -> str:
    """What is clipped, and at which value."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return "none"
    if clip.FULL_MODEL:
        norm = "norm" if clip.NORM_TYPE == 2 else f"L{clip.NORM_TYPE:g} norm"
        return f"{norm} of all gradients together at {clip.CLIP_VALUE:g}"
    return f"{clip.CLIP_TYPE} of each parameter's gradient at {clip.CLIP_VALUE:g}"


def _rates(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted(set(rates))) or "none, all frozen"


def recipe_line(cfg: CfgNode, reports: Sequence[DatasetReport], *, without_keys: Collection[str] = ()) -> str:
    """One line on the settings that differ from the paper's; "" if there are none, or no paper to compare with.

    Args:
        cfg: of the run.
        reports: of all datasets.
        without_keys: config keys of which something else has been said.
    """
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        return ""
    images = sum(report.num_used_images for report in reports if report.split == "train")
    names = differing_settings(compare(cfg, num_images=images or None), without_keys=without_keys)
    if not names:
        return ""
    return (
        f"Differs from the recipe of {paper_of(cfg).title} in: {names}. What each does: "
        f"python -m detr_d2 check-recipe --config-file {os.path.join(cfg.OUTPUT_DIR, 'config.yaml')}"
    )


def suspicious_settings(cfg: CfgNode) -> dict[str, str]:
    """Settings that run, but rarely do what was meant: config key -> sentence."""
    found = _suspicious_recipe(cfg) if cfg.MODEL.META_ARCHITECTURE == "DETR" else {}
    means = list(cfg.MODEL.PIXEL_MEAN)
    if len(means) == 3 and means[0] != means[2] and (means[0] > means[2]) != (cfg.INPUT.FORMAT == "RGB"):
        found["MODEL.PIXEL_MEAN"] = (
            f"MODEL.PIXEL_MEAN {means} looks like the other channel order than INPUT.FORMAT {cfg.INPUT.FORMAT}: "
            "natural images are brightest in red."
        )
    return found


def _suspicious_recipe(cfg: CfgNode) -> dict[str, str]:
    found = {}
    limit = _LARGE_LR_PRETRAINED if cfg.MODEL.WEIGHTS else _LARGE_LR
    lr, clip = cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_GRADIENTS
    if cfg.SOLVER.OPTIMIZER.upper() != "ADAMW":
        found["SOLVER.OPTIMIZER"] = (
            f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER}: DETR is trained with ADAMW, others rarely work."
        )
    elif lr > limit:
        found["SOLVER.BASE_LR"] = (
            f"SOLVER.BASE_LR {lr:g} is large: DETR is trained with 1e-4, and rarely learns above {limit:g}."
        )
    transformer = cfg.MODEL.DETR.TRANSFORMER
    unread = {"DETRTransformer": "DEFORMABLE", "DeformableTransformer": "DETR"}.get(transformer.NAME, "")
    if unread and transformer[unread] != get_cfg().MODEL.DETR.TRANSFORMER[unread]:
        key = f"MODEL.DETR.TRANSFORMER.{unread}"
        found[key] = f"{key} has values of its own, which {transformer.NAME} does not read."
    if not (clip.ENABLED and clip.FULL_MODEL):
        found["SOLVER.CLIP_GRADIENTS"] = (
            "SOLVER.CLIP_GRADIENTS has no FULL_MODEL: DETR's recipe clips all gradients together to a norm of 0.1."
        )
    return found
