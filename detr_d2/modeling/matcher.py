"""Bipartite matching between predictions and ground truth, for all decoder layers and images at once.

Paper: Carion et al. 2020, Eq. 1 and appendix A.2.

The costs of all layers and images are computed together, and only those that can be used: an image's queries against
its own objects. They go to the host in one transfer; the assignment of each block is scipy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..layers.box_ops import box_cxcywh_to_xyxy, elementwise_giou
from .classification import SOFTMAX, Classification, build_classification
from .targets import Targets


class NonFinitePredictionsError(FloatingPointError):
    """No query of some image has a finite matching cost.

    Attributes:
        image_index: index of that image in the batch.
    """

    def __init__(self, image_index: int) -> None:
        super().__init__(f"all predictions for image {image_index} of the batch are NaN or infinite")
        self.image_index = image_index


@dataclass
class Matching:
    """N matched pairs in each of L decoder layers; N = sum over images of min(Q, objects), the same in every layer.

    Attributes:
        image: (N,) image of the pair.
        query: (L, N) query of the pair.
        target: (L, N) index into the packed `Targets`.
    """

    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher:
    """Finds for each image the assignment of queries to objects with the lowest total cost.

    The cost of a pair is class cost * cost_class + L1(boxes) * cost_l1 - GIoU(boxes) * cost_giou; with softmax the
    class cost is -p(class), the probability itself instead of its logarithm (paper, Sec. 3.1). With more objects than
    queries, the surplus stays unmatched.

    Args:
        cost_class, cost_l1, cost_giou: weights; not all zero.
        classification: what the logits mean; the criterion's own.
    """

    @configurable
    def __init__(
        self,
        *,
        cost_class: float = 1.0,
        cost_l1: float = 5.0,
        cost_giou: float = 2.0,
        classification: Classification = SOFTMAX,
    ) -> None:
        if cost_class == 0 and cost_l1 == 0 and cost_giou == 0:
            raise ValueError("cost_class, cost_l1 and cost_giou are all zero: give at least one a positive value.")
        self.cost_class = cost_class
        self.cost_l1 = cost_l1
        self.cost_giou = cost_giou
        self.classification = classification

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        matcher = cfg.MODEL.DETR.MATCHER
        return {
            "cost_class": matcher.COST_CLASS,
            "cost_l1": matcher.COST_L1,
            "cost_giou": matcher.COST_GIOU,
            "classification": build_classification(cfg),
        }

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, *, strict: bool = True) -> Matching:
        """Matches all layers.

        Entries that are not finite count as worse than every finite assignment, so they are used only when an image
        has too few finite ones.

        Args:
            logits: (L, B, Q, num_logits), float32 or wider.
            boxes_cxcywh: (L, B, Q, 4), normalised.
            targets: the objects of the B images.
            strict: whether predictions without any finite cost for an image are an error.

        Raises:
            NonFinitePredictionsError: if `strict` and an image with objects has no finite cost in some layer.
        """
        cost = self.cost(logits, boxes_cxcywh, targets).cpu().numpy()  # (L, M, Q)
        pairs = [self._match_layer(layer_cost, targets.counts, strict) for layer_cost in cost]
        query, target = torch.from_numpy(np.array(pairs)).to(logits.device).unbind(1)  # (L, 2, N) -> (L, N) each
        return Matching(image=targets.image_index[target[0]], query=query, target=target)

    def cost(self, logits: Tensor, boxes_cxcywh: Tensor, targets: Targets) -> Tensor:
        """Cost (L, M, Q) of giving object m to query q of the image that holds m."""
        image = targets.image_index
        class_cost = self.classification.cost(logits, image, targets.labels)  # (L, M, Q)
        boxes = boxes_cxcywh[:, image]  # (L, M, Q, 4)
        objects = targets.boxes_cxcywh[:, None].to(boxes.dtype)  # (M, 1, 4)
        l1 = (boxes - objects).abs().sum(-1)
        giou = elementwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(objects))
        return self.cost_l1 * l1 + self.cost_class * class_cost - self.cost_giou * giou

    def _match_layer(self, cost: np.ndarray, counts: list[int], strict: bool) -> np.ndarray:
        """Assigns each image's block of the (M, Q) cost; returns (2, N): queries, then packed target indices."""
        from scipy.optimize import linear_sum_assignment  # slow to import, and only training matches

        pairs, start = [np.zeros((2, 0), dtype=np.int64)], 0
        for image, count in enumerate(counts):
            if count:
                target, query = linear_sum_assignment(_finite(cost[start : start + count], image, strict))
                pairs.append(np.stack([query, target + start]))
            start += count
        return np.concatenate(pairs, axis=1)


def _finite(block: np.ndarray, image: int, strict: bool) -> np.ndarray:
    """Replaces entries that are not finite by one that no optimal assignment prefers to finite ones."""
    finite = np.isfinite(block)
    if finite.all():
        return block
    if strict and not finite.any():
        raise NonFinitePredictionsError(image)
    values = block[finite].astype(np.float64)
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    # Trading every other pair for a better one gains less than this.
    worst = high + min(block.shape) * (high - low) + 1.0
    return np.where(finite, block, worst)
