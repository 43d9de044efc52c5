"""Class heads by COCO's category ids and by detectron2's 80 classes."""

from __future__ import annotations

import torch
from detectron2.data import MetadataCatalog

from detr_d2.checkpoint.coco_classes import (
    COCO_IDS,
    COCO_NAMES,
    NAMES_BY_ID,
    are_coco_classes,
    are_coco_ids,
    select_classes,
    select_proposal_rows,
    spread_classes,
    spread_proposal_rows,
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


def test_91_classes_are_ids_unless_their_names_say_otherwise() -> None:
    assert are_coco_ids(91, None)
    assert are_coco_ids(91, NAMES_BY_ID)
    assert not are_coco_ids(91, [f"part {i}" for i in range(91)])
    assert not are_coco_ids(80, None)
    assert are_coco_classes(80, COCO_NAMES)
    assert not are_coco_classes(80, ["x"] * 80)


def test_focal_heads_have_no_row_for_no_object() -> None:
    rows = torch.randn(91, 4)
    assert torch.equal(select_classes(rows), rows[list(COCO_IDS)])
    assert torch.equal(select_classes(spread_classes(rows[:80])), rows[:80])
    assert spread_classes(rows[:80]).shape == (91, 4)


def test_the_head_of_proposals_keeps_its_first_row() -> None:
    rows = torch.arange(91.0)
    assert select_proposal_rows(rows).tolist() == [0, *COCO_IDS[1:]]
    spread = spread_proposal_rows(torch.arange(80.0))
    assert spread[:4].tolist() == [0, -1e4, 1, 2]  # no object of any class, person, bicycle, car
    assert torch.equal(select_proposal_rows(spread), torch.arange(80.0))
    weight = torch.randn(80, 4)
    assert torch.equal(select_proposal_rows(spread_proposal_rows(weight)), weight)
