"""The training loader: the n-th draw is the same for any number of workers, processes and restarts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.utils import comm

from detr_d2.data import DetrDatasetMapper, build_detr_train_loader, register_coco, uses_detr_augmentation
from detr_d2.data.draws import NumberedDataset

Write = Callable[..., str]
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def tiny_cfg(cfg: Any, write_coco: Write, make_annotation: Make) -> Any:
    """Seven images, wide ones and high ones; the last has no annotation."""
    sizes = [(20, 10), (10, 20), (20, 10), (12, 20), (20, 10), (20, 12), (10, 20)]
    annotations = [make_annotation(n, n + 1, (1, 24, 56)[n % 3], [1, 1, 5, 6]) for n in range(6)]
    cfg.DATASETS.TRAIN = (register_coco(write_coco(annotations, num_images=7, sizes=sizes)),)
    cfg.INPUT.MIN_SIZE_TRAIN = (10, 12, 14, 16, 18)
    cfg.INPUT.MAX_SIZE_TRAIN = 40
    cfg.INPUT.DETR_MIN_SIZES = (14, 16)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = [8, 14]
    return cfg


def _batches(cfg: Any, count: int, **arguments: Any) -> list[list[dict[str, Any]]]:
    return list(islice(build_detr_train_loader(cfg, **{"seed": 1, **arguments}), count))


def _ids(batches: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[sample["image_id"] for sample in batch] for batch in batches]


def _assert_equal(ours: list[list[dict[str, Any]]], theirs: list[list[dict[str, Any]]]) -> None:
    assert _ids(ours) == _ids(theirs)
    for batch, other in zip(ours, theirs, strict=True):
        for sample, twin in zip(batch, other, strict=True):
            assert torch.equal(sample["image"], twin["image"])
            assert torch.equal(sample["instances"].gt_boxes.tensor, twin["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("grouping", [False, True])
def test_any_number_of_workers_gives_the_same_batches(tiny_cfg: Any, grouping: bool) -> None:
    tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    alone = _batches(tiny_cfg, 9)
    tiny_cfg.DATALOADER.NUM_WORKERS = 2
    _assert_equal(_batches(tiny_cfg, 9), alone)
    if grouping:
        assert all(len({s["width"] > s["height"] for s in batch}) == 1 for batch in alone)


def test_epochs_are_permutations_and_draws_of_one_image_differ(tiny_cfg: Any) -> None:
    tiny_cfg.SOLVER.IMS_PER_BATCH = 7
    epochs = _batches(tiny_cfg, 4)
    assert all(sorted(ids) == [1, 2, 3, 4, 5, 6, 7] for ids in _ids(epochs))
    assert len({tuple(ids) for ids in _ids(epochs)}) == 4
    shapes = {tuple(s["image"].shape) for batch in epochs for s in batch if s["image_id"] == 1}
    assert len(shapes) > 1


def test_seed_decides_order_and_augmentation(tiny_cfg: Any) -> None:
    tiny_cfg.SOLVER.IMS_PER_BATCH = 7
    _assert_equal(_batches(tiny_cfg, 2), _batches(tiny_cfg, 2))
    first, other = _batches(tiny_cfg, 3), _batches(tiny_cfg, 3, seed=2)
    assert _ids(first) != _ids(other)
    # Whatever the order: the same numbered draw of the same image is augmented otherwise under another seed.
    mapper = DetrDatasetMapper(tiny_cfg, is_train=True)
    sizes = []
    for seed in (1, 2):
        batches = _batches(tiny_cfg, 4, seed=seed, mapper=lambda record: mapper({**record, **_same_image(tiny_cfg)}))
        sizes.append([tuple(sample["image"].shape) for batch in batches for sample in batch])
    assert sizes[0] != sizes[1]


def _same_image(cfg: Any) -> dict[str, Any]:
    return DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_restart_continues_where_it_stopped(tiny_cfg: Any, sampler: str, grouping: bool, accumulated: int) -> None:
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    tiny_cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.8
    tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    tiny_cfg.SOLVER.ACCUM_STEPS = accumulated
    whole = _batches(tiny_cfg, 5 * accumulated + 2)
    _assert_equal(_batches(tiny_cfg, 2, start_iteration=5), whole[5 * accumulated :])


@pytest.mark.parametrize("grouping", [False, True])
def test_order_is_the_stock_trainers(tiny_cfg: Any, grouping: bool) -> None:
    tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    mapper = DetrDatasetMapper(True, augmentations=[T.NoOpTransform()], image_format="BGR")
    np.random.seed(6)  # noqa: NPY002  (what the stock trainer does with SEED 6)
    stock = list(islice(build_detection_train_loader(tiny_cfg, mapper=mapper), 8))
    _assert_equal(_batches(tiny_cfg, 8, mapper=mapper, seed=6), stock)


@pytest.mark.parametrize("start_iteration", [0, 3])
def test_processes_share_the_draws(tiny_cfg: Any, monkeypatch: pytest.MonkeyPatch, start_iteration: int) -> None:
    tiny_cfg.SOLVER.IMS_PER_BATCH = 4
    whole = _batches(tiny_cfg, 4, start_iteration=start_iteration)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda value: [value])
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(_batches(tiny_cfg, 4, start_iteration=start_iteration))
    merged = [[s for pair in zip(*batches, strict=True) for s in pair] for batches in zip(*shares, strict=True)]
    _assert_equal(merged, whole)


def test_samplers_and_filter_are_honoured(tiny_cfg: Any) -> None:
    tiny_cfg.SOLVER.IMS_PER_BATCH = 6
    tiny_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert {i for ids in _ids(_batches(tiny_cfg, 5)) for i in ids} == {1, 2, 3, 4, 5, 6}
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    tiny_cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert len({i for ids in _ids(_batches(tiny_cfg, 5)) for i in ids}) == 3


def test_rare_classes_are_repeated(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    """Class 24 in 1 of 16 images, threshold 1/4: its image is drawn sqrt(0.25 / 0.0625) = 2 times as often."""
    annotations = [make_annotation(n, n + 1, 24 if n == 15 else 1, [1, 1, 5, 6]) for n in range(16)]
    cfg.DATASETS.TRAIN = (register_coco(write_coco(annotations, num_images=16)),)
    cfg.INPUT.MIN_SIZE_TRAIN = (10,)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.25
    cfg.SOLVER.IMS_PER_BATCH = 17
    counts = Counter(i for ids in _ids(_batches(cfg, 3)) for i in ids)
    assert counts == {**dict.fromkeys(range(1, 16), 3), 16: 6}


def _generators() -> tuple[float, float, torch.Tensor]:
    return random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002


def _seed_generators() -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)


def test_numbered_draws_repeat_and_leave_the_generators_alone() -> None:
    datasets = [NumberedDataset([{}], lambda _: {"drawn": _generators()}, seed=seed) for seed in (3, 3, 4)]
    _seed_generators()
    expected = _generators()
    _seed_generators()
    first, again, other = ([dataset[draw, 0]["drawn"] for draw in range(6)] for dataset in datasets)
    assert _generators() == expected
    assert first == again
    for drawn in zip(*first, *other, strict=True):  # each generator: no two draws alike, under no seed
        assert len({float(number) for number in drawn}) == 12


def test_global_generators_are_left_alone(tiny_cfg: Any) -> None:
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = (np.random.rand(), torch.rand(1))  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    # torch's loader itself draws one number per iterator; the draws and the sampler must not move numpy's generator,
    # and a batch must not move torch's.
    iterator = iter(build_detr_train_loader(tiny_cfg, seed=1))
    torch.manual_seed(5)
    next(iterator)
    assert (np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("choice", "architecture", "ours"),
    [
        ("auto", "DETR", True),
        ("auto", "GeneralizedRCNN", False),
        ("on", "GeneralizedRCNN", True),
        ("off", "DETR", False),
    ],
)
def test_who_gets_detrs_augmentation(cfg: Any, choice: str, architecture: str, ours: bool) -> None:
    cfg.INPUT.DETR_AUGMENTATION = choice
    cfg.MODEL.META_ARCHITECTURE = architecture
    assert uses_detr_augmentation(cfg) is ours


def test_draws_of_any_mapper_are_numbered(tiny_cfg: Any) -> None:
    stock = DatasetMapper(tiny_cfg, is_train=True)
    batches = _batches(tiny_cfg, 4, mapper=stock)
    _assert_equal(_batches(tiny_cfg, 2, mapper=stock, start_iteration=2), batches[2:])


def test_bad_choices(tiny_cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cfg.INPUT.DETR_AUGMENTATION = "yes"
    with pytest.raises(ValueError, match=r"DETR_AUGMENTATION must be .* but is 'yes'"):
        uses_detr_augmentation(tiny_cfg)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="IMS_PER_BATCH 2 cannot be divided among 3 processes"):
        build_detr_train_loader(tiny_cfg, seed=1)


def test_images_of_unknown_size_cannot_be_grouped(tiny_cfg: Any) -> None:
    records = [{"file_name": "a.png", "annotations": []}]
    DatasetCatalog.register("sizeless", lambda: records)
    MetadataCatalog.get("sizeless").thing_classes = ["a"]
    tiny_cfg.DATASETS.TRAIN = ("sizeless",)
    tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    with pytest.raises(ValueError, match="ASPECT_RATIO_GROUPING needs the 'width' of every image"):
        build_detr_train_loader(tiny_cfg, seed=1)


def test_mapper_may_skip_images(tiny_cfg: Any) -> None:
    stock = DetrDatasetMapper(tiny_cfg, is_train=True)

    def only_wide(record: dict[str, Any]) -> dict[str, Any] | None:
        return stock(record) if record["width"] > record["height"] else None

    first = _batches(tiny_cfg, 6, mapper=only_wide)
    assert {i for ids in _ids(first) for i in ids} == {1, 3, 5, 6}
    _assert_equal(_batches(tiny_cfg, 2, mapper=only_wide, start_iteration=4), first[4:])
    with pytest.raises(ValueError, match="returned None for 100 images in a row"):
        _batches(tiny_cfg, 1, mapper=lambda record: None)  # noqa: ARG005
