from __future__ import annotations

import importlib.util

import pytest
import torch
from naive_criterion import naive_set_loss

from detr_d2.benchmark.criterion import authors_loss, package_loss, random_problem, transformers_loss
from detr_d2.benchmark.inputs import normalised_targets
from detr_d2.benchmark.losses import largest_difference


@pytest.mark.parametrize("objects", [0, 1, 5, 9])  # of 7 queries
def test_ours_equals_a_naive_one(objects: int) -> None:
    problem = random_problem(layers=3, batch=2, queries=7, objects=objects, num_classes=4, seed=objects)
    ours = package_loss(problem)()
    targets = normalised_targets([{"instances": x} for x in problem.instances], "cpu", "labels")
    naive = naive_set_loss(problem.logits, problem.boxes_cxcywh, targets, num_classes=4)
    assert largest_difference(ours, naive)[1] < 1e-5
    assert set(ours) == {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in ("", "_0", "_1")}


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("layers", [1, 3])
def test_ours_equals_that_of_transformers(layers: int) -> None:
    problem = random_problem(layers=layers, batch=2, queries=7, objects=3, num_classes=4)
    theirs = transformers_loss(problem)
    assert theirs is not None
    assert largest_difference(package_loss(problem)(), theirs())[1] < 1e-5


def test_problem() -> None:
    problem = random_problem(layers=2, batch=3, queries=5, objects=4, num_classes=6)
    assert problem.logits.shape == (2, 3, 5, 7)
    assert problem.boxes_cxcywh.shape == (2, 3, 5, 4)
    low, high = (x.squeeze() for x in (problem.boxes_cxcywh[..., :2], problem.boxes_cxcywh[..., 2:]))
    assert ((low - high / 2) >= -1e-6).all()
    assert ((low + high / 2) <= 1 + 1e-6).all()
    for x in problem.instances:
        assert len(x) == 4
        assert x.gt_boxes.nonempty().all()
        assert x.gt_classes.max() < 6
    same = random_problem(layers=2, batch=3, queries=5, objects=4, num_classes=6)
    other = random_problem(layers=2, batch=3, queries=5, objects=4, num_classes=6, seed=1)
    assert torch.equal(problem.logits, same.logits)
    assert not torch.equal(problem.logits, other.logits)


@pytest.mark.parametrize("size", ["layers", "batch", "queries", "num_classes", "objects"])
def test_sizes_are_checked(size: str) -> None:
    sizes = {"layers": 1, "batch": 1, "queries": 1, "num_classes": 1, "objects": 1, size: -1}
    with pytest.raises(ValueError, match=f"{size} is -1"):
        random_problem(**sizes)  # type: ignore[arg-type]


def test_largest_difference() -> None:
    ours = {"a": torch.tensor(0.5), "b": torch.tensor(100.0)}
    assert largest_difference(ours, {"a": torch.tensor(0.75), "b": torch.tensor(110.0)}) == ("a", 0.25)
    name, difference = largest_difference(ours, {"a": torch.tensor(0.5), "b": torch.tensor(200.0)})
    assert (name, difference) == ("b", 0.5)
    with pytest.raises(ValueError, match="'c'"):
        largest_difference(ours, {"a": ours["a"], "c": ours["b"]})


def test_what_is_not_there_does_not_compete(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(layers=1, batch=1, queries=2, objects=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert transformers_loss(problem) is None
    monkeypatch.delenv("DETR_REPO", raising=False)
    assert authors_loss(problem) is None
