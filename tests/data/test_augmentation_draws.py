"""The distribution of DETR's augmentation over ten thousand draws of its objects.

Rules: `datasets/coco.py` and `datasets/transforms.py` of the authors' code. Every run draws anew; a test raises a false
alarm less than once in 10^8 runs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from scipy.stats import chisquare, kstest

from detr_d2.data import DetrDatasetMapper, build_detr_augmentation
from detr_d2.model_zoo import get_config

ALPHA = 1e-9
DRAWS = 10_000


class Shape(T.AugInput):
    """An image of which only the size is real, so that ten thousand draws cost no pixels; logs its transforms."""

    def __init__(self, height: int, width: int, boxes: np.ndarray | None = None) -> None:
        super().__init__(_blank(height, width))
        self.image: np.ndarray = _blank(height, width)
        self.boxes: np.ndarray | None = boxes
        self.log: list[T.Transform] = []

    def transform(self, tfm: T.Transform) -> None:
        self.log.append(tfm)
        if isinstance(tfm, T.ResizeTransform):
            assert self.image.shape[:2] == (tfm.h, tfm.w)
            self.image = _blank(tfm.new_h, tfm.new_w)
        elif isinstance(tfm, T.CropTransform):
            self.image = self.image[tfm.y0 : tfm.y0 + tfm.h, tfm.x0 : tfm.x0 + tfm.w]
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)


def _blank(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (height, width, 3))


@pytest.fixture(scope="module")
def draws() -> list[list[T.Transform]]:
    """The transforms of `DRAWS` images of 480 x 640, without those that do nothing."""
    augmentation = T.AugmentationList(build_detr_augmentation(get_config("detr_r50.yaml")))
    seed_all_rng(int(torch.randint(2**31, ()).item()))
    logs = []
    for _ in range(DRAWS):
        image = Shape(480, 640)
        augmentation(image)
        logs.append([x for x in image.log if not isinstance(x, T.NoOpTransform)])
    return logs


def is_uniform(counts: Any) -> bool:
    return chisquare(counts).pvalue > ALPHA


def split(log: list[T.Transform]) -> tuple[bool, list[T.Transform]]:
    """Whether it is flipped, and the resizes and crops after that."""
    flipped = isinstance(log[0], T.HFlipTransform)
    return flipped, log[flipped:]


def test_half_are_flipped_and_half_take_the_crop_branch_independently(draws: list[list[T.Transform]]):
    cells = np.zeros((2, 2))
    for log in draws:
        flipped, rest = split(log)
        kinds = [type(x) for x in rest]
        assert kinds in ([T.ResizeTransform], [T.ResizeTransform, T.CropTransform, T.ResizeTransform])
        cells[int(flipped), len(rest) // 2] += 1
    assert is_uniform(cells.ravel())


def test_short_sides_of_the_last_resize_are_uniform(draws: list[list[T.Transform]]):
    sides: dict[int, list[int]] = {1: [], 3: []}
    for log in draws:
        _, rest = split(log)
        last = rest[-1]
        assert max(last.new_h, last.new_w) <= 1333
        sides[len(rest)].append(min(last.new_h, last.new_w))
    for drawn in sides.values():
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
        assert is_uniform(counts)


def test_first_resize_of_the_crop_branch(draws: list[list[T.Transform]]):
    firsts = [split(log)[1][0] for log in draws if len(split(log)[1]) == 3]
    values, counts = np.unique([x.new_h for x in firsts], return_counts=True)
    assert values.tolist() == [400, 500, 600]
    assert is_uniform(counts)
    assert {(x.new_h, x.new_w) for x in firsts} == {(400, 533), (500, 667), (600, 800)}


def test_first_resize_has_no_limit_on_the_long_side():
    augmentation = T.AugmentationList(build_detr_augmentation(get_config("detr_r50.yaml")))
    widths = set()
    for _ in range(200):
        image = Shape(100, 900)
        augmentation(image)
        _, rest = split([x for x in image.log if not isinstance(x, T.NoOpTransform)])
        widths |= {rest[0].new_w} if len(rest) == 3 else set()
        assert max(image.image.shape[:2]) <= 1333
    assert widths == {3600, 4500, 5400}


def test_crops_are_uniform_in_size_and_place(draws: list[list[T.Transform]]):
    """Height and width are independent, uniform integers from 384 to the smaller of side and 600."""
    rng = np.random.default_rng()
    spread: dict[str, list[float]] = {"height": [], "width": [], "top": [], "left": []}
    heights: dict[int, set[int]] = {400: set(), 500: set(), 600: set()}
    widths: dict[int, set[int]] = {400: set(), 500: set(), 600: set()}

    def uniform(value: int, low: int, high: int) -> float:
        """An integer drawn uniformly from low..high becomes a number drawn uniformly from 0..1."""
        assert low <= value <= high
        return float((value - low + rng.random()) / (high - low + 1))

    for log in draws:
        _, rest = split(log)
        if len(rest) < 3:
            continue
        resize, crop, _ = rest
        height, width = resize.new_h, resize.new_w
        spread["height"].append(uniform(crop.h, 384, min(height, 600)))
        spread["width"].append(uniform(crop.w, 384, min(width, 600)))
        spread["top"].append(uniform(crop.y0, 0, height - crop.h))
        spread["left"].append(uniform(crop.x0, 0, width - crop.w))
        heights[height].add(crop.h)
        widths[height].add(crop.w)
    for name, values in spread.items():
        assert kstest(values, "uniform").pvalue > ALPHA, name
    correlation = np.corrcoef(list(spread.values()))
    assert np.abs(correlation - np.eye(4)).max() * math.sqrt(len(spread["top"])) < 6.5
    assert heights[400] == set(range(384, 401))
    assert max(widths[500] | widths[600] | heights[600]) == 600
    assert min(widths[500] | widths[600] | heights[600] | heights[500]) == 384


def test_boxes_are_kept_if_anything_of_them_is_left():
    """Against the rule written out: flip, scale, shift, clip, scale; both sides above 0."""
    mapper = DetrDatasetMapper(get_config("detr_r50.yaml"), is_train=True)
    rng = np.random.default_rng()
    dropped = kept = 0
    for _ in range(1_000):
        corners = rng.uniform(0, 1, (12, 2)) * (600, 440)
        boxes = np.hstack([corners, np.minimum(corners + rng.uniform(5, 200, (12, 2)), (640, 480))])
        image = Shape(480, 640, boxes=boxes.copy())
        transforms = mapper.augmentations(image)
        annotations = [{"category_id": k, "bbox_mode": BoxMode.XYXY_ABS} for k in range(12)]
        instances = mapper._instances(annotations, image, transforms, (480, 640))
        augmented = {k: _augmented(image.log, box) for k, box in enumerate(boxes)}
        expected = {k: box for k, box in augmented.items() if box is not None}
        assert instances.gt_classes.tolist() == list(expected)
        assert instances.image_size == image.image.shape[:2]
        if expected:
            np.testing.assert_allclose(instances.gt_boxes.tensor.numpy(), np.stack([*expected.values()]), atol=2e-3)
        kept, dropped = kept + len(expected), dropped + 12 - len(expected)
    assert kept > 6_000
    assert dropped > 100


def _augmented(log: list[T.Transform], box: np.ndarray) -> np.ndarray | None:
    x0, y0, x1, y1 = box
    width, height = 640, 480
    for step in log:
        if isinstance(step, T.HFlipTransform):
            x0, x1 = width - x1, width - x0
        elif isinstance(step, T.ResizeTransform):
            x0, x1 = (x * step.new_w / width for x in (x0, x1))
            y0, y1 = (y * step.new_h / height for y in (y0, y1))
            width, height = step.new_w, step.new_h
        elif isinstance(step, T.CropTransform):
            width, height = step.w, step.h
            x0, x1 = (min(max(x - step.x0, 0), width) for x in (x0, x1))
            y0, y1 = (min(max(y - step.y0, 0), height) for y in (y0, y1))
    return np.array([x0, y0, x1, y1]) if x1 > x0 and y1 > y0 else None
