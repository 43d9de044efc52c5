"""From class logits and masks of the queries to one panoptic map of an image, by the authors' rules.

Paper: Carion et al. 2020, Sec. 4.4 and appendix A.3. The rules, in this order:

1. A query is kept if its best class is not "no object" and scores more than a threshold.
2. Every pixel goes to the kept query with the largest mask logit; there is no threshold on masks.
3. Queries of the same stuff class become one segment, that of the first of them.
4. The map is brought to the output size by nearest neighbour.
5. Segments of no more than a few pixels go, and every pixel of theirs goes to the best query that is left, until there
   is none so small. Queries that were merged in step 3 have no pixels any more and go, too: their pixels are not
   merged again.

Differs from the reference implementation in

* the arg-max, which is over logits: softmax over the queries would not change it;
* the ids of segments, which begin with 1; 0 is void, for images in which nothing is kept;
* `category_id`, which is detectron2's contiguous id;
* `sem_seg`, which the authors do not have: Σ_q p_q(class) · sigmoid(mask_q).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ...panoptic_classes import PanopticClasses

_CHUNK = 16  # queries whose full-size masks are held at a time for sem_seg


class PanopticPostprocessor:
    """Masks of queries -> `panoptic_seg` and `sem_seg` of detectron2.

    Args:
        classes: what the K = T + S rows of the class head stand for.
        score_threshold: a query is kept if it scores more than this.
        min_area: segments of this many output pixels or fewer are dropped.
        sem_seg: also make `sem_seg`.
    """

    @configurable
    def __init__(
        self,
        *,
        classes: PanopticClasses,
        score_threshold: float = 0.85,
        min_area: int = 4,
        sem_seg: bool = True,
    ) -> None:
        self.classes = classes
        self.score_threshold = score_threshold
        self.min_area = min_area
        self.sem_seg = sem_seg

    def check_num_classes(self, num_classes: int) -> None:
        """Raises `ValueError` unless a model of so many classes has a row for each of these."""
        if len(self.classes) != num_classes:
            raise ValueError(
                f"MODEL.DETR.NUM_CLASSES is {num_classes}, but there are {self.classes.num_things} things and "
                f"{self.classes.num_stuff} stuff classes: set it to {len(self.classes)}, or to 0."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys = cfg.MODEL.DETR.PANOPTIC
        return {
            "classes": PanopticClasses.from_config(cfg),
            "score_threshold": keys.SCORE_THRESH,
            "min_area": keys.MIN_AREA,
            "sem_seg": keys.SEM_SEG,
        }

    def is_kept(self, logits: Tensor) -> Tensor:
        """Whether queries can own pixels: logits (Q, K + 1) to (Q,) bool."""
        scores, rows = logits.float().softmax(-1).max(-1)
        return (rows != len(self.classes)) & (scores > self.score_threshold)

    @torch.no_grad()
    def __call__(
        self,
        logits: Tensor,
        mask_logits: Tensor,
        *,
        output_size: tuple[int, int],
        upsample: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Any]:
        """Makes the maps of one image.

        Args:
            logits: (Q, K + 1), "no object" last.
            mask_logits: (Q, h, w) for the image as the model saw it, without padding; or of any other size, if
                `upsample` brings them to that.
            output_size: height and width of the maps.
            upsample: (n, h', w') -> (n, h, w), called for some of the queries at a time, so that never all masks are
                in memory at their full size.

        Returns:
            "panoptic_seg": a map (H, W) int32 of segment ids, 0 for void, and one dict per segment with `id`,
            `isthing`, `category_id` (contiguous), `score` and `area` (output pixels); and "sem_seg": (channels, H, W),
            see `PanopticClasses.num_channels`; not normalised.
        """
        upsample = upsample or _same
        probabilities = logits.float().softmax(-1)
        scores, rows = probabilities.max(-1)
        kept = self.is_kept(logits).nonzero().flatten()
        ids, areas = self._segment(upsample(mask_logits[kept]), rows[kept], output_size)
        found = zip((areas > 0).nonzero().flatten().tolist(), areas[areas > 0].tolist(), strict=True)
        segments, numbers = [], torch.zeros(len(kept) + 1, dtype=torch.int32)
        for number, (query, area) in enumerate(found, start=1):
            row = int(rows[kept[query]])
            numbers[query] = number
            segments.append(
                {
                    "id": number,
                    "isthing": self.classes.is_thing(row),
                    "category_id": self.classes.category_id(row),
                    "score": float(scores[kept[query]]),
                    "area": area,
                }
            )
        outputs: dict[str, Any] = {"panoptic_seg": (numbers.to(ids.device)[ids], segments)}
        if self.sem_seg:
            outputs["sem_seg"] = self._semantic(probabilities[:, :-1], mask_logits, output_size, upsample)
        return outputs

    def _segment(self, masks: Tensor, rows: Tensor, output_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The queries (H, W) that own the pixels, -1 for none, and the pixels (n,) of each after all rules."""
        num = len(masks)
        if num == 0:
            return torch.full(output_size, -1, device=masks.device), torch.zeros(0, dtype=torch.long)
        down, across = _nearest(masks.shape[-2], output_size[0]), _nearest(masks.shape[-1], output_size[1])
        down, across = down.to(masks.device), across.to(masks.device)
        if output_size[0] * output_size[1] < masks.shape[-2] * masks.shape[-1]:
            masks = masks[:, down][:, :, across]  # arg-max of fewer pixels
            down, across = (torch.arange(size, device=masks.device) for size in output_size)
        owner = masks.argmax(0)
        merged = _first_of_class(rows, self.classes)[owner][down][:, across]
        areas = torch.bincount(merged.flatten(), minlength=num)
        small = areas <= self.min_area
        if not small.any():
            return merged, areas.cpu()
        alive = torch.ones_like(small)
        while small.any():
            alive &= ~small
            left = alive.nonzero().flatten()
            if not len(left):
                return torch.full(output_size, -1, device=masks.device), torch.zeros_like(areas).cpu()
            homeless = ~alive[owner]
            owner[homeless] = left[masks[:, homeless][left].argmax(0)]
            areas = torch.bincount(owner[down][:, across].flatten(), minlength=num)
            small = alive & (areas <= self.min_area)
        return owner[down][:, across], areas.cpu()

    def _semantic(
        self,
        probabilities: Tensor,
        mask_logits: Tensor,
        output_size: tuple[int, int],
        upsample: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """(channels, H, W): the expected number of masks of each class on a pixel."""
        channels = torch.tensor([self.classes.channel(row) for row in range(len(self.classes))])
        weights = probabilities.new_zeros(len(probabilities), self.classes.num_channels)
        weights.index_add_(1, channels.to(weights.device), probabilities)
        total = weights.new_zeros(self.classes.num_channels, *output_size)
        with torch.autocast(total.device.type, enabled=False):  # whose products are not in float32
            for weight, masks in zip(weights.split(_CHUNK), mask_logits.split(_CHUNK), strict=True):
                soft = upsample(masks).float().sigmoid()
                if soft.shape[-2:] != total.shape[-2:]:
                    soft = F.interpolate(soft[:, None], size=output_size, mode="bilinear", align_corners=False)[:, 0]
                total += torch.einsum("qc,qhw->chw", weight, soft)
        return total


def build_panoptic(cfg: CfgNode) -> PanopticPostprocessor | None:
    """The post-processor that `MODEL.DETR.PANOPTIC` describes; None unless it is enabled.

    Raises:
        ValueError: if the classes are not known.
    """
    return PanopticPostprocessor(cfg) if cfg.MODEL.DETR.PANOPTIC.ENABLED else None


def _first_of_class(rows: Tensor, classes: PanopticClasses) -> Tensor:
    """(n,) the query that each becomes part of: the first of its stuff class, or itself."""
    same = (rows[:, None] == rows) & (rows >= classes.num_things)
    same.fill_diagonal_(True)
    return same.float().argmax(1)  # the first of equal maxima


def _nearest(size: int, output_size: int) -> Tensor:
    """(output_size,) the input pixel under the centre of each output pixel.

    The coordinates are summed up in double precision, as Pillow does: where a centre falls on the border between two
    pixels, rounding decides.
    """
    steps = np.full(output_size, size / output_size)
    steps[0] /= 2
    return torch.from_numpy(np.minimum(np.cumsum(steps).astype(np.int64), size - 1))


def _same(masks: Tensor) -> Tensor:
    return masks
