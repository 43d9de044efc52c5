"""Softmax and focal classification: loss against torchvision's, cost against the formula, decoding by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive_criterion import pairwise_giou
from scipy.optimize import linear_sum_assignment
from tiny_models import (
    NUM_CLASSES,
    per_image,
    random_input,
    random_predictions,
    random_targets,
    tiny_cfg,
    tiny_detr,
)
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from detr_d2.modeling import (
    FocalClassification,
    HungarianMatcher,
    Predictions,
    Proposals,
    SetCriterion,
    SoftmaxClassification,
    Step,
    Targets,
    build_classification,
)

FOCAL = "MODEL.DETR.CRITERION.CLASSIFICATION", "focal"


def focal_predictions(images: int, layers: int = 3) -> tuple[Tensor, Tensor]:
    logits, boxes = random_predictions(layers, images, 8, torch.float64)
    return logits[..., :-1].clone().requires_grad_(), boxes.requires_grad_()


def one_hot(classes: Tensor) -> Tensor:
    return nn.functional.one_hot(classes, NUM_CLASSES + 1)[..., :-1].double()


def focal_loss(logits: Tensor, classes: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """(L,) sums."""
    total, weight = FocalClassification(alpha=alpha, gamma=gamma).loss(logits, classes, torch.ones(4), None)
    assert weight is None
    return total


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (0.5, 0.0)])
def test_focal_loss_and_gradient_are_torchvisions(alpha: float, gamma: float):
    logits = (4 * torch.randn(2, 3, 5, NUM_CLASSES, dtype=torch.float64)).requires_grad_()
    classes = torch.randint(0, NUM_CLASSES + 1, (2, 3, 5))
    ours = focal_loss(logits, classes, alpha=alpha, gamma=gamma)
    theirs = sigmoid_focal_loss(logits, one_hot(classes), alpha=alpha, gamma=gamma).sum((1, 2, 3))
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(x.sum(), logits)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_focal_loss_by_hand():
    # At logit 0 every probability is 1/2: alpha / 4 * ln 2 where the class is there, (1 - alpha) / 4 * ln 2 elsewhere.
    loss = focal_loss(torch.zeros(1, 1, 2, 3), torch.tensor([[[1, 3]]]), alpha=0.25, gamma=2)
    assert loss.tolist() == pytest.approx([(0.25 + 5 * 0.75) / 4 * math.log(2)])


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_focal_loss_of_extreme_logits_is_finite(logit: float):
    logits = torch.full((1, 1, 2, 3), logit, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[1, 3]]]), alpha=0.25, gamma=2)
    loss.sum().backward()
    expected = 0.25 * 80 if logit < 0 else 5 * 0.75 * 80  # wrong about one class that is there, or five that are not
    assert loss.item() == pytest.approx(expected)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def naive_focal_loss(logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Matches and losses of one layer, image by image (Zhu et al. 2021, appendix A.4), weights 2, 5, 2."""
    num_boxes = max(sum(len(t["labels"]) for t in targets), 1)
    total: dict[str, Any] = {"loss_ce": 0, "loss_bbox": 0, "loss_giou": 0}
    for x, y, target in zip(logits, boxes, targets, strict=True):
        p = x.sigmoid()
        there, not_there = -0.25 * (1 - p) ** 2 * (p + 1e-8).log(), -0.75 * p**2 * (1 - p + 1e-8).log()
        l1 = (y[:, None] - target["boxes"]).abs().sum(-1)
        giou = pairwise_giou(y, target["boxes"])
        cost = 2 * (there - not_there)[:, target["labels"]] + 5 * l1 - 2 * giou
        queries, objects = linear_sum_assignment(cost.detach().numpy())
        classes = torch.full((len(x),), NUM_CLASSES)
        classes[queries] = target["labels"][objects]
        total["loss_ce"] += 2 * sigmoid_focal_loss(x, one_hot(classes), reduction="sum") / num_boxes
        total["loss_bbox"] += 5 * l1[queries, objects].sum() / num_boxes
        total["loss_giou"] += 2 * (1 - giou[queries, objects]).sum() / num_boxes
    return total


def focal_criterion(**changes: Any) -> SetCriterion:
    focal = FocalClassification()
    return SetCriterion(
        num_classes=NUM_CLASSES,
        matcher=HungarianMatcher(cost_class=2, classification=focal),
        loss_weights={"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0},
        classification=focal,
        **changes,
    )


@pytest.mark.parametrize("ce_norm", ["local", "global"])  # softmax's business
@pytest.mark.parametrize("counts", [[3, 0, 8, 1], [0, 0], [11, 2]])
def test_focal_criterion_equals_the_naive_one(counts: list[int], ce_norm: str):
    logits, boxes = focal_predictions(len(counts))
    targets = random_targets(counts)
    targets.boxes_cxcywh = targets.boxes_cxcywh.double()
    losses = focal_criterion(ce_norm=ce_norm)(Predictions(logits, boxes), targets)
    expected = {}
    for layer, suffix in enumerate(("_0", "_1", "")):
        naive = naive_focal_loss(logits[layer], boxes[layer], per_image(targets))
        expected.update({name + suffix: value for name, value in naive.items()})
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    ours, theirs = (
        torch.autograd.grad(torch.stack(list(x.values())).sum(), (logits, boxes)) for x in (losses, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_proposals_are_matched_as_objects_of_class_0():
    logits, boxes = focal_predictions(2)
    targets = random_targets([3, 2])
    targets.boxes_cxcywh = targets.boxes_cxcywh.double()
    proposals = focal_predictions(2, layers=1)
    proposals = (proposals[0][0], proposals[1][0])
    losses = focal_criterion()(Predictions(logits, boxes, proposals=Proposals(*proposals)), targets)
    plain = focal_criterion()(Predictions(logits, boxes), targets)
    assert {name for name in losses if name not in plain} == {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"}
    assert all(torch.equal(losses[name], value) for name, value in plain.items())
    labelled = [{"labels": torch.zeros_like(t["labels"]), "boxes": t["boxes"]} for t in per_image(targets)]
    for name, value in naive_focal_loss(*proposals, labelled).items():
        torch.testing.assert_close(losses[f"{name}_enc"], value)
    assert targets.labels.any()  # untouched


def test_proposals_with_softmax_have_no_class_weights():
    logits, boxes = random_predictions(1, 2, 8)
    targets = random_targets([3, 2])
    criteria = [
        SetCriterion(
            num_classes=NUM_CLASSES,
            matcher=HungarianMatcher(),
            loss_weights={"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0},
            class_weights=weights,
            ce_norm=norm,
        )
        for weights, norm in ((None, "local"), ([3.0, 0.1, 2.0], "local"), ([3.0, 0.1, 2.0], "global"))
    ]
    predictions = Predictions(logits, boxes, proposals=Proposals(logits[0], boxes[0]))
    values = [criterion(predictions, targets)["loss_ce_enc"] for criterion in criteria]
    assert values[0] == values[1] == values[2]
    as_objects = criteria[0](Predictions(logits, boxes), targets.as_objects())["loss_ce"]
    torch.testing.assert_close(values[0], as_objects)


def test_micro_batches_of_focal_losses_add_up():
    inputs = [random_input(60, 80, count) for count in (3, 0, 7, 1)]
    logits, boxes = focal_predictions(4)
    criterion = focal_criterion()

    def losses(images: slice, step: Step | None = None) -> dict[str, Tensor]:
        instances = [x["instances"] for x in inputs[images]]
        targets = Targets.from_instances(instances, num_classes=NUM_CLASSES, step=step)
        proposals = Proposals(logits[0, images], boxes[0, images])
        return criterion(Predictions(logits[:, images], boxes[:, images], proposals=proposals), targets)

    whole = losses(slice(None))
    parts = [slice(0, 2), slice(2, 4)]
    step = Step.of([[x["instances"].gt_classes for x in inputs[part]] for part in parts], torch.device("cpu"))
    first, second = (losses(part, step) for part in parts)
    for name, value in whole.items():
        torch.testing.assert_close(first[name] + second[name], value, msg=name)


def test_decoding_by_hand():
    # Two queries, three classes: one query may be detected twice, another not at all.
    logits = torch.tensor([[[2.0, 1.0, -3.0], [-1.0, 1.5, -2.0]]])
    scores, classes, queries = FocalClassification().select(logits, 3)
    assert classes.tolist() == [[0, 1, 1]]
    assert queries.tolist() == [[0, 1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.5, 1.0]]).sigmoid())
    assert FocalClassification().select(logits, 100)[0].shape == (1, 6)
    assert FocalClassification().select(logits, None)[0].shape == (1, 6)


def test_softmax_decoding_gives_one_detection_a_query():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]])  # the third is "no object"
    scores, classes, queries = SoftmaxClassification().select(logits, None)
    assert classes.tolist() == [[0, 1]]
    assert queries.tolist() == [[1, 0]]
    torch.testing.assert_close(scores[0, 1], logits[0, 0].softmax(-1)[1])
    assert SoftmaxClassification().select(logits, 1)[2].tolist() == [[1]]


def test_who_claims_an_object():
    logits = torch.tensor([[0.1, -1.0, -1.0], [-0.1, -1.0, -1.0], [-1.0, -1.0, 0.3]])
    assert FocalClassification().claims_object(logits).tolist() == [True, False, True]
    assert SoftmaxClassification().claims_object(logits).tolist() == [True, True, False]


@pytest.mark.parametrize(("options", "rows"), [((), NUM_CLASSES + 1), (FOCAL, NUM_CLASSES)])
def test_detr_trains_with_either(options: tuple[str, ...], rows: int):
    model = tiny_detr(*options)
    classifier = model.get_submodule("head.class_embed")
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == rows
    prior = -math.log(99)
    assert (classifier.bias == prior).all() if options else (classifier.bias.abs() < 1).all()
    inputs = [random_input(64, 80, 3)]
    before = torch.stack(list(model(inputs).values())).sum()
    before.backward()
    assert classifier.weight.grad is not None
    assert classifier.weight.grad.any()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()  # a thousandth along the gradient's direction
    assert torch.stack(list(model(inputs).values())).sum().item() < before.item()
    model.eval()
    found = model(inputs)[0]["instances"]
    assert len(found) == (8 * NUM_CLASSES if options else 8)
    assert set(found.pred_classes.tolist()) <= set(range(NUM_CLASSES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["MODEL.DETR.CRITERION.CLASSIFICATION", "sigmoid"],
            "CLASSIFICATION is 'sigmoid', expected one of focal, softmax",
        ),
        ([*FOCAL, "MODEL.DETR.CLASS_WEIGHTS", [1.0, 2.0, 3.0]], "CLASS_WEIGHTS weighs a softmax"),
    ],
)
def test_mistakes_are_named(options: list[Any], message: str):
    with pytest.raises(ValueError, match=message):
        build_classification(tiny_cfg(*options))
