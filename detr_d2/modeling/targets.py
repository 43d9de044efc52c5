"""Between detectron2's `Instances` and the set criterion: the only file that knows both conventions.

detectron2: boxes_xyxy in pixels of the augmented image, class indices 0..K-1.
DETR: boxes_cxcywh divided by the size of the augmented image before padding, "no object" at class index K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor

from ..layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from .classification import SOFTMAX, Classification
from .segmentation.masks import pack_masks


@dataclass
class Step:
    """All that one step of training learns from, which may be several batches and the batches of other processes.

    Attributes:
        num_boxes: (), objects per process, at least 1: what losses of boxes are divided by.
        labels: class indices of each image of this process's batches, on the host.
        num_batches: this process's batches.
    """

    num_boxes: Tensor
    labels: list[Tensor]
    num_batches: int = 1

    @classmethod
    def of(cls, batches: Sequence[Sequence[Tensor]], device: torch.device) -> Step:
        """Reads it off the class indices of the images of each batch; every process must call this equally often."""
        labels = [x.cpu() for batch in batches for x in batch]
        num_boxes = torch.full((), float(sum(map(len, labels))), device=device)
        return cls(mean_over_processes(num_boxes).clamp(min=1), labels, len(batches))


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes; changes `x`."""
    if comm.get_world_size() > 1:
        dist.all_reduce(x)
    return x / comm.get_world_size()


@dataclass
class Targets:
    """The objects of a batch, those of all images in one row.

    Attributes:
        labels: (M,) class indices.
        boxes_cxcywh: (M, 4), normalised by the unpadded image.
        image_index: (M,), the image in the batch that holds the object; ascending.
        counts: objects of each of the B images, on the host.
        masks: (M, H, W) bool at the size of the padded images; None for models without masks.
        step: that the batch is part of; None if it is one by itself.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    image_index: Tensor
    counts: list[int]
    masks: Tensor | None = None
    step: Step | None = None

    @classmethod
    def from_instances(
        cls,
        instances: list[Instances],
        *,
        num_classes: int,
        device: torch.device | str = "cpu",
        padded_size: tuple[int, int] | None = None,
        step: Step | None = None,
    ) -> Targets:
        """Packs ground truth (`gt_boxes` in pixels, `gt_classes`) and moves it to `device`, without waiting for it.

        Args:
            instances: of each image.
            num_classes: K.
            device: where to.
            padded_size: height and width of the padded images, to pack their `gt_masks`, too.
            step: that the batch is part of.

        Raises:
            ValueError: if a class index is outside 0..K-1, or as `pack_masks`.
        """
        counts = [len(x) for x in instances]
        labels = torch.cat([x.gt_classes for x in instances])
        check_labels(labels, num_classes)
        boxes_xyxy = torch.cat([x.gt_boxes.tensor for x in instances]).float()
        image_index = torch.repeat_interleave(torch.tensor(counts, device=labels.device))
        sizes = torch.tensor([x.image_size for x in instances], device=boxes_xyxy.device)  # (B, 2): height, width
        boxes_xyxy = boxes_xyxy / sizes.flip(1).repeat(1, 2)[image_index]
        return cls(
            labels=_send(labels, device),
            boxes_cxcywh=_send(box_xyxy_to_cxcywh(boxes_xyxy), device),
            image_index=_send(image_index, device),
            counts=counts,
            masks=None if padded_size is None else _send(pack_masks(instances, padded_size), device),
            step=step,
        )

    def as_objects(self) -> Targets:
        """The same objects, all of class 0: what class-agnostic proposals are to find."""
        return replace(self, labels=torch.zeros_like(self.labels))


def _send(x: Tensor, device: torch.device | str) -> Tensor:
    """Copies to a device; from pinned memory, which is the only one that a GPU reads while the host goes on."""
    pinned = x.pin_memory() if torch.device(device).type == "cuda" and x.device.type == "cpu" else x
    return pinned.to(device, non_blocking=True)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raises `ValueError` for labels outside 0..K-1, while they are still on the host (no device synchronisation)."""
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"The batch holds class indices from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"{num_classes} classes (0..{num_classes - 1}): set MODEL.DETR.NUM_CLASSES to the number of classes in the "
            "data."
        )


def predictions_to_instances(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    image_sizes: list[tuple[int, int]],
    *,
    score_threshold: float,
    max_detections: int,
    classification: Classification = SOFTMAX,
    num_things: int | None = None,
    nms_threshold: float = 1.0,
    with_queries: bool = False,
) -> list[Instances]:
    """Decodes predictions of one layer.

    Args:
        logits: (B, Q, num_logits).
        boxes_cxcywh: (B, Q, 4), normalised.
        image_sizes: (height, width) of each image before padding, in pixels.
        score_threshold: lower scores are dropped; 0 keeps every query.
        max_detections: the most detections to keep per image, best first; negative for no limit.
        classification: what the logits mean, and with it how many detections a query may yield.
        num_things: only the first T classes are objects to detect; None for all.
        nms_threshold: class-wise NMS removes the lower scored of two boxes of a larger IoU, from as many detections as
            there are queries, if the limit is not higher; 1 for no NMS.
        with_queries: also note the `query` (index) that each detection comes from.

    Returns:
        For each image, `Instances` of that size with `pred_boxes` (pixels), `scores` and `pred_classes`, best first.
    """
    limit = max_detections if max_detections >= 0 else None
    if num_things is not None:
        logits = classification.first_classes(logits, num_things)
    before_nms = limit if limit is None or nms_threshold >= 1 else max(limit, logits.shape[1])
    scores, classes, queries = classification.select(logits, before_nms)  # (B, N) each, best first, NaN before that
    first, count = torch.stack([scores.isnan().sum(1), (scores >= score_threshold).sum(1)]).tolist()
    boxes_xyxy = box_cxcywh_to_xyxy(boxes_cxcywh.float())
    results = []
    for b, (height, width) in enumerate(image_sizes):
        kept = slice(first[b], first[b] + count[b])
        result = Instances((height, width), scores=scores[b, kept], pred_classes=classes[b, kept])
        result.pred_boxes = Boxes(boxes_xyxy[b, queries[b, kept]])
        result.pred_boxes.scale(width, height)
        if with_queries:
            result.query = queries[b, kept]
        if nms_threshold < 1:
            left = batched_nms(result.pred_boxes.tensor, result.scores, result.pred_classes, nms_threshold)
            result = result[left[:limit]]
        results.append(result)
    return results
