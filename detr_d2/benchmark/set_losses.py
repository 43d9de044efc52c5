"""One random set-prediction problem, and the set loss of three implementations on it.

Ours, the one of `transformers`, the naive one of the tests: all compute the weighted losses of the paper (Carion et al.
2020, Sec. 3.1) for every decoder layer, each layer matched by itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..modeling import HungarianMatcher, Predictions, SetCriterion, Targets

COST = {"class": 1.0, "l1": 5.0, "giou": 2.0}
"""Matching costs and loss weights of the paper; they happen to be the same numbers."""

NO_OBJECT_WEIGHT = 0.1

SetLoss = Callable[[], dict[str, Tensor]]
"""Does the whole work, matching included; returns losses named "loss_ce", ..., "loss_giou_4"."""


@dataclass(frozen=True)
class Problem:
    """Predictions and ground truth.

    Attributes:
        logits: (L, B, Q, K + 1), a leaf that wants a gradient.
        boxes_cxcywh: (L, B, Q, 4), normalised, a leaf that wants a gradient.
        instances: ground truth of the B images as detectron2 has it, on the host: pixels of a 1000 x 1000 image.
        num_classes: K.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    instances: list[Instances]
    num_classes: int


def random_problem(
    *, layers: int, batch: int, queries: int, objects: int, num_classes: int = 80, seed: int = 0, device: str = "cpu"
) -> Problem:
    """Random logits and boxes, the same number of objects in every image.

    Raises:
        ValueError: a size that is not positive (no objects at all are fine).
    """
    sizes = {"layers": layers, "batch": batch, "queries": queries, "num_classes": num_classes}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if objects < 0:
        raise ValueError(f"objects is {objects}, expected 0 or more")
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, batch, queries, num_classes + 1, generator=generator)
    boxes = _random_boxes((layers, batch, queries), generator)
    instances = []
    for _ in range(batch):
        x = Instances((1000, 1000))
        centre, extent = (1000 * _random_boxes((objects,), generator)).chunk(2, dim=-1)
        x.gt_boxes = Boxes(torch.cat([centre - extent / 2, centre + extent / 2], dim=-1))
        x.gt_classes = torch.randint(num_classes, (objects,), generator=generator)
        instances.append(x)
    return Problem(
        logits=logits.to(device).requires_grad_(),
        boxes_cxcywh=boxes.to(device).requires_grad_(),
        instances=instances,
        num_classes=num_classes,
    )


def _random_boxes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(..., 4) boxes_cxcywh inside the image, 5 to 40 % of its size."""
    extent = 0.05 + 0.35 * torch.rand(*shape, 2, generator=generator)
    centre = extent / 2 + (1 - extent) * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre, extent], dim=-1)


def package_loss(problem: Problem) -> SetLoss:
    """Ours; packing the ground truth is part of the work."""
    criterion = SetCriterion(
        num_classes=problem.num_classes,
        matcher=HungarianMatcher(cost_class=COST["class"], cost_l1=COST["l1"], cost_giou=COST["giou"]),
        loss_weights={"loss_ce": COST["class"], "loss_bbox": COST["l1"], "loss_giou": COST["giou"]},
        no_object_weight=NO_OBJECT_WEIGHT,
    ).to(problem.logits.device)

    def work() -> dict[str, Tensor]:
        targets = Targets.from_instances(
            problem.instances, num_classes=problem.num_classes, device=problem.logits.device
        )
        return criterion(Predictions(problem.logits, problem.boxes_cxcywh), targets)

    return work


def naive_loss(problem: Problem) -> SetLoss | None:
    """The naive one, where `tests/naive_criterion.py` lies beside the package; else None."""
    module = _naive_module()
    if module is None:
        return None
    targets = _plain_targets(problem, "labels")
    factors = (COST["class"], COST["l1"], COST["giou"])
    return lambda: module.naive_set_loss(
        problem.logits,
        problem.boxes_cxcywh,
        targets,
        num_classes=problem.num_classes,
        no_object_weight=NO_OBJECT_WEIGHT,
        cost=factors,
        weight=factors,
    )


def _naive_module() -> ModuleType | None:
    path = Path(__file__).resolve().parents[2] / "tests" / "naive_criterion.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("naive_criterion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def transformers_loss(problem: Problem) -> SetLoss | None:
    """The one of the `transformers` library, called as its DETR calls it; None where the library is missing."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    targets = _plain_targets(problem, "class_labels")
    config = SimpleNamespace(
        class_cost=COST["class"],
        bbox_cost=COST["l1"],
        giou_cost=COST["giou"],
        bbox_loss_coefficient=COST["l1"],
        giou_loss_coefficient=COST["giou"],
        eos_coefficient=NO_OBJECT_WEIGHT,
        num_labels=problem.num_classes,
        auxiliary_loss=len(problem.logits) > 1,
        decoder_layers=len(problem.logits),
    )
    factors = {"ce": COST["class"], "bbox": COST["l1"], "giou": COST["giou"]}

    def work() -> dict[str, Tensor]:
        _, losses, _ = ForObjectDetectionLoss(
            problem.logits[-1],
            targets,
            problem.logits.device,
            problem.boxes_cxcywh[-1],
            config,
            problem.logits,
            problem.boxes_cxcywh,
        )
        # It returns the losses unweighted, and a metric among them.
        return {name: factors[name.split("_")[1]] * x for name, x in losses.items() if name.startswith("loss_")}

    return work


def _plain_targets(problem: Problem, labels_key: str) -> list[dict[str, Tensor]]:
    """Ground truth as normalised centre boxes on the device, prepared outside of the timed work."""
    device = problem.logits.device
    targets = []
    for x in problem.instances:
        low, high = (x.gt_boxes.tensor / 1000).chunk(2, dim=-1)
        boxes = torch.cat([(low + high) / 2, high - low], dim=-1)
        targets.append({labels_key: x.gt_classes.to(device), "boxes": boxes.to(device)})
    return targets


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, float]:
    """Name and size of the largest difference between two sets of losses, absolute or relative, whichever is smaller.

    Raises:
        ValueError: they do not hold the same losses.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the implementations return different losses: {sorted(set(ours) ^ set(theirs))}")
    differences = {name: _difference(ours[name].item(), theirs[name].item()) for name in ours}
    worst = max(differences, key=lambda name: differences[name])
    return worst, differences[worst]


def _difference(a: float, b: float) -> float:
    return abs(a - b) / max(1.0, abs(a), abs(b))
