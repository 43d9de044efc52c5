"""The set criterion: one random problem of set prediction, and the losses of three implementations on it.

Ours, that of `transformers`, the authors': all compute the weighted losses of the paper (Carion et al. 2020, Sec. 3.1)
for every decoder layer, each layer matched by itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..modeling import HungarianMatcher, Predictions, SetCriterion, Targets
from ..other_libraries.references import authors_modules, authors_repository
from .inputs import normalised_targets
from .losses import Losses, authors_weights, largest_difference, weighted_by_authors, weighted_by_kind
from .report import differ, measure, report

COST = {"class": 1.0, "l1": 5.0, "giou": 2.0}
"""Matching costs and loss weights of the paper; they happen to be the same numbers."""

NO_OBJECT_WEIGHT = 0.1

SetLoss = Callable[[], Losses]
"""Does the whole work, matching included."""


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
    return Problem(logits.to(device).requires_grad_(), boxes.to(device).requires_grad_(), instances, num_classes)


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

    def work() -> Losses:
        device = problem.logits.device
        targets = Targets.from_instances(problem.instances, num_classes=problem.num_classes, device=device)
        return criterion(Predictions(problem.logits, problem.boxes_cxcywh), targets)

    return work


def transformers_loss(problem: Problem) -> SetLoss | None:
    """The one of the `transformers` library, called as its DETR calls it; None where the library is missing."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    targets, device = _plain_targets(problem, "class_labels"), problem.logits.device
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

    def work() -> Losses:
        logits, boxes = problem.logits, problem.boxes_cxcywh
        found = ForObjectDetectionLoss(logits[-1], targets, device, boxes[-1], config, logits, boxes)[1]
        return weighted_by_kind(found, tuple(COST.values()))

    return work


def authors_loss(problem: Problem) -> SetLoss | None:
    """The criterion of DETR's authors; None where `DETR_REPO` names no checkout."""
    try:
        authors_repository()
    except ValueError:
        return None
    weights = authors_weights(tuple(COST.values()), len(problem.logits))
    with authors_modules() as authors:
        matcher = authors.module("models.matcher").HungarianMatcher(COST["class"], COST["l1"], COST["giou"])
        kinds = ["labels", "boxes", "cardinality"]
        criterion = authors.module("models.detr").SetCriterion(
            problem.num_classes, matcher, weights, NO_OBJECT_WEIGHT, kinds
        )
    criterion.to(problem.logits.device)
    targets = _plain_targets(problem, "labels")
    return lambda: weighted_by_authors(criterion, problem.logits, problem.boxes_cxcywh, targets)


def _plain_targets(problem: Problem, labels: str) -> list[dict[str, Tensor]]:
    """Prepared outside of the timed work."""
    return normalised_targets([{"instances": x} for x in problem.instances], str(problem.logits.device), labels)


_OTHERS = {"transformers": transformers_loss, "authors": authors_loss}
_NEEDED = {
    "transformers": 'pip install "detr_d2[hf]"',
    "authors": "DETR_REPO must name a checkout of https://github.com/facebookresearch/detr",
}


def criterion(args: argparse.Namespace) -> int:
    """Set losses: ours, that of `transformers`, the authors'."""
    sizes = {name: getattr(args, name) for name in ("layers", "batch", "queries", "objects")}
    problem = random_problem(**sizes, num_classes=args.classes, seed=args.seed, device=args.device)
    losses, absent = _contestants(problem, args.contestants)
    print(
        f"set loss of {args.layers} layers x {args.batch} images, {args.queries} queries, {args.objects} objects per "
        f"image, {args.classes} classes; {'forward and backward' if args.backward else 'forward'}"
    )
    if absent:
        print(f"not compared, because not there: {', '.join(absent)}")
    if len(losses) == 1:
        print("error: nothing to compare with: install transformers (pip install transformers)", file=sys.stderr)
        return 1
    results = {name: loss() for name, loss in losses.items()}
    ours = results.pop("ours")
    found = {name: largest_difference(ours, theirs) for name, theirs in results.items()}
    if differ({name: {key: difference} for name, (key, difference) in found.items()}):
        return 1
    work = {name: _with_gradients(loss, problem.logits, problem.boxes_cxcywh) for name, loss in losses.items()}
    timings = measure(work if args.backward else losses, args.repeat)
    report(timings, {"differences": {name: value for name, (_, value) in found.items()}}, args)
    return 0


def _contestants(problem: Problem, names: Sequence[str] | None) -> tuple[dict[str, SetLoss], list[str]]:
    """Set losses by name, ours first, and which of the others are not there."""
    wanted = list(_OTHERS) if names is None else [name for name in names if name != "ours"]
    unknown = [name for name in wanted if name not in _OTHERS]
    if unknown:
        raise ValueError(f"there is no contestant {unknown[0]!r}; expected some of ours, {', '.join(_OTHERS)}")
    built = {name: _OTHERS[name](problem) for name in wanted}
    absent = [name for name, loss in built.items() if loss is None]
    if names is not None and absent:
        raise ValueError(f"contestant {absent[0]} is not there: {_NEEDED[absent[0]]}")
    return {"ours": package_loss(problem), **{name: loss for name, loss in built.items() if loss is not None}}, absent


def _with_gradients(loss: SetLoss, *leaves: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(torch.stack(list(loss().values())).sum(), leaves)
