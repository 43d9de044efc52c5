"""The set criterion: match predictions to ground truth, then sum the losses of the matched pairs.

Paper: Carion et al. 2020, Sec. 3.1, Eq. 2 and appendix A.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..layers.box_ops import box_cxcywh_to_xyxy, elementwise_giou, elementwise_iou
from .classification import SOFTMAX, Classification, build_classification
from .interface import Denoising, Predictions, Proposals, build_part
from .matcher import HungarianMatcher, Matching
from .segmentation.mask_losses import mask_losses
from .targets import Step, Targets, mean_over_processes

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """
Criteria: `forward(predictions: Predictions, targets: Targets, *, strict: bool) -> dict[str, Tensor]`, the weighted
losses, whose names start with "loss_". A registered class is an `nn.Module` that is called with `cfg`; see
`SetCriterion`, of which a paper's own losses need to override no more than `layer_losses`; each has a weight in
`loss_weights`.

Everything but `logits` and `boxes_cxcywh` may be missing in the predictions and may be ignored; so may `strict`, with
which a criterion should raise `NonFinitePredictionsError` rather than return losses that are NaN. Losses of boxes are
to be divided by `targets.step.num_boxes`: then those of accumulated batches and of several processes add up.
"""

METRICS_PERIOD = 20  # iterations, those at which detectron2 writes; reading a metric waits for the device


def build_criterion(cfg: CfgNode) -> nn.Module:
    """Builds `MODEL.DETR.CRITERION.NAME` from the registry."""
    return build_part("MODEL.DETR.CRITERION", CRITERION_REGISTRY.get(cfg.MODEL.DETR.CRITERION.NAME), cfg)


@CRITERION_REGISTRY.register()
class SetCriterion(nn.Module):
    """Classification of all queries, L1 and GIoU of matched boxes, each decoder layer matched by itself.

    Cross-entropy is a weighted mean: divided by the sum of the class weights of the queries' targets. The focal loss,
    L1 and GIoU are divided by the number of ground-truth boxes of the step per process, at least 1.

    Args:
        num_classes: K; "no object" is class K.
        matcher: assigns queries to objects.
        loss_weights: weights of "loss_ce", "loss_bbox" and "loss_giou", of models with masks also of "loss_mask" and
            "loss_dice".
        classification: what the logits mean; the matcher's own.
        no_object_weight: class weight of "no object".
        class_weights: K class weights; None for ones.
        ce_norm: "local" divides the cross-entropy by the weights of this process's batch (the authors' rule), and
            takes the mean over accumulated batches; "global" divides by the mean over processes of the weights of all
            accumulated batches, so that the result does not depend on how the images are split (exactly, as long as
            no image has more objects than queries while class weights differ).
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
            raise ValueError(f"ce_norm is {ce_norm!r}, expected 'local' or 'global'.")
        if class_weights and len(class_weights) != num_classes:
            raise ValueError(f"class_weights has {len(class_weights)} values, expected one for each of {num_classes}.")
        self.num_classes = num_classes
        self.matcher = matcher
        self.loss_weights = loss_weights
        self.classification = classification
        self.ce_norm = ce_norm
        weights = torch.tensor([*(class_weights or [1.0] * num_classes), no_object_weight])
        self.register_buffer("class_weights", weights, persistent=False)
        self._weights_on_host = weights.clone()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        criterion = cfg.MODEL.DETR.CRITERION
        return {
            "num_classes": cfg.MODEL.DETR.NUM_CLASSES,
            "matcher": build_part("MODEL.DETR.MATCHER", HungarianMatcher, cfg),
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

    def forward(self, predictions: Predictions, targets: Targets, *, strict: bool = True) -> dict[str, Tensor]:
        """Computes the weighted losses, in float32 (or float64 if given) whatever autocast says.

        Args:
            predictions: of the network; with masks only if `targets` have some, too.
            targets: the objects of the B images.
            strict: see `HungarianMatcher`.

        Returns:
            "loss_ce", "loss_bbox", "loss_giou" of the last layer, the same with suffix "_0", "_1", ... of the others,
            "_enc" of the proposals, "_dn" and "_dn_0", "_dn_1", ... of the denoising queries; and "loss_mask",
            "loss_dice" of the last layer. Their sum is the loss to minimise.
        """
        step = targets.step or Step.of([targets.labels.split(targets.counts)], targets.labels.device)
        with torch.autocast(predictions.logits.device.type, enabled=False):
            predictions = predictions.at_least_float32()
            matching = self.matcher(predictions.logits, predictions.boxes_cxcywh, targets, strict=strict)
            losses = self._weighted(self.layer_losses(predictions, targets, matching, step))
            if predictions.proposals is not None:
                losses.update(self._proposal_losses(predictions.proposals, targets, step, strict))
            if predictions.denoising is not None:
                losses.update(self._denoising_losses(predictions.denoising, targets, step))
        if predictions.masks is not None:
            of_masks = mask_losses(predictions.masks, targets, matching, predictions.logits.shape[2])
            losses.update({name: self.loss_weights[name] * x / step.num_boxes for name, x in of_masks.items()})
        self._log_metrics(predictions.logits, targets, matching)
        return losses

    def _proposal_losses(self, proposals: Proposals, targets: Targets, step: Step, strict: bool) -> dict[str, Tensor]:
        predictions = Predictions(proposals.logits[None], proposals.boxes_cxcywh[None]).at_least_float32()
        weights = None
        if proposals.class_agnostic:
            targets = targets.as_objects()
            weights = self.class_weights.clone()
            weights[:-1] = 1
        matching = self.matcher(predictions.logits, predictions.boxes_cxcywh, targets, strict=strict)
        return self._weighted(self.layer_losses(predictions, targets, matching, step, weights), "_enc")

    def _denoising_losses(self, denoising: Denoising, targets: Targets, step: Step) -> dict[str, Tensor]:
        step = replace(step, num_boxes=step.num_boxes * denoising.queries.groups)
        predictions, matching = denoising.predictions.at_least_float32(), denoising.queries.matching
        losses = self.layer_losses(predictions, targets, matching, step, self.class_weights)
        return self._weighted(losses, "_dn")

    def layer_losses(
        self,
        predictions: Predictions,
        targets: Targets,
        matching: Matching,
        step: Step,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of given matches, (L,) each, divided but without their weights; called once for each kind of queries.

        Args:
            predictions: in float32 or wider; only `logits`, `boxes_cxcywh` and `extra` are those of these queries.
            targets: what the matched queries are to find; all others are to find nothing.
            matching: the pairs.
            step: its `num_boxes` is what sums over matched queries are divided by.
            class_weights: (K + 1,) in place of the criterion's; `ce_norm` is "local" then.
        """
        logits = predictions.logits
        pairs = (torch.arange(len(logits), device=logits.device)[:, None], matching.image, matching.query)
        classes = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        classes[pairs] = targets.labels[matching.target]
        boxes_cxcywh = predictions.boxes_cxcywh[pairs]  # (L, N, 4)
        target_cxcywh = targets.boxes_cxcywh[matching.target].to(boxes_cxcywh.dtype)
        boxes, target_boxes = box_cxcywh_to_xyxy(boxes_cxcywh), box_cxcywh_to_xyxy(target_cxcywh)
        quality = None
        if self.classification.uses_quality:
            quality = logits.new_zeros(classes.shape)
            quality[pairs] = elementwise_iou(boxes, target_boxes).detach()
        weights = (self.class_weights if class_weights is None else class_weights).to(logits.dtype)
        class_sum, weight = self.classification.loss(logits, classes, weights, quality)
        ce_norm = self.ce_norm if class_weights is None else "local"
        divisor = step.num_boxes if weight is None else self._class_weight(weight, step, logits.shape[2], ce_norm)
        return {
            "loss_ce": class_sum / divisor,
            "loss_bbox": (boxes_cxcywh - target_cxcywh).abs().sum((1, 2)) / step.num_boxes,
            "loss_giou": (1 - elementwise_giou(boxes, target_boxes)).sum(1) / step.num_boxes,
        }

    def _class_weight(self, weight: Tensor, step: Step, num_queries: int, ce_norm: str) -> Tensor:
        """The weights (L,) that a softmax is divided by; every process must call this equally often."""
        if ce_norm == "local":
            return weight.clamp(min=torch.finfo(weight.dtype).tiny) * step.num_batches  # 0 if there are no queries
        if step.num_batches > 1:  # those of all batches are known before anything is matched
            weights, total = self._weights_on_host, 0.0
            for labels in step.labels:
                matched = min(len(labels), num_queries)
                total += float(weights[-1]) * (num_queries - matched)
                total += float(weights[labels].sum()) * matched / max(len(labels), 1)
            weight = torch.full_like(weight, total)
        return mean_over_processes(weight)

    def _weighted(self, losses: dict[str, Tensor], suffix: str = "") -> dict[str, Tensor]:
        """Splits (L,) losses into scalars: the last layer has no number, those before it "_0", "_1", ..."""
        named = {}
        for name, values in losses.items():
            *before, last = (self.loss_weights[name] * values).unbind()
            named[name + suffix] = last
            named.update({f"{name}{suffix}_{i}": value for i, value in enumerate(before)})
        return named

    @torch.no_grad()
    def _log_metrics(self, logits: Tensor, targets: Targets, matching: Matching) -> None:
        """Puts metrics of the last layer into detectron2's event storage, every `METRICS_PERIOD` iterations."""
        if not has_event_storage() or (get_event_storage().iter + 1) % METRICS_PERIOD:
            return
        classes = logits[-1].argmax(-1)  # (B, Q), never K with the focal loss
        claims = self.classification.claims_object(logits[-1]).sum(1).tolist()
        errors = [abs(claimed - count) for claimed, count in zip(claims, targets.counts, strict=True)]
        storage = get_event_storage()
        storage.put_scalar("detr/cardinality_error", sum(errors) / len(errors))
        if len(targets.labels):
            storage.put_scalar("detr/matched_fraction", matching.query.shape[1] / len(targets.labels))
            hit = classes[matching.image, matching.query[-1]] == targets.labels[matching.target[-1]]
            storage.put_scalar("detr/class_error", 100 - 100 * hit.float().mean().item())
