"""Losses of masks. They are sums; what they are divided by is the criterion's business.

Papers: Lin et al. 2017, Eq. 5 (focal loss); Milletari et al. 2016, Eq. 1, with the smoothing of Carion et al. 2020
(dice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..matcher import Matching
from ..targets import Targets
from .masks import resize

MASK_FOCAL_ALPHA, MASK_FOCAL_GAMMA = 0.25, 2.0


def mask_losses(
    predict: Callable[[Sequence[Tensor]], Tensor], targets: Targets, matching: Matching, num_queries: int
) -> dict[str, Tensor]:
    """Sums of the last layer's losses, at the size of the padded images; padding counts as background.

    Args:
        predict: see `Predictions.masks`; called once, with the matched queries of the last layer.
        targets: with masks.
        matching: the pairs.
        num_queries: Q.
    """
    assert targets.masks is not None
    matched = matching.query[-1].split([min(count, num_queries) for count in targets.counts])
    logits = predict(matched)
    with torch.autocast(logits.device.type, enabled=False):
        logits = resize(logits, (targets.masks.shape[1], targets.masks.shape[2]))
        masks = targets.masks[matching.target[-1]].to(logits.dtype)
        return {"loss_mask": mask_focal_loss(logits, masks), "loss_dice": dice_loss(logits, masks)}


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
