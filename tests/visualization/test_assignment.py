"""Stability of the assignment: computed by hand, and for models whose queries are known to be exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tiny_deformable import stir
from tiny_models import random_input, tiny_detr
from torch import nn

from detr_d2.modeling import Matching
from detr_d2.visualization.matching import (
    UNMATCHED,
    Assignment,
    collect_assignment,
    compare_assignments,
    save_stability,
    stability,
)


def assignment(*layers: list[int], images: list[int], num_images: int, num_queries: int = 5) -> Assignment:
    return Assignment(np.array(layers), np.array(images), num_images, num_queries)


def test_hand_computed() -> None:
    images = [0, 0, 0, 2]  # the second of three images is empty
    before = assignment([0, 1, 2, 4], [0, 1, 2, 4], images=images, num_images=3)
    after = assignment([0, 1, 3, 4], [1, 0, 2, 0], images=images, num_images=3)
    first, last = compare_assignments(before, after)
    # An object moves from query 2 to the free query 3: both have changed.
    assert first == {"layer": 1, "same": 0.75, "instability": pytest.approx(2 / 3)}
    # Two objects exchange queries 0 and 1, and in another image one moves from 4 to 0.
    assert last == {"layer": 2, "same": 0.25, "instability": pytest.approx(4 / 3)}


def test_nothing_changes() -> None:
    same = assignment([3, 0], images=[0, 1], num_images=2)
    assert compare_assignments(same, same) == [{"layer": 1, "same": 1.0, "instability": 0.0}]


def test_surplus_objects_have_no_query() -> None:
    before = assignment([0, UNMATCHED, 1], images=[0, 0, 0], num_images=1, num_queries=2)
    after = assignment([UNMATCHED, 0, 1], images=[0, 0, 0], num_images=1, num_queries=2)
    assert before.objects_of_queries().tolist() == [[[0, 2]]]
    assert compare_assignments(before, after) == [{"layer": 1, "same": pytest.approx(1 / 3), "instability": 1.0}]


def test_what_cannot_be_compared() -> None:
    one = assignment([0], images=[0], num_images=1)
    with pytest.raises(ValueError, match="1 and 2 decoder layers"):
        compare_assignments(one, assignment([0], [0], images=[0], num_images=1))
    with pytest.raises(ValueError, match="5 and 6 queries"):
        compare_assignments(one, assignment([0], images=[0], num_images=1, num_queries=6))
    empty = Assignment(np.zeros((3, 0), dtype=int), np.zeros(0, dtype=int), 2, 5)
    with pytest.raises(ValueError, match="no objects"):
        compare_assignments(empty, empty)


def lively_detr() -> Any:
    model = tiny_detr().eval()
    stir(model, 0.3)
    return model


def test_collected_from_a_model_whose_queries_are_shifted() -> None:
    model = lively_detr()
    samples = [random_input(64, 96, count) for count in (3, 0, 2)]
    before = collect_assignment(model, iter(samples))
    assert before.query.shape == (3, 5)
    assert before.image.tolist() == [0, 0, 0, 2, 2]
    assert (before.num_images, before.num_queries) == (3, 8)
    embedding = model.transformer.query_embed
    embedding.weight = nn.Parameter(embedding.weight.roll(1, 0))  # query k is now query k + 1
    after = collect_assignment(model, samples)
    np.testing.assert_array_equal(after.query, (before.query + 1) % 8)
    assert [x["same"] for x in compare_assignments(before, after)] == [0.0, 0.0, 0.0]


def test_pairs_of_the_matcher_are_sorted_by_object() -> None:
    model = lively_detr()
    pairs = Matching(
        image=torch.zeros(3, dtype=torch.int64),
        query=torch.tensor([[7, 2, 5], [0, 1, 2], [4, 3, 6]]),
        target=torch.tensor([[2, 0, 1], [0, 1, 2], [1, 2, 0]]),
    )
    model.criterion.matcher = lambda *_: pairs
    result = collect_assignment(model, [random_input(64, 96, 3)])
    assert result.query.tolist() == [[2, 5, 7], [0, 1, 2], [6, 4, 3]]


def test_more_objects_than_queries() -> None:
    result = collect_assignment(lively_detr(), [random_input(64, 96, 11)])
    assert [(query == UNMATCHED).sum() for query in result.query] == [3, 3, 3]


def test_predictions_that_are_not_numbers_name_the_file() -> None:
    model = lively_detr()
    nn.init.constant_(model.head.class_embed.weight, float("nan"))
    with pytest.raises(ValueError, match=r"all predictions for a\.png are NaN"):
        collect_assignment(model, [random_input(64, 96, 1, file_name="a.png")])


def test_each_checkpoint_is_compared_with_the_one_before(tmp_path: Path) -> None:
    layers = [assignment([0, x], images=[0, 0], num_images=1) for x in (1, 2, 2)]
    transitions = stability(["a", "b", "$c"], layers)
    assert [(x["from"], x["to"], x["layers"][0]["same"]) for x in transitions] == [("a", "b", 0.5), ("b", "$c", 1.0)]
    save_stability(tmp_path / "matching.png", transitions)
    assert Image.open(tmp_path / "matching.png").size[0] > 800


@pytest.mark.parametrize("highest", [6.0, 0.1])
def test_the_highest_mark_of_the_picture_is_not_cut(
    highest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    layers = [
        {"layer": 1, "same": 0.2, "instability": highest},
        {"layer": 2, "same": 0.3, "instability": 0.9 * highest},
    ]
    save_stability(tmp_path / "matching.png", [{"from": "a", "to": "b", "layers": layers}])
    _, right = drawn[0].axes
    low, high = right.get_ylim()
    assert low == 0
    assert high > 1.05 * highest
