from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from tiny_models import NUM_CLASSES, random_input, random_predictions

from detr_d2.modeling import HungarianMatcher, Predictions, SetCriterion, Step, Targets
from detr_d2.modeling.segmentation import masks
from detr_d2.modeling.segmentation.mask_losses import dice_loss, mask_focal_loss
from detr_d2.modeling.segmentation.masks import pack_masks, to_bitmaps

WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 3.0, "loss_dice": 7.0}


def make_criterion() -> SetCriterion:
    return SetCriterion(num_classes=NUM_CLASSES, matcher=HungarianMatcher(), loss_weights=WEIGHTS)


def ground_truth(size: tuple[int, int], *boxes: tuple[int, int, int, int], polygons: bool = False) -> Instances:
    """Rectangles (x0, y0, x1, y1) and their masks."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.long)
    bitmaps = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes, strict=True):
        bitmap[y0:y1, x0:x1] = True
    rings = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes]
    instances.gt_masks = PolygonMasks(rings) if polygons else BitMasks(bitmaps)
    return instances


def test_focal_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    half = 0.25 * math.log(2)  # (1 - 1/2)^2 ln 2
    wrong = 0.75**2 * math.log(4)  # probability 3/4 where there is nothing
    expected = (0.25 * half + 0.75 * half) / 2 + (0.75 * wrong + 0.75 * half) / 2
    assert mask_focal_loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_dice_loss_by_hand():
    logits = torch.zeros(2, 2, 2)  # probability 1/2 everywhere
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = (1 - (2 * 0.5 + 1) / (2 + 1 + 1)) + (1 - (0 + 1) / (2 + 0 + 1))
    assert dice_loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_the_truth_costs_nothing_and_its_opposite_much():
    target = (torch.rand(3, 20, 30) < 0.3).float()
    truth = 40 * (2 * target - 1)
    assert mask_focal_loss(truth, target) < 1e-6
    assert dice_loss(truth, target) < 1e-6
    area = target.mean((1, 2))
    expected = 40 * (0.25 * area + 0.75 * (1 - area)).sum()
    assert mask_focal_loss(-truth, target).item() == pytest.approx(expected.item(), rel=1e-4)
    assert dice_loss(-truth, target).item() == pytest.approx(3 * (1 - 1 / 601), rel=1e-4)


def test_losses_of_no_masks_are_zero():
    none = torch.zeros(0, 4, 5, requires_grad=True)
    total = mask_focal_loss(none, none.detach()) + dice_loss(none, none.detach())
    total.backward()
    assert total == 0


def test_criterion_weighs_and_divides_by_all_boxes_and_asks_for_the_matched_queries_of_the_last_layer():
    logits, boxes = random_predictions(3, 2, 4)
    instances = [ground_truth((8, 12), *[(i, 0, i + 3, 4) for i in range(6)]), ground_truth((10, 6), (1, 2, 5, 9))]
    targets = Targets.from_instances(instances, num_classes=NUM_CLASSES, padded_size=(10, 12))
    criterion = make_criterion()
    matching = criterion.matcher(logits, boxes, targets)
    asked: list[list[int]] = []

    def predict_masks(queries: list[torch.Tensor]) -> torch.Tensor:
        asked.extend(x.tolist() for x in queries)
        return small

    predict: Any = predict_masks

    small = torch.randn(5, 5, 6)  # 4 of the 6 objects find a query, and the one of the other image
    losses = criterion(Predictions(logits, boxes, masks=predict), targets)
    assert asked == [matching.query[-1][:4].tolist(), matching.query[-1][4:].tolist()]
    assert {name for name in losses if "mask" in name or "dice" in name} == {"loss_mask", "loss_dice"}
    large = torch.nn.functional.interpolate(small[None], (10, 12), mode="bilinear")[0]
    truth = torch.zeros(7, 10, 12)
    truth[:6, :8] = instances[0].gt_masks.tensor.float()
    truth[6, :, :6] = instances[1].gt_masks.tensor.float()[0]
    truth = truth[matching.target[-1]]
    p = large.sigmoid()
    p_t = torch.where(truth > 0, p, 1 - p)
    focal = torch.where(truth > 0, 0.25, 0.75) * (1 - p_t) ** 2 * -p_t.log()
    torch.testing.assert_close(losses["loss_mask"], 3 * focal.mean((1, 2)).sum() / 7)
    dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    torch.testing.assert_close(losses["loss_dice"], 7 * dice.sum() / 7)


def test_micro_batches_add_up_to_the_whole_batch():
    inputs = [{"instances": ground_truth((8, 8), *[(0, 0, 4, i + 1)] * n)} for i, n in enumerate((3, 1))]
    logits, boxes = random_predictions(1, 2, 4)
    small = torch.randn(4, 4, 4)
    criterion = make_criterion()

    def losses_of(images: slice, masks_of_image: slice, step: Step | None = None) -> dict[str, torch.Tensor]:
        instances = [x["instances"] for x in inputs[images]]
        targets = Targets.from_instances(instances, num_classes=NUM_CLASSES, padded_size=(8, 8), step=step)
        predict: Any = lambda _: small[masks_of_image]  # noqa: E731
        return criterion(Predictions(logits[:, images], boxes[:, images], masks=predict), targets)

    whole = losses_of(slice(0, 2), slice(0, 4))
    step = Step.of([[x["instances"].gt_classes] for x in inputs], torch.device("cpu"))
    parts = [losses_of(slice(0, 1), slice(0, 3), step), losses_of(slice(1, 2), slice(3, 4), step)]
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name])


def test_half_precision_masks_give_float32_losses():
    instances = [ground_truth((8, 8), (0, 0, 4, 4))]
    targets = Targets.from_instances(instances, num_classes=NUM_CLASSES, padded_size=(8, 8))
    logits, boxes = random_predictions(1, 1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        criterion = make_criterion()
        predict: Any = lambda _: torch.randn(1, 4, 4).bfloat16()  # noqa: E731
        losses = criterion(Predictions(logits, boxes, masks=predict), targets)
    assert losses["loss_mask"].dtype == losses["loss_dice"].dtype == torch.float32


@pytest.mark.parametrize("polygons", [False, True])
def test_ground_truth_of_different_sizes_is_padded(polygons: bool):
    first = ground_truth((6, 9), (1, 2, 4, 5), (0, 0, 9, 6), polygons=polygons)
    empty = ground_truth((7, 3))
    empty.remove("gt_masks")  # as detectron2's mapper leaves images without objects
    last = ground_truth((8, 4), (2, 1, 3, 8), polygons=polygons)
    packed = pack_masks([first, empty, last], (8, 9))
    expected = torch.zeros(3, 8, 9, dtype=torch.bool)
    expected[0, 2:5, 1:4] = expected[1, :6] = expected[2, 1:8, 2:3] = True
    assert torch.equal(packed, expected)
    assert pack_masks([empty], (8, 9)).shape == (0, 8, 9)


def test_an_object_cropped_away_keeps_an_empty_mask():
    instances = ground_truth((6, 9), (1, 2, 4, 5), (0, 0, 9, 6))
    instances.gt_masks = PolygonMasks([[], [[0, 0, 9, 0, 9, 6, 0, 6]]])
    assert pack_masks([instances], (6, 9)).sum((1, 2)).tolist() == [0, 54]


def test_missing_masks_and_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"MASK_ON is True, but an image with objects has no gt_masks"):
        pack_masks([random_input(8, 8, 1)["instances"]], (8, 8))
    instances = ground_truth((6, 9), (1, 2, 4, 5))
    instances.gt_masks = BitMasks(torch.zeros(1, 9, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"height and width \(9, 6\), but the image has \(6, 9\)"):
        pack_masks([instances], (9, 9))


def test_bitmaps_leave_the_padding_out_before_they_are_resized(monkeypatch: pytest.MonkeyPatch):
    padded, image_size = (12, 16), (12, 8)
    logits = torch.full((3, 6, 8), -4.0)
    logits[0, :, :2] = 4.0  # the left half of the image, which is the left quarter of the padded one
    logits[1, 3:] = 4.0  # its lower half
    logits[2, :, 4:] = 4.0  # padding only
    expected = torch.zeros(3, 24, 40, dtype=torch.bool)
    expected[0, :, :20] = expected[1, 12:] = True
    found = to_bitmaps(logits, padded, image_size, (24, 40))
    assert found.dtype == torch.bool
    wrong = (found != expected).float().mean((1, 2))
    assert wrong[:2].max() == 0
    assert wrong[2] <= 1 / 8 + 1e-6  # bilinear enlarging blurs the border between image and padding
    monkeypatch.setattr(masks, "PIXELS_AT_ONCE", 1)
    assert torch.equal(to_bitmaps(logits, padded, image_size, (24, 40)), found)
    assert to_bitmaps(logits[:0], padded, image_size, (24, 40)).shape == (0, 24, 40)
