"""Detections as files for other programs."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_cases import ground_truth
from detectron2.data import MetadataCatalog

from detr_d2.compare.found.detections_file import DetectionFiles
from detr_d2.compare.found.nms import Candidates
from detr_d2.compare.masks import Segmentation
from detr_d2.compare.records.comparison import ShippedSettings
from detr_d2.evaluation.arrays import GroundTruth

SHIPPED = ShippedSettings(0.5, 0.05, 2, num_queries=None, nms_switched_off=True)


@pytest.fixture
def truth(request: pytest.FixtureRequest) -> GroundTruth:
    """Two images of classes that have texts as ids."""
    name = f"written in {request.node.name}"
    MetadataCatalog.get(name).set(thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id={"k7": 1, "k3": 0})
    truth = ground_truth([[((0, 0, 10, 10), 0)], []])
    return replace(truth, name=name, image_ids=(2**70, uuid.UUID(int=5)), class_names=("a", "b"))


def test_rows_by_hand(truth: GroundTruth, tmp_path: Path) -> None:
    first = Candidates(
        boxes_xyxy=np.array([[1, 1, 2, 3], [0, 0, 5, 5], [8, 8, 20, 9]], np.float32),
        scores=np.array([0.25, 0.75, 0.125], np.float32),
        classes=np.array([1, 0, 1]),
        network_size=(10, 10),
        image_size=(10, 20),
    )
    second = Candidates(np.array([[1, 2, 4, 8]], np.float32), np.array([0.5], np.float32), np.array([1]), None, (9, 9))
    settings = replace(SHIPPED, max_detections=100)
    (path,) = DetectionFiles(tmp_path, truth).write("A", settings, [first, second], np.arange(2))
    assert json.loads(path.read_text()) == [
        {"image_id": 2**70, "category_id": "k3", "bbox": [0, 0, 10, 5], "score": 0.75},
        {"image_id": 2**70, "category_id": "k7", "bbox": [2, 1, 2, 2], "score": 0.25},
        {"image_id": 2**70, "category_id": "k7", "bbox": [16, 8, 4, 1], "score": 0.125},
        {"image_id": str(uuid.UUID(int=5)), "category_id": "k7", "bbox": [1, 2, 3, 6], "score": 0.5},
    ]


def test_rows_with_masks(truth: GroundTruth, tmp_path: Path) -> None:
    images = [
        Segmentation([1, 1], [], [], [], error="no memory"),
        Segmentation([9, 9], [0.75, 0.5], [0, 1], ["x", "y"], boxes=[[1, 2, 4, 8], [0, 0, 1, 1]]),
    ]
    (path,) = DetectionFiles(tmp_path, truth).write("A", SHIPPED, candidates(), np.array([1, -1]), images)
    rle = {"size": [9, 9], "counts": "x"}
    row = {"category_id": "k7", "bbox": [1, 2, 3, 6], "score": 0.75, "segmentation": rle}
    assert json.loads(path.read_text()) == [{"image_id": str(uuid.UUID(int=5)), **row}]


def test_a_model_that_finds_nothing(truth: GroundTruth, tmp_path: Path) -> None:
    (path,) = DetectionFiles(tmp_path, truth).write("A", SHIPPED, candidates(), np.array([-1, -1]))
    assert json.loads(path.read_text()) == []


def candidates() -> list[Candidates]:
    """Two boxes with an IoU of 0.6, one far away, two of low scores; another image without anything."""
    boxes = np.array([[0, 0, 10, 10], [0, 2.5, 10, 12.5], [50, 50, 60, 60], [0, 50, 9, 60], [20, 20, 30, 30]])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.0005])
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (9, 9), (9, 9))
    classes = np.array([0, 0, 0, 1, 0])
    return [Candidates(boxes.astype(np.float32), scores.astype(np.float32), classes, (90, 90), (90, 90)), nothing]


def scores(path: Path) -> list[float]:
    return [x["score"] for x in json.loads(path.read_text())]


@pytest.mark.parametrize(("raw", "expected"), [(None, None), (300, [0.9, 0.8, 0.7]), (2, [0.9, 0.8])])
def test_files_of_a_model(raw: int | None, expected: Any, truth: GroundTruth, tmp_path: Path) -> None:
    files = DetectionFiles(tmp_path, truth, raw=raw)
    paths = files.write("R-CNN", SHIPPED, candidates(), np.array([1, -1]))  # without its second class
    assert paths[0] == tmp_path / "detections" / "R-CNN.json"
    assert scores(paths[0]) == pytest.approx([0.9, 0.7])
    assert json.loads(paths[0].read_text())[0]["category_id"] == "k7"
    assert paths[1:] == ([] if raw is None else [tmp_path / "detections" / "R-CNN-raw.json"])
    if raw is not None:
        assert scores(paths[1]) == pytest.approx(expected)
    assert sorted((tmp_path / "detections").iterdir()) == sorted(paths)


def test_without_an_nms_that_can_be_switched_off_nothing_is_raw(truth: GroundTruth, tmp_path: Path) -> None:
    files = DetectionFiles(tmp_path, truth, raw=300)
    assert len(files.write("other", replace(SHIPPED, nms_switched_off=False), candidates(), np.array([0, 1]))) == 1


def test_names_of_files(truth: GroundTruth, tmp_path: Path) -> None:
    files = DetectionFiles(tmp_path, truth)
    labels = ["DETR", "detr", "../DETR", 'a/b\\c:"d"', "..", "DETR 50 %, dc5"]
    names = [files.write(x, SHIPPED, candidates(), np.array([0, 1]))[0] for x in labels]
    assert {x.parent for x in names} == {tmp_path / "detections"}
    expected = ["DETR", "detr-2", "_DETR", "a_b_c__d_", "_", "DETR 50 %, dc5"]
    assert [x.name for x in names] == [f"{x}.json" for x in expected]
