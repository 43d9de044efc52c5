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

from detr_d2.data import DetrDatasetMapper, build_detr_augmentation, build_stock_mapper
from detr_d2.data.augmentation import RandomSaturation, Transpose, color_jitter
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


def colored_halves() -> np.ndarray:
    """Upper half coloured, lower half grey; RGB."""
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    image[:4] = (60, 100, 140)
    return image


def jittered(augmentation: T.Augmentation, image: np.ndarray, seed: int) -> np.ndarray:
    with seeded_numpy(seed):
        given = T.AugInput(image.copy())
        augmentation(given)
    return given.image.astype(float)


def test_brightness_scales_all_pixels_within_its_factors() -> None:
    brightness, _, _ = color_jitter(0.2, "RGB")
    factors = []
    for seed in range(60):
        changed = jittered(brightness, colored_halves(), seed)
        factors.append(changed[4, 4, 0] / 100)
        assert changed == pytest.approx(colored_halves() * factors[-1], abs=1.5)
    assert 0.79 <= min(factors) < 0.88
    assert 1.12 < max(factors) <= 1.21


def test_contrast_scales_the_distances_from_the_mean() -> None:
    _, contrast, _ = color_jitter(0.5, "RGB")
    image = colored_halves()
    factors = [(jittered(contrast, image, seed)[0, 0, 2] - 100) / 40 for seed in range(20)]  # the mean is 100
    assert all(0.45 <= factor <= 1.55 for factor in factors)
    assert max(factors) - min(factors) > 0.5
    changed = jittered(contrast, image, 3)
    assert changed[4, 4].tolist() == pytest.approx([100, 100, 100], abs=1)
    assert changed.mean() == pytest.approx(image.mean(), abs=1)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_saturation_leaves_grey_alone_in_both_orders(image_format: str) -> None:
    _, _, saturation = color_jitter(0.5, image_format)
    image = colored_halves() if image_format == "RGB" else colored_halves()[..., ::-1]
    grey = 0.299 * 60 + 0.587 * 100 + 0.114 * 140
    factors = set()
    for seed in range(10):
        changed = jittered(saturation, image, seed)
        assert changed[4, 4].tolist() == pytest.approx([100, 100, 100], abs=1)
        rgb = changed[0, 0] if image_format == "RGB" else changed[0, 0, ::-1]
        factor = (rgb[2] - grey) / (140 - grey)
        assert rgb.tolist() == pytest.approx([grey + factor * (x - grey) for x in (60, 100, 140)], abs=2.5)
        factors.add(round(factor, 1))
    assert len(factors) > 3


def test_jitter_comes_last_and_only_if_asked_for(cfg: Any) -> None:
    kinds = (T.RandomBrightness, T.RandomContrast, RandomSaturation)
    assert not [x for x in build_detr_augmentation(cfg) if isinstance(x, kinds)]
    cfg.INPUT.COLOR_JITTER = 0.3
    *_, brightness, contrast, saturation = build_detr_augmentation(cfg)
    assert [type(x) for x in (brightness, contrast, saturation)] == list(kinds)
    assert (brightness.intensity_min, brightness.intensity_max) == (0.7, 1.3)
    assert (contrast.intensity_min, contrast.intensity_max) == (0.7, 1.3)
    assert (saturation.lowest, saturation.highest) == (0.7, 1.3)


def test_what_a_config_may_not_say(cfg: Any) -> None:
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match=r'INPUT\.RANDOM_FLIP must be .* "both", but is \'diagonal\''):
        build_detr_augmentation(cfg)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.COLOR_JITTER = "none", 1.5
    with pytest.raises(ValueError, match=r"INPUT\.COLOR_JITTER must be from 0 to 1, but is 1\.5"):
        build_detr_augmentation(cfg)
    cfg.INPUT.COLOR_JITTER, cfg.INPUT.FORMAT = 0.5, "L"
    with pytest.raises(ValueError, match=r'INPUT\.COLOR_JITTER needs INPUT\.FORMAT "RGB" or "BGR", but it is \'L\''):
        build_detr_augmentation(cfg)


@pytest.mark.parametrize(("key", "value"), [("RANDOM_TRANSPOSE", True), ("COLOR_JITTER", 0.2), ("RANDOM_FLIP", "both")])
def test_detectron2s_mapper_does_not_take_them_in_silence(cfg: Any, key: str, value: Any) -> None:
    cfg.INPUT[key] = value
    with pytest.raises(
        ValueError, match=rf'INPUT\.{key} {value} needs the mapper of DETR.*INPUT\.DETR_AUGMENTATION "on"'
    ):
        build_stock_mapper(cfg, True)
    build_stock_mapper(cfg, False)  # evaluation has no augmentation
