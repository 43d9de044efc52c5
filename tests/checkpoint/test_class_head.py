"""Class heads by COCO's category ids and by the classes that detectron2 counts."""

from __future__ import annotations

import torch
from detectron2.data import MetadataCatalog

from detr_d2.checkpoint.class_head import DETECTION, PANOPTIC, numbering_by_id, numbering_of_classes
from detr_d2.panoptic_classes import PanopticClasses

DROPPED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_rows_by_id_become_rows_of_classes_in_their_order() -> None:
    rows = DETECTION.select(torch.arange(92.0))
    assert rows.shape == (81,)
    assert rows[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert rows[-2:].tolist() == [90, 91]
    assert sorted({*range(92)} - {*rows.int().tolist()}) == DROPPED == DETECTION.unused_ids()


def test_spreading_is_exact_on_classes_and_never_predicts_the_others() -> None:
    weight, bias = torch.randn(81, 4), torch.randn(81)
    spread_weight, spread_bias = DETECTION.spread(weight), DETECTION.spread(bias)
    assert torch.equal(DETECTION.select(spread_weight), weight)
    assert torch.equal(DETECTION.select(spread_bias), bias)
    assert spread_weight[DROPPED].abs().sum() == 0
    assert spread_bias[DROPPED].tolist() == [-1e4] * 11
    logits = torch.randn(5, 4) @ spread_weight.T + spread_bias
    assert logits.softmax(-1)[:, DROPPED].max() == 0
    assert DETECTION.spread(bias.half()).isfinite().all()


def test_names_and_ids_are_those_of_detectron2() -> None:
    metadata = MetadataCatalog.get("coco_2017_val")
    assert list(DETECTION.names) == metadata.thing_classes
    assert dict(zip(DETECTION.ids, range(80), strict=True)) == metadata.thing_dataset_id_to_contiguous_id
    assert len(DETECTION.names_by_id) == 91
    assert DETECTION.names_by_id[1] == "person"
    assert DETECTION.names_by_id[90] == "toothbrush"
    assert [i for i, name in enumerate(DETECTION.names_by_id) if name == "N/A"] == DROPPED


def test_91_classes_are_ids_unless_their_names_say_otherwise() -> None:
    assert DETECTION.counts_ids(91, None)
    assert DETECTION.counts_ids(91, DETECTION.names_by_id)
    assert not DETECTION.counts_ids(91, [f"part {i}" for i in range(91)])
    assert not DETECTION.counts_ids(80, None)
    assert DETECTION.counts_classes(80, DETECTION.names)
    assert not DETECTION.counts_classes(80, ["x"] * 80)


def test_focal_heads_have_no_row_for_no_object() -> None:
    rows = torch.randn(91, 4)
    assert torch.equal(DETECTION.select(rows), rows[list(DETECTION.ids)])
    assert torch.equal(DETECTION.select(DETECTION.spread(rows[:80])), rows[:80])
    assert DETECTION.spread(rows[:80]).shape == (91, 4)


def test_the_head_of_proposals_keeps_its_first_row() -> None:
    rows = torch.arange(91.0)
    assert DETECTION.select_proposals(rows).tolist() == [0, *DETECTION.ids[1:]]
    spread = DETECTION.spread_proposals(torch.arange(80.0))
    assert spread[:4].tolist() == [0, -1e4, 1, 2]  # no object of any class, person, bicycle, car
    assert torch.equal(DETECTION.select_proposals(spread), torch.arange(80.0))
    weight = torch.randn(80, 4)
    assert torch.equal(DETECTION.select_proposals(DETECTION.spread_proposals(weight)), weight)


def test_panoptic_rows_are_things_and_then_stuff() -> None:
    """80 things, ids 1 to 90, then 53 kinds of stuff, ids 92 to 200: the head row of stuff k is 79 + k."""
    rows = PANOPTIC.select(torch.arange(251.0))
    assert rows.shape == (134,)
    assert rows[:80].tolist() == list(DETECTION.ids)
    assert rows[80:85].tolist() == [92, 93, 95, 100, 107]  # banner, blanket, bridge, cardboard, counter
    assert rows[-3:].tolist() == [199, 200, 250]  # wall, rug, no object
    things = MetadataCatalog.get("coco_2017_val_panoptic_separated").thing_dataset_id_to_contiguous_id
    stuff = MetadataCatalog.get("coco_2017_val_panoptic_separated").stuff_dataset_id_to_contiguous_id
    for row, category_id in enumerate(PANOPTIC.ids):
        expected = things[category_id] if row < 80 else stuff[category_id] + 79
        assert row == expected


def test_panoptic_names_are_those_of_detectron2() -> None:
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    assert list(PANOPTIC.names) == [*metadata.thing_classes, *metadata.stuff_classes[1:]]
    assert len(set(PANOPTIC.names)) == 133
    classes = PanopticClasses.from_metadata(metadata)
    assert classes is not None
    assert (classes.names, classes.dataset_ids) == (PANOPTIC.names, PANOPTIC.ids)
    assert PANOPTIC.names_by_id[200] == "rug"
    assert PANOPTIC.names_by_id[91] == PANOPTIC.names_by_id[201] == PANOPTIC.names_by_id[249] == "N/A"


def test_panoptic_rows_spread_exactly_and_the_others_are_never_predicted() -> None:
    weight, bias = torch.randn(134, 4), torch.randn(134)
    spread_weight, spread_bias = PANOPTIC.spread(weight), PANOPTIC.spread(bias)
    assert spread_weight.shape == (251, 4)
    assert torch.equal(PANOPTIC.select(spread_weight), weight)
    assert torch.equal(PANOPTIC.select(spread_bias), bias)
    assert torch.equal(spread_bias[-1], bias[-1])
    unused = PANOPTIC.unused_ids()
    assert len(unused) == 250 - 133
    assert [i for i in unused if i <= 91] == [*DROPPED, 91]
    assert unused[-49:] == list(range(201, 250))
    assert spread_weight[unused].abs().sum() == 0
    assert (torch.randn(5, 4) @ spread_weight.T + spread_bias).softmax(-1)[:, unused].max() == 0


def test_the_numbers_of_classes_tell_whose_they_are() -> None:
    assert numbering_by_id(91, None) is DETECTION
    assert numbering_by_id(250, None) is PANOPTIC
    assert numbering_by_id(250, ["LABEL_0", "person", *(f"LABEL_{i}" for i in range(2, 250))]) is PANOPTIC
    assert numbering_by_id(250, [f"part {i}" for i in range(250)]) is None
    assert numbering_of_classes(80, None) is DETECTION
    assert numbering_of_classes(133, None) is PANOPTIC
    assert numbering_of_classes(133, [f"part {i}" for i in range(133)]) is None
    assert numbering_of_classes(250, None) is None
