"""Segmentations that cannot be masks, and the one error that says so before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detr_d2.data import check_datasets, register_coco, resolve_num_classes
from detr_d2.data.mask_faults import mask_fault, numbered_faults, read_polygons, read_segmentation

SQUARE = [[0, 0, 5, 0, 5, 5, 0, 5]]


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        (SQUARE, ""),
        ([[0, 0, 1, 1], *SQUARE], "has no polygon of three points"),
        (None, "has no segmentation"),
        ([], "has no segmentation"),
        ([[0, 0, 5, 5]], "has no polygon of three points"),
        ([[0, 0, 5, 0, 5, 5, 0]], "has no polygon of three points"),
        ({"size": [10, 20], "counts": "T3T3"}, ""),
        ({"size": [10, 20], "counts": [100, 100]}, ""),
        ({"size": np.array([10, 20]), "counts": np.array([100, 100])}, ""),
        ({"size": [10, 20], "counts": [200]}, "has an RLE that marks no pixel"),
        ({"size": [10, 20], "counts": [100, 99]}, "counts sum to 199 instead of 10 x 20"),
        ({"size": [20, 10], "counts": "abc"}, "RLE of height 20 and width 10 in an image of height 10 and width 20"),
        ({"counts": "abc"}, 'without "size"'),
        (np.zeros((10, 20)), ""),
        (np.zeros((20, 10)), r"bitmap of shape (20, 10) in an image of height 10 and width 20"),
    ],
)
def test_faults(segmentation: Any, fault: str) -> None:
    found = mask_fault(segmentation, 20, 10)
    assert fault in found
    assert bool(found) == bool(fault)


def test_rings_without_an_area_are_left_out() -> None:
    rings = [[float(x) for x in SQUARE[0]], [], [1.0, 1.0], [1.0, 1.0, 2.0, 2.0]]
    assert read_segmentation(rings, 20, 10) == (rings[:1], "")
    assert read_polygons([rings], np.array([[20, 10]])) == ([rings[:1]], [""])


def test_numbers_of_faults() -> None:
    found = numbered_faults(["", "a", "", "b", "a"])
    assert found["mask_faults"].tolist() == ["", "a", "b"]
    assert found["mask_fault_of"].tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_rle_of_another_size_is_an_error_before_training(
    cfg: Any, write_coco: Callable[..., str], make_annotation: Callable[..., dict[str, Any]], split: str
) -> None:
    good = make_annotation(1, 1, 1, [0, 0, 5, 5], segmentation=SQUARE)
    bad = make_annotation(2, 1, 1, [0, 0, 5, 5], segmentation={"size": [20, 10], "counts": "abc"})
    cfg.DATASETS.TRAIN = (register_coco(write_coco([good], name="fine")),)
    cfg.DATASETS[split] = (register_coco(write_coco([good, bad], name="wrong")),)
    check_datasets(resolve_num_classes(cfg))
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match=r"annotations\.json: 1 of 2 .* annotation 2 has an RLE of height 20"):
        check_datasets(cfg)
