"""Segmentations that cannot be masks, and the one error that says so before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from detectron2.structures import PolygonMasks

from detr_d2.data import check_datasets, register_coco, resolve_num_classes
from detr_d2.data.coco.mask_faults import (
    compressed_rle,
    mask_area,
    mask_fault,
    numbered_faults,
    read_polygons,
    read_segmentation,
    run_lengths,
)

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


NAN = float("nan")


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ([[0, 0, NAN, 0, 5, 5]], "not finite"),
        ([SQUARE[0], [0, 0, float("inf"), 0, 5, 5]], "not finite"),
        ([[0, 0, 1e9, 0, 5, 5]], "far outside its image, with the coordinate 1e+09"),
        ([[0, 0, -201, 0, 5, 5]], "far outside its image, with the coordinate -201"),
        ([[0, 0, -199, 0, 219, 5]], ""),
        ([[0, 0, 5, 0, 5, 10**400]], "not finite"),
        ([[0, 0, 5, 0, 5, None]], "no list of numbers"),
        ([[0, 0, 5, 0, 5, "5"]], "no list of numbers"),
        ([[0, 0, 5, 0, 5, True]], "no list of numbers"),
        ([0, 0, 5, 0, 5, 5], "no list of numbers x, y, x, y, ...: 0"),
        ([np.array([0, 0, 5, 0, 5, 5.0]), (0, 0, 5, 0, 5, np.float32(5))], ""),
        ([SQUARE[0], []], "one has 0 numbers"),
        ([[0, 0, 20, 10] * 30_000], "whose outline is"),
        ("abc", "neither polygons nor an RLE: 'abc'"),
        (7, "neither polygons nor an RLE: 7"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, 'without "size"'),
        ({"size": [10, 20], "counts": [-1, 201]}, "are no run lengths"),
        ({"size": [10, 20], "counts": [199.5, 0.5]}, "are no run lengths"),
        ({"size": [10, 20], "counts": [NAN, 200]}, "are no run lengths"),
        ({"size": [10, 20], "counts": "T3T"}, "are no run lengths"),
        ({"size": [10, 20], "counts": "T3T3\\0"}, "counts sum to 212 instead of 10 x 20"),
        ({"size": [10, 20], "counts": "ooooooooooooo0"}, "are no run lengths"),
        ({"size": [10, 20], "counts": "ü"}, "are no run lengths"),
        ({"size": [10, 20], "counts": b"T3T3"}, ""),
        ({"size": (np.int64(10), 20), "counts": np.array([100, 100])}, ""),
        (np.full((10, 20), "x"), "bitmap of <U1"),
    ],
)
def test_values_that_would_reach_compiled_code(segmentation: Any, fault: str) -> None:
    found = mask_fault(segmentation, 20, 10)
    assert fault in found
    assert bool(found) == bool(fault)
    assert len(found) < 250


def test_sizes_are_bounded_where_the_image_is_unknown() -> None:
    assert "more pixels than can be read" in mask_fault({"size": [2**20, 2**20], "counts": [2**40]}, 0, 0)
    assert "far outside" in mask_fault([[0, 0, 2**25, 0, 5, 5]], 0, 0)
    assert mask_fault([[0, 0, 3000, 0, 5, 5]], 0, 0) == ""


def test_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for share in rng.random(50):
        height, width = rng.integers(1, 70, 2).tolist()
        mask = (rng.random((height, width)) < share**3).astype(np.uint8)
        rle = pycocotools.mask.encode(np.asfortranarray(mask))
        runs = run_lengths(rle["counts"])
        assert runs is not None
        assert pycocotools.mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width) == rle
        assert mask_fault(rle, width, height) == ("" if mask.any() else "has an RLE that marks no pixel")
        assert mask_area(rle) == mask.sum()
        assert compressed_rle({"size": [height, width], "counts": runs.tolist()}) == rle


def test_areas_of_polygons_are_those_of_detectron2() -> None:
    rng = np.random.default_rng(0)
    rings = [rng.uniform(0, 50, 2 * n).tolist() for n in (3, 4, 9)]
    assert mask_area(rings) == pytest.approx(PolygonMasks([rings]).area().item(), rel=1e-6)


def test_polygons_of_a_file_one_by_one_and_together() -> None:
    """The quick look at all of them sends what may be wrong to the thorough one, and nothing else changes."""
    values: list[Any] = [SQUARE, [], None, {}, [[0.0, 0, 5, 5], SQUARE[0]], [[0, 0, 1e5, 0, 5, 5.0]], [[]]]
    values += [{"size": [10, 20], "counts": [100, 100]}, [[0.0] * 5], SQUARE]
    values += [[[0.0, 0, -1e5, 0, 5, 5]], [[0.0, 0, 20, 10] * 30_000]]
    masks, faults = read_polygons(values, np.array([[20, 10]] * len(values)))
    expected = [read_segmentation(value, 20, 10) for value in values]
    assert list(zip(masks, faults, strict=True)) == expected
    assert [mask is not None for mask in masks] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]
