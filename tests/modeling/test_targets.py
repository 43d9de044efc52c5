import pytest
import torch
from detectron2.structures import Boxes, Instances

from detr_d2.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detr_d2.modeling import FocalClassification, Targets, predictions_to_instances


def ground_truth(height: int, width: int, boxes: list[list[float]], classes: list[int]) -> Instances:
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_boxes_are_divided_by_their_own_image():
    packed = Targets.from_instances(
        [
            ground_truth(100, 200, [[20, 10, 60, 30]], [1]),
            ground_truth(50, 50, [], []),
            ground_truth(10, 40, [[0, 0, 40, 10], [10, 5, 20, 10]], [0, 2]),
        ],
        num_classes=3,
    )
    expected = [[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 1, 1], [0.375, 0.75, 0.25, 0.5]]
    torch.testing.assert_close(packed.boxes_cxcywh, torch.tensor(expected))
    assert packed.labels.tolist() == [1, 0, 2]
    assert packed.image_index.tolist() == [0, 2, 2]
    assert packed.counts == [1, 0, 2]


@pytest.mark.parametrize("size", [(37, 53), (101, 7), (1, 999)])
def test_round_trip_on_odd_sizes(size: tuple[int, int]):
    height, width = size
    corner = torch.rand(5, 2, dtype=torch.float64) * 0.5
    boxes = torch.cat([corner, corner + 0.3], 1) * torch.tensor([width, height, width, height])
    packed = Targets.from_instances([ground_truth(height, width, boxes.tolist(), [0] * 5)], num_classes=1)
    logits = torch.zeros(1, 5, 2)
    (result,) = predictions_to_instances(
        logits, packed.boxes_cxcywh[None], [size], score_threshold=0, max_detections=100
    )
    torch.testing.assert_close(result.pred_boxes.tensor.double(), boxes, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_outside_the_head_is_an_error(label: int):
    with pytest.raises(ValueError, match=r"class indices from .* but the model has 3 classes"):
        Targets.from_instances([ground_truth(10, 10, [[1, 1, 2, 2]], [label])], num_classes=3)


def test_decoding_by_hand():
    # Query 0: no object wins, its best class is 1 with p = e / (1 + e + e^2). Query 1: class 0 wins.
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])[None]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0]])[None]
    (result,) = predictions_to_instances(logits, boxes, [(20, 40)], score_threshold=0, max_detections=100)
    e = torch.e
    torch.testing.assert_close(result.scores, torch.tensor([e**3 / (e**3 + 2), e / (1 + e + e**2)]))
    assert result.pred_classes.tolist() == [0, 1]
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 20, 20], [10, 5, 30, 15]]


def test_threshold_and_limit():
    logits = torch.randn(2, 9, 4)
    boxes = torch.rand(2, 9, 4)
    full = predictions_to_instances(logits, boxes, [(8, 8)] * 2, score_threshold=0, max_detections=100)
    assert [len(x) for x in full] == [9, 9]
    best = predictions_to_instances(logits, boxes, [(8, 8)] * 2, score_threshold=0, max_detections=4)
    assert [x.scores.tolist() for x in best] == [x.scores[:4].tolist() for x in full]
    everything = predictions_to_instances(logits, boxes, [(8, 8)] * 2, score_threshold=0, max_detections=-1)
    assert [len(x) for x in everything] == [9, 9]
    middle = float(full[0].scores[4])
    high = predictions_to_instances(logits, boxes, [(8, 8)] * 2, score_threshold=middle, max_detections=100)
    assert len(high[0]) == 5
    assert all((x.scores >= middle).all() for x in high)


def test_corner_boxes_are_in_pixels_of_the_given_size():
    boxes = torch.rand(1, 3, 4) * 0.5
    (result,) = predictions_to_instances(torch.zeros(1, 3, 2), boxes, [(30, 70)], score_threshold=0, max_detections=9)
    scale = torch.tensor([70, 30, 70, 30])
    torch.testing.assert_close(result.pred_boxes.tensor, box_cxcywh_to_xyxy(boxes[0]) * scale)


def test_focal_decoding_gives_a_query_several_classes():
    logits = torch.tensor([[2.0, 1.0, -3.0], [-1.0, 1.5, -2.0]])[None]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0]])[None]
    (result,) = predictions_to_instances(
        logits, boxes, [(20, 40)], score_threshold=0.5, max_detections=100, classification=FocalClassification()
    )
    torch.testing.assert_close(result.scores, torch.tensor([2.0, 1.5, 1.0]).sigmoid())
    assert result.pred_classes.tolist() == [0, 1, 1]
    assert result.pred_boxes.tensor.tolist() == [[10, 5, 30, 15], [0, 0, 20, 20], [10, 5, 30, 15]]
    (few,) = predictions_to_instances(
        logits, boxes, [(20, 40)], score_threshold=0, max_detections=2, classification=FocalClassification()
    )
    assert few.pred_classes.tolist() == [0, 1]


def test_focal_decoding_of_one_class_per_query():
    logits = torch.tensor([[2.0, 1.0, -3.0], [-1.0, 1.5, -2.0], [float("nan"), 0.0, 0.0]])[None]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])[None]
    classification = FocalClassification(one_class_per_query=True)
    for limit, classes in ((100, [0, 1]), (2, [0])):  # what is NaN takes a place, and is dropped
        (result,) = predictions_to_instances(
            logits, boxes, [(20, 40)], score_threshold=0, max_detections=limit, classification=classification
        )
        torch.testing.assert_close(result.scores, torch.tensor([2.0, 1.5]).sigmoid()[: len(classes)])
        assert result.pred_classes.tolist() == classes
        assert result.pred_boxes.tensor.tolist() == [[10, 5, 30, 15], [0, 0, 20, 20]][: len(classes)]


# Queries 0 and 1 overlap by an IoU of 0.6 and are of class 0, as is query 3, far away; query 2 is of class 1.
_BOXES = torch.tensor([[0, 0, 0.1, 0.1], [0, 0.025, 0.1, 0.125], [0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6]])
_LOGITS = torch.tensor([[3.0, 0, 0], [4, 0, 0], [0, 3.5, 0], [2, 0, 0]])


@pytest.mark.parametrize(
    ("threshold", "limit", "expected"),
    [
        (1.0, 100, [1, 2, 0, 3]),
        (0.61, 100, [1, 2, 0, 3]),
        (0.59, 100, [1, 2, 3]),
        (0.59, -1, [1, 2, 3]),
        (0.59, 3, [1, 2, 3]),  # the last one moves up
        (0.59, 2, [1, 2]),
    ],
)
def test_nms_after_decoding(threshold: float, limit: int, expected: list[int]):
    boxes = box_xyxy_to_cxcywh(_BOXES)
    first, second = predictions_to_instances(
        torch.stack([_LOGITS, _LOGITS.flip(0)]),
        torch.stack([boxes, boxes.flip(0)]),
        [(100, 100), (300, 50)],
        score_threshold=0,
        max_detections=limit,
        nms_threshold=threshold,
        with_queries=True,
    )
    assert first.query.tolist() == expected
    assert second.query.tolist() == [3 - x for x in expected]
    torch.testing.assert_close(first.pred_boxes.tensor, 100 * _BOXES[expected])
    assert first.scores.tolist() == sorted(first.scores.tolist(), reverse=True)
