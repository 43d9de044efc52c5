"""The resumable loader: where it continues, and what baselines get from it."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader

from detr_d2.config import get_cfg
from detr_d2.engine.resume.numbered_loader import NumberedLoader
from detr_d2.engine.resume.training_state import get_random_state, set_random_state

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


@pytest.mark.parametrize(
    ("workers", "grouped", "options"),
    [
        (0, False, []),
        (0, True, []),
        (2, True, ["SOLVER.ACCUM_STEPS", 2]),
        (0, False, ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.9]),
        (0, True, ["INPUT.DETR_AUGMENTATION", "on"]),
    ],
)
def test_continues_behind_the_images_that_were_consumed(noise: str, workers: int, grouped: bool, options: list[Any]):
    """Whatever augments them, however many workers read them."""
    cfg = make_cfg(noise, workers, grouped, *options)
    expected = [describe(batch) for batch in islice(NumberedLoader(cfg, seed=5), BATCHES)]
    assert len({str(batch) for batch in expected}) == BATCHES
    loader = NumberedLoader(cfg, seed=5)
    batches = iter(loader)
    for consumed in range(1, 6):
        next(batches)
        state = loader.state_dict()
        assert state == {"images": 3 * consumed}
        cfg.DATALOADER.NUM_WORKERS = 0
        resumed = NumberedLoader(cfg, seed=5)
        between_steps = consumed % cfg.SOLVER.ACCUM_STEPS == 0
        assert resumed.seek(state) == between_steps
        first = consumed if between_steps else consumed - 1
        assert [describe(batch) for batch in islice(resumed, BATCHES - first)] == expected[first:]


def test_an_older_position_of_a_baseline_is_not_exact(noise: str):
    """Its images were augmented by the random numbers of workers."""
    loader = NumberedLoader(make_cfg(noise, 0, False), seed=5)
    first, second = (describe(batch) for batch in islice(loader, 2))
    assert first != second
    assert not loader.seek({"images": 3, "units": 1, "num_workers": 0, "worker_states": [None], "waiting": []})
    assert describe(next(iter(loader))) == second


def test_nothing_is_read_before_it_is_iterated(noise: str):
    cfg = make_cfg(noise, 0, False)
    cfg.DATASETS.TRAIN = ("nowhere",)
    loader = NumberedLoader(cfg, seed=5)
    loader.seek({"images": 3})
    with pytest.raises(ValueError, match="dataset nowhere is not registered"):
        iter(loader)


def test_baselines_have_the_images_of_detectron2s_loader(noise: str):
    """In its order, and augmented by its augmentations."""
    cfg = make_cfg(noise, 0, False)
    np.random.seed(5)  # noqa: NPY002  (what detectron2's trainer does with SEED 5)
    theirs = [describe(batch) for batch in islice(build_detection_train_loader(cfg), 40)]
    ours = [describe(batch) for batch in islice(NumberedLoader(cfg, seed=5), 40)]
    assert [[name for name, *_ in batch] for batch in ours] == [[name for name, *_ in batch] for batch in theirs]
    sizes = [{shape for batch in batches for _, shape, _ in batch} for batches in (ours, theirs)]
    assert len(sizes[0] & sizes[1]) > 3
    assert max(shape[1] for shape in sizes[0]) == max(shape[1] for shape in sizes[1])


def test_numpy_python_and_torch_states_round_trip():
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(1).item()]  # noqa: NPY002

    for _ in range(2):  # gauss and normal keep a second number for later: with and without one
        state = get_random_state()
        expected = draw() + draw()
        set_random_state(state)
        assert draw() + draw() == expected
        random.gauss(0, 1), np.random.normal()  # noqa: NPY002
