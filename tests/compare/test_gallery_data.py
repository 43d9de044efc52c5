"""Which images are shown, and with what; F1 of an image; ground truth from other data than COCO files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coco_files import CocoFiles
from detection_cases import ground_truth
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from detr_d2.compare.data import load_ground_truth, summarise
from detr_d2.compare.found.nms import Candidates
from detr_d2.compare.gallery_data import Pick, gallery_image, pick_images, shown_detections
from detr_d2.compare.measure.everything import coco_limit, nms_thresholds
from detr_d2.compare.models import map_classes
from detr_d2.compare.records.comparison import ShippedSettings
from detr_d2.data import register_coco
from detr_d2.prediction import Categories

A, FAR = (0.0, 0.0, 40.0, 40.0), (100.0, 50.0, 140.0, 90.0)


def test_images_of_largest_disagreement_first_then_those_with_more_objects() -> None:
    truth = ground_truth([[], [(A, 0)], [(A, 0), (FAR, 0)], []])
    f1 = {"x": [0.5, 0.5, 0.5, 1.0], "y": [0.5, 0.5, 0.5, 0.1], "z": [0.5, 0.5, 0.5, 0.9]}
    assert [x.index for x in pick_images(truth, f1, worst=0)] == [3, 2, 1, 0]
    assert pick_images(truth, f1, differing=2, worst=0) == [Pick(3, 0.9, []), Pick(2, 0, [])]


def test_then_the_worst_of_each_model_of_equals_with_most_objects_first() -> None:
    truth = ground_truth([[(A, 0)], [(A, 0), (FAR, 0)], [], [(A, 0)], [(A, 0)], [(A, 0)]])
    f1 = {"x": [0.2, 0.2, 1.0, 0.9, 1.0, 0.3], "y": [1.0, 1.0, 1.0, 0.8, 1.0, 1.0]}
    picks = pick_images(truth, f1, differing=1, worst=2)
    assert [(x.index, x.worst_of) for x in picks] == [(1, ["x"]), (0, ["x"]), (3, ["y"])]
    assert [x.disagreement for x in picks] == pytest.approx([0.8, 0.8, 0.1])
    (most, *others) = pick_images(truth, {"x": f1["y"]}, differing=1)  # a single model differs from none
    assert (most.index, [x.index for x in others]) == (1, [3])


def test_shown_detections_know_which_of_them_are_shipped() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 5, 5], [0, 20, 10, 30]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.04, 0.6], np.float32)
    candidates = Candidates(boxes, scores, np.array([0, 0, 1, 0, 2]), (100, 100), (200, 100))
    shown = shown_detections(candidates, ShippedSettings(0.5, 0.0, 2, None, True), np.array([1, 0, -1]))
    assert shown.scores == pytest.approx([0.9, 0.8, 0.7])
    assert shown.classes == [1, 1, 0]
    assert shown.shipped == [True, False, True]  # the second is a duplicate, and there is room for two
    assert shown.boxes[0] == [0, 0, 10, 18]


def test_gallery_image() -> None:
    truth = ground_truth([[], [(A, 0), (FAR, 1)]], crowd=[(1, 1)])
    image = gallery_image(truth, Pick(1, 0.25, ["x"]), {}, half=1)
    assert (image.disagreement, image.worst_of, image.half) == (0.25, ["x"], 1)
    assert (image.image_id, image.file_name, image.width, image.height) == (11, "1.png", 200, 100)
    assert image.objects.boxes == [list(A), list(FAR)]
    assert image.objects.classes == [0, 1]
    assert image.objects.crowd == [False, True]


def test_ground_truth_of_a_coco_file(tiny_coco: CocoFiles) -> None:
    tiny_coco.content["annotations"][0]["area"] = 77.5
    truth = load_ground_truth(_rewrite(tiny_coco))
    assert truth.class_names == ("red", "green", "blue")
    assert truth.image_ids == (1, 2, 3)
    assert truth.sizes.tolist() == [[48, 64], [64, 48], [40, 40]]
    assert truth.offsets.tolist() == [0, 2, 4, 4]
    assert truth.boxes_xywh.tolist() == [[4, 6, 20, 16], [30, 20, 24, 22], [10, 12, 18, 30], [30, 40, 16, 20]]
    assert truth.classes.tolist() == [0, 1, 2, 0]
    assert truth.crowd.tolist() == [False, False, False, True]
    assert truth.areas[0] == 77.5  # of the segment, not of the box
    assert truth.objects_per_image().tolist() == [2, 1, 0]
    first = truth.first(1)
    assert (len(first), len(first.classes)) == (1, 2)
    summary = summarise(first, limited=True, fingerprint="f")
    assert (summary.num_objects, summary.num_crowd, summary.max_objects) == (2, 0, 2)
    assert summary.objects_per_class == [1, 1, 0]
    assert summary.overlapped_share == 0
    assert summary.annotations == str(tiny_coco.annotations)


def _rewrite(files: CocoFiles) -> str:
    import json

    files.annotations.write_text(json.dumps(files.content))
    return register_coco(files.spec("gallery"))


def test_ground_truth_of_other_data(tmp_path: Path) -> None:
    records = [
        {
            "file_name": str(tmp_path / "a.png"),
            "image_id": 5,
            "height": 10,
            "width": 20,
            "annotations": [{"bbox": [1, 2, 4, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}],
        }
    ]
    DatasetCatalog.register("other_data", lambda: records)
    with pytest.raises(ValueError, match="other_data has no class names"):
        load_ground_truth("other_data")
    MetadataCatalog.get("other_data").set(thing_classes=["x", "y"])
    truth = load_ground_truth("other_data")
    assert truth.boxes_xywh.tolist() == [[1, 2, 3, 6]]
    assert truth.areas.tolist() == [18]
    del records[0]["annotations"]
    with pytest.raises(ValueError, match=r"other_data has no annotations for .*a\.png"):
        load_ground_truth("other_data")
    records.clear()
    with pytest.raises(ValueError, match="other_data holds no images"):
        load_ground_truth("other_data")


def test_classes_are_found_by_name() -> None:
    found, notes = map_classes(Categories.numbered(["b", "z", "a"]), ["a", "b", "c"], "M")
    assert found.tolist() == [1, -1, 0]
    assert len(notes) == 2
    assert map_classes(Categories.numbered(["class 0", "class 1"]), ["a", "b"], "M")[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="M has 1 classes without names, but the data have 2"):
        map_classes(Categories.numbered(["class 0"]), ["a", "b"], "M")


def test_sweep_and_limit_follow_the_model() -> None:
    usual = ShippedSettings(0.5, 0.05, 100, None, True)
    assert nms_thresholds(usual) == [None, *(pytest.approx(x / 100) for x in range(30, 100, 5))]
    assert nms_thresholds(ShippedSettings(0.62, 0.05, 100, None, True)).count(0.62) == 1
    assert nms_thresholds(ShippedSettings(None, 0.05, 100, None, False)) == nms_thresholds(usual)  # on top of its own
    assert coco_limit(usual) == 100
    assert coco_limit(ShippedSettings(None, 0.0, 300, 300, True)) == 300
    assert coco_limit(ShippedSettings(None, 0.0, 100, 300, True)) == 100
    assert coco_limit(ShippedSettings(0.5, 0.0, 300, None, True)) == 100
