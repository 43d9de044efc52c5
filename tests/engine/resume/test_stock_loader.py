"""The resumable loader delivers what detectron2's delivers, before and after a resume."""

from __future__ import annotations

import io
from itertools import islice
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng

from detr_d2.config import get_cfg
from detr_d2.engine.resume.random_state import get_random_state, set_random_state
from detr_d2.engine.resume.stock_loader import build_stock_loader

BATCHES = 11

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def make_cfg(noise: str, workers: int, grouped: bool, *options: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *["DATASETS.TRAIN", (noise,), "SOLVER.IMS_PER_BATCH", 3, "DATALOADER.NUM_WORKERS", workers],
            *["DATALOADER.ASPECT_RATIO_GROUPING", grouped, "INPUT.MIN_SIZE_TRAIN", (30, 40, 50)],
            *["INPUT.CROP.ENABLED", True, *options],
        ]
    )
    return cfg


def describe(batch: list[dict[str, Any]]) -> list[Any]:
    """Which image and which augmentation."""
    return [(x["file_name"], tuple(x["image"].shape), int(x["image"].long().sum())) for x in batch]


def stock_batches(cfg: CfgNode) -> list[Any]:
    seed_all_rng(5)
    batches = [describe(batch) for batch in islice(build_detection_train_loader(cfg), BATCHES)]
    return [*batches, torch.rand(1).item()]  # the main process has drawn as often


@pytest.mark.parametrize(("workers", "grouped"), [(0, False), (0, True), (1, True), (2, False), (3, True)])
def test_equals_detectron2s_loader_and_resumes_exactly(noise: str, workers: int, grouped: bool):
    cfg = make_cfg(noise, workers, grouped)
    expected = stock_batches(cfg)

    seed_all_rng(5)
    before = get_random_state()
    batches = iter(build_stock_loader(cfg))
    assert [describe(batch) for batch in islice(batches, BATCHES)] == expected[:-1]
    assert torch.rand(1).item() == expected[-1]

    for consumed in (1, 4):  # with 3 workers: before all of them have delivered, and after
        seed_all_rng(5)
        loader = build_stock_loader(cfg)
        batches = iter(loader)
        for _ in range(consumed):
            next(batches)
        state, now = through_a_file(loader.state_dict()), get_random_state()

        seed_all_rng(77)
        set_random_state(before)
        resumed = build_stock_loader(cfg)
        assert resumed.seek(state)
        batches = iter(resumed)
        set_random_state(now)
        assert [describe(next(batches)) for _ in range(consumed, BATCHES)] == expected[consumed:-1]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint would keep it, read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_another_number_of_workers_keeps_the_order_of_images(noise: str):
    cfg = make_cfg(noise, 0, False)
    seed_all_rng(5)
    before = get_random_state()
    loader = build_stock_loader(cfg)
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    expected = [[name for name, _, _ in describe(next(batches))] for _ in range(5)]

    set_random_state(before)
    resumed = build_stock_loader(make_cfg(noise, 2, False))
    assert not resumed.seek(state)
    batches = iter(resumed)
    assert [[name for name, _, _ in describe(next(batches))] for _ in range(5)] == expected


def test_counts_images_that_wait_for_their_orientation_as_not_consumed(noise: str):
    seed_all_rng(5)
    loader = build_stock_loader(make_cfg(noise, 0, True))
    batches = iter(loader)
    for n in range(1, 6):
        next(batches)
        state = loader.state_dict()
        assert state["images"] == 3 * n
        assert len(state["waiting"]) <= 2 * (3 - 1)


def test_repeat_factor_sampler(noise: str):
    cfg = make_cfg(noise, 0, False, "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    expected = stock_batches(cfg)
    seed_all_rng(5)
    assert [describe(batch) for batch in islice(build_stock_loader(cfg), BATCHES)] == expected[:-1]


def test_numpy_python_and_torch_states_round_trip():
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(1).item()]  # noqa: NPY002

    for _ in range(2):  # gauss and normal keep a second number for later: with and without one
        state = get_random_state()
        expected = draw() + draw()
        set_random_state(state)
        assert draw() + draw() == expected
        random.gauss(0, 1), np.random.normal()  # noqa: NPY002
