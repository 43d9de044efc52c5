"""Masks and panoptic maps of the predictions on a batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .mask_head import QueryMasks
from .masks import enlarge, to_bitmaps
from .panoptic import PanopticPostprocessor


def add_masks(
    results: list[dict[str, Any]],
    masks: QueryMasks,
    logits: Tensor,
    image_sizes: list[tuple[int, int]],
    panoptic: PanopticPostprocessor | None = None,
) -> None:
    """Segments every image, one after another: only the queries that something is made of go through the head.

    Args:
        results: of each image, "instances" at the output's size with the `query` of each, in exchange for which they
            get `pred_masks` (N, H, W) bool; with `panoptic`, what that returns is added.
        masks: of the queries.
        logits: (B, Q, num_logits).
        image_sizes: (height, width) of the images before padding.
        panoptic: post-processing of panoptic models.
    """
    padded_size = masks.inputs.padded_size
    for index, (result, image_size) in enumerate(zip(results, image_sizes, strict=True)):
        instances = result["instances"]
        needed = _needed(instances.query, logits[index], panoptic)
        found = masks.head.segment(masks.inputs, index, needed.nonzero()[:, 0])
        place = needed.cumsum(0) - 1  # (Q,), where the mask of a query stands
        instances.pred_masks = to_bitmaps(found[place[instances.query]], padded_size, image_size, instances.image_size)
        instances.remove("query")
        if panoptic is not None:
            upsample = partial(enlarge, padded_size=padded_size, image_size=image_size)
            size = instances.image_size
            result.update(panoptic(logits[index, needed], found, output_size=size, upsample=upsample))


def _needed(queries: Tensor, logits: Tensor, panoptic: PanopticPostprocessor | None) -> Tensor:
    """(Q,) bool: those of the detections, and those that can be part of the panoptic output."""
    needed = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    needed[queries] = True
    if panoptic is None:
        return needed
    if panoptic.sem_seg:
        return torch.ones_like(needed)
    return needed | panoptic.is_kept(logits)
