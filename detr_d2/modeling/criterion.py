"""The set criterion: match predictions to ground truth, then sum the losses of the matched pairs.

Paper: Carion et al. 2020, Sec. 3.1, Eq. 2 and appendix A.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers import at_least_float32
from .classification import SOFTMAX, Classification, build_classification
from .losses import giou_loss, l1_loss
from .matcher import HungarianMatcher, Matching
from .segmentation.mask_losses import dice_loss, mask_focal_loss
from .segmentation.masks import resize
from .targets import Targets

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """
Criteria: predictions of all decoder layers and `Targets` in, weighted losses out. A registered class is called with
`cfg`; see `SetCriterion`.
"""

METRICS_PERIOD = 20  # iterations, those at which detectron2 writes; reading a metric waits for the device


def build_criterion(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.CRITERION.NAME` from the registry."""
    return CRITERION_REGISTRY.get(cfg.MODEL.DETR.CRITERION.NAME)(cfg)


@dataclass
class _Accumulation:
    """The micro-batches that make one step on this process: class indices of every image, number of micro-batches."""

    labels: list[Tensor]
    steps: int

    def num_boxes(self) -> float:
        return float(sum(len(x) for x in self.labels))

    def class_weight(self, weights: Tensor, num_queries: int) -> float:
        """Sum of the class weights of all queries' targets, known before anything is matched."""
        total = 0.0
        for labels in self.labels:
            matched = min(len(labels), num_queries)
            total += float(weights[-1]) * (num_queries - matched)
            total += float(weights[labels].sum()) * matched / max(len(labels), 1)
        return total


@CRITERION_REGISTRY.register()
class SetCriterion(nn.Module):
    """Classification of all queries, L1 and GIoU of matched boxes, each decoder layer matched by itself.

    Cross-entropy is a weighted mean: divided by the sum of the class weights of the queries' targets. The focal loss,
    L1 and GIoU are divided by the number of ground-truth boxes per process, averaged over processes, at least 1.

    Args:
        num_classes: K; "no object" is class K.
        matcher: assigns queries to objects.
        loss_weights: weights of "loss_ce", "loss_bbox" and "loss_giou", of models with masks also of "loss_mask" and
            "loss_dice".
        classification: what the logits mean; the matcher's own.
        no_object_weight: class weight of "no object".
        class_weights: K class weights; None for ones.
        ce_norm: "local" divides the cross-entropy by the weights of this process's batch (the authors' rule),
            "global" by their mean over processes and accumulated micro-batches, so that the result does not depend
            on how the images are split.
    """

    class_weights: Tensor

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        loss_weights: dict[str, float],
        classification: Classification = SOFTMAX,
        no_object_weight: float = 0.1,
        class_weights: Sequence[float] | None = None,
        ce_norm: str = "local",
    ) -> None:
        super().__init__()
        if ce_norm not in ("local", "global"):
            raise ValueError(f"MODEL.DETR.CRITERION.CE_NORM is {ce_norm!r}, expected 'local' or 'global'.")
        if class_weights and len(class_weights) != num_classes:
            raise ValueError(
                f"MODEL.DETR.CLASS_WEIGHTS has {len(class_weights)} values, expected one for each of the "
                f"{num_classes} classes."
            )
        self.num_classes = num_classes
        self.matcher = matcher
        self.loss_weights = loss_weights
        self.classification = classification
        self.ce_norm = ce_norm
        weights = torch.tensor([*(class_weights or [1.0] * num_classes), no_object_weight])
        self.register_buffer("class_weights", weights, persistent=False)
        self._accumulation: _Accumulation | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        criterion = cfg.MODEL.DETR.CRITERION
        return {
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "matcher": HungarianMatcher(cfg),
            "loss_weights": {
                "loss_ce": criterion.LOSS_CLASS,
                "loss_bbox": criterion.LOSS_L1,
                "loss_giou": criterion.LOSS_GIOU,
                "loss_mask": criterion.LOSS_MASK,
                "loss_dice": criterion.LOSS_DICE,
            },
            "classification": build_classification(cfg),
            "no_object_weight": criterion.NO_OBJECT_WEIGHT,
            "class_weights": cfg.MODEL.DETR.CLASS_WEIGHTS,
            "ce_norm": criterion.CE_NORM,
        }

    def forward(
        self,
        logits: Tensor,
        boxes_cxcywh: Tensor,
        targets: Targets,
        *,
        proposals: tuple[Tensor, Tensor] | None = None,
        predict_masks: Callable[[Sequence[Tensor]], Tensor] | None = None,
        strict: bool = True,
    ) -> dict[str, Tensor]:
        """Computes the weighted losses, in float32 (or float64 if given) whatever autocast says.

        Args:
            logits: (L, B, Q, num_logits), the last decoder layer at the end.
            boxes_cxcywh: (L, B, Q, 4), normalised by the unpadded image.
            targets: the objects of the B images.
            proposals: logits (B, S, num_logits) and boxes_cxcywh (B, S, 4) of a two-stage encoder's tokens.
            predict_masks: queries (N_b,) of each image -> their mask logits (N, h, w), the first image's first; called
                once, with the matched queries of the last layer. It needs `targets` with masks.
            strict: see `HungarianMatcher`.

        Returns:
            "loss_ce", "loss_bbox", "loss_giou" of the last layer, the same with suffix "_0", "_1", ... of the others
            and "_enc" of the proposals, and "loss_mask", "loss_dice" of the last layer; their sum is the loss to
            minimise.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, boxes_cxcywh = at_least_float32(logits), at_least_float32(boxes_cxcywh)
            matching = self.matcher(logits, boxes_cxcywh, targets, strict=strict)
            losses = self.losses(logits, boxes_cxcywh, targets, matching)
            named = _name_layers({name: self.loss_weights[name] * loss for name, loss in losses.items()})
            if proposals is not None:
                named.update(self._proposal_losses(*proposals, targets.as_objects(), strict))
        if predict_masks is not None:
            named.update(self._mask_losses(predict_masks, targets, matching, logits.shape[2]))
        self._log_metrics(logits, targets, matching)
        return named

    def _proposal_losses(
        self, logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, strict: bool
    ) -> dict[str, Tensor]:
        """Weighted losses of an encoder's (B, S, .) proposals, in which all `targets` are of class 0.

        Weights of classes play no part, and a softmax is always divided by the local weights.
        """
        logits, boxes_cxcywh = at_least_float32(logits)[None], at_least_float32(boxes_cxcywh)[None]
        matching = self.matcher(logits, boxes_cxcywh, targets, strict=strict)
        weights = self.class_weights.clone()
        weights[:-1] = 1
        losses = self.losses(logits, boxes_cxcywh, targets, matching, class_weights=weights, ce_norm="local")
        return {f"{name}_enc": self.loss_weights[name] * loss[0] for name, loss in losses.items()}

    def _mask_losses(
        self,
        predict_masks: Callable[[Sequence[Tensor]], Tensor],
        targets: Targets,
        matching: Matching,
        num_queries: int,
    ) -> dict[str, Tensor]:
        """Weighted losses of the last layer's masks, at the size of the padded images; padding counts as background."""
        assert targets.masks is not None
        query, target = matching.query[-1], matching.target[-1]
        logits = predict_masks(query.split([min(count, num_queries) for count in targets.counts]))
        with torch.autocast(logits.device.type, enabled=False):
            logits = resize(logits, (targets.masks.shape[1], targets.masks.shape[2]))
            masks = targets.masks[target].to(logits.dtype)
            num_boxes = _mean_over_processes(self._num_boxes(targets, logits)).clamp(min=1)[0]
            losses = {"loss_mask": mask_focal_loss(logits, masks), "loss_dice": dice_loss(logits, masks)}
        return {name: self.loss_weights[name] * loss / num_boxes for name, loss in losses.items()}

    def losses(
        self,
        logits: Tensor,
        boxes_cxcywh: Tensor,
        targets: Targets,
        matching: Matching,
        *,
        class_weights: Tensor | None = None,
        ce_norm: str | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses of given matches, (L,) each; `class_weights` and `ce_norm` stand in for the criterion's."""
        class_weights = self.class_weights if class_weights is None else class_weights
        layers = torch.arange(len(logits), device=logits.device)[:, None]
        classes = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        classes[layers, matching.image, matching.query] = targets.labels[matching.target]
        matched = boxes_cxcywh[layers, matching.image, matching.query]  # (L, N, 4)
        target_boxes = targets.boxes_cxcywh[matching.target].to(matched.dtype)
        class_sum, weight = self.classification.loss(logits, classes, class_weights.to(logits.dtype))
        num_boxes, ce_weight = self._normalisers(targets, weight, logits, ce_norm or self.ce_norm)
        return {
            "loss_ce": class_sum / ce_weight,
            "loss_bbox": l1_loss(matched, target_boxes) / num_boxes,
            "loss_giou": giou_loss(matched, target_boxes) / num_boxes,
        }

    def _normalisers(
        self, targets: Targets, ce_weight: Tensor | None, logits: Tensor, ce_norm: str
    ) -> tuple[Tensor, Tensor]:
        """What to divide by: number of boxes (), and class weights (L,) or once more the number of boxes.

        Every process must call this equally often.
        """
        step = self._accumulation
        num_boxes = self._num_boxes(targets, logits)
        if ce_weight is None:
            mean = _mean_over_processes(num_boxes).clamp(min=1)
            return mean[0], mean
        if step is not None and ce_norm == "global":
            ce_weight = torch.full_like(ce_weight, step.class_weight(self.class_weights.cpu(), logits.shape[2]))
        elif step is not None:
            ce_weight = ce_weight * step.steps
        mean = _mean_over_processes(torch.cat([num_boxes, ce_weight]))
        return mean[0].clamp(min=1), mean[1:] if ce_norm == "global" else ce_weight

    def _num_boxes(self, targets: Targets, like: Tensor) -> Tensor:
        """(1,) ground-truth boxes of this process's step."""
        step = self._accumulation
        return like.new_tensor([sum(targets.counts) if step is None else step.num_boxes()])

    @contextmanager
    def accumulated_over(self, micro_batches: Sequence[Sequence[dict[str, Any]]]) -> Iterator[None]:
        """Inside, the losses of the micro-batches add up to the loss of all their images together.

        L1 and GIoU are divided by the boxes of all micro-batches; so is the cross-entropy with `ce_norm` "global"
        (exactly, as long as no image has more objects than queries while class weights differ); with "local" it is
        the mean over micro-batches.

        Args:
            micro_batches: detectron2 inputs with "instances".
        """
        labels = [x["instances"].gt_classes.cpu() for batch in micro_batches for x in batch]
        self._accumulation = _Accumulation(labels=labels, steps=len(micro_batches))
        try:
            yield
        finally:
            self._accumulation = None

    @torch.no_grad()
    def _log_metrics(self, logits: Tensor, targets: Targets, matching: Matching) -> None:
        """Puts metrics of the last layer into detectron2's event storage, every `METRICS_PERIOD` iterations."""
        if not has_event_storage() or (get_event_storage().iter + 1) % METRICS_PERIOD:
            return
        classes = logits[-1].argmax(-1)  # (B, Q), never K with the focal loss
        counts = torch.tensor(targets.counts, device=logits.device)
        cardinality = self.classification.claims_object(logits[-1]).sum(1)
        storage = get_event_storage()
        storage.put_scalar("detr/cardinality_error", (cardinality - counts).abs().float().mean().item())
        if len(targets.labels):
            storage.put_scalar("detr/matched_fraction", matching.query.shape[1] / len(targets.labels))
            hit = classes[matching.image, matching.query[-1]] == targets.labels[matching.target[-1]]
            storage.put_scalar("detr/class_error", 100 - 100 * hit.float().mean().item())


def _mean_over_processes(x: Tensor) -> Tensor:
    if comm.get_world_size() > 1:
        dist.all_reduce(x)
    return x / comm.get_world_size()


def _name_layers(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Splits (L,) losses into scalars: no suffix for the last layer, "_0", "_1", ... for those before it."""
    named = {}
    for name, values in losses.items():
        *auxiliary, last = values.unbind()
        named[name] = last
        named.update({f"{name}_{i}": value for i, value in enumerate(auxiliary)})
    return named
