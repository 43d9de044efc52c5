import numpy as np
import pytest
import torch
from naive_criterion import naive_match
from tiny_models import per_image, random_predictions, random_targets

from detr_d2.modeling import HungarianMatcher, Matching, NonFinitePredictionsError, Targets


def pairs(matching: Matching, targets: Targets, layer: int) -> list[set[tuple[int, int]]]:
    """For each image the set of (query, object of that image)."""
    found: list[set[tuple[int, int]]] = [set() for _ in targets.counts]
    starts = np.cumsum([0, *targets.counts])
    for image, query, target in zip(
        matching.image.tolist(), matching.query[layer].tolist(), matching.target[layer].tolist(), strict=True
    ):
        found[image].add((query, target - int(starts[image])))
    return found


@pytest.mark.parametrize("counts", [[3, 0, 8, 1], [0, 0], [11, 2], [5]])
@pytest.mark.parametrize("cost", [(1, 5, 2), (2, 0, 0), (0, 1, 3)])
def test_equals_the_naive_matcher(counts: list[int], cost: tuple[float, float, float]):
    logits, boxes = random_predictions(4, len(counts), 8, torch.float64)
    targets = random_targets(counts)
    targets.boxes_cxcywh = targets.boxes_cxcywh.double()
    matcher = HungarianMatcher(cost_class=cost[0], cost_l1=cost[1], cost_giou=cost[2])
    matching = matcher(logits, boxes, targets)
    expected = naive_match(logits, boxes, per_image(targets), cost)
    table = matcher.cost(logits, boxes, targets)  # (L, M, Q)
    for layer in range(4):
        naive = [set(zip(q.tolist(), t.tolist(), strict=True)) for q, t in expected[layer]]
        if cost == (2, 0, 0):  # equal labels make ties: the total cost decides
            starts = np.cumsum([0, *targets.counts])
            pairs_of_naive = [(q, t + starts[i]) for i, image in enumerate(naive) for q, t in image]
            best = sum(float(table[layer, t, q]) for q, t in pairs_of_naive)
            ours = float(table[layer, matching.target[layer], matching.query[layer]].sum())
            assert ours == pytest.approx(best, abs=1e-9)
        else:
            assert pairs(matching, targets, layer) == naive
    total = sum(min(n, 8) for n in counts)
    assert matching.query.shape == matching.target.shape == (4, total)


def test_cost_by_hand():
    # p(class 1) = 1/2 for logits (0, log 2, 0, 0, ...)? softmax of (0, ln 2, 0) has p = 2/4.
    logits = torch.tensor([0.0, np.log(2.0), 0.0]).view(1, 1, 1, 3)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).view(1, 1, 1, 4)
    targets = Targets(
        labels=torch.tensor([1]),
        boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.4, 0.4]]),
        image_index=torch.tensor([0]),
        counts=[1],
    )
    # L1 = 0.4; the inner box is a quarter of the outer one, hull = outer: GIoU = 0.25
    cost = HungarianMatcher(cost_class=1, cost_l1=5, cost_giou=2).cost(logits, boxes, targets)
    assert cost.item() == pytest.approx(-0.5 + 5 * 0.4 - 2 * 0.25, abs=1e-6)


def test_takes_the_best_assignment_not_the_best_pairs():
    # Greedy by object would give query 0 to object 0 (cost 0.1) and leave query 1 for object 1 at 0.9.
    boxes = torch.tensor([[0.30, 0.5, 0.2, 0.2], [0.90, 0.5, 0.2, 0.2]]).view(1, 1, 2, 4)
    targets = Targets(
        labels=torch.tensor([0, 0]),
        boxes_cxcywh=torch.tensor([[0.40, 0.5, 0.2, 0.2], [0.31, 0.5, 0.2, 0.2]]),
        image_index=torch.tensor([0, 0]),
        counts=[2],
    )
    matching = HungarianMatcher(cost_class=0, cost_l1=1, cost_giou=0)(torch.zeros(1, 1, 2, 4), boxes, targets)
    assert pairs(matching, targets, 0) == [{(0, 1), (1, 0)}]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_never_picks_queries_that_are_not_finite(bad: float):
    logits, boxes = random_predictions(2, 2, 8)
    boxes[0, 0, [1, 4]] = bad
    logits[1, 1, 2] = float("nan")
    targets = random_targets([6, 7])  # as many objects as finite queries are left
    matching = HungarianMatcher()(logits, boxes, targets)
    queries = matching.query[0][matching.image == 0]
    assert not {1, 4} & set(queries.tolist())
    assert 2 not in matching.query[1][matching.image == 1].tolist()
    assert len(matching.query[0]) == 13


def test_a_cheap_swap_never_beats_the_penalty():
    # One object could save much by moving to the query that the other loses to a NaN query.
    cost = np.array([[0.0, 100.0, np.nan], [1.0, 101.0, np.nan]])
    logits = torch.zeros(1, 1, 3, 4)
    targets = random_targets([2])

    class Fixed(HungarianMatcher):
        def cost(self, *_: object) -> torch.Tensor:
            return torch.from_numpy(cost)[None]

    matching = Fixed()(logits, torch.zeros(1, 1, 3, 4), targets)
    assert sorted(matching.query[0].tolist()) == [0, 1]


def test_nothing_finite_is_an_error_that_names_the_image():
    logits, boxes = random_predictions(2, 3, 8)
    boxes[1, 2] = float("nan")
    targets = random_targets([2, 0, 1])
    with pytest.raises(NonFinitePredictionsError) as info:
        HungarianMatcher()(logits, boxes, targets)
    assert info.value.image_index == 2
    assert HungarianMatcher()(logits, boxes, targets, strict=False).query.shape == (2, 3)


def test_an_image_without_objects_may_be_nan():
    logits, boxes = random_predictions(1, 2, 8)
    boxes[0, 0] = float("nan")
    assert HungarianMatcher()(logits, boxes, random_targets([0, 2])).image.tolist() == [1, 1]


def test_all_weights_zero_is_an_error():
    with pytest.raises(ValueError, match=r"cost_class, cost_l1 and cost_giou are all zero"):
        HungarianMatcher(cost_class=0, cost_l1=0, cost_giou=0)
