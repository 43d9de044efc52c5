"""Boxes as (centre x, centre y, width, height) and as corners (x1, y1, x2, y2), and the precision that they need."""

from __future__ import annotations

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Converts centre-size boxes (..., 4) to corner boxes (..., 4), in the same unit."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def box_xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Converts corner boxes (..., 4) to centre-size boxes (..., 4), in the same unit."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or as they are if that is wider: bfloat16 near 1 has steps of 5 pixels in 1333."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def elementwise_iou(boxes_a_xyxy: Tensor, boxes_b_xyxy: Tensor) -> Tensor:
    """IoU of boxes that face each other, in [0, 1]; arguments as of `elementwise_giou`."""
    intersection, union = _intersection_and_union(boxes_a_xyxy, boxes_b_xyxy)
    return intersection / union


def elementwise_giou(boxes_a_xyxy: Tensor, boxes_b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of boxes that face each other after broadcasting, in [-1, 1].

    torchvision offers the pairwise matrix and a loss that adds an epsilon to the areas; matching and set loss need the
    exact value per pair, for any leading dimensions. No box may be degenerate in both arguments at once (0 / 0).

    Args:
        boxes_a_xyxy, boxes_b_xyxy: corner boxes (..., 4) with x1 <= x2 and y1 <= y2, broadcastable.

    Returns:
        (...,) values.

    Paper: Rezatofighi et al. 2019, Generalized Intersection over Union, Algorithm 1.
    """
    intersection, union = _intersection_and_union(boxes_a_xyxy, boxes_b_xyxy)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = boxes_a_xyxy.unbind(-1), boxes_b_xyxy.unbind(-1)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = hull_w * hull_h
    return intersection / union - (hull - union) / hull


def _intersection_and_union(boxes_a_xyxy: Tensor, boxes_b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Areas (...,)."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = boxes_a_xyxy.unbind(-1), boxes_b_xyxy.unbind(-1)
    inner_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    inner_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = inner_w * inner_h
    return intersection, (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
