"""Every family on a GPU against the CPU: one training step and one evaluation, in float32, float16 and bfloat16.

Where there is a GPU, `make test ARGS=tests/test_cuda.py` runs it; elsewhere it is skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from segmentation_cases import MASKS, PANOPTIC, segmentation_input
from tiny_deformable import tiny_deformable_cfg
from tiny_models import tiny_cfg
from torch import Tensor, nn

from detr_d2.engine.build import build_train_step
from detr_d2.solver import build_optimizer

FAMILIES: dict[str, Callable[..., CfgNode]] = {
    "detr": tiny_cfg,
    "masks": lambda *options: tiny_cfg(*MASKS, *options),
    "panoptic": lambda *options: tiny_cfg(*PANOPTIC, *options),
    **{
        f"deformable {x}": lambda *options, x=x: tiny_deformable_cfg(x, *options)
        for x in ("single_scale", "multi_scale", "refine", "two_stage", "mixed")
    },
}

# Largest relative error of losses, of the gradient as one vector, and of scores and boxes, against float32 on a CPU.
TOLERANCES = {"float32": (1e-4, 1e-2, 1e-4), "float16": (3e-2, 0.3, 3e-2), "bfloat16": (0.1, 0.6, 0.1)}


def _inputs() -> list[dict[str, Any]]:
    """Three images of two sizes, one without objects."""
    images = [segmentation_input(96, 128, 3), segmentation_input(64, 96, 1), segmentation_input(96, 128, 0)]
    for x in images:
        x["sem_seg"] = torch.full(x["image"].shape[1:], 255)
    return images


def _step(cfg: CfgNode, model: nn.Module, inputs: list[dict[str, Any]]) -> tuple[dict[str, float], Tensor]:
    """Losses and gradient (P,) of one step of the trainer."""
    model.train()
    step = build_train_step(cfg, model, [inputs], build_optimizer(cfg, model))
    if step.grad_scaler is not None:
        step.grad_scaler = torch.amp.GradScaler(cfg.MODEL.DEVICE, init_scale=256.0)  # the first step is not skipped
    with EventStorage() as storage:
        step.run_step()
        losses = {name: value for name, (value, _) in storage.latest().items() if "loss" in name}
    gradient = torch.cat([p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None])
    return losses, gradient


def _detections(cfg: CfgNode, model: nn.Module, inputs: list[dict[str, Any]]) -> Tensor:
    """All scores, best first, and the boxes of the best of each image over its size."""
    model.eval()
    dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE)
    with torch.no_grad(), torch.autocast(cfg.MODEL.DEVICE, dtype, enabled=cfg.SOLVER.AMP.ENABLED):
        found = [x["instances"].to("cpu") for x in model(inputs)]
    scores = [x.scores.sort(descending=True).values.float() for x in found]
    return torch.cat([*scores, *(x.pred_boxes.tensor[x.scores.argmax()].float() / 128 for x in found)])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_computes_what_a_cpu_does(cuda: torch.device, family: str, dtype: str) -> None:
    torch.manual_seed(5)  # of matchings that are no close call
    plain = FAMILIES[family]("SOLVER.CLIP_GRADIENTS.ENABLED", False)
    cfg = plain.clone()
    cfg.merge_from_list(["MODEL.DEVICE", str(cuda), "SOLVER.AMP.ENABLED", dtype != "float32"])
    if dtype != "float32":
        cfg.SOLVER.AMP.DTYPE = dtype
    reference = build_model(plain)
    model = copy.deepcopy(reference).to(cuda)
    images = _inputs()
    on_device = [{**x, "instances": x["instances"].to(cuda)} for x in images]
    of_loss, of_gradient, of_detections = TOLERANCES[dtype]

    expected, actual = _detections(plain, reference, images), _detections(cfg, model, on_device)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= of_detections

    (expected_losses, expected_gradient) = _step(plain, reference, images)
    losses, gradient = _step(cfg, model, on_device)
    assert losses.keys() == expected_losses.keys()
    for name, value in expected_losses.items():
        assert losses[name] == pytest.approx(value, rel=of_loss, abs=of_loss), name
    assert (gradient - expected_gradient).norm() <= of_gradient * expected_gradient.norm()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
