import pytest
import torch
from torchvision.ops import generalized_box_iou

from detr_d2.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, elementwise_giou, elementwise_iou
from detr_d2.modeling.transformer.deformable_layers import inverse_sigmoid


def test_conversion_by_hand():
    # centre (5, 7), 4 wide, 6 high: from (3, 4) to (7, 10)
    assert box_cxcywh_to_xyxy(torch.tensor([5.0, 7.0, 4.0, 6.0])).tolist() == [3, 4, 7, 10]
    assert box_xyxy_to_cxcywh(torch.tensor([3.0, 4.0, 7.0, 10.0])).tolist() == [5, 7, 4, 6]


def test_round_trip_keeps_any_leading_shape():
    boxes = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(boxes)), boxes)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),  # identical
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),  # overlap 1, union 7, hull 9
        ([0, 0, 1, 1], [1, 0, 2, 1], 0.0),  # side by side: overlap 0, union = hull = 2
        ([0, 0, 1, 1], [2, 0, 3, 1], -1 / 3),  # a gap of one: union 2, hull 3
        ([0, 0, 0, 1], [0, 0, 1, 1], 0.0),  # no area on one side: overlap 0, union = hull = 1
    ],
)
def test_giou_by_hand(a: list[float], b: list[float], expected: float):
    value = elementwise_giou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_giou_broadcasts_to_torchvisions_pairwise_matrix():
    corner, size = torch.rand(2, 7, 2, dtype=torch.float64), torch.rand(2, 7, 2, dtype=torch.float64)
    a, b = torch.cat([corner, corner + size], -1)
    torch.testing.assert_close(elementwise_giou(a[:, None], b[None]), generalized_box_iou(a, b))


def test_inverse_sigmoid_inverts_and_stays_finite():
    x = torch.linspace(-11, 11, 23, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x)
    limit = torch.tensor((1 - 1e-5) / 1e-5, dtype=torch.float64).log().item()
    extreme = inverse_sigmoid(torch.tensor([-0.5, 0.0, 1.0, 1.5], dtype=torch.float64))
    assert extreme.tolist() == pytest.approx([-limit, -limit, limit, limit], abs=1e-4)
    assert inverse_sigmoid(torch.tensor(0.0), eps=1e-3).item() == pytest.approx(-6.9, abs=0.01)


def test_iou_by_hand():
    # 2 x 2 and 2 x 4, sharing 1 x 2: 2 of 10. Apart: 0.
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 4.0], [5.0, 5.0, 6.0, 6.0]])
    torch.testing.assert_close(elementwise_iou(a, b), torch.tensor([0.2, 0.0]))
