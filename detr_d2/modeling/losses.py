"""Losses of the set criterion: pure functions, one value per decoder layer.

Papers: Carion et al. 2020, Eq. 2 and appendix A.2; Lin et al. 2017, Eq. 5. Boxes are normalised by the unpadded image.
Every function returns sums; what they are divided by is the criterion's business.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import box_cxcywh_to_xyxy, elementwise_giou


def weighted_cross_entropy(logits: Tensor, classes: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every query, weighted by its target class.

    Args:
        logits: (L, B, Q, K + 1).
        classes: (L, B, Q) target class of each query, K for "no object".
        class_weights: (K + 1,).

    Returns:
        Two (L,) tensors: the sum of weight times negative log-likelihood, and the sum of the weights.
    """
    loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), class_weights, reduction="none")
    return loss.view(len(logits), -1).sum(1), class_weights[classes].flatten(1).sum(1)


def focal_loss(logits: Tensor, classes: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss of every class of every query (Lin et al. 2017, Eq. 5).

    Args:
        logits: (L, B, Q, K), one sigmoid a class.
        classes: (L, B, Q) target class of each query, K for "no object".
        alpha: weight of the target class; 1 - alpha of all others.
        gamma: exponent of the probability that is missing.

    Returns:
        (L,) sums.
    """
    num_classes = logits.shape[-1]
    own = logits.gather(-1, classes.clamp(max=num_classes - 1)[..., None])[..., 0]  # (L, B, Q)
    present = alpha * (1 - own.sigmoid()) ** gamma * F.softplus(-own)
    exchange = torch.where(classes < num_classes, present - _absent(own, alpha, gamma), 0)
    return _absent(logits, alpha, gamma).flatten(1).sum(1) + exchange.flatten(1).sum(1)


def _absent(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of classes that are not there."""
    return (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)


def l1_loss(boxes_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Sum over matched pairs and coordinates of |difference|, (L, N, 4) each, as (L,)."""
    return (boxes_cxcywh - target_cxcywh).abs().sum((1, 2))


def giou_loss(boxes_cxcywh: Tensor, target_cxcywh: Tensor) -> Tensor:
    """Sum over matched pairs of 1 - GIoU, boxes (L, N, 4) each, as (L,)."""
    giou = elementwise_giou(box_cxcywh_to_xyxy(boxes_cxcywh), box_cxcywh_to_xyxy(target_cxcywh))
    return (1 - giou).sum(1)
