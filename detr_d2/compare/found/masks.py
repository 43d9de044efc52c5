"""One run of a model as it is used, for what it segments; kept on disk as run lengths."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...data import read_image
from ...files import write_file
from ...prediction.predictor import ImagePredictor
from ..masks import Segment, Segmentation, encode
from ..record_files import from_json, to_json
from .boxes import run_over_images
from .cache import ImageCache

FORMAT = 1


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
    )


def _segments(ids: np.ndarray, found: Sequence[dict[str, Any]]) -> list[Segment]:
    return [Segment(int(x["category_id"]), bool(x["isthing"]), encode(ids == x["id"])) for x in found]


class SegmentationCache(ImageCache[Segmentation]):
    """Keeps what is segmented in each image."""

    suffix = ".json.gz"

    def read(self, chunk: range) -> list[Segmentation] | None:
        try:
            content = json.loads(gzip.decompress(self.path(chunk).read_bytes()))
            if content["format"] != FORMAT or len(content["images"]) != len(chunk):
                return None
            return [from_json(Segmentation, x) for x in content["images"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None

    def write(self, chunk: range, records: Sequence[Segmentation]) -> None:
        content = json.dumps({"format": FORMAT, "images": [to_json(x) for x in records]}).encode()
        write_file(self.path(chunk), lambda file: file.write(gzip.compress(content)))


def collect_masks(
    predictor: Callable[[], ImagePredictor],
    file_names: Sequence[str],
    cache: SegmentationCache,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Segmentation]:
    """Runs a model over images, or reads what an earlier run has left, as `run_over_images`.

    Args:
        predictor: gives the model as it is used; called only if it has to run.
        file_names: of the N images.
        cache: of this model on this dataset.
        progress: called with the number of images that are done after each step.

    Returns:
        One entry per image; an image that the model cannot process has an `error`, and is tried again in the next run.
    """
    return run_over_images(
        predictor, file_names, cache, run=_run, failed=lambda x: bool(x.error), watch=lambda _: progress(1)
    )


@torch.no_grad()
def _run(predictor: ImagePredictor, file_name: str) -> Segmentation:
    try:
        image = read_image(file_name, "BGR")
        return segmentation_of(predictor.model([predictor.inputs(image)])[0], image.shape[:2])
    except Exception as error:  # whatever it is, the other images are worked on, and the report says so
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Segmentation(size=[1, 1], scores=[], classes=[], counts=[], error=text)
