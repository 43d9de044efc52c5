"""The table at the start of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny_models import tiny_cfg, tiny_detr

from detr_d2 import solver
from detr_d2.data import DatasetReport
from detr_d2.engine.startup.summary import summarise_run


def report(name: str, split: str, images: int, mean: float, p99: float, most: int) -> DatasetReport:
    return DatasetReport(
        name=name,
        split=split,
        num_images=images,
        num_used_images=images,
        num_empty_images=0,
        num_boxes=round(mean * images),
        boxes_mean=mean,
        boxes_p99=p99,
        boxes_max=most,
        num_classes=3,
        num_dropped=0,
        num_crowd=0,
        num_without_mask=0,
        num_over_queries=0,
    )


def rows(options: list[Any], reports: list[DatasetReport]) -> dict[str, str]:
    cfg = tiny_cfg(*options)
    model = tiny_detr(*options)
    table = summarise_run(cfg, model, solver.build_optimizer(cfg, model), reports)
    lines = [line for line in table.splitlines() if not line.startswith("-")]
    return {line[:20].rstrip(): line[20:].strip() for line in lines} | {"": str(model)}


def cell(table: dict[str, str], start: str) -> str:
    (value,) = [f"{key} {value}" for key, value in table.items() if key and f"{key} {value}".startswith(start)]
    return value


RECIPE = [
    *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-4, "SOLVER.BACKBONE_MULTIPLIER", 0.1],
    *["SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUM_STEPS", 2, "SOLVER.MAX_ITER", 250],
    *["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"],
    *["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1, "SOLVER.CLIP_GRADIENTS.FULL_MODEL", True],
]


def test_says_what_the_run_will_do():
    table = rows(RECIPE, [report("a", "train", 1000, 7.25, 40, 93), report("b", "test", 5, 1, 1, 1)])
    assert cell(table, "images").endswith(" 1,000")
    assert "mean 7.2, p99 40, max 93" in cell(table, "boxes per image")
    assert cell(table, "classes").endswith(" 3")
    assert "8 (2 micro-batches of 4)" in cell(table, "effective batch")
    assert cell(table, "epochs").endswith(" 2.0")  # 250 x 8 / 1,000
    assert not any(key.startswith("left out") for key in table)


def test_says_what_is_left_out():
    first, second = (report(name, "train", 9, 1, 1, 1) for name in "ab")
    table = rows(RECIPE, [replace(first, num_crowd=1200, num_without_mask=1), replace(second, num_dropped=3)])
    assert "crowds 1,200, objects without a usable mask 1; boxes without area 3" in cell(table, "left out")
    assert cell(table, "learning rate").endswith(" 0.0001")
    assert cell(table, "backbone learning r").endswith(" 1e-05")
    assert "all gradients together at 0.1" in cell(table, "gradient clipping")
    expected = sum(p.numel() for p in tiny_detr(*RECIPE).parameters() if p.requires_grad)
    assert f"{expected:,}" in cell(table, "trainable parameters")


@pytest.mark.parametrize(
    ("options", "start", "text"),
    [
        (["MODEL.DETR.FREEZE", ["backbone"]], "backbone learning r", "none, all frozen"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", False], "gradient clipping", "none"),
        (["SOLVER.CLIP_GRADIENTS.FULL_MODEL", False], "gradient clipping", "norm of each parameter's gradient at 0.1"),
    ],
)
def test_other_settings(options: list[Any], start: str, text: str):
    assert text in cell(rows([*RECIPE, *options], [report("a", "train", 10, 1, 1, 1)]), start)


def test_data_that_cannot_be_looked_through():
    assert "unknown" in cell(rows(RECIPE, []), "epochs")
