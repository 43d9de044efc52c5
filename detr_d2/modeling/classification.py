"""How a query says what it sees; here, DETR's softmax with "no object".

The one place that knows what a class logit means. Matching cost, loss, decoding, number of logits and their first bias
belong together, so the matcher, the criterion, the head and the meta-architecture are all given the same object;
`MODEL.DETR.CRITERION.CLASSIFICATION` chooses it for every transformer alike.

Paper: Carion et al. 2020, Sec. 3.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

CLASSIFICATION_REGISTRY = Registry("CLASSIFICATION")
CLASSIFICATION_REGISTRY.__doc__ = """
What class logits mean, under the names of `MODEL.DETR.CRITERION.CLASSIFICATION`: functions from `cfg` to a
`Classification`, such as `softmax`.
"""

SumAndWeight: TypeAlias = tuple[Tensor, Tensor | None]


class Classification(ABC):
    """What class logits mean.

    Attributes:
        uses_quality: whether `loss` wants to know how good the boxes of matched queries are.
    """

    uses_quality = False

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
    def loss(self, logits: Tensor, classes: Tensor, weights: Tensor, quality: Tensor | None) -> SumAndWeight:
        """Classification loss of all queries, not yet normalised.

        Args:
            logits: (L, B, Q, num_logits).
            classes: (L, B, Q) target class of each query, K for "no object".
            weights: (K + 1,) of classes, "no object" last.
            quality: (L, B, Q) IoU of each matched query's box and its object, 0 for "no object", without gradient; only
                if `uses_quality`.

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

    def loss(self, logits: Tensor, classes: Tensor, weights: Tensor, quality: Tensor | None) -> SumAndWeight:  # noqa: ARG002
        """Cross-entropy, each query weighted by its target class (Carion et al. 2020, Eq. 2)."""
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weights, reduction="none")
        return loss.view(len(logits), -1).sum(1), weights[classes].flatten(1).sum(1)

    def select(self, logits: Tensor, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)  # (B, Q)
        scores, query = scores.sort(dim=1, descending=True, stable=True)
        return scores[:, :limit], classes.gather(1, query)[:, :limit], query[:, :limit]

    def first_classes(self, logits: Tensor, count: int) -> Tensor:
        rest = logits[..., count:].float().logsumexp(-1, keepdim=True)
        return torch.cat([logits[..., :count].float(), rest], dim=-1)

    def claims_object(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1) != logits.shape[-1] - 1


SOFTMAX = SoftmaxClassification()


@CLASSIFICATION_REGISTRY.register()
def softmax(_: CfgNode) -> Classification:
    """DETR's."""
    return SOFTMAX


def build_classification(cfg: CfgNode) -> Classification:
    """Builds what `MODEL.DETR.CRITERION.CLASSIFICATION` names in the registry.

    Raises:
        ValueError: for another name, and for class weights where they would have no effect.
    """
    name = cfg.MODEL.DETR.CRITERION.CLASSIFICATION
    if name not in CLASSIFICATION_REGISTRY:
        names = sorted(key for key, _ in CLASSIFICATION_REGISTRY)
        raise ValueError(f"MODEL.DETR.CRITERION.CLASSIFICATION is {name!r}, expected one of {', '.join(names)}.")
    return CLASSIFICATION_REGISTRY.get(name)(cfg)
