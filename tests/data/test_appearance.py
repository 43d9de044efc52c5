"""Flips, transposition and colours: where pixels and boxes go, how often, and what a config may not say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from detr_d2.data import DetrDatasetMapper, build_detr_augmentation
from detr_d2.data.appearance import Transpose, color_jitter
from detr_d2.data.draws import seeded_draw, seeded_numpy

SIZE = (40, 60)  # height, width


def test_transpose_by_hand() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert Transpose().apply_image(image).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Transpose().apply_box(np.array([[1.0, 2.0, 5.0, 3.0]])).tolist() == [[2.0, 1.0, 3.0, 5.0]]
    back = Transpose().inverse()
    assert np.array_equal(back.apply_image(Transpose().apply_image(image)), image)
    labels = Transpose().apply_segmentation(image)
    assert np.array_equal(labels, image.T)


def test_all_eight_orientations_are_equally_likely(tmp_path: Path, cfg: Any) -> None:
    """One dark rectangle near a corner, off the diagonal: its place tells the orientation, and its box follows."""
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = "RGB", (40,), False
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.RANDOM_TRANSPOSE = "both", True
    pixels = np.full((*SIZE, 3), 200, dtype=np.uint8)
    pixels[4:10, 2:20] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = {"bbox": [2, 4, 20, 10], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
    record = {"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60, "annotations": [box]}
    mapper = DetrDatasetMapper(cfg, is_train=True)
    seen: Counter[tuple[int, ...]] = Counter()
    for draw in range(400):
        with seeded_draw(1, draw):
            sample = mapper(record)
        rows, columns = np.nonzero(sample["image"][0].numpy() == 0)
        dark = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        assert tuple(sample["instances"].gt_boxes.tensor[0].tolist()) == dark
        seen[dark] += 1
    assert set(seen) == {
        *((2, 4, 20, 10), (40, 4, 58, 10), (2, 30, 20, 36), (40, 30, 58, 36)),  # as it is, and three flips
        *((4, 2, 10, 20), (4, 40, 10, 58), (30, 2, 36, 20), (30, 40, 36, 58)),  # transposed
    }
    assert min(seen.values()) >= 25  # 50 expected, standard deviation 6.6


@pytest.mark.parametrize(
    ("flip", "directions"),
    [("none", []), ("horizontal", [True]), ("vertical", [False]), ("both", [True, False])],
)
def test_directions_of_flips(cfg: Any, flip: str, directions: list[bool]) -> None:
    cfg.INPUT.RANDOM_FLIP = flip
    flips = [x for x in build_detr_augmentation(cfg) if isinstance(x, T.RandomFlip)]
    assert [x.horizontal for x in flips] == directions
    assert [x.vertical for x in flips] == [not x for x in directions]


def test_colors_change_within_their_factors_and_pixels_stay() -> None:
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    image[:4] = (60, 100, 140)
    brightness, contrast, saturation = color_jitter(0.2)
    tops = []
    for seed in range(60):
        with seeded_numpy(seed):
            given = T.AugInput(image.copy())
            brightness(given)
        factor = given.image[4, 4, 0] / 100
        tops.append(factor)
        assert given.image[0, 0].tolist() == pytest.approx([60 * factor, 100 * factor, 140 * factor], abs=1.5)
    assert 0.79 <= min(tops) < 0.88
    assert 1.12 < max(tops) <= 1.21
    for other in (contrast, saturation):
        with seeded_numpy(0):
            given = T.AugInput(image.copy())
            other(given)
        assert given.image.shape == image.shape
        assert not np.array_equal(given.image, image)
    assert color_jitter(0.0) == []


def test_what_a_config_may_not_say(cfg: Any) -> None:
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match=r'INPUT\.RANDOM_FLIP must be .* "both", but is \'diagonal\''):
        build_detr_augmentation(cfg)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.COLOR_JITTER = "none", 1.5
    with pytest.raises(ValueError, match=r"INPUT\.COLOR_JITTER must be from 0 to 1, but is 1\.5"):
        build_detr_augmentation(cfg)
