"""The rules of the panoptic map, on masks small enough to follow by eye."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from detr_d2.modeling.segmentation.panoptic import PanopticPostprocessor
from detr_d2.panoptic_classes import PanopticClasses

CLASSES = PanopticClasses(num_things=2, num_stuff=2, layout="separated")
THING, OTHER_THING, STUFF, OTHER_STUFF, NOTHING = range(5)


def logits_of(*rows: int, margin: float = 8.0) -> Tensor:
    """One query per row, sure of it: softmax 0.9987 of 5 classes with the default margin."""
    logits = torch.zeros(len(rows), 5)
    logits[torch.arange(len(rows)), list(rows)] = margin
    return logits


def stripes(*columns: slice, width: int = 12, height: int = 3) -> Tensor:
    """Mask logits: each query is sure of some columns; earlier queries are a little surer everywhere else."""
    masks = torch.zeros(len(columns), height, width)
    for query, part in enumerate(columns):
        masks[query] = -5 - query
        masks[query, :, part] = 5 - query
    return masks


def run(logits: Tensor, masks: Tensor, *, output_size: tuple[int, int] | None = None, **options: Any) -> Any:
    processor = PanopticPostprocessor(classes=CLASSES, **options)
    return processor(logits, masks, output_size=output_size or tuple(masks.shape[-2:]))


def test_every_pixel_goes_to_the_surest_mask() -> None:
    masks = stripes(slice(0, 5), slice(5, 9), slice(9, 12))
    segments, info = run(logits_of(THING, STUFF, THING), masks)["panoptic_seg"]
    assert segments.dtype == torch.int32
    assert segments[0].tolist() == [1] * 5 + [2] * 4 + [3] * 3
    assert [(s["id"], s["isthing"], s["category_id"], s["area"]) for s in info] == [
        (1, True, 0, 15),
        (2, False, 1, 12),
        (3, True, 0, 9),
    ]
    assert info[0]["isthing"] is True  # detectron2's evaluator asks `is True`
    assert info[0]["score"] == pytest.approx(0.99866, abs=1e-4)


def test_only_sure_queries_that_are_something_count() -> None:
    logits = torch.cat([logits_of(THING), logits_of(NOTHING), logits_of(OTHER_THING, margin=1.0)])
    masks = stripes(slice(0, 2), slice(2, 8), slice(8, 12))
    segments, info = run(logits, masks)["panoptic_seg"]
    assert segments.unique().tolist() == [1]
    assert len(info) == 1
    _, info = run(logits, masks, score_threshold=0.3)["panoptic_seg"]
    assert [s["category_id"] for s in info] == [0, 1]


def test_without_queries_everything_is_void() -> None:
    outputs = run(logits_of(NOTHING, NOTHING), stripes(slice(0, 5), slice(5, 12)), output_size=(4, 6))
    segments, info = outputs["panoptic_seg"]
    assert segments.shape == (4, 6)
    assert not segments.any()
    assert info == []


def test_stuff_of_one_class_is_merged_and_things_are_not() -> None:
    """Once anything is dropped, and a merged query always is, the authors do not merge again: the first query keeps its
    pixels, those of the merged one go to whoever is next."""
    masks = stripes(slice(0, 4), slice(4, 8), slice(8, 12))
    segments, info = run(logits_of(STUFF, THING, STUFF), masks)["panoptic_seg"]
    assert segments[0].tolist() == [1] * 4 + [2] * 4 + [1] * 4
    assert [(s["category_id"], s["area"]) for s in info] == [(1, 24), (0, 12)]
    masks[1, :, 8:] = 2  # the thing is next there
    masks[2, :, 8:] = 4
    segments, _ = run(logits_of(STUFF, THING, STUFF), masks)["panoptic_seg"]
    assert segments[0].tolist() == [1] * 4 + [2] * 8


def test_tiny_segments_go_to_the_next_best_until_none_is_left() -> None:
    masks = stripes(slice(0, 6), slice(6, 7), slice(7, 12))
    masks[2, :, 6] = 0  # next best of the column that the tiny one has
    segments, info = run(logits_of(THING, OTHER_THING, STUFF), masks)["panoptic_seg"]
    assert segments[0].tolist() == [1] * 6 + [2] * 6
    assert [s["category_id"] for s in info] == [0, 1]
    segments, info = run(logits_of(THING, OTHER_THING, STUFF), masks, min_area=2)["panoptic_seg"]
    assert [s["area"] for s in info] == [18, 3, 15]


def test_areas_are_those_of_the_output() -> None:
    masks = stripes(slice(0, 6), slice(6, 12))
    segments, info = run(logits_of(THING, STUFF), masks, output_size=(6, 24))["panoptic_seg"]
    assert segments.shape == (6, 24)
    assert [s["area"] for s in info] == [72, 72]
    _, info = run(logits_of(THING, STUFF), masks, output_size=(1, 4))["panoptic_seg"]
    assert info == []  # two pixels each


def naive(
    rows: list[int], masks: Tensor, min_area: int, output_size: tuple[int, int]
) -> list[tuple[int, list[tuple[int, int]]]]:
    """(row, pixels) of every segment, pixel by pixel."""
    height, width = masks.shape[-2:]

    def owners(alive: list[int], merge: bool) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {query: [] for query in alive}
        for y in range(output_size[0]):
            for x in range(output_size[1]):
                v, u = int((y + 0.5) * height / output_size[0]), int((x + 0.5) * width / output_size[1])
                best = max(alive, key=lambda query: masks[query, v, u].item())
                if merge and rows[best] >= CLASSES.num_things:
                    best = next(query for query in alive if rows[query] == rows[best])
                found[best].append((y, x))
        return found

    alive, merge = list(range(len(rows))), True
    while alive:
        found = owners(alive, merge)
        if all(len(pixels) > min_area for pixels in found.values()):
            return [(rows[query], found[query]) for query in alive]
        alive, merge = [query for query in alive if len(found[query]) > min_area], False
    return []


@pytest.mark.parametrize("seed", range(8))
def test_as_a_pixel_by_pixel_implementation(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 4, (9,), generator=generator).tolist()
    masks = torch.randn(9, 7, 9, generator=generator) + torch.linspace(0, 1.5, 9)[:, None, None]
    output_size = [(7, 9), (5, 4), (14, 11), (3, 3)][seed % 4]
    segments, info = run(logits_of(*rows), masks, output_size=output_size)["panoptic_seg"]
    expected = naive(rows, masks, 4, output_size)
    assert [(s["isthing"], s["category_id"]) for s in info] == [
        (CLASSES.is_thing(row), CLASSES.category_id(row)) for row, _ in expected
    ]
    for segment, (_, pixels) in zip(info, expected, strict=True):
        assert sorted(map(tuple, (segments == segment["id"]).nonzero().tolist())) == sorted(pixels)


def test_upsampling_of_some_at_a_time_changes_nothing() -> None:
    torch.manual_seed(0)
    logits, masks = 3 * torch.randn(40, 5), torch.randn(40, 4, 6)

    def upsample(part: Tensor) -> Tensor:
        assert len(part) < 40  # never all at once
        return interpolate(part[:, None], size=(12, 18), mode="bilinear")[:, 0]

    processor = PanopticPostprocessor(classes=CLASSES, score_threshold=0.6)
    some = processor(logits, masks, output_size=(10, 20), upsample=upsample)
    full = interpolate(masks[:, None], size=(12, 18), mode="bilinear")[:, 0]
    at_once = processor(logits, full, output_size=(10, 20))
    assert torch.equal(some["panoptic_seg"][0], at_once["panoptic_seg"][0])
    assert some["panoptic_seg"][1] == at_once["panoptic_seg"][1]
    assert torch.allclose(some["sem_seg"], at_once["sem_seg"], atol=1e-5)


@pytest.mark.parametrize(("layout", "channels"), [("separated", 3), ("standard", 4)])
def test_semantic_scores(layout: str, channels: int) -> None:
    classes = PanopticClasses(num_things=2, num_stuff=2, layout=layout)
    logits = torch.tensor([[1.0, 0, 2, 0, 0], [0, 3, 0, 1, 0]])
    masks = torch.tensor([[[2.0, -1]], [[0.5, 3]]])
    found = PanopticPostprocessor(classes=classes)(logits, masks, output_size=(1, 2))["sem_seg"]
    weights = logits.softmax(-1)[:, :4]
    if layout == "separated":
        weights = torch.stack([weights[:, 0] + weights[:, 1], weights[:, 2], weights[:, 3]], dim=1)
    assert found.shape == (channels, 1, 2)
    expected = sum(w[:, None, None] * m.sigmoid() for w, m in zip(weights, masks, strict=True))
    assert torch.allclose(found, expected, atol=1e-6)


def test_semantic_scores_are_exact_under_autocast() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(20, 5), torch.randn(20, 4, 6)
    processor = PanopticPostprocessor(classes=CLASSES)
    exact = processor(logits, masks, output_size=(4, 6))["sem_seg"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = processor(logits, masks, output_size=(4, 6))["sem_seg"]
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)


def test_queries_that_see_nothing_are_not_kept() -> None:
    logits = torch.tensor([[9.0, 0, 0, 0, 0], [0, 0, 0, 0, 9.0], [0.1, 0, 0, 0, 0], [0, 0, 0, 9.0, 0]])
    assert PanopticPostprocessor(classes=CLASSES).is_kept(logits).tolist() == [True, False, False, True]
