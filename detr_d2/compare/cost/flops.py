"""Work of one forward pass, counted by fvcore, with the operators that it does not know by itself.

As in the papers, a multiplication with its addition counts as one, and element-wise work, sorting and NMS as nothing.
What a detector computes depends on the image (a region proposal network may propose less), so several are counted.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import ImageList
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from ...modeling import DETR

_BILINEAR_CORNERS = 4

_ELEMENT_WISE = {
    f"aten::{name}" for name in ("cos", "cumsum", "log", "pad", "pow", "repeat", "sin", "sum", "topk", "unflatten")
}


@dataclass(frozen=True)
class FlopCount:
    """Work of a model on some images.

    Args:
        gflops: multiply-adds of one image, in 10^9, mean over the images.
        images: how many were counted.
        uncounted: operators without a rule -> how often they ran, over all images.
    """

    gflops: float
    images: int
    uncounted: dict[str, int]


def count_flops(model: nn.Module, batches: Sequence[list[dict[str, Any]]]) -> FlopCount:
    """Counts the forward passes of a model.

    Args:
        model: in eval mode.
        batches: detectron2's inputs, one image each, at least one.
    """
    totals, uncounted = [], Counter[str]()
    for batch in batches:
        with torch.no_grad(), _quiet():
            analysis = _analysis(model, batch)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            for operator, handle in HANDLES.items():
                analysis.set_op_handle(operator, handle)
            totals.append(analysis.total())
            uncounted.update({name: n for name, n in analysis.unsupported_ops().items() if name not in _ELEMENT_WISE})
    return FlopCount(gflops=sum(totals) / len(totals) / 1e9, images=len(totals), uncounted=dict(uncounted))


def _analysis(model: nn.Module, batch: list[dict[str, Any]]) -> Any:
    """detectron2's counter; of a DETR, from normalised images to logits and boxes, since decoding cannot be traced."""
    if isinstance(model, DETR):
        images = model.preprocess_image(batch)
        return FlopCountAnalysis(_Network(model, images.image_sizes), (images.tensor,))
    return FlopCountAnalysis(model, batch)


class _Network(nn.Module):
    """A DETR on images of sizes that do not depend on its input."""

    def __init__(self, model: DETR, image_sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        self.image_sizes = image_sizes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes_cxcywh = self.model.predict(ImageList(images, self.image_sizes), all_layers=False)[:2]
        return logits, boxes_cxcywh


def attention_flops(inputs: list[Any], _outputs: list[Any]) -> int:
    """Of `scaled_dot_product_attention`: queries (..., Q, C) times keys (..., S, C), then weights times values."""
    query, key, value = (get_shape(x) for x in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def roi_align_flops(_inputs: list[Any], outputs: list[Any]) -> int:
    """Of ROIAlign, bilinear with one sample a bin, which is the least it takes."""
    return _BILINEAR_CORNERS * math.prod(get_shape(outputs[0]))


HANDLES = {
    "aten::scaled_dot_product_attention": attention_flops,
    "torchvision::roi_align": roi_align_flops,
}
"""Operator -> its number of multiply-adds, from the inputs and outputs in the traced graph."""


@contextmanager
def _quiet() -> Any:
    """The tracer warns of every size that it takes for a constant."""
    loggers = [logging.getLogger(name) for name in ("fvcore.nn.jit_analysis", "fvcore")]
    levels = [x.level for x in loggers]
    for x in loggers:
        x.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.setLevel(level)
