"""Many images at a time give the detections of one at a time, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_models import tiny_detr

from detr_d2.prediction.predictor import BatchPredictor, ImagePredictor, batches_by_size


class Recorder(torch.nn.Module):
    """One detection, whose score is the first pixel; keeps the sizes of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[tuple[int, ...]]] = []

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.batches.append([tuple(x["image"].shape[-2:]) for x in inputs])
        return [{"instances": _detection(x)} for x in inputs]


def _detection(x: dict[str, Any]) -> Instances:
    instances = Instances((x["height"], x["width"]))
    instances.scores = x["image"][0, 0, :1] / 255
    instances.pred_boxes = Boxes(torch.zeros(1, 4))
    return instances


def predictor_of(model: torch.nn.Module, **changes: Any) -> ImagePredictor:
    return ImagePredictor(model=model, image_format="RGB", min_size=0, max_size=0, **changes)


def images_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Every pixel of the image i is i."""
    return [np.full((*size, 3), i, dtype=np.uint8) for i, size in enumerate(sizes)]


SIZES = [(20, 30), (30, 20), (20, 30), (40, 60), (20, 30), (19, 30), (30, 20)]


def test_equal_sizes_share_a_batch_and_order_is_kept() -> None:
    model = Recorder()
    results = BatchPredictor(predictor_of(model), batch_size=2)(images_of(SIZES))
    assert [round(float(x.scores[0]) * 255) for x in results] == list(range(7))
    assert [x.image_size for x in results] == SIZES
    assert all(len(set(batch)) == 1 and len(batch) <= 2 for batch in model.batches)
    assert sorted(map(len, model.batches)) == [1, 1, 1, 2, 2]


def test_a_little_padding_is_allowed() -> None:
    # With (20, 30), an image of (19, 30) is 1 / 20 padding: 1 / 40 of a batch of two, 1 / 80 of one of four.
    assert batches_by_size([(20, 30), (19, 30)], 8, 0.024) == [[1], [0]]
    assert batches_by_size([(20, 30), (19, 30)], 8, 0.026) == [[1, 0]]
    assert batches_by_size([(30, 20), (20, 30)], 8, 0.3) == [[1], [0]]  # a third of 30 x 30 would be padding
    assert batches_by_size([], 8, 0.0) == []


def test_images_are_read_a_window_at_a_time() -> None:
    read = []

    def images() -> Iterator[np.ndarray]:
        for i, image in enumerate(images_of([(20, 30)] * 7)):
            read.append(i)
            yield image

    model = Recorder()
    stream = BatchPredictor(predictor_of(model), batch_size=2, window=4).stream(images())
    next(stream)
    assert read == [0, 1, 2, 3]
    assert len(list(stream)) == 6
    assert [len(batch) for batch in model.batches] == [2, 2, 2, 1]


def test_detections_are_those_of_single_images() -> None:
    torch.manual_seed(0)
    predictor = predictor_of(tiny_detr(), score_threshold=0.2)
    generator = np.random.default_rng(0)
    sizes = [(64, 96), (96, 64), (64, 96), (80, 80), (64, 96)]
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for got, image in zip(BatchPredictor(predictor, batch_size=3)(images), images, strict=True):
        expected = predictor(image)
        assert len(got) == len(expected) > 0
        assert got.pred_classes.tolist() == expected.pred_classes.tolist()
        torch.testing.assert_close(got.scores, expected.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize("numbers", [{"batch_size": 0}, {"window": 0}, {"max_padding": 1.0}, {"max_padding": -0.1}])
def test_senseless_numbers(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        BatchPredictor(predictor_of(Recorder()), **numbers)
