"""A trained model on images: the steps of the evaluation loop for files that belong to no dataset.

Same as detectron2's `DefaultPredictor` (resize of the short side, the config's channel order, `height` and `width` of
the original), so the detections are those of an evaluation. Differs from it in:

* the model is given, so that the weights may come through our own checkpointer;
* `INPUT.RESIZE_ROUNDING` is honoured;
* it returns `Instances` on the CPU, above a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import nn

from ..data import build_resize
from ..data.image_errors import naming_image

Size = tuple[int, int]


class ImagePredictor:
    """Runs a detection model on one image after the other.

    Args:
        model: any detectron2 model that returns `instances`, on its device; put into eval mode.
        image_format: channel order the model wants, "BGR" or "RGB".
        min_size: the short side is resized to this, in pixels; 0: no resize.
        max_size: unless the long side would exceed this.
        resize_rounding: of the sizes, "detectron2" or "authors"; see `detr_d2.data.augmentation`.
        score_threshold: detections below are dropped; 0 keeps all.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        image_format: str,
        min_size: int,
        max_size: int,
        resize_rounding: str = "detectron2",
        score_threshold: float = 0.0,
    ) -> None:
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, expected 'BGR' or 'RGB'")
        self.model = model.eval()
        self.image_format = image_format
        self.score_threshold = score_threshold
        self.resize = build_resize([min_size, min_size], max_size, rounding=resize_rounding)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module, score_threshold: float = 0.0) -> dict[str, Any]:
        return {
            "model": model,
            "image_format": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "resize_rounding": cfg.INPUT.RESIZE_ROUNDING,
            "score_threshold": score_threshold,
        }

    def inputs(self, image_bgr: np.ndarray) -> dict[str, Any]:
        """(H, W, 3) uint8 in BGR order -> the dict the model takes."""
        image = image_bgr[:, :, ::-1] if self.image_format == "RGB" else image_bgr
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        chw = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return {"image": chw, "height": height, "width": width}

    def __call__(self, image_bgr: np.ndarray) -> Instances:
        """Detections of one image.

        Args:
            image_bgr: (H, W, 3) uint8, BGR, as `cv2.imread` gives it.

        Returns:
            `pred_boxes` (xyxy pixels of that image), `scores`, `pred_classes` and whatever else the model predicts.

        Raises:
            ValueError: the model predicts something else than instances.
        """
        instances: Instances = self.outputs(image_bgr)["instances"]
        return instances

    def outputs(self, image_bgr: np.ndarray) -> dict[str, Any]:
        """All that the model returns for one image, as `__call__` takes it."""
        return self.run([self.inputs(image_bgr)])[0]

    @torch.no_grad()
    def run(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All that the model returns for a batch; the `instances` on the CPU, those that reach the score threshold.

        Args:
            batch: of `inputs`; where they have a `file_name`, as a dataset's records do, errors of the model name it.

        Raises:
            ValueError: the model predicts something else than instances.
        """
        names = ", ".join(dict.fromkeys(x["file_name"] for x in batch if "file_name" in x))
        with naming_image({"file_name": names}) if names else nullcontext():
            return [{**x, "instances": self._instances(x)} for x in self.model(batch)]

    def _instances(self, outputs: dict[str, Any]) -> Instances:
        if "instances" not in outputs:
            raise ValueError(f"the model returns {sorted(outputs)}, no 'instances': give a config that detects boxes")
        instances: Instances = outputs["instances"].to("cpu")
        return instances[instances.scores >= self.score_threshold]


class BatchPredictor:
    """Runs a detection model on many images, in batches of similar sizes; results come in the order of the images.

    An image alone and the same image padded into a batch differ a little, as convolutions see the padding at its
    border. With `max_padding` 0 only images of equal size share a batch: detections are those of an image alone.

    Args:
        predictor: resizes the images, holds the model, and drops low scores.
        batch_size: the most images in a batch.
        max_padding: the largest part of a batch that may be padding, from 0 to below 1.
        window: images that are read ahead and sorted by size, when they are given one after the other; at least as
            many as a batch.

    Raises:
        ValueError: for numbers that make no sense.
    """

    def __init__(
        self, predictor: ImagePredictor, *, batch_size: int = 8, max_padding: float = 0.0, window: int = 64
    ) -> None:
        if batch_size < 1 or window < 1:
            raise ValueError(f"the batch size is {batch_size} and the window {window}, expected 1 image or more")
        if not 0 <= max_padding < 1:
            raise ValueError(f"the largest part of padding is {max_padding}, expected a number from 0 to below 1")
        self.predictor = predictor
        self.batch_size = batch_size
        self.max_padding = max_padding
        self.window = max(window, batch_size)

    def __call__(self, images_bgr: Sequence[np.ndarray]) -> list[Instances]:
        """Detections of each image, as `ImagePredictor` gives them.

        Args:
            images_bgr: (H, W, 3) uint8 each, BGR, of any sizes.
        """
        return list(self.stream(images_bgr))

    def stream(self, images_bgr: Iterable[np.ndarray]) -> Iterator[Instances]:
        """The same for images that need not be in memory all at once: a window of them is, at a time."""
        return (x["instances"] for x in self.outputs(map(self.predictor.inputs, images_bgr)))

    def outputs(self, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """All that the model returns for each image; `inputs` and results are those of `ImagePredictor.run`."""
        inputs = iter(inputs)
        while window := list(islice(inputs, self.window)):
            results: dict[int, dict[str, Any]] = {}
            sizes = [(x["image"].shape[-2], x["image"].shape[-1]) for x in window]
            for batch in batches_by_size(sizes, self.batch_size, self.max_padding):
                results.update(zip(batch, self.predictor.run([window[i] for i in batch]), strict=True))
            yield from (results[i] for i in range(len(window)))


def batches_by_size(sizes: Sequence[Size], batch_size: int, max_padding: float) -> list[list[int]]:
    """Distributes images to batches.

    Args:
        sizes: (height, width) of each image.
        batch_size: the most images in a batch.
        max_padding: the largest part of a batch that may be padding; 0 for equal sizes only.

    Returns:
        Indices of the images of each batch; every image is in exactly one.
    """

    def shape_then_size(i: int) -> tuple[float, Size]:
        height, width = sizes[i]
        return height / width, (height, width)

    batches: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=shape_then_size):
        fits = batches and len(batches[-1]) < batch_size
        if fits and _padding([sizes[j] for j in (*batches[-1], i)]) <= max_padding:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _padding(sizes: Sequence[Size]) -> float:
    """The part of a batch of images that is padding."""
    padded = max(h for h, _ in sizes) * max(w for _, w in sizes) * len(sizes)
    return 1 - sum(h * w for h, w in sizes) / padded
