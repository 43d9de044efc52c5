"""A sigmoid per class with focal loss, as Deformable DETR and its successors classify.

Papers: Lin et al. 2017, Focal Loss for Dense Object Detection, Sec. 3 and 4.1; Zhu et al. 2021 (Deformable DETR),
appendix A.4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from .classification import CLASSIFICATION_REGISTRY, Classification, SumAndWeight

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
FOCAL_PRIOR = 0.01  # probability of every class at the start of training


class FocalClassification(Classification):
    """Each of the K classes is present or not, independently; "no object" is when none is.

    A query may yield several detections, one a class. There are no class weights: alpha balances present and absent.

    Args:
        alpha: weight of the classes that are present; 1 - alpha of those that are not.
        gamma: exponent that plays down what is already classified well.
        one_class_per_query: keep the best class of each query only.
    """

    def __init__(
        self, *, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA, one_class_per_query: bool = False
    ) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.one_class_per_query = one_class_per_query

    def num_logits(self, num_classes: int) -> int:
        return num_classes

    def initialise(self, classifier: nn.Linear) -> None:
        """Starts every class at the probability `FOCAL_PRIOR` (Lin et al. 2017, Sec. 3.3)."""
        nn.init.constant_(classifier.bias, -math.log((1 - FOCAL_PRIOR) / FOCAL_PRIOR))

    def cost(self, logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """Focal loss of the object's class being present minus that of its being absent."""
        probability = logits.transpose(2, 3)[:, image, labels].sigmoid()  # (L, M, Q)
        present = -self.alpha * (1 - probability) ** self.gamma * (probability + 1e-8).log()
        absent = -(1 - self.alpha) * probability**self.gamma * (1 - probability + 1e-8).log()
        return present - absent

    def loss(self, logits: Tensor, classes: Tensor, weights: Tensor, quality: Tensor | None) -> SumAndWeight:  # noqa: ARG002
        """Focal loss of every class of every query (Lin et al. 2017, Eq. 5)."""
        num_classes = logits.shape[-1]
        own = logits.gather(-1, classes.clamp(max=num_classes - 1)[..., None])[..., 0]  # (L, B, Q)
        present = self.alpha * (1 - own.sigmoid()) ** self.gamma * F.softplus(-own)
        exchange = torch.where(classes < num_classes, present - self._absent(own), 0)
        return self._absent(logits).flatten(1).sum(1) + exchange.flatten(1).sum(1), None

    def _absent(self, logits: Tensor) -> Tensor:
        """Focal loss of classes that are not there."""
        return (1 - self.alpha) * logits.sigmoid() ** self.gamma * F.softplus(logits)

    def select(self, logits: Tensor, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        probability = logits.float().sigmoid()
        if self.one_class_per_query:
            probability, classes = probability.max(-1)  # (B, Q)
            scores, query = _best(probability, limit)
            return scores, classes.gather(1, query), query
        scores, index = _best(probability.flatten(1), limit)  # of (B, Q K)
        num_classes = logits.shape[-1]
        return scores, index % num_classes, torch.div(index, num_classes, rounding_mode="floor")

    def first_classes(self, logits: Tensor, count: int) -> Tensor:
        return logits[..., :count]

    def claims_object(self, logits: Tensor) -> Tensor:
        return (logits > 0).any(-1)  # sigmoid above one half


def _best(scores: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """The best of each row (B, S), at most `limit`, and their places."""
    count = scores.shape[1] if limit is None else min(limit, scores.shape[1])
    return scores.topk(count, dim=1)


@CLASSIFICATION_REGISTRY.register()
def focal(cfg: CfgNode) -> Classification:
    """Of the usual alpha and gamma; class weights would have no effect."""
    if cfg.MODEL.DETR.CLASS_WEIGHTS:
        raise ValueError(
            "MODEL.DETR.CLASS_WEIGHTS weighs a softmax, but MODEL.DETR.CRITERION.CLASSIFICATION is 'focal': set "
            "CLASS_WEIGHTS to [] or CLASSIFICATION to 'softmax'."
        )
    return FocalClassification(one_class_per_query=cfg.MODEL.DETR.ONE_CLASS_PER_QUERY)
