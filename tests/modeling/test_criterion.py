import copy
import math
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from naive_criterion import naive_set_loss
from tiny_models import NUM_CLASSES, per_image, random_input, random_predictions, random_targets

from detr_d2.modeling import HungarianMatcher, Predictions, SetCriterion, Step, Targets


def build(**changes: Any) -> SetCriterion:
    arguments: dict[str, Any] = {
        "num_classes": NUM_CLASSES,
        "matcher": HungarianMatcher(),
        "loss_weights": {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
    }
    return SetCriterion(**{**arguments, **changes})


@pytest.mark.parametrize("counts", [[3, 0, 8, 1], [0, 0, 0], [11, 2], [5]])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.5]])
def test_equals_the_naive_loss_and_its_gradients(counts: list[int], class_weights: list[float] | None):
    logits, boxes = random_predictions(4, len(counts), 8, torch.float64)
    logits.requires_grad_()
    boxes.requires_grad_()
    targets = random_targets(counts)
    targets.boxes_cxcywh = targets.boxes_cxcywh.double()
    losses = build(class_weights=class_weights)(logits, boxes, targets)
    expected = naive_set_loss(logits, boxes, per_image(targets), num_classes=NUM_CLASSES, class_weights=class_weights)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-6, rtol=1e-6, msg=name)
    ours = torch.autograd.grad(list(losses.values()), [logits, boxes], retain_graph=True)
    theirs = torch.autograd.grad(list(expected.values()), [logits, boxes])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_by_hand():
    # One image, two queries, one class. The object is exactly where query 1 is; all logits are 0, so p = 1/2 each.
    # CE: object weight 1, no-object weight 0.1, both -log(1/2): the weighted mean is log 2.
    # Query 1 has the object's centre and half its width: L1 = 0.2, GIoU = 1/2.
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.4]])[None, None]
    targets = Targets(
        labels=torch.tensor([0]),
        boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.4, 0.4]]),
        image_index=torch.tensor([0]),
        counts=[1],
    )
    losses = build(num_classes=1)(torch.zeros(1, 1, 2, 2), boxes, targets)
    assert losses["loss_ce"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.2, rel=1e-6)
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, rel=1e-6)


def test_no_object_weight_by_hand():
    # Matched query: -log p = log 4 (logits 0, log 3: p(class 0) = 1/4), unmatched query: -log p(no object) = log(4/3).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])[None, None]
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])[None, None]
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0]), [1])
    loss = build(num_classes=1, no_object_weight=0.2)(logits, boxes, targets)["loss_ce"]
    assert loss.item() == pytest.approx((math.log(4) + 0.2 * math.log(4 / 3)) / 1.2, rel=1e-6)


CHANGES: list[dict[str, Any]] = [
    {"no_object_weight": 0.3},
    {"class_weights": [1.0, 2.0, 3.0]},
    {"loss_weights": {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}},
    {"loss_weights": {"loss_ce": 1.0, "loss_bbox": 6.0, "loss_giou": 2.0}},
    {"loss_weights": {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 3.0}},
    {"matcher": HungarianMatcher(cost_class=50)},
    {"matcher": HungarianMatcher(cost_l1=50, cost_class=0)},
    {"matcher": HungarianMatcher(cost_giou=50)},
]


@pytest.mark.parametrize("change", CHANGES, ids=[str(sorted(c)) + str(i) for i, c in enumerate(CHANGES)])
def test_every_argument_changes_the_loss(change: dict[str, Any]):
    torch.manual_seed(3)
    logits, boxes = random_predictions(2, 4, 8)
    targets = random_targets([4, 3, 5, 6])
    before = sum(build()(logits, boxes, targets).values())
    after = sum(build(**change)(logits, boxes, targets).values())
    assert abs(float(before) - float(after)) > 1e-4


def test_empty_batch_has_zero_box_losses_with_gradient():
    logits, boxes = random_predictions(2, 2, 8)
    boxes.requires_grad_()
    losses = build()(logits, boxes, random_targets([0, 0]))
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0
    (gradient,) = torch.autograd.grad(losses["loss_bbox"] + losses["loss_giou_0"], [boxes])
    assert not gradient.any()
    assert losses["loss_ce"].item() > 0


def test_more_objects_than_queries_matches_every_query():
    logits, boxes = random_predictions(1, 1, 8)
    targets = random_targets([13])
    with EventStorage(19) as storage:
        losses = build()(logits, boxes, targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert storage.latest()["detr/matched_fraction"][0] == pytest.approx(8 / 13)


def test_metrics_go_to_the_event_storage_and_not_into_the_losses():
    logits = torch.zeros(1, 1, 8, NUM_CLASSES + 1)
    logits[..., 2] = 5  # every query says class 2
    targets = random_targets([4])
    targets.labels[:] = torch.tensor([2, 2, 2, 0])
    with EventStorage(19) as storage:
        losses = build()(logits, torch.rand(1, 1, 8, 4), targets)
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["detr/class_error"] == pytest.approx(25)
    assert latest["detr/cardinality_error"] == pytest.approx(4)  # 8 claimed, 4 there
    assert latest["detr/matched_fraction"] == 1


def test_metrics_are_read_every_twentieth_iteration():
    logits, boxes = random_predictions(1, 1, 8)
    with EventStorage(7) as storage:
        build()(logits, boxes, random_targets([2]))
    assert not storage.latest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_predictions_are_computed_in_float32(dtype: torch.dtype):
    logits, boxes = random_predictions(2, 2, 8)
    targets = random_targets([3, 2])
    logits, boxes = logits.to(dtype), boxes.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = build()(logits, boxes, targets)
    high = build()(logits.float(), boxes.float(), targets)
    for name, value in high.items():
        assert low[name].dtype == torch.float32
        torch.testing.assert_close(low[name], value)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.5]])
@pytest.mark.parametrize("ce_norm", ["global", "local"])
def test_accumulated_micro_batches_add_up(ce_norm: str, class_weights: list[float] | None):
    counts = [3, 0, 7, 1, 2, 2]
    inputs = [random_input(60, 80, count) for count in counts]
    logits, boxes = random_predictions(3, 6, 8, torch.float64)
    criterion = build(ce_norm=ce_norm, class_weights=class_weights)

    def loss_of(images: slice) -> dict[str, torch.Tensor]:
        targets = Targets.from_instances([x["instances"] for x in inputs[images]], num_classes=NUM_CLASSES)
        return criterion(logits[:, images], boxes[:, images], targets)

    whole = loss_of(slice(None))
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    alone = [loss_of(part) for part in parts]
    with criterion.accumulated_over([inputs[part] for part in parts]):
        together = [loss_of(part) for part in parts]
    for name, value in whole.items():
        added = sum(losses[name] for losses in together)
        if name.startswith("loss_ce") and ce_norm == "local":
            torch.testing.assert_close(added, sum(losses[name] for losses in alone) / 3, msg=name)
        else:
            torch.testing.assert_close(added, value, msg=name)
    after = loss_of(slice(None))
    assert all(torch.equal(after[name], value) for name, value in whole.items())  # nothing stays behind


def test_wrong_arguments_name_the_key():
    with pytest.raises(ValueError, match=r"CE_NORM is 'mean', expected 'local' or 'global'"):
        build(ce_norm="mean")
    with pytest.raises(ValueError, match=r"CLASS_WEIGHTS has 2 values.*3 classes"):
        build(class_weights=[1.0, 2.0])


def test_state_dict_is_empty_so_that_checkpoints_stay_the_authors():
    assert not build(class_weights=[1.0, 2.0, 3.0]).state_dict()
    assert copy.deepcopy(build()).class_weights.tolist() == pytest.approx([1, 1, 1, 0.1])
