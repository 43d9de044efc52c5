from __future__ import annotations

from typing import Any

import pytest
import torch
from deformable_cases import naive_attention

from detr_d2.benchmark.deformable_attention import (
    AttentionProblem,
    attention_differences,
    package_attention,
    random_attention_problem,
    textbook_attention,
)

SMALL: dict[str, Any] = {"batch": 2, "height": 40, "width": 23, "heads": 2, "channels": 3, "levels": 3, "points": 2}


def test_sizes() -> None:
    problem = random_attention_problem(**SMALL)
    assert list(problem.spatial_shapes) == [(5, 3), (3, 2), (2, 1)]
    assert problem.value.shape == (2, 23, 2, 3)
    assert problem.sampling_locations.shape == (2, 23, 2, 3, 2, 2)  # one query for each token
    assert random_attention_problem(**SMALL, queries=7).attention_weights.shape == (2, 7, 2, 3, 2)
    torch.testing.assert_close(problem.attention_weights.sum((-1, -2)), torch.ones(2, 23, 2))
    same, other = random_attention_problem(**SMALL), random_attention_problem(**SMALL, seed=1)
    assert torch.equal(problem.value, same.value)
    assert not torch.equal(problem.value, other.value)


@pytest.mark.parametrize("queries", [0, 6])
def test_points_surround_their_queries_and_avoid_edges(queries: int) -> None:
    problem = random_attention_problem(**{**SMALL, "height": 320, "width": 640}, queries=queries)
    sizes = torch.tensor([(w, h) for h, w in problem.spatial_shapes])[:, None]
    position = problem.sampling_locations.detach() * sizes - 0.5
    fraction = position - position.floor()
    assert 0.04 < float(fraction.min()) < float(fraction.max()) < 0.96
    if queries == 0:
        first, last = position[:, 0, :, 0], position[:, 3199, :, 0]  # opposite corners of the first level, 40 x 80
        torch.testing.assert_close(first.mean((0, 1, 2)), torch.zeros(2), rtol=0, atol=5)
        torch.testing.assert_close(last.mean((0, 1, 2)), torch.tensor([79.0, 39.0]), rtol=0, atol=5)


def test_both_equal_the_definition() -> None:
    problem = random_attention_problem(**SMALL, queries=4)
    expected = naive_attention(
        problem.value, problem.spatial_shapes, problem.sampling_locations, problem.attention_weights
    )
    torch.testing.assert_close(textbook_attention(problem), expected)
    torch.testing.assert_close(package_attention(problem), expected)
    assert max(attention_differences(problem, package_attention, textbook_attention).values()) < 1e-5


def test_differences() -> None:
    problem = random_attention_problem(**SMALL, queries=4)

    def doubled(problem: AttentionProblem) -> torch.Tensor:
        return 2 * textbook_attention(problem)

    differences = attention_differences(problem, doubled, textbook_attention)
    assert set(differences) == {"output", "value", "locations", "weights"}
    output = textbook_attention(problem).abs().max().item()
    assert differences["output"] == pytest.approx(output / max(1, output))
    assert min(differences.values()) > 0.01


@pytest.mark.parametrize("size", [*SMALL, "queries"])
def test_sizes_are_checked(size: str) -> None:
    with pytest.raises(ValueError, match=f"{size} is -1"):
        random_attention_problem(**{**SMALL, size: -1})
