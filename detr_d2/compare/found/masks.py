"""One run of a model as it is used, for what it segments; kept on disk as run lengths."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...files import write_file
from ...prediction.predictor import ImagePredictor
from ..masks import Segment, Segmentation, encode
from ..records.files import from_json, to_json
from .cache import ImageCache

FORMAT = 2


def segmentation_of(output: dict[str, Any], size: tuple[int, int]) -> Segmentation:
    """Keeps what a model returns for an image.

    Args:
        output: "instances" with `pred_masks` (N, H, W), and of panoptic models "panoptic_seg".
        size: H, W.
    """
    instances = output["instances"].to("cpu")
    order = np.argsort(-instances.scores.numpy(), kind="stable")
    masks: Any = np.asarray(instances.pred_masks)[order] if instances.has("pred_masks") else []
    segments = None
    if "panoptic_seg" in output:
        ids, found = output["panoptic_seg"]
        segments = _segments(torch.as_tensor(ids).cpu().numpy(), found or [])
    return Segmentation(
        size=list(size),
        scores=instances.scores.double().numpy()[order].tolist(),
        classes=instances.pred_classes.numpy()[order].tolist(),
        counts=[encode(mask) for mask in masks],
        segments=segments,
        boxes=instances.pred_boxes.tensor.numpy()[order].tolist(),
    )


def _segments(ids: np.ndarray, found: Sequence[dict[str, Any]]) -> list[Segment]:
    return [Segment(int(x["category_id"]), bool(x["isthing"]), encode(ids == x["id"])) for x in found]


class SegmentationCache(ImageCache[Segmentation]):
    """Keeps what is segmented in each image."""

    suffix = ".json.gz"

    def read(self, chunk: range) -> list[Segmentation | str] | None:
        try:
            content = json.loads(gzip.decompress(self.path(chunk).read_bytes()))
            if content["format"] != FORMAT or len(content["images"]) != len(chunk):
                return None
            found = [from_json(Segmentation, x) for x in content["images"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None
        return [x.error or x for x in found]

    def write(self, chunk: range, records: Sequence[Segmentation | str]) -> None:
        content = {"format": FORMAT, "images": [to_json(x) for x in with_errors(records)]}
        write_file(self.path(chunk), lambda file: file.write(gzip.compress(json.dumps(content).encode())))


def with_errors(records: Sequence[Segmentation | str]) -> list[Segmentation]:
    """What went wrong with an image as a segmentation of nothing that says so."""
    return [Segmentation([1, 1], [], [], [], error=x) if isinstance(x, str) else x for x in records]


def collect_masks(
    predictor: Callable[[], ImagePredictor],
    file_names: Sequence[str],
    cache: SegmentationCache,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Segmentation]:
    """Runs a model over images, or reads what an earlier run has left, as `ImageCache.collect`.

    Args:
        predictor: gives the model as it is used; called only if it has to run.
        file_names: of the N images.
        cache: of this model on this dataset.
        progress: called with the number of images that are done after each step.

    Returns:
        One entry per image; an image that the model cannot process has an `error`, and is tried again in the next run.
    """
    return with_errors(cache.collect(predictor, file_names, _run, lambda _: progress(1)))


@torch.no_grad()
def _run(predictor: ImagePredictor, image: np.ndarray) -> Segmentation:
    return segmentation_of(predictor.model([predictor.inputs(image)])[0], image.shape[:2])
