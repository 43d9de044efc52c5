"""The mapper's way through Pillow gives the pixels and boxes of the way through arrays, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from detr_d2.data import DetrDatasetMapper, build_detr_augmentation, dataset_mapper, read_image
from detr_d2.data.augmentation import AuthorsResize
from detr_d2.data.draws import seeded_numpy
from detr_d2.data.images import read_pillow
from detr_d2.data.pillow_input import can_stay_in_pillow

RANDOM = np.random.default_rng(5)
ORIENTATION = 274


def picture(path: Path, mode: str = "RGB", **options: Any) -> Path:
    """Noise of 96x64, so that a pixel in the wrong place or a different interpolation shows."""
    Image.fromarray(RANDOM.integers(0, 256, (64, 96, 3), dtype=np.uint8)).convert(mode).save(path, **options)
    return path


def record(path: Path) -> dict[str, Any]:
    boxes = [[5.3, 7.1, 30.7, 20.9], [50.25, 10.0, 40.0, 33.33], [0, 0, 96, 64]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "iscrowd": 0} for k, box in enumerate(boxes)
    ]
    return {"file_name": str(path), "width": 96, "height": 64, "image_id": 1, "annotations": annotations}


def detr_augmentation(cfg: Any, rounding: str, flip: str) -> list[T.Augmentation]:
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute_range", [38, 60]
    cfg.INPUT.DETR_MIN_SIZES, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (40, 80), (48, 64, 100), 133
    cfg.INPUT.RESIZE_ROUNDING, cfg.INPUT.RANDOM_FLIP = rounding, flip
    cfg.INPUT.RANDOM_TRANSPOSE = flip == "both"
    return build_detr_augmentation(cfg)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(("rounding", "flip"), [("detectron2", "both"), ("authors", "vertical")])
def test_as_the_mapper_of_detectron2(tmp_path: Path, cfg: Any, image_format: str, rounding: str, flip: str) -> None:
    augmentations = detr_augmentation(cfg, rounding, flip)
    sample = record(picture(tmp_path / "a.jpg", quality=90))
    ours = DetrDatasetMapper(is_train=True, augmentations=augmentations, image_format=image_format)
    theirs = DatasetMapper(is_train=True, augmentations=augmentations, image_format=image_format)
    assert can_stay_in_pillow(ours.augmentations, image_format)
    sizes = set()
    for seed in range(12):  # enough for both sides of every coin
        with seeded_numpy(seed):
            got = ours(sample)
        with seeded_numpy(seed):
            expected = theirs(sample)
        assert got["image"].is_contiguous()
        assert torch.equal(got["image"], expected["image"])
        assert torch.equal(got["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        assert torch.equal(got["instances"].gt_classes, expected["instances"].gt_classes)
        sizes.add(tuple(got["image"].shape))
    assert len(sizes) > 4


class Brighten(T.Augmentation):
    """Looks at pixels."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.BlendTransform(src_image=image.max(), src_weight=0.5, dst_weight=0.5)


class FlipBright(T.RandomFlip):
    """A subclass may look at pixels, too."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.HFlipTransform(image.shape[1]) if image.mean() > 10 else T.NoOpTransform()


@pytest.mark.parametrize(
    ("augmentations", "image_format", "expected"),
    [
        ([], "RGB", True),
        ([T.RandomFlip(), T.RandomApply(T.RandomCrop("relative", (0.5, 0.5)))], "BGR", True),
        ([AuthorsResize([8, 10]), T.Resize((5, 5)), T.ResizeShortestEdge([4, 6])], "RGB", True),
        ([T.RandomFlip()], "L", False),
        ([T.RandomApply(T.AugmentationList([T.RandomFlip(), Brighten()]))], "RGB", False),
        ([FlipBright()], "RGB", False),
        ([T.HFlipTransform(96)], "RGB", False),
    ],
)
def test_only_what_needs_no_pixels(augmentations: Sequence[Any], image_format: str, expected: bool) -> None:
    assert can_stay_in_pillow(T.AugmentationList(augmentations), image_format) == expected


@pytest.mark.parametrize("augmentation", [Brighten(), FlipBright()])
def test_others_get_the_pixels(tmp_path: Path, augmentation: T.Augmentation) -> None:
    sample = record(picture(tmp_path / "a.png"))
    got = DetrDatasetMapper(is_train=True, augmentations=[augmentation], image_format="RGB")(sample)["image"]
    image = read_image(sample["file_name"], "RGB")
    expected = augmentation.get_transform(image).apply_image(image).transpose(2, 0, 1)
    assert np.array_equal(got.numpy(), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_reads_the_same_pixels(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode)
    assert np.array_equal(np.asarray(read_pillow(path)), read_image(path, "RGB"))


@pytest.mark.parametrize("orientation", range(10))
def test_turned_pictures(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = picture(tmp_path / "a.jpg", exif=exif)
    image = read_pillow(path)
    assert image.size == ((64, 96) if 5 <= orientation <= 8 else (96, 64))
    assert np.array_equal(np.asarray(image), read_image(path, "RGB"))


def test_broken_files_name_themselves(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        read_pillow(path)
    with pytest.raises(FileNotFoundError):
        read_pillow(tmp_path / "no.jpg")


def test_segmentation_maps_go_the_same_way(tmp_path: Path, cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {**record(picture(tmp_path / "a.png")), "sem_seg_file_name": str(picture(tmp_path / "seg.png", "L"))}
    mapper = DetrDatasetMapper(
        is_train=True, augmentations=detr_augmentation(cfg, "detectron2", "horizontal"), image_format="RGB"
    )
    with seeded_numpy(3):
        got = mapper(sample)
    monkeypatch.setattr(dataset_mapper, "can_stay_in_pillow", lambda *_: False)
    with seeded_numpy(3):
        expected = mapper(sample)
    assert torch.equal(got["image"], expected["image"])
    assert torch.equal(got["sem_seg"], expected["sem_seg"])


def test_boxes_of_several_formats(tmp_path: Path) -> None:
    sample = record(picture(tmp_path / "a.png"))
    sample["annotations"][1] |= {"bbox": [50.25, 10.0, 90.25, 43.33], "bbox_mode": BoxMode.XYXY_ABS}
    instances = DetrDatasetMapper(is_train=True, augmentations=[], image_format="RGB")(sample)["instances"]
    expected = [[5.3, 7.1, 36.0, 28.0], [50.25, 10.0, 90.25, 43.33], [0, 0, 96, 64]]
    assert instances.gt_boxes.tensor.tolist() == [pytest.approx(box, abs=1e-4) for box in expected]
