"""DETR's mapper: boxes stay on objects, the authors' augmentation, and errors that name the file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from segmentation_cases import run_lengths

from detr_d2.data import DetrDatasetMapper
from detr_d2.data.draws import seeded_draw
from detr_d2.data.shapes.synthetic_scene import ShapesConfig, draw_scene

Record = dict[str, Any]


@pytest.fixture
def shapes(tmp_path: Path) -> list[Record]:
    """Three pictures of 160x120 with shapes that do not overlap, masks as RLE."""
    config = ShapesConfig(width=160, height=120, min_objects=3, max_overlap=0.0)
    records = []
    for index in range(3):
        scene = draw_scene(config, seed=9, index=index)
        file_name = tmp_path / f"{index}.png"
        Image.fromarray(scene.image).save(file_name)
        annotations = []
        for kind, mask in zip(scene.classes, scene.masks, strict=True):
            rows, columns = np.nonzero(mask)
            box = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
            rle = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": kind, "iscrowd": 0, "segmentation": rle}
            )
        records.append(
            {"file_name": str(file_name), "width": 160, "height": 120, "image_id": index, "annotations": annotations}
        )
    return records


@pytest.fixture
def small_cfg(cfg: Any) -> Any:
    """The authors' augmentation at a tenth of its size."""
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = [38, 60]
    cfg.INPUT.DETR_MIN_SIZES = (40, 50, 60)
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64, 80)
    cfg.INPUT.MAX_SIZE_TRAIN = 133
    return cfg


def _plain_record(tmp_path: Path, width: int, height: int, annotations: list[Record]) -> Record:
    """Columns of this picture have different colours, so that a flip and a crop can be seen."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 250, width)[None].astype(np.uint8)
    path = tmp_path / "plain.png"
    Image.fromarray(pixels).save(path)
    return {"file_name": str(path), "width": width, "height": height, "annotations": annotations}


def _box(x0: float, y0: float, x1: float, y1: float, **more: Any) -> Record:
    return {"bbox": [x0, y0, x1, y1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, **more}


def _draw(mapper: DetrDatasetMapper, record: Record, draw: int) -> Record:
    with seeded_draw(3, draw):
        return mapper(record)


def test_boxes_stay_on_their_objects(small_cfg: Any, shapes: list[Record]) -> None:
    """After flip, resize, crop and resize the pixels of an object's colour span its box, to resampling's blur."""
    small_cfg.INPUT.DETR_MIN_SIZES = (150, 200)
    small_cfg.INPUT.CROP.SIZE = [80, 140]
    small_cfg.INPUT.MIN_SIZE_TRAIN = (160, 200)
    small_cfg.INPUT.MAX_SIZE_TRAIN = 400
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    checked, cut = 0, 0
    for record in shapes:
        original = np.asarray(Image.open(record["file_name"]))
        colours = [
            original[pycocotools.mask.decode(annotation["segmentation"]).astype(bool)][0]
            for annotation in record["annotations"]
        ]
        for draw in range(12):
            sample = _draw(mapper, record, draw)
            image = sample["image"].permute(1, 2, 0).numpy().astype(int)
            boxes = sample["instances"].gt_boxes.tensor.numpy()
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            seen = [np.abs(image - colour).max(axis=-1) <= 20 for colour in colours]
            cut += len(boxes) < len(colours)
            for box in boxes[areas > 200]:
                fits = []
                for pixels in seen:
                    rows, columns = np.nonzero(pixels)
                    if len(rows):
                        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                        fits.append(np.abs(found - box).max())
                checked += 1
                # a cropped triangle or disc may leave part of its box empty: its box is the crop of the whole box
                assert min(fits) <= 4 or _touches_border(box, image.shape)
    assert checked > 60
    assert cut > 3


def _touches_border(box: np.ndarray, shape: tuple[int, ...]) -> bool:
    return bool((box[:2] <= 0).any() or box[2] >= shape[1] or box[3] >= shape[0])


def test_half_of_the_draws_crop_after_an_unlimited_resize(small_cfg: Any, tmp_path: Path) -> None:
    """On a picture ten times as wide as high: branch A keeps the shape, branch B crops 38 to 60 pixels each way."""
    record = _plain_record(tmp_path, 400, 40, [])
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    ratios = []
    for draw in range(200):
        height, width = _draw(mapper, record, draw)["image"].shape[1:]
        assert max(height, width) <= 133
        ratios.append(width / height)
    cropped = [ratio for ratio in ratios if ratio < 9]
    assert all(38 / 61 <= ratio <= 60 / 37 for ratio in cropped)  # a limited first resize would give more than 3
    assert min(cropped) < 0.9
    assert max(cropped) > 1.1
    assert 80 <= len(cropped) <= 120  # 100 expected, standard deviation 7


def test_sizes_of_the_last_resize(small_cfg: Any, tmp_path: Path) -> None:
    small_cfg.INPUT.CROP.ENABLED = False
    record = _plain_record(tmp_path, 90, 60, [])
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    shapes = {tuple(_draw(mapper, record, draw)["image"].shape[1:]) for draw in range(40)}
    assert shapes == {(48, 72), (64, 96), (80, 120)}


def test_flip_moves_pixels_and_boxes(small_cfg: Any, tmp_path: Path) -> None:
    small_cfg.INPUT.CROP.ENABLED = False
    small_cfg.INPUT.MIN_SIZE_TRAIN = (60,)
    record = _plain_record(tmp_path, 90, 60, [_box(10, 20, 30, 50)])
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    flipped = 0
    for draw in range(60):
        sample = _draw(mapper, record, draw)
        box = sample["instances"].gt_boxes.tensor[0].tolist()
        if sample["image"][0, 0, 0] > sample["image"][0, 0, -1]:
            flipped += 1
            assert box == pytest.approx([60, 20, 80, 50])
        else:
            assert box == pytest.approx([10, 20, 30, 50])
    assert 18 <= flipped <= 42
    small_cfg.INPUT.RANDOM_FLIP = "none"
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    assert all(_draw(mapper, record, draw)["image"][0, 0, 0] == 0 for draw in range(20))


def test_crop_takes_all_of_a_smaller_image(small_cfg: Any, tmp_path: Path) -> None:
    small_cfg.INPUT.DETR_MIN_SIZES = (20,)
    record = _plain_record(tmp_path, 30, 20, [_box(0, 0, 30, 20)])
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    for draw in range(20):
        sample = _draw(mapper, record, draw)
        height, width = sample["image"].shape[1:]
        assert width / height == pytest.approx(1.5, abs=0.02)
        assert sample["instances"].gt_boxes.tensor[0].tolist() == pytest.approx([0, 0, width, height], abs=1e-3)


def _mapper(**changed: Any) -> DetrDatasetMapper:
    arguments: dict[str, Any] = {"augmentations": [T.NoOpTransform()], "image_format": "RGB", **changed}
    return DetrDatasetMapper(True, **arguments)


def test_which_annotations_become_targets(tmp_path: Path) -> None:
    annotations = [
        _box(-5, 2, 10, 12, category_id=0),  # clipped
        _box(1, 1, 9, 9, iscrowd=1),
        _box(5, 5, 5, 9),  # no width
        _box(95, 5, 120, 9),  # outside of the 90 pixels
        _box(9, 9, 5, 5),  # negative
        {"bbox": [80, 50, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2},
    ]
    instances = _mapper()(_plain_record(tmp_path, 90, 60, annotations))["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 2, 10, 12], [80, 50, 90, 60]]
    assert instances.gt_classes.tolist() == [0, 2]
    assert instances.gt_classes.dtype == torch.int64


def test_cropped_boxes_keep_any_area(tmp_path: Path) -> None:
    crop = T.CropTransform(30, 10, 40, 30)
    boxes = [(0, 0, 30.5, 11), (0, 0, 30, 60), (40, 20, 50, 30), (69, 39, 90, 60)]
    annotations = [_box(*box, category_id=number) for number, box in enumerate(boxes)]
    instances = _mapper(augmentations=[crop])(_plain_record(tmp_path, 90, 60, annotations))["instances"]
    assert instances.image_size == (30, 40)
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 0.5, 1], [10, 10, 20, 20], [39, 29, 40, 30]]
    assert instances.gt_classes.tolist() == [0, 2, 3]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_images_without_objects_are_kept(tmp_path: Path, mask_format: str) -> None:
    mapper = _mapper(use_instance_mask=True, instance_mask_format=mask_format)
    record = _plain_record(tmp_path, 90, 60, [_box(1, 1, 9, 9, iscrowd=1)])
    without_key = {key: value for key, value in record.items() if key != "annotations"}
    for empty in (record, {**record, "annotations": []}, without_key):
        instances = mapper(empty)["instances"]
        assert len(instances) == 0
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.shape == (0,)
        assert len(instances.gt_masks) == 0
    if mask_format == "bitmask":
        assert instances.gt_masks.tensor.shape == (0, 60, 90)


def test_masks_follow_their_boxes(small_cfg: Any, shapes: list[Record]) -> None:
    small_cfg.MODEL.MASK_ON = True
    small_cfg.INPUT.MASK_FORMAT = "bitmask"
    mapper = DetrDatasetMapper(small_cfg, is_train=True)
    compared = 0
    for record in shapes:
        for draw in range(8):
            sample = _draw(mapper, record, draw)
            masks, boxes = sample["instances"].gt_masks, sample["instances"].gt_boxes.tensor
            assert isinstance(masks, BitMasks)
            assert masks.tensor.shape == (len(boxes), *sample["image"].shape[1:])
            whole = masks.tensor.flatten(1).any(dim=1) & ~torch.tensor(
                [_touches_border(box.numpy(), (*sample["image"].shape[1:], 3)) for box in boxes], dtype=torch.bool
            )
            difference = (masks.get_bounding_boxes().tensor - boxes)[whole].abs()
            compared += len(difference)
            assert (difference <= 3).all()
    assert compared > 20


def test_polygons_rle_and_bitmaps_give_the_same_bitmap(tmp_path: Path) -> None:
    square = np.zeros((60, 90), dtype=np.uint8)
    square[20:50, 10:30] = 1
    forms = [
        [[10, 20, 30, 20, 30, 50, 10, 50]],
        pycocotools.mask.encode(np.asfortranarray(square)),
        {"size": [60, 90], "counts": run_lengths(square)},
        square.astype(bool),
    ]
    flipped = square[:, ::-1].astype(bool)
    mapper = _mapper(augmentations=[T.HFlipTransform(90)], use_instance_mask=True, instance_mask_format="bitmask")
    for form in forms:
        instances = mapper(_plain_record(tmp_path, 90, 60, [_box(10, 20, 30, 50, segmentation=form)]))["instances"]
        np.testing.assert_array_equal(instances.gt_masks.tensor[0].numpy(), flipped)
        assert instances.gt_boxes.tensor.tolist() == [[60, 20, 80, 50]]


def test_polygon_format_keeps_polygons_and_takes_rle_as_bitmap(tmp_path: Path) -> None:
    mapper = _mapper(augmentations=[T.HFlipTransform(90)], use_instance_mask=True)
    polygon = [[10, 20, 30, 20, 30, 50]]
    instances = mapper(_plain_record(tmp_path, 90, 60, [_box(10, 20, 30, 50, segmentation=polygon)]))["instances"]
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert instances.gt_masks.polygons[0][0].tolist() == [80, 20, 60, 20, 60, 50]
    rle = pycocotools.mask.encode(np.asfortranarray(np.ones((60, 90), dtype=np.uint8)))
    both = [_box(10, 20, 30, 50, segmentation=polygon), _box(0, 0, 90, 60, segmentation=rle)]
    instances = mapper(_plain_record(tmp_path, 90, 60, both))["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor[1].all()


def test_masks_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    record = _plain_record(tmp_path, 90, 60, [_box(1, 2, 3, 4, segmentation="nonsense")])
    assert not _mapper()(record)["instances"].has("gt_masks")


def test_dataset_dict_is_left_unchanged(small_cfg: Any, shapes: list[Record]) -> None:
    small_cfg.MODEL.MASK_ON = True
    small_cfg.INPUT.MASK_FORMAT = "bitmask"
    before = copy.deepcopy(shapes[0])
    sample = DetrDatasetMapper(small_cfg, is_train=True)(shapes[0])
    assert shapes[0] == before
    assert set(sample) == {"file_name", "width", "height", "image_id", "image", "instances"}
    assert (sample["width"], sample["height"], sample["image"].dtype) == (160, 120, torch.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_evaluation_gives_the_stock_mappers_tensors(cfg: Any, shapes: list[Record], image_format: str) -> None:
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.MIN_SIZE_TEST = 100
    cfg.INPUT.CROP.ENABLED = True
    ours = DetrDatasetMapper(cfg, is_train=False)(shapes[0])
    stock = DatasetMapper(cfg, is_train=False)(shapes[0])
    assert set(ours) == set(stock)
    assert torch.equal(ours["image"], stock["image"])


def test_same_augmentation_gives_the_stock_mappers_targets(shapes: list[Record]) -> None:
    augmentations = [T.RandomFlip(), T.ResizeShortestEdge((90, 140), sample_style="range"), T.RandomRotation([-20, 20])]
    stock = DatasetMapper(True, augmentations=augmentations, image_format="BGR")
    ours = _mapper(augmentations=augmentations, image_format="BGR")
    for seed, record in enumerate(shapes):  # boxes are floats: the stock mapper truncates integers when it resizes
        np.random.seed(seed)  # noqa: NPY002
        expected = stock(record)
        np.random.seed(seed)  # noqa: NPY002
        sample = ours(record)
        assert torch.equal(sample["image"], expected["image"])
        torch.testing.assert_close(
            sample["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor, atol=1e-4, rtol=0
        )
        assert torch.equal(sample["instances"].gt_classes, expected["instances"].gt_classes)


def test_augmentations_may_ask_for_boxes(shapes: list[Record]) -> None:
    mapper = _mapper(augmentations=[T.MinIoURandomCrop()])
    assert len(mapper(shapes[0])["instances"]) >= 1


def test_semantic_maps_are_carried_along(tmp_path: Path) -> None:
    record = _plain_record(tmp_path, 90, 60, [])
    labels = np.zeros((60, 90), dtype=np.uint8)
    labels[:, :20] = 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    sem_seg = _mapper(augmentations=[T.HFlipTransform(90)])(record)["sem_seg"]
    assert sem_seg.dtype == torch.int64
    assert (sem_seg[:, 70:] == 7).all()
    assert (sem_seg[:, :70] == 0).all()


def _garbage(record: Record) -> None:
    Path(record["file_name"]).write_bytes(b"not an image")


def _truncate(record: Record) -> None:
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (_garbage, ValueError, "image file {} cannot be read"),
        (_truncate, ValueError, "image file {} cannot be read"),
        (lambda r: Path(r["file_name"]).unlink(), FileNotFoundError, "{}"),
        (lambda r: r.update(width=91), detection_utils.SizeMismatchError, "{}"),
        (
            lambda r: r["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),
            ValueError,
            "{}: an annotation has the box",
        ),
        (
            lambda r: r["annotations"][0].pop("segmentation"),
            ValueError,
            r"{}: .* \[10, 20, 30, 50\] has no segmentation",
        ),
        (
            lambda r: r["annotations"][0].update(segmentation=np.ones((9, 9))),
            ValueError,
            r"{}: .* bitmap of shape \(9, 9\)",
        ),
        (lambda r: r["annotations"][0].pop("category_id"), RuntimeError, "{}: KeyError: 'category_id'"),
    ],
)
def test_every_error_names_the_file(
    tmp_path: Path, spoil: Callable[[Record], None], kind: type[Exception], message: str
) -> None:
    polygon = [[10, 20, 30, 20, 30, 50]]
    record = _plain_record(tmp_path, 90, 60, [_box(10, 20, 30, 50, segmentation=polygon)])
    mapper = _mapper(use_instance_mask=True, instance_mask_format="bitmask")
    mapper(record)
    spoil(record)
    with pytest.raises(kind, match=message.format(record["file_name"])):
        mapper(record)


def test_what_a_config_cannot_ask_for(small_cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small_cfg.MODEL.MASK_ON = True
    monkeypatch.setattr("detr_d2.data.dataset_mapper.find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=r'needs shapely: pip install "detr_d2\[masks\]", or set INPUT\.MASK_FORMAT "bitmask"'
    ):
        DetrDatasetMapper(small_cfg, is_train=True)
    small_cfg.INPUT.MASK_FORMAT = "polygons"
    with pytest.raises(ValueError, match='must be "polygon" or "bitmask", but is \'polygons\''):
        DetrDatasetMapper(small_cfg, is_train=True)
    small_cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match=r"does not carry what MODEL\.KEYPOINT_ON needs"):
        DetrDatasetMapper(small_cfg, is_train=True)
