"""Losses of masks: pure functions. They return sums; what they are divided by is the criterion's business.

Papers: Lin et al. 2017, Eq. 5 (focal loss); Milletari et al. 2016, Eq. 1, with the smoothing of Carion et al. 2020
(dice).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MASK_FOCAL_ALPHA, MASK_FOCAL_GAMMA = 0.25, 2.0


def mask_focal_loss(
    logits: Tensor, masks: Tensor, *, alpha: float = MASK_FOCAL_ALPHA, gamma: float = MASK_FOCAL_GAMMA
) -> Tensor:
    """Focal loss of every pixel, averaged over the pixels of a mask and summed over masks.

    Args:
        logits: (N, H, W).
        masks: (N, H, W), 0 or 1 of the same dtype.
        alpha: weight of pixels inside a mask; 1 - alpha of those outside.
        gamma: exponent of the probability that is missing.

    Returns:
        A scalar; 0 without masks.
    """
    wrong = logits * (1 - 2 * masks)  # logit of the pixel being taken for what it is not
    weight = 1 - alpha + (2 * alpha - 1) * masks
    loss = weight * wrong.sigmoid() ** gamma * F.softplus(wrong)
    return loss.flatten(1).mean(1).sum()


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 |prediction and mask| + 1) / (|prediction| + |mask| + 1), summed over masks; sizes are sums of pixels.

    Args:
        logits: (N, H, W).
        masks: (N, H, W), 0 or 1 of the same dtype.

    Returns:
        A scalar; 0 without masks.
    """
    probability = logits.sigmoid()
    common = 2 * (probability * masks).sum((1, 2))
    total = probability.sum((1, 2)) + masks.sum((1, 2))
    return (1 - (common + 1) / (total + 1)).sum()
