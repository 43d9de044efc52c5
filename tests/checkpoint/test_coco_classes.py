"""Class heads by COCO's category ids and by detectron2's 80 classes."""

from __future__ import annotations

import torch
from detectron2.data import MetadataCatalog

from detr_d2.checkpoint.coco_classes import (
    COCO_IDS,
    COCO_NAMES,
    NAMES_BY_ID,
    rows_are_coco_classes,
    rows_are_coco_ids,
    select_classes,
    spread_classes,
    unused_ids,
)

DROPPED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_rows_by_id_become_rows_of_classes_in_their_order() -> None:
    rows = select_classes(torch.arange(92.0))
    assert rows.shape == (81,)
    assert rows[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert rows[-2:].tolist() == [90, 91]
    assert sorted({*range(92)} - {*rows.int().tolist()}) == DROPPED == unused_ids()


def test_spreading_is_exact_on_classes_and_never_predicts_the_others() -> None:
    weight, bias = torch.randn(81, 4), torch.randn(81)
    spread_weight, spread_bias = spread_classes(weight), spread_classes(bias)
    assert torch.equal(select_classes(spread_weight), weight)
    assert torch.equal(select_classes(spread_bias), bias)
    assert spread_weight[DROPPED].abs().sum() == 0
    assert spread_bias[DROPPED].tolist() == [-1e4] * 11
    logits = torch.randn(5, 4) @ spread_weight.T + spread_bias
    assert logits.softmax(-1)[:, DROPPED].max() == 0
    assert spread_classes(bias.half()).isfinite().all()


def test_names_and_ids_are_those_of_detectron2() -> None:
    metadata = MetadataCatalog.get("coco_2017_val")
    assert list(COCO_NAMES) == metadata.thing_classes
    assert dict(zip(COCO_IDS, range(80), strict=True)) == metadata.thing_dataset_id_to_contiguous_id
    assert len(NAMES_BY_ID) == 91
    assert NAMES_BY_ID[1] == "person"
    assert NAMES_BY_ID[90] == "toothbrush"
    assert [i for i, name in enumerate(NAMES_BY_ID) if name == "N/A"] == DROPPED


def test_a_head_of_92_rows_is_by_id_unless_its_names_say_otherwise() -> None:
    assert rows_are_coco_ids(92, None)
    assert rows_are_coco_ids(92, NAMES_BY_ID)
    assert not rows_are_coco_ids(92, [f"part {i}" for i in range(91)])
    assert not rows_are_coco_ids(81, None)
    assert rows_are_coco_classes(81, COCO_NAMES)
    assert not rows_are_coco_classes(81, ["x"] * 80)
