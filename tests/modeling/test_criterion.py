import copy
import math
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from naive_criterion import naive_set_loss
from tiny_models import NUM_CLASSES, per_image, random_input, random_predictions, random_targets, tiny_cfg
from torch import Tensor, nn

from detr_d2.modeling import (
    DenoisingQueries,
    FocalClassification,
    HungarianMatcher,
    Matching,
    Predictions,
    Proposals,
    SetCriterion,
    Step,
    Targets,
    TransformerOutput,
    build_criterion,
)
from detr_d2.modeling.classification import SumAndWeight


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
    losses = build(class_weights=class_weights)(Predictions(logits, boxes), targets)
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
    losses = build(num_classes=1)(Predictions(torch.zeros(1, 1, 2, 2), boxes), targets)
    assert losses["loss_ce"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.2, rel=1e-6)
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, rel=1e-6)


def test_no_object_weight_by_hand():
    # Matched query: -log p = log 4 (logits 0, log 3: p(class 0) = 1/4), unmatched query: -log p(no object) = log(4/3).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])[None, None]
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])[None, None]
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0]), [1])
    loss = build(num_classes=1, no_object_weight=0.2)(Predictions(logits, boxes), targets)["loss_ce"]
    assert loss.item() == pytest.approx((math.log(4) + 0.2 * math.log(4 / 3)) / 1.2, rel=1e-6)


def noisy_predictions(layers: int) -> tuple[Predictions, Targets]:
    """Two groups of a query for one object, (.5, .5, .4, .4), and of one for nothing; one class, all logits 0."""
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0]), [1])
    half, exact, far = [0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]
    boxes = torch.tensor([half, far, exact, far, exact, far]).expand(layers, 1, -1, -1)
    query = torch.tensor([[0, 2]]).expand(layers, -1)
    matching = Matching(image=torch.tensor([0, 0]), query=query, target=torch.zeros_like(query))
    output = TransformerOutput(
        hidden_states=torch.zeros(layers, 1, 6, 1),
        memory=torch.zeros(1, 1, 1),
        denoising=DenoisingQueries(4, matching, 2),
    )
    return Predictions(torch.zeros(layers, 1, 6, 1), boxes).completed(output), targets


def test_denoising_by_hand():
    # With focal loss, p = 1/2: a class that is there costs 1/4 * 1/4 * log 2, one that is not 3/4 * 1/4 * log 2.
    # One box, two groups: all sums are halved. The box of half the width has L1 0.2 and GIoU 1/2, the other is exact.
    focal = FocalClassification()
    criterion = build(num_classes=1, classification=focal, matcher=HungarianMatcher(classification=focal))
    predictions, targets = noisy_predictions(2)
    assert predictions.logits.shape[2] == 2
    losses = criterion(predictions, targets)
    for suffix in ("_dn", "_dn_0"):
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(2 * (0.0625 + 0.1875) * math.log(2) / 2, rel=1e-6)
        assert losses[f"loss_bbox{suffix}"].item() == pytest.approx(5 * 0.2 / 2, rel=1e-6)
        assert losses[f"loss_giou{suffix}"].item() == pytest.approx(2 * 0.5 / 2, rel=1e-6)
    plain = criterion(predictions._replace(denoising=None), targets)
    assert plain == {name: value for name, value in losses.items() if "_dn" not in name}
    assert plain["loss_bbox"] == 0


def test_denoising_with_softmax_is_divided_by_its_own_weights():
    # Logits 0 for one class and "no object": log 2 for each query, so the weighted mean is log 2.
    predictions, targets = noisy_predictions(1)
    logits = torch.zeros(1, 1, 4, 2)
    assert predictions.denoising is not None
    noisy = predictions.denoising.predictions._replace(logits=logits)
    predictions = predictions._replace(
        logits=logits[:, :, :2], denoising=predictions.denoising._replace(predictions=noisy)
    )
    losses = build(num_classes=1, ce_norm="global")(predictions, targets)
    assert losses["loss_ce_dn"].item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("ce_norm", ["local", "global"])
def test_proposals_with_real_labels_are_trained_like_a_layer(ce_norm: str):
    logits, boxes = random_predictions(1, 2, 8)
    targets = random_targets([3, 2])
    targets.labels[:] = torch.tensor([2, 1, 0, 2, 1])
    criterion = build(class_weights=[0.5, 2.0, 1.5], ce_norm=ce_norm)
    losses = {
        agnostic: criterion(Predictions(logits, boxes, proposals=Proposals(logits[0], boxes[0], agnostic)), targets)
        for agnostic in (False, True)
    }
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(losses[False][f"{name}_enc"], losses[False][name])
    assert losses[True]["loss_ce_enc"] != losses[False]["loss_ce_enc"]


class IouClassification(FocalClassification):
    """A user's: the target of a class is the IoU of the box, by binary cross-entropy."""

    uses_quality = True

    def loss(self, logits: Tensor, classes: Tensor, weights: Tensor, quality: Tensor | None) -> SumAndWeight:  # noqa: ARG002
        assert quality is not None
        assert not quality.requires_grad
        target = nn.functional.one_hot(classes, logits.shape[-1] + 1)[..., :-1] * quality[..., None]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return loss.flatten(1).sum(1), None


def test_a_classification_is_told_the_iou_of_matched_boxes():
    # The box of half the width has IoU 1/2 with its object: log(1 + e^-3) / 2 + log(1 + e^3) / 2. The other has none.
    own = IouClassification()
    criterion = build(num_classes=1, classification=own, matcher=HungarianMatcher(classification=own))
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.4]])[None, None].requires_grad_()
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([0]), [1])
    losses = criterion(Predictions(torch.tensor([-3.0, 3.0]).view(1, 1, 2, 1), boxes), targets)
    softplus = [math.log(1 + math.exp(x)) for x in (-3, 3)]
    assert losses["loss_ce"].item() == pytest.approx(softplus[0] + sum(softplus) / 2, rel=1e-6)


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
    before = sum(build()(Predictions(logits, boxes), targets).values())
    after = sum(build(**change)(Predictions(logits, boxes), targets).values())
    assert abs(float(before) - float(after)) > 1e-4


def test_empty_batch_has_zero_box_losses_with_gradient():
    logits, boxes = random_predictions(2, 2, 8)
    boxes.requires_grad_()
    losses = build()(Predictions(logits, boxes), random_targets([0, 0]))
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0
    (gradient,) = torch.autograd.grad(losses["loss_bbox"] + losses["loss_giou_0"], [boxes])
    assert not gradient.any()
    assert losses["loss_ce"].item() > 0


def test_more_objects_than_queries_matches_every_query():
    logits, boxes = random_predictions(1, 1, 8)
    targets = random_targets([13])
    with EventStorage(19) as storage:
        losses = build()(Predictions(logits, boxes), targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert storage.latest()["detr/matched_fraction"][0] == pytest.approx(8 / 13)


def test_metrics_go_to_the_event_storage_and_not_into_the_losses():
    logits = torch.zeros(1, 1, 8, NUM_CLASSES + 1)
    logits[..., 2] = 5  # every query says class 2
    targets = random_targets([4])
    targets.labels[:] = torch.tensor([2, 2, 2, 0])
    with EventStorage(19) as storage:
        losses = build()(Predictions(logits, torch.rand(1, 1, 8, 4)), targets)
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["detr/class_error"] == pytest.approx(25)
    assert latest["detr/cardinality_error"] == pytest.approx(4)  # 8 claimed, 4 there
    assert latest["detr/matched_fraction"] == 1


def test_metrics_are_read_every_twentieth_iteration():
    logits, boxes = random_predictions(1, 1, 8)
    with EventStorage(7) as storage:
        build()(Predictions(logits, boxes), random_targets([2]))
    assert not storage.latest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_predictions_are_computed_in_float32(dtype: torch.dtype):
    logits, boxes = random_predictions(2, 2, 8)
    targets = random_targets([3, 2])
    logits, boxes = logits.to(dtype), boxes.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = build()(Predictions(logits, boxes), targets)
    high = build()(Predictions(logits.float(), boxes.float()), targets)
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

    def loss_of(images: slice, step: Step | None = None) -> dict[str, torch.Tensor]:
        instances = [x["instances"] for x in inputs[images]]
        targets = Targets.from_instances(instances, num_classes=NUM_CLASSES, step=step)
        return criterion(Predictions(logits[:, images], boxes[:, images]), targets)

    whole = loss_of(slice(None))
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    alone = [loss_of(part) for part in parts]
    step = Step.of([[x["instances"].gt_classes for x in inputs[part]] for part in parts], torch.device("cpu"))
    together = [loss_of(part, step) for part in parts]
    for name, value in whole.items():
        added = sum(losses[name] for losses in together)
        if name.startswith("loss_ce") and ce_norm == "local":
            torch.testing.assert_close(added, sum(losses[name] for losses in alone) / 3, msg=name)
        else:
            torch.testing.assert_close(added, value, msg=name)


def test_wrong_arguments_are_named_and_in_a_config_the_node_of_their_key():
    with pytest.raises(ValueError, match=r"^ce_norm is 'mean', expected 'local' or 'global'"):
        build(ce_norm="mean")
    with pytest.raises(ValueError, match=r"^MODEL\.DETR\.CRITERION: ce_norm is 'mean'"):
        build_criterion(tiny_cfg("MODEL.DETR.CRITERION.CE_NORM", "mean"))
    with pytest.raises(ValueError, match=r"class_weights has 2 values, expected one for each of 3"):
        build(class_weights=[1.0, 2.0])


def test_state_dict_is_empty_so_that_checkpoints_stay_the_authors():
    assert not build(class_weights=[1.0, 2.0, 3.0]).state_dict()
    assert copy.deepcopy(build()).class_weights.tolist() == pytest.approx([1, 1, 1, 0.1])
