"""Parts of a trainer from a config: the step, mixed precision, the model in several processes, names of classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..data import category_ids
from ..modeling import refresh
from ..panoptic_classes import PanopticClasses
from .train_step import TrainStep


def distribute(model: nn.Module) -> nn.Module:
    """Wraps a model by DistributedDataParallel, on GPUs and CPUs alike, if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    with warnings.catch_warnings():  # newer versions of torch have another name for broadcast_buffers
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(
            model, device_ids=[comm.get_local_rank()] if on_gpu else None, broadcast_buffers=False
        )


def share_buffers(model: nn.Module) -> None:
    """Copies the main process's buffers (running statistics of batch norms) to the others."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
        refresh(model)  # collectives do not count as writes


def build_train_step(cfg: CfgNode, model: nn.Module, data_loader: Any, optimizer: Optimizer) -> TrainStep:
    """Builds the step that `SOLVER.AMP` and `SOLVER.ACCUM_STEPS` describe."""
    precision = amp_dtype(cfg)
    scaler = None
    if precision == torch.float16:
        scaler = torch.amp.GradScaler("cuda")
    return TrainStep(
        model,
        data_loader,
        optimizer,
        accum_steps=cfg.SOLVER.ACCUM_STEPS,
        precision=precision,
        grad_scaler=scaler,
    )


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of autocast: None without mixed precision; on a CPU always bfloat16.

    Raises:
        ValueError: for an unknown `SOLVER.AMP.DTYPE`.
    """
    types = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    if cfg.SOLVER.AMP.DTYPE not in types:
        raise ValueError(f"SOLVER.AMP.DTYPE is {cfg.SOLVER.AMP.DTYPE!r}, expected 'float16' or 'bfloat16'.")
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return torch.bfloat16 if torch.device(cfg.MODEL.DEVICE).type == "cpu" else types[cfg.SOLVER.AMP.DTYPE]


def class_metadata(datasets: Sequence[str], *, panoptic: bool = False) -> dict[str, Any]:
    """Names and category ids of the classes of the first dataset, for checkpoints; empty where it has none.

    Args:
        datasets: names.
        panoptic: the classes are things and stuff; adds how many are things, and the layout of detectron2's ids.
    """
    if not datasets:
        return {}
    metadata = MetadataCatalog.get(datasets[0])
    classes = PanopticClasses.from_metadata(metadata, name=datasets[0]) if panoptic else None
    if classes is not None and classes.names:
        ids = {"class_names": list(classes.names), "category_ids": list(classes.dataset_ids)}
        return {**ids, "num_things": classes.num_things, "panoptic_layout": classes.layout}
    names = metadata.get("thing_classes")
    return {"class_names": list(names), "category_ids": category_ids(metadata)} if names else {}
