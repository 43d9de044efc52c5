"""Panoptic quality against numbers counted by hand, a slow count, torchmetrics, and on ground truth as predictions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from panoptic_files import PanopticFiles, make_tiny_panoptic

from detr_d2.config import get_cfg
from detr_d2.data import register_coco_panoptic
from detr_d2.data.dataset_mapper import DetrDatasetMapper
from detr_d2.data.panoptic.targets import panoptic_annotations
from detr_d2.engine.evaluators import build_evaluator
from detr_d2.evaluation.panoptic import PanopticQualityEvaluator
from detr_d2.evaluation.panoptic_quality import PanopticCounts, Segments
from detr_d2.modeling.segmentation.panoptic import PanopticPostprocessor
from detr_d2.panoptic_classes import PanopticClasses


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PanopticFiles:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    files = make_tiny_panoptic(tmp_path / "tiny")
    register_coco_panoptic(files.spec("tiny_panoptic"))
    return files


def row_map(*runs: tuple[int, int]) -> np.ndarray:
    """One row of pixels: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def counts_of(predicted: Segments, truth: Segments, num_classes: int = 2) -> PanopticCounts:
    counts = PanopticCounts(num_classes)
    counts.add(predicted, truth)
    return counts


def as_lists(counts: PanopticCounts) -> list[list[float]]:
    return [x.tolist() for x in (counts.tp, counts.fp, counts.fn)]


def test_matches_above_one_half_only() -> None:
    truth = Segments(row_map((1, 10), (2, 10)), {1: 0, 2: 1})
    predicted = Segments(row_map((7, 8), (9, 12)), {7: 0, 9: 1})
    counts = counts_of(predicted, truth)
    assert as_lists(counts) == [[1, 1], [0, 0], [0, 0]]
    assert counts.iou.tolist() == pytest.approx([8 / 10, 10 / 12])
    quality = counts.quality()
    assert quality == pytest.approx({"PQ": 100 * (0.8 + 10 / 12) / 2, "SQ": 100 * (0.8 + 10 / 12) / 2, "RQ": 100})
    half = counts_of(Segments(row_map((7, 10), (0, 10)), {7: 0}), Segments(row_map((1, 5), (2, 15)), {1: 0, 2: 1}))
    assert as_lists(half) == [[0, 0], [1, 0], [1, 1]]  # an IoU of exactly 5 / 10 does not match


def test_a_segment_of_another_class_is_wrong_twice() -> None:
    counts = counts_of(Segments(row_map((5, 20)), {5: 1}), Segments(row_map((1, 20)), {1: 0}))
    assert as_lists(counts) == [[0, 0], [0, 1], [1, 0]]
    assert counts.quality() == {"PQ": 0, "SQ": 0, "RQ": 0}
    assert counts.num_classes() == 2


def test_pq_is_sq_times_rq_of_a_class() -> None:
    truth = Segments(row_map((1, 10), (2, 10), (3, 10)), {1: 0, 2: 0, 3: 0})
    predicted = Segments(row_map((1, 9), (0, 1), (2, 6), (0, 4), (3, 4), (4, 6)), {1: 0, 2: 0, 3: 0, 4: 1})
    quality = counts_of(predicted, truth).quality(slice(0, 1))
    sq, rq = (0.9 + 0.6) / 2, 2 / (2 + 0.5 * 1 + 0.5 * 1)
    assert quality == pytest.approx({"PQ": 100 * sq * rq, "SQ": 100 * sq, "RQ": 100 * rq})


def test_void_pixels_of_the_ground_truth_do_not_count() -> None:
    """6 pixels on the object, 9 on void: IoU 6 / 10; and a segment of which more than half is void is no mistake."""
    truth = Segments(row_map((1, 10), (0, 30)), {1: 0})
    predicted = Segments(row_map((0, 4), (8, 15), (9, 21)), {8: 0, 9: 1})
    counts = counts_of(predicted, truth)
    assert as_lists(counts) == [[1, 0], [0, 0], [0, 0]]
    assert counts.iou[0] == pytest.approx(0.6)
    half = counts_of(Segments(row_map((5, 8)), {5: 1}), Segments(row_map((1, 4), (0, 4)), {1: 0}))
    assert as_lists(half) == [[0, 0], [0, 1], [1, 0]]  # exactly half is not more than half


def test_crowds_are_neither_found_nor_missed() -> None:
    truth = Segments(row_map((1, 20), (2, 20)), {1: 0, 2: 1}, frozenset({1}))
    same_class = counts_of(Segments(row_map((5, 20), (6, 20)), {5: 0, 6: 1}), truth)
    assert as_lists(same_class) == [[0, 1], [0, 0], [0, 0]]
    other_class = counts_of(Segments(row_map((5, 20), (6, 20)), {5: 1, 6: 1}), truth)
    assert as_lists(other_class) == [[0, 1], [0, 1], [0, 0]]
    little = counts_of(
        Segments(row_map((0, 12), (5, 18)), {5: 0}), Segments(row_map((1, 20), (2, 10)), {1: 0, 2: 1}, frozenset({1}))
    )
    assert as_lists(little) == [[0, 0], [1, 0], [0, 1]]  # 8 of its 18 pixels are crowd


def test_classes_that_do_not_occur_are_left_out() -> None:
    counts = counts_of(Segments(row_map((1, 4)), {1: 0}), Segments(row_map((1, 4)), {1: 0}), num_classes=5)
    assert counts.quality() == {"PQ": 100, "SQ": 100, "RQ": 100}
    assert counts.num_classes() == 1
    assert np.isnan(counts.quality(slice(1, 5))["PQ"])


def test_maps_must_be_of_one_size() -> None:
    with pytest.raises(ValueError, match=r"the predicted map is \(1, 4\), the ground truth \(1, 5\)"):
        counts_of(Segments(row_map((1, 4)), {1: 0}), Segments(row_map((1, 5)), {1: 0}))


@pytest.mark.parametrize("seed", range(3))
def test_as_torchmetrics_without_crowds_and_predicted_void(seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.detection")
    rng = np.random.default_rng(seed)
    counts, pictures = PanopticCounts(5), []
    for _ in range(6):
        truth = np.kron(rng.integers(0, 6, (6, 6)), np.ones((4, 4), dtype=int))  # 0: void
        changed = (rng.random(truth.shape) < 0.25) | (truth == 0)
        predicted = np.where(changed, rng.integers(1, 6, truth.shape), truth)
        counts.add(*(Segments(ids, {i: i - 1 for i in np.unique(ids).tolist() if i}) for ids in (predicted, truth)))
        pictures.append([np.stack([np.where(x > 0, x - 1, 99), x], axis=-1) for x in (predicted, truth)])
    theirs = functional.panoptic_quality(
        *(torch.tensor(np.stack(x)) for x in zip(*pictures, strict=True)),
        things={0, 1},
        stuffs={2, 3, 4},
        allow_unknown_preds_category=True,  # 99, void
        return_per_class=True,
    )
    assert counts.tp.sum() > 5
    per_class = [counts.quality(slice(row, row + 1))["PQ"] / 100 for row in range(5)]
    assert per_class == pytest.approx(theirs.flatten()[:5].tolist(), abs=1e-5)


def counted_pixel_by_pixel(predicted: Segments, truth: Segments, num_classes: int) -> np.ndarray:
    """IoU, TP, FP and FN (4, K) of one image as the paper (Sec. 4) and COCO's rules say it, with sets of pixels."""
    flat = {id(x): x.ids.reshape(-1).tolist() for x in (predicted, truth)}

    def pixels(of: Segments, segment: int) -> set[int]:
        return {place for place, value in enumerate(flat[id(of)]) if value == segment}

    void = {place for place, value in enumerate(flat[id(truth)]) if value not in truth.classes}
    counts = np.zeros((4, num_classes))
    missed = {x for x in truth.classes if x not in truth.crowds}
    for segment, row in predicted.classes.items():
        own, right = pixels(predicted, segment), False
        for other in sorted(missed):
            theirs = pixels(truth, other)
            iou = len(own & theirs) / len((own | theirs) - void)
            if truth.classes[other] == row and iou > 0.5:
                counts[:2, row] += iou, 1
                missed.remove(other)
                right = True
        excused = void.union(*(pixels(truth, x) for x in truth.crowds if truth.classes[x] == row))
        if not right and len(own & excused) <= len(own) / 2:
            counts[2, row] += 1
    for segment in missed:
        counts[3, truth.classes[segment]] += 1
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_as_counted_pixel_by_pixel_with_crowds_and_void(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, expected = PanopticCounts(3), np.zeros((4, 3))
    for _ in range(12):
        true_ids = np.kron(rng.integers(0, 7, (4, 4)), np.ones((5, 5), dtype=int))  # 0, and 6 without a class: void
        moved = np.roll(true_ids, rng.integers(0, 2, 2), (0, 1))
        predicted_ids = np.where(rng.random(true_ids.shape) < 0.1, rng.integers(0, 7, true_ids.shape), moved)
        classes = {i: int(rng.integers(3)) for i in np.unique(true_ids).tolist() if 0 < i < 6}
        crowds = frozenset(i for i in classes if rng.random() < 0.3)
        found = np.unique(predicted_ids[predicted_ids > 0]).tolist()
        own = {i: classes[i] if i in classes and rng.random() < 0.8 else int(rng.integers(3)) for i in found}
        truth, predicted = Segments(true_ids, classes, crowds), Segments(predicted_ids, own)
        counts.add(predicted, truth)
        expected += counted_pixel_by_pixel(predicted, truth, 3)
    assert [counts.iou, counts.tp, counts.fp, counts.fn] == [pytest.approx(x) for x in expected]
    assert expected[1:].sum(1).min() > 2


def perfect_outputs(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ground truth through our mapper and our post-processing, as if predicted in one padded batch."""
    metadata = MetadataCatalog.get(name)
    classes = PanopticClasses.from_metadata(metadata)
    assert classes is not None
    mapper = DetrDatasetMapper(
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        panoptic=classes,
    )
    processor = PanopticPostprocessor(classes=classes)
    inputs, outputs = DatasetCatalog.get(name), []
    largest = [max(record[key] for record in inputs) for key in ("height", "width")]
    for record in inputs:
        truth = mapper(record)["instances"]
        size = record["height"], record["width"]
        crowds = [x for x in panoptic_annotations(record, size, classes) if x["iscrowd"]]  # any dog will do there
        rows = [*truth.gt_classes.tolist(), *(x["category_id"] for x in crowds), len(classes)]
        seen = [*truth.gt_masks.tensor, *(torch.from_numpy(x["segmentation"]) for x in crowds)]
        logits = 20 * torch.eye(len(classes) + 1)[rows]
        masks = torch.full((len(rows), *largest), 30.0)  # padding is never to be seen
        for mask, bitmap in zip(masks, [*seen, torch.ones(size, dtype=torch.bool)], strict=True):
            mask[: size[0], : size[1]] = torch.where(bitmap, 5.0, -5.0)
        found = processor(logits, masks, output_size=size, upsample=lambda x, s=size: x[:, : s[0], : s[1]])
        things = truth[truth.gt_classes < classes.num_things]
        found["instances"] = Instances(
            size,
            pred_boxes=Boxes(things.gt_boxes.tensor),
            pred_classes=things.gt_classes,
            pred_masks=things.gt_masks.tensor,
            scores=torch.ones(len(things)),
        )
        outputs.append(found)
    return inputs, outputs


@pytest.mark.usefixtures("files")
def test_ground_truth_as_predictions() -> None:
    """Void pixels become part of the segments, which costs nothing; the image without segments predicts none."""
    inputs, outputs = perfect_outputs("tiny_panoptic")
    evaluator = DatasetEvaluators(
        [COCOEvaluator("tiny_panoptic", tasks=("bbox", "segm")), PanopticQualityEvaluator("tiny_panoptic")]
    )
    evaluator.reset()
    evaluator.process(inputs[:2], outputs[:2])
    evaluator.process(inputs[2:], outputs[2:])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    names = [f"{name}{suffix}" for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")]
    assert results["panoptic_seg"] == pytest.approx(dict.fromkeys(names, 100))


@pytest.mark.usefixtures("files")
def test_a_missed_and_a_wrong_segment() -> None:
    """One of two cups missed, sky taken for sand: cup 1 / (1 + 1/2), dog 1, sky 0, and sand 1, as more than half of the
    wrong segment (820 pixels) is void (420)."""
    inputs, outputs = perfect_outputs("tiny_panoptic")
    segments, info = outputs[0]["panoptic_seg"]
    segments[segments == info[2]["id"]] = 0
    info[0]["category_id"] = 2
    del info[2]
    evaluator = PanopticQualityEvaluator("tiny_panoptic")
    before = copy.deepcopy(info)
    evaluator.process(inputs, outputs)
    assert info == before
    found = evaluator.evaluate()
    assert found is not None
    assert found["panoptic_seg"]["PQ_th"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["panoptic_seg"]["PQ_st"] == pytest.approx(100 * (0 + 1) / 2)
    assert found["panoptic_seg"]["PQ"] == pytest.approx(100 * (2 / 3 + 1 + 0 + 1) / 4)


@pytest.mark.usefixtures("files")
def test_processes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, outputs = perfect_outputs("tiny_panoptic")
    outputs[0]["panoptic_seg"][1][0]["category_id"] = 2
    parts = [PanopticQualityEvaluator("tiny_panoptic") for _ in range(3)]
    parts[0].process(inputs, outputs)
    parts[1].process(inputs[:1], outputs[:1])
    parts[2].process(inputs[1:], outputs[1:])
    alone = parts[0].evaluate()
    other: list[Any] = []

    def remember(own: Any) -> list[Any]:
        other.append(own)
        return [own]

    monkeypatch.setattr(comm, "gather", remember)
    parts[2].evaluate()
    monkeypatch.setattr(comm, "gather", lambda own: [own, *other])
    assert parts[1].evaluate() == alone
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() is None


@pytest.mark.usefixtures("files")
def test_predictions_that_do_not_fit() -> None:
    inputs, outputs = perfect_outputs("tiny_panoptic")
    evaluator = PanopticQualityEvaluator("tiny_panoptic")
    with pytest.raises(ValueError, match="image 5 is not in the panoptic file of dataset tiny_panoptic"):
        evaluator.process([{"image_id": 5}], outputs[:1])
    outputs[0]["panoptic_seg"][1][0]["category_id"] = 3
    with pytest.raises(ValueError, match="stuff has category_id 3, expected 1 to 2"):
        evaluator.process(inputs[:1], outputs[:1])
    with pytest.raises(ValueError, match="coco_2017_val has no panoptic ground truth"):
        PanopticQualityEvaluator("coco_2017_val")


@pytest.mark.parametrize(
    ("architecture", "panoptic", "expected"),
    [
        ("DETR", True, ["RecordsEvaluator", "PanopticQualityEvaluator"]),
        ("DETR", False, ["RecordsEvaluator"]),
        ("GeneralizedRCNN", False, ["RecordsEvaluator"]),
        ("PanopticFPN", False, ["RecordsEvaluator", "PanopticQualityEvaluator"]),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_is_measured(tmp_path: Path, architecture: str, panoptic: bool, expected: list[str]) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.META_ARCHITECTURE = str(tmp_path), architecture
    cfg.MODEL.DETR.PANOPTIC.ENABLED = cfg.MODEL.MASK_ON = panoptic
    evaluator = build_evaluator(cfg, "tiny_panoptic")
    found = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    assert [type(x).__name__ for x in found] == expected


def test_panoptic_data_and_nothing_to_measure(files: PanopticFiles) -> None:
    register_coco_panoptic(files.spec("bare_panoptic", with_instances=False))
    try:
        with pytest.raises(ValueError, match=r"'bare_panoptic' has panoptic ground truth only, .* add the instances"):
            build_evaluator(get_cfg(), "bare_panoptic")
    finally:
        DatasetCatalog.remove("bare_panoptic")
        MetadataCatalog.remove("bare_panoptic")
