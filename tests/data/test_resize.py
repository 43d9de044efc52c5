"""Image sizes by detectron2's rounding and by that of DETR's authors, in every place that resizes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from detr_d2.config import add_detr_config
from detr_d2.data import (
    DetrDatasetMapper,
    build_detr_augmentation,
    build_resize,
    build_stock_mapper,
    register_coco,
)
from detr_d2.data import (
    augmentation as resize,
)
from detr_d2.engine import Trainer
from detr_d2.prediction.predictor import ImagePredictor

# Height and width: even and odd, wide and high, with and without the limit on the long side, narrow, tiny.
SIZES = [
    *[(480, 640), (640, 480), (427, 640), (640, 427), (333, 500), (375, 500), (500, 500), (640, 640), (800, 800)],
    *[(612, 612), (361, 640), (640, 361), (801, 1067), (799, 1333), (800, 1333), (101, 317), (317, 101), (53, 97)],
    *[(480, 1801), (95, 100), (100, 948), (948, 100), (3, 5), (1, 1), (719, 1279), (1080, 1920)],
]
SHORT_SIDES = (480, 511, 544, 800)


def authors_rule(height: int, width: int, short: int, limit: int | None) -> tuple[int, int]:
    """The rule in exact fractions (the authors' floats never differ on these sizes)."""
    low, high = sorted((height, width))
    if limit is not None and Fraction(high, low) * short > limit:
        short = round(Fraction(limit * low, high))  # halves to even, as Python rounds floats
    long = short * high // low
    return (short, long) if height <= width else (long, short)


def detectron2_rule(height: int, width: int, short: int, limit: int | None) -> tuple[int, int]:
    """Both sides scaled exactly, then rounded to the nearest pixel, halves up."""
    low, high = sorted((height, width))
    scale = Fraction(short, low)
    if limit is not None and high * scale > limit:
        scale = Fraction(limit, high)
    return tuple((2 * side * scale + 1) // 2 for side in (height, width))  # type: ignore[return-value]


RULES: dict[str, Callable[..., tuple[int, int]]] = {"authors": authors_rule, "detectron2": detectron2_rule}


def resized(transform: T.Transform) -> tuple[int, int]:
    return transform.new_h, transform.new_w


@pytest.mark.parametrize("limit", [None, 1333])
@pytest.mark.parametrize("rounding", RULES)
def test_sizes_follow_the_rule(rounding: str, limit: int | None) -> None:
    for short in SHORT_SIDES:
        limited = {} if limit is None else {"max_size": limit}
        augmentation = build_resize(short, sample_style="choice", rounding=rounding, **limited)
        for height, width in SIZES:
            empty = np.broadcast_to(np.uint8(0), (height, width, 3))
            expected = RULES[rounding](height, width, short, limit)
            assert resized(augmentation.get_transform(empty)) == expected, (height, width, short)


def test_sizes_by_hand() -> None:
    assert resize.authors_size(480, 640, 800, 1333) == (800, 1066)  # 1066.67
    assert T.ResizeShortestEdge.get_output_shape(480, 640, 800, 1333) == (800, 1067)
    assert resize.authors_size(640, 480, 800, 1333) == (1066, 800)
    assert resize.authors_size(360, 640, 800, 1333) == (750, 1333)  # round(749.8), floor(1333.3)
    assert resize.authors_size(100, 948, 800, 1333) == (141, 1336)  # round(140.6) first: longer than the limit
    assert resize.authors_size(2, 20000, 800, 1333) == (1, 10000)  # round(0.13) would be no image


def test_pixels_are_pillows_bilinear() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    transform = build_resize(60, sample_style="choice", rounding="authors").get_transform(pixels)
    expected = np.asarray(Image.fromarray(pixels).resize((81, 60), Image.Resampling.BILINEAR))  # 60 x 131 / 97 = 81.03
    np.testing.assert_array_equal(transform.apply_image(pixels), expected)
    boxes = transform.apply_box(np.array([[0, 0, 131, 97], [13.1, 9.7, 26.2, 19.4]]))
    np.testing.assert_allclose(boxes, np.array([[0, 0, 81, 60], [8.1, 6, 16.2, 12]]))


@pytest.mark.parametrize("style", ["choice", "range"])
def test_both_roundings_draw_the_same_short_sides(style: str) -> None:
    empty = np.broadcast_to(np.uint8(0), (300, 300, 3))
    drawn = {}
    for rounding in RULES:
        np.random.seed(0)  # noqa: NPY002
        augmentation = build_resize((200, 260), sample_style=style, rounding=rounding)
        drawn[rounding] = [resized(augmentation.get_transform(empty)) for _ in range(50)]
    assert drawn["authors"] == drawn["detectron2"]
    assert len(set(drawn["authors"])) == (2 if style == "choice" else pytest.approx(35, abs=15))


def test_zero_means_no_resize() -> None:
    augmentation = build_resize(0, sample_style="choice", rounding="authors")
    assert isinstance(augmentation.get_transform(np.zeros((5, 7, 3), np.uint8)), T.NoOpTransform)


@pytest.fixture
def odd_record(tmp_path: Path) -> dict[str, Any]:
    """An image of 97 x 131 pixels: to a short side of 60, 81.03 wide; to 64, 86.4; to 63, 85.08; to 62, 83.7."""
    pixels = np.random.default_rng(1).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    return {"file_name": str(tmp_path / "odd.png"), "height": 97, "width": 131, "image_id": 1, "annotations": []}


@pytest.mark.parametrize(("rounding", "width"), [("detectron2", 84), ("authors", 83)])
def test_every_resize_follows_the_key(
    cfg: Any, odd_record: dict[str, Any], write_coco: Callable[..., str], rounding: str, width: int
) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RESIZE_ROUNDING = rounding
    cfg.INPUT.MIN_SIZE_TEST = 62
    cfg.INPUT.MIN_SIZE_TRAIN = (62,)
    cfg.INPUT.RANDOM_FLIP = "none"
    bgr = np.asarray(Image.open(odd_record["file_name"]))[:, :, ::-1]
    expected = np.asarray(Image.open(odd_record["file_name"]).resize((width, 62), Image.Resampling.BILINEAR))
    predictor = ImagePredictor(cfg, model=torch.nn.Identity())
    tensors = {
        "train": DetrDatasetMapper(cfg, is_train=True)(odd_record)["image"],
        "test": DetrDatasetMapper(cfg, is_train=False)(odd_record)["image"],
        "stock train": build_stock_mapper(cfg, True)(odd_record)["image"],
        "stock test": build_stock_mapper(cfg, False)(odd_record)["image"],
        "predictor": predictor.inputs(bgr)["image"],
    }
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), expected, err_msg=name)

    name = register_coco(write_coco([], sizes=[(131, 97)], num_images=1))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    (batch,) = Trainer.build_test_loader(cfg, name)
    assert batch[0]["image"].shape == (3, 62, width)
    cfg.SOLVER.IMS_PER_BATCH = 1
    assert next(iter(Trainer.build_train_loader(cfg)))[0]["image"].shape == (3, 62, width)


def test_crop_branch_uses_the_rounding_as_well(cfg: Any) -> None:
    cfg.INPUT.RESIZE_ROUNDING = "authors"
    cfg.INPUT.CROP.ENABLED = True
    _, branch, last = build_detr_augmentation(cfg)
    first, _ = branch.aug.augs
    empty = np.broadcast_to(np.uint8(0), (480, 640, 3))
    # the wide image of 100 x 1000 is not limited before the crop
    assert resized(first.get_transform(np.broadcast_to(np.uint8(0), (100, 1000, 3))))[1] >= 4000
    for augmentation in (first, last):
        height, width = resized(augmentation.get_transform(empty))
        assert width == height * 640 // 480


def test_default_is_detectron2s(cfg: Any) -> None:
    stock = get_detectron2_cfg()
    add_detr_config(stock)
    assert stock.INPUT.RESIZE_ROUNDING == "detectron2"
    for is_train in (False, True):
        ours = build_stock_mapper(cfg, is_train)
        theirs = DatasetMapper(cfg, is_train)
        assert str(ours.augmentations) == str(theirs.augmentations)
        kinds = {type(x) for x in ours.augmentations.augs}
        assert resize.AuthorsResize not in kinds


def test_unknown_rounding_is_an_error(cfg: Any) -> None:
    cfg.INPUT.RESIZE_ROUNDING = "floor"
    message = r'INPUT\.RESIZE_ROUNDING must be "detectron2" or "authors", but is \'floor\''
    for build in (
        lambda: build_detr_augmentation(cfg),
        lambda: DetrDatasetMapper(cfg, is_train=False),
        lambda: build_stock_mapper(cfg, True),
        lambda: ImagePredictor(cfg, model=torch.nn.Identity()),
    ):
        with pytest.raises(ValueError, match=message):
            build()


_THEIR_RESIZE = """
import sys
import numpy, PIL.Image
from datasets.transforms import resize
given = numpy.load(sys.argv[1])
taken = {}
for name in given.files:
    pixels = given[name]
    for short in (480, 511, 544, 800):
        for limit in (None, 1333):
            if max(pixels.shape) < 2000 and min(pixels.shape[:2]) > 50:
                image, _ = resize(PIL.Image.fromarray(pixels), None, short, limit)
                taken[f"{name} {short} {limit or 0}"] = numpy.asarray(image)
numpy.savez(sys.argv[2], **taken)
"""


@pytest.mark.skipif("DETR_REPO" not in os.environ, reason="DETR_REPO names no checkout of facebookresearch/detr")
def test_equals_the_authors_code(tmp_path: Path) -> None:
    """Their own function, on noise, in a process of its own: tensors are equal bit by bit."""
    rng = np.random.default_rng(0)
    images = {f"{h}x{w}": rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in SIZES if 50 < min(h, w) < 620}
    np.savez(tmp_path / "given.npz", **images)  # type: ignore[arg-type]
    call = [sys.executable, "-c", _THEIR_RESIZE, str(tmp_path / "given.npz"), str(tmp_path / "taken.npz")]
    subprocess.run(call, check=True, env={**os.environ, "PYTHONPATH": os.environ["DETR_REPO"]}, cwd=tmp_path)
    compared = 0
    for key, expected in np.load(tmp_path / "taken.npz").items():
        name, short, limit = key.split()
        limited = {"max_size": int(limit)} if int(limit) else {}
        ours = build_resize(int(short), sample_style="choice", rounding="authors", **limited)
        np.testing.assert_array_equal(ours.get_transform(images[name]).apply_image(images[name]), expected, key)
        compared += 1
    assert compared >= 100
