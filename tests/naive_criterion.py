"""The set loss of DETR written out naively: layer by layer, image by image.

The yardstick of the tests and of `python -m detr_d2 benchmark criterion`. It shares no code with the package and
follows the formulas of "End-to-End Object Detection with Transformers" (section 3.1 and appendix A.2) as plainly as
they are written, slow steps included: the cost of every query of the batch against every object of the batch, one
solver call per image and layer, a full pairwise GIoU matrix of which only the diagonal is used.

`B` images, `L` decoder layers, `Q` queries, `K` classes, `M` objects of an image; boxes are normalised (cx, cy, w, h).
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Match = tuple[Tensor, Tensor]
Target = dict[str, Tensor]


def corners(boxes_cxcywh: Tensor) -> Tensor:
    """(N, 4) centre boxes -> (N, 4) corner boxes."""
    x, y, w, h = boxes_cxcywh.unbind(-1)
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


def pairwise_giou(first_cxcywh: Tensor, second_cxcywh: Tensor) -> Tensor:
    """Generalised IoU of every pair, (N, 4) and (M, 4) -> (N, M): IoU - (hull - union) / hull."""
    a, b = corners(first_cxcywh)[:, None], corners(second_cxcywh)[None]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return overlap / union - (hull - union) / hull


@torch.no_grad()
def naive_match(
    logits: Tensor, boxes: Tensor, targets: list[Target], cost: tuple[float, float, float] = (1, 5, 2)
) -> list[list[Match]]:
    """Hungarian matching of every layer and image.

    Args:
        logits: (L, B, Q, K + 1), the last class is "no object".
        boxes: (L, B, Q, 4) predicted boxes.
        targets: of each image `labels` (M,) and `boxes` (M, 4).
        cost: factors of the class, L1 and GIoU costs.

    Returns:
        For every layer, for every image: matched query indices (ascending) and their object indices, (min(Q, M),).
    """
    by_class, by_l1, by_giou = cost
    sizes = [len(target["labels"]) for target in targets]
    all_labels = torch.cat([target["labels"] for target in targets])
    all_boxes = torch.cat([target["boxes"] for target in targets])
    matches = []
    for layer_logits, layer_boxes in zip(logits, boxes, strict=True):
        num_images, num_queries = layer_logits.shape[:2]
        probability = layer_logits.flatten(0, 1).softmax(-1)  # (B * Q, K + 1)
        flat_boxes = layer_boxes.flatten(0, 1)  # (B * Q, 4)
        total = (
            -by_class * probability[:, all_labels]
            + by_l1 * torch.cdist(flat_boxes, all_boxes, p=1)
            - by_giou * pairwise_giou(flat_boxes, all_boxes)
        )
        blocks = total.view(num_images, num_queries, -1).cpu().split(sizes, dim=-1)  # of (B, Q, M)
        layer = []
        for image, block in enumerate(blocks):
            queries, objects = linear_sum_assignment(block[image].numpy())
            layer.append((torch.as_tensor(queries), torch.as_tensor(objects)))
        matches.append(layer)
    return matches


def naive_set_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: list[Target],
    *,
    num_classes: int,
    no_object_weight: float = 0.1,
    class_weights: list[float] | Tensor | None = None,
    cost: tuple[float, float, float] = (1, 5, 2),
    weight: tuple[float, float, float] = (1, 5, 2),
    num_boxes: float | None = None,
) -> dict[str, Tensor]:
    """Weighted losses of every decoder layer, matched each on its own.

    Args:
        logits: (L, B, Q, K + 1), the last class is "no object".
        boxes: (L, B, Q, 4) predicted boxes.
        targets: of each image `labels` (M,) and `boxes` (M, 4).
        num_classes: K.
        no_object_weight: weight of the class "no object" in the cross-entropy.
        class_weights: K weights of the other classes; None: all 1.
        cost: factors of the class, L1 and GIoU costs in the matching.
        weight: factors of the class, L1 and GIoU losses.
        num_boxes: what box losses are divided by; None: the objects of the batch, at least 1.

    Returns:
        `loss_ce`, `loss_bbox`, `loss_giou` of the last layer; `loss_ce_0`, ... `loss_giou_{L-2}` of those before it.
    """
    if num_boxes is None:
        num_boxes = max(sum(len(target["labels"]) for target in targets), 1)
    ce_weight = torch.ones(num_classes + 1, dtype=logits.dtype, device=logits.device)
    if class_weights is not None:
        ce_weight[:num_classes] = torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    ce_weight[num_classes] = no_object_weight

    losses = {}
    for index, layer in enumerate(naive_match(logits, boxes, targets, cost)):
        suffix = "" if index == len(logits) - 1 else f"_{index}"
        classes = torch.full(logits.shape[1:3], num_classes, dtype=torch.int64, device=logits.device)  # (B, Q)
        for image, (queries, objects) in enumerate(layer):
            classes[image, queries] = targets[image]["labels"][objects]
        matched = torch.cat([boxes[index, image][queries] for image, (queries, _) in enumerate(layer)])
        wanted = torch.cat([targets[image]["boxes"][objects] for image, (_, objects) in enumerate(layer)])
        log_probability = logits[index].log_softmax(-1).gather(-1, classes[..., None]).squeeze(-1)  # (B, Q)
        of_query = ce_weight[classes]
        losses[f"loss_ce{suffix}"] = weight[0] * -(of_query * log_probability).sum() / of_query.sum()
        losses[f"loss_bbox{suffix}"] = weight[1] * (matched - wanted).abs().sum() / num_boxes
        losses[f"loss_giou{suffix}"] = weight[2] * (1 - pairwise_giou(matched, wanted).diag()).sum() / num_boxes
    return losses
