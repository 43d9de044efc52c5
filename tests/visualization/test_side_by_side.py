from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from detr_d2.panoptic_classes import PanopticClasses
from detr_d2.visualization.side_by_side import draw_detections, grid, ground_truth, segments_as_instances, side_by_side


def solid(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def detections(boxes: list[list[float]], classes: list[int]) -> Instances:
    instances = Instances((60, 80))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_boxes_are_drawn_where_they_are() -> None:
    image = solid(60, 80, 0)
    drawn = draw_detections(image, detections([[40, 20, 70, 50]], [1]), ["a", "b"], scale=2)
    assert drawn.shape == (120, 160, 3)
    assert drawn[60:80, 78:83].max() > 100  # the left side, at x = 40, 2 times enlarged
    assert drawn[:30].max() == 0
    assert drawn[:, :70].max() == 0
    assert image.max() == 0  # the argument is left alone
    assert draw_detections(image, detections([], []), ["a", "b"]).max() == 0


def test_masks_are_filled_where_they_are() -> None:
    found = detections([[10, 10, 70, 50]], [0])
    found.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    found.pred_masks[0, 20:40, 40:60] = True
    polygon = detections([[10, 10, 70, 50]], [0])
    polygon.pred_masks = [[[40, 20, 60, 20, 60, 40, 40, 40]]]
    for instances in (found, polygon):
        drawn = draw_detections(solid(60, 80, 0), instances, ["a"], scale=2)
        assert drawn[46:76, 86:116].max(axis=2).min() > 60
        assert drawn[84:94, 30:130].max() == 0  # in the box, but not in the mask


def test_ground_truth_with_masks() -> None:
    objects: list[dict[str, Any]] = [
        {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 5]]},
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1},
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
    ]
    record = {"height": 100, "width": 90, "annotations": objects[:2]}
    assert ground_truth(record, masks=True).pred_masks == [[[0, 0, 5, 0, 5, 5]]]
    assert not ground_truth(record).has("pred_masks")
    assert not ground_truth({**record, "annotations": objects}, masks=True).has("pred_masks")


def test_a_class_has_its_colour() -> None:
    def colour(index: int) -> tuple[int, ...]:
        drawn = draw_detections(solid(60, 80, 0), detections([[10, 20, 70, 50]], [index]), ["a", "b", "c"])
        return tuple(drawn[30:40, 9:12].max(axis=(0, 1)))

    assert colour(0) == colour(0)
    assert len({colour(0), colour(1), colour(2)}) == 3


def test_ground_truth_leaves_crowds_out() -> None:
    annotations = [
        {"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2},
        {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
        {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0},
    ]
    truth = ground_truth({"height": 100, "width": 90, "annotations": annotations})
    assert truth.image_size == (100, 90)
    assert truth.pred_boxes.tensor.tolist() == [[10, 20, 40, 60], [1, 2, 3, 4]]
    assert truth.pred_classes.tolist() == [2, 0]
    assert not truth.has("scores")
    assert len(ground_truth({"height": 10, "width": 9, "annotations": []})) == 0


def test_side_by_side() -> None:
    picture = side_by_side([solid(50, 40, 10), solid(50, 60, 20)], ["one", ""])
    title = picture.shape[0] - 50
    assert picture.shape[1] > 100
    assert (picture[title:, :40] == 10).all()
    assert (picture[title:, -60:] == 20).all()
    assert (picture[title:, 40:-60] == 255).all()
    assert (picture[:title, :40] < 128).any()  # letters
    assert (picture[:title, -60:] == 255).all()
    with pytest.raises(ValueError, match=r"heights \[50, 51\]"):
        side_by_side([solid(50, 40, 1), solid(51, 40, 1)], ["", ""])


def test_grid() -> None:
    picture = grid([solid(10, 20, 1), solid(8, 20, 2), solid(10, 15, 3)], columns=2)
    gap = picture.shape[0] - 20
    assert gap > 0
    assert picture.shape == (20 + gap, 40 + gap, 3)
    assert (picture[:10, :20] == 1).all()
    assert (picture[:8, 20 + gap :] == 2).all()
    assert (picture[10 + gap :, :15] == 3).all()
    assert (picture[10 + gap :, 15:] == 255).all()
    assert grid([solid(10, 20, 1)], columns=5).shape == (10, 20, 3)


def test_segments_as_instances() -> None:
    """Two things and a stuff in the separated layout; a crowd and void are left out."""
    classes = PanopticClasses(num_things=2, num_stuff=1, layout="separated", names=("cup", "dog", "sky"))
    ids = torch.tensor([[7, 7, 0], [8, 9, 9]])
    segments = [
        {"id": 7, "category_id": 1, "isthing": True},
        {"id": 9, "category_id": 1, "isthing": False},
        {"id": 8, "category_id": 0, "isthing": True, "iscrowd": 1},
    ]
    instances = segments_as_instances(ids, segments, classes)
    assert instances.pred_classes.tolist() == [1, 2]
    assert instances.pred_masks.int().tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1]]]
    large = segments_as_instances(ids.repeat_interleave(40, 0).repeat_interleave(40, 1), segments, classes)
    drawn = draw_detections(np.zeros((80, 120, 3), dtype=np.uint8), large, classes.names)
    assert drawn[20, 40].any()
    assert drawn[60, 80].any()
    assert not drawn[5, 115].any()  # void

    empty = segments_as_instances(ids, segments[2:], classes)
    assert empty.pred_masks.shape == (0, 2, 3)
    assert not draw_detections(np.zeros((2, 3, 3), dtype=np.uint8), empty, classes.names).any()
