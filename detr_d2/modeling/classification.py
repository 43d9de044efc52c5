"""How a query says what it sees: softmax with "no object" (DETR), or a sigmoid per class with focal loss.

The one place that knows what a class logit means. Matching cost, loss, decoding, number of logits and their first bias
belong together, so the matcher, the criterion, the head and the meta-architecture are all given the same object;
`MODEL.DETR.CRITERION.CLASSIFICATION` chooses it for every transformer alike.

Papers: Carion et al. 2020, Sec. 3.1; Lin et al. 2017, Focal Loss for Dense Object Detection, Sec. 3 and 4.1;
Zhu et al. 2021 (Deformable DETR), appendix A.4.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .losses import focal_loss, weighted_cross_entropy

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
FOCAL_PRIOR = 0.01  # probability of every class at the start of training


class Classification(ABC):
    """What class logits mean."""

    @abstractmethod
    def num_logits(self, num_classes: int) -> int:
        """Logits per query for K classes."""

    @abstractmethod
    def initialise(self, classifier: nn.Linear) -> None:
        """Sets the parameters with which a new classifier starts, in place."""

    @abstractmethod
    def cost(self, logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """Matching cost of giving objects to queries.

        Args:
            logits: (L, B, Q, num_logits).
            image: (M,) image of each object.
            labels: (M,) class of each object.

        Returns:
            (L, M, Q).
        """

    @abstractmethod
    def loss(self, logits: Tensor, classes: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Classification loss of all queries, not yet normalised.

        Args:
            logits: (L, B, Q, num_logits).
            classes: (L, B, Q) target class of each query, K for "no object".
            class_weights: (K + 1,), "no object" last.

        Returns:
            (L,) sums, and the (L,) weights to divide them by, or None when that is the number of ground-truth boxes.
        """

    @abstractmethod
    def select(self, logits: Tensor, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes the best detections of each image.

        Args:
            logits: (B, Q, num_logits).
            limit: the most detections per image; None for all.

        Returns:
            scores in (0, 1), classes and queries of the detections, (B, N) each, best first.
        """

    @abstractmethod
    def first_classes(self, logits: Tensor, count: int) -> Tensor:
        """Logits of a model of the first `count` classes only, whose probabilities are the same.

        Args:
            logits: (..., num_logits).
            count: classes to keep; the others become "no object".
        """

    @abstractmethod
    def claims_object(self, logits: Tensor) -> Tensor:
        """Whether each query holds that it sees an object: (..., num_logits) to (...) bool."""


class SoftmaxClassification(Classification):
    """Each query is one of the K classes or "no object", which is class K.

    A query yields one detection, its best real class, even where "no object" wins, as the paper does for AP (Carion et
    al. 2020, Sec. 4).
    """

    def num_logits(self, num_classes: int) -> int:
        return num_classes + 1

    def initialise(self, classifier: nn.Linear) -> None:
        """PyTorch's own initialisation is the authors'."""

    def cost(self, logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """The negated probability of the object's class."""
        return -logits.softmax(-1).transpose(2, 3)[:, image, labels]

    def loss(self, logits: Tensor, classes: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor | None]:
        return weighted_cross_entropy(logits, classes, class_weights)

    def select(self, logits: Tensor, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)  # (B, Q)
        scores, query = scores.sort(dim=1, descending=True, stable=True)
        return scores[:, :limit], classes.gather(1, query)[:, :limit], query[:, :limit]

    def first_classes(self, logits: Tensor, count: int) -> Tensor:
        rest = logits[..., count:].float().logsumexp(-1, keepdim=True)
        return torch.cat([logits[..., :count].float(), rest], dim=-1)

    def claims_object(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1) != logits.shape[-1] - 1


class FocalClassification(Classification):
    """Each of the K classes is present or not, independently; "no object" is when none is.

    A query may yield several detections, one a class. There are no class weights: alpha balances present and absent.

    Args:
        alpha: weight of the classes that are present; 1 - alpha of those that are not.
        gamma: exponent that plays down what is already classified well.
    """

    def __init__(self, *, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA) -> None:
        self.alpha = alpha
        self.gamma = gamma

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

    def loss(self, logits: Tensor, classes: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        return focal_loss(logits, classes, alpha=self.alpha, gamma=self.gamma), None

    def select(self, logits: Tensor, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        probability = logits.float().sigmoid().flatten(1)  # (B, Q K)
        count = probability.shape[1] if limit is None else min(limit, probability.shape[1])
        scores, index = probability.topk(count, dim=1)
        num_classes = logits.shape[-1]
        return scores, index % num_classes, torch.div(index, num_classes, rounding_mode="floor")

    def first_classes(self, logits: Tensor, count: int) -> Tensor:
        return logits[..., :count]

    def claims_object(self, logits: Tensor) -> Tensor:
        return (logits > 0).any(-1)  # sigmoid above one half


SOFTMAX = SoftmaxClassification()


def build_classification(cfg: CfgNode) -> Classification:
    """Builds what `MODEL.DETR.CRITERION.CLASSIFICATION` names, "softmax" or "focal".

    Raises:
        ValueError: for another name, and for class weights where they would have no effect.
    """
    name = cfg.MODEL.DETR.CRITERION.CLASSIFICATION
    if name == "softmax":
        return SOFTMAX
    if name != "focal":
        raise ValueError(f"MODEL.DETR.CRITERION.CLASSIFICATION is {name!r}, expected 'softmax' or 'focal'.")
    if cfg.MODEL.DETR.CLASS_WEIGHTS:
        raise ValueError(
            "MODEL.DETR.CLASS_WEIGHTS weighs a softmax, but MODEL.DETR.CRITERION.CLASSIFICATION is 'focal': set "
            "CLASS_WEIGHTS to [] or CLASSIFICATION to 'softmax'."
        )
    return FocalClassification()
