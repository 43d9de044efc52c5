"""What each query predicts: hand-made predictions, and a model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_deformable import stir, tiny_deformable
from tiny_models import random_input, tiny_detr

from detr_d2.visualization.queries import (
    QueryPredictions,
    class_groups,
    collect_queries,
    save_query_boxes,
    save_query_classes,
    summarise_queries,
)

NAMES = ("cat", "dog", "cow")

# Three images, two queries; images of 100 x 200, 100 x 200 and 50 x 50 (height x width).
PREDICTIONS = QueryPredictions(
    boxes_cxcywh=np.array(
        [
            [[0.2, 0.5, 0.16, 0.32], [0.5, 0.5, 0.5, 0.5]],  # 32 x 32 pixels; 100 x 50
            [[0.4, 0.7, 0.15, 0.32], [0.5, 0.5, 0.2, 0.9]],  # 30 x 32; 40 x 90
            [[0.6, 0.6, 0.9, 0.8], [0.5, 0.5, 0.5, 0.5]],  # 45 x 40; 25 x 25
        ]
    ),
    scores=np.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.1]]),
    classes=np.array([[2, 0], [1, 0], [2, 0]]),
    sizes=np.array([[100, 200], [100, 200], [50, 50]]),
)


def test_kinds_of_boxes() -> None:
    # 32 x 32 is as wide as high, and not below 1,024 square pixels.
    assert PREDICTIONS.kinds().tolist() == [[1, 1], [0, 2], [1, 0]]
    assert PREDICTIONS.kinds(100.0).tolist() == [[1, 1], [2, 2], [1, 1]]


def test_summaries() -> None:
    first, second = summarise_queries(PREDICTIONS, NAMES, score_threshold=0.5)
    assert (first["query"], second["query"]) == (0, 1)
    assert (first["fires"], second["fires"]) == (1.0, pytest.approx(1 / 3))  # a score of exactly 0.5 fires
    assert list(first["classes"].items()) == [("cow", 2), ("dog", 1)]
    assert second["classes"] == {"cat": 1}
    assert list(first["kinds"].values()) == pytest.approx([1 / 3, 2 / 3, 0])
    assert list(second["kinds"].values()) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert first["centre_mean"] == pytest.approx([0.4, 0.6])
    assert first["centre_std"] == pytest.approx([np.sqrt(0.08 / 3), np.sqrt(0.02 / 3)])
    assert second["size_mean"] == pytest.approx([0.4, 1.9 / 3])
    assert second["score_mean"] == pytest.approx(1 / 3)


def test_collected_from_a_model() -> None:
    model = tiny_detr().eval()
    stir(model, 0.3)
    inputs = [random_input(64, 96, 1), {**random_input(80, 48, 1), "height": 160, "width": 96}]
    predictions = collect_queries(model, iter(inputs))
    assert predictions.sizes.tolist() == [[64, 96], [160, 96]]
    for index, x in enumerate(inputs):
        with torch.no_grad():
            logits, boxes = model.predict(model.preprocess_image([x]), all_layers=True)[:2]
        probability = logits[-1, 0].softmax(-1)[:, :-1]
        np.testing.assert_allclose(predictions.scores[index], probability.max(-1).values, atol=1e-6)
        assert predictions.classes[index].tolist() == probability.argmax(-1).tolist()
        np.testing.assert_allclose(predictions.boxes_cxcywh[index], boxes[-1, 0], atol=1e-6)


def test_with_the_focal_loss_a_query_counts_once_with_its_best_class() -> None:
    model = tiny_deformable("refine").eval()
    stir(model, 0.3)
    x = random_input(64, 96, 1)
    predictions = collect_queries(model, [x])
    with torch.no_grad():
        logits = model.predict(model.preprocess_image([x]), all_layers=False).logits
    np.testing.assert_allclose(predictions.scores[0], logits[-1, 0].sigmoid().max(-1).values, atol=1e-6)
    assert predictions.classes[0].tolist() == logits[-1, 0].argmax(-1).tolist()


def test_picture_of_boxes(tmp_path: Path) -> None:
    boxes = PREDICTIONS.boxes_cxcywh.copy()
    boxes[:, 1, 0] = (0.2, 0.5, 0.8)  # apart
    predictions = replace(PREDICTIONS, boxes_cxcywh=boxes)
    save_query_boxes(tmp_path / "boxes.png", predictions, summarise_queries(predictions, ("$a", "b", "c")), [1])
    pixels = np.asarray(Image.open(tmp_path / "boxes.png").convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((26, 152, 80), (215, 48, 39), (69, 117, 180)):
        point = 0.7 * np.array(colour) + 0.3 * 255  # over white
        assert (abs(pixels - point).max(1) < 3).any()


def test_picture_of_classes(tmp_path: Path) -> None:
    for threshold, name in ((0.5, "some.png"), (0.99, "none.png")):
        summaries = summarise_queries(PREDICTIONS, ("$a", "b", "c"), score_threshold=threshold)
        save_query_classes(tmp_path / name, summaries, [1, 0], 3)
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        coloured = (np.ptp(pixels, axis=-1) > 100).mean()
        assert (coloured > 0.1) == (threshold < 0.9)


def test_many_classes_share_a_colour() -> None:
    counts = {f"class {i}": 20 - i for i in range(11)}
    groups = class_groups([{"classes": counts}, {"classes": {"class 10": 30, "dog": 1}}])
    assert [label for label, _ in groups] == ["class 10", *(f"class {i}" for i in range(8)), "3 others"]
    assert groups[0][1] == ["class 10"]
    assert groups[-1][1] == ["class 8", "class 9", "dog"]
    assert class_groups([{"classes": {}}]) == []
