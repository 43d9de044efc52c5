"""Predictions on many images, several at a time: images that need no or little padding together share a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from .predictor import ImagePredictor

Size = tuple[int, int]


class BatchPredictor:
    """Runs a detection model on many images, in batches of similar sizes; results come in the order of the images.

    An image alone and the same image padded into a batch differ a little, as convolutions see the padding at its
    border. With `max_padding` 0 only images of equal size share a batch: detections are those of an image alone.

    Args:
        predictor: resizes the images, holds the model, and drops low scores.
        batch_size: the most images in a batch.
        max_padding: the largest part of a batch that may be padding, from 0 to below 1.
        window: images that are read ahead and sorted by size, when they are given one after the other.

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
        images = iter(images_bgr)
        while window := list(islice(images, self.window)):
            yield from self._predict(window)

    def _predict(self, images_bgr: list[np.ndarray]) -> list[Instances]:
        inputs = [self.predictor.inputs(image) for image in images_bgr]
        sizes = [(x["image"].shape[-2], x["image"].shape[-1]) for x in inputs]
        results: dict[int, Instances] = {}
        for batch in batches_by_size(sizes, self.batch_size, self.max_padding):
            results.update(zip(batch, self._run([inputs[i] for i in batch]), strict=True))
        return [results[i] for i in range(len(inputs))]

    @torch.no_grad()
    def _run(self, batch: list[dict[str, Any]]) -> list[Instances]:
        return [self.predictor.instances(outputs) for outputs in self.predictor.model(batch)]


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
