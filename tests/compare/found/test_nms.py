"""NMS after the fact gives what the detectors return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from tiny_baselines import build_lively, tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_models import tiny_cfg

from detr_d2.checkpoint import Checkpointer
from detr_d2.compare.found.boxes import candidates_of, raw_outputs
from detr_d2.compare.found.cache import config_hash
from detr_d2.compare.found.nms import (
    Candidates,
    OfflineNms,
    family_of,
    nms_order,
    scale_to_image,
    shipped_settings,
    without_nms,
)
from detr_d2.compare.records.comparison import ShippedSettings
from detr_d2.evaluation.arrays import Detections
from detr_d2.prediction.trained_model import load_trained_model

CONFIGS = {"R-CNN": tiny_faster_rcnn_cfg, "dense": tiny_retinanet_cfg}
SIZES = [(48, 64), (61, 40)]  # of the originals; the network sees others


def shipped_detections(candidates: list[Candidates], settings: ShippedSettings, class_map: np.ndarray) -> Detections:
    """What the model returns in normal use."""
    return OfflineNms(candidates, limit=settings.max_detections, class_map=class_map)(settings.nms_threshold)[0]


def inputs(number: int) -> list[dict[str, Any]]:
    height, width = SIZES[number]
    image = torch.randint(0, 256, (3, 80 + 16 * number, 96), dtype=torch.uint8).float()
    return [{"image": image, "height": height, "width": width}]


def candidates(model: torch.nn.Module, batch: list[dict[str, Any]]) -> Candidates:
    (instances,) = raw_outputs(model, batch)[-1]
    return candidates_of(instances, (batch[0]["height"], batch[0]["width"]))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("TEST.DETECTIONS_PER_IMAGE", 5),
        ("TEST.DETECTIONS_PER_IMAGE", 10_000),
        # So many that torchvision goes class by class.
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 600, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 600),
    ],
)
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_shipped_detections_are_reproduced(family: str, options: tuple[Any, ...], threshold: float) -> None:
    keys = ["MODEL.ROI_HEADS.NMS_THRESH_TEST", threshold, "MODEL.RETINANET.NMS_THRESH_TEST", threshold]
    cfg = CONFIGS[family](*options, *keys)
    assert family_of(cfg) == family
    shipped, open_model = build_lively(cfg), build_lively(without_nms(cfg))
    settings = shipped_settings(cfg)
    assert settings.nms_threshold == threshold
    removed = 0
    for number in range(len(SIZES)):
        batch = inputs(number)
        with torch.no_grad():
            expected = shipped(batch)[0]["instances"]
        found = candidates(open_model, batch)
        ours = shipped_detections([found], settings, np.arange(3))
        assert len(expected) > 3
        np.testing.assert_array_equal(ours.boxes_xyxy, expected.pred_boxes.tensor.numpy())
        np.testing.assert_array_equal(ours.scores, expected.scores.numpy())
        np.testing.assert_array_equal(ours.classes, expected.pred_classes.numpy())
        removed += len(found.scores) - len(expected)
    assert removed > 0


_MASKS = [
    "MODEL.MASK_ON",
    True,
    "MODEL.ROI_MASK_HEAD.NAME",
    "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV",
    0,
]
_CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
_PANOPTIC = [*_MASKS, "MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3]


@pytest.mark.parametrize("options", [_MASKS, _CASCADE, _PANOPTIC], ids=["masks", "cascade", "panoptic"])
def test_relatives_of_faster_rcnn(options: list[Any], tmp_path: Path) -> None:
    cfg = tiny_faster_rcnn_cfg(*options, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4, "MODEL.RESNETS.FAST", False)
    shipped = build_lively(cfg)
    Checkpointer(shipped, str(tmp_path)).save("model", class_names=["a", "b", "c"])
    open_model, _ = load_trained_model(without_nms(cfg), str(tmp_path / "model.pth"))
    batch = inputs(0)
    with torch.no_grad():
        expected = shipped(batch)[0]["instances"]
    ours = shipped_detections([candidates(open_model, batch)], shipped_settings(cfg), np.arange(3))
    assert len(expected) > 3
    np.testing.assert_array_equal(ours.boxes_xyxy, expected.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(ours.scores, expected.scores.numpy())
    np.testing.assert_array_equal(ours.classes, expected.pred_classes.numpy())


@pytest.mark.parametrize("classification", ["softmax", "focal"])
def test_a_detr_needs_no_nms(classification: str) -> None:
    cfg = tiny_cfg("MODEL.DETR.CRITERION.CLASSIFICATION", classification, "TEST.DETECTIONS_PER_IMAGE", 6)
    model = build_lively(without_nms(cfg))
    batch = inputs(0)
    with torch.no_grad():
        expected = model(batch)[0]["instances"]
    layers = raw_outputs(model, batch)
    assert len(layers) == 3
    assert [len(images[0]) for images in layers] == [8, 8, 8]  # every query
    ours = shipped_detections([candidates(model, batch)], shipped_settings(cfg), np.arange(3))
    np.testing.assert_allclose(ours.boxes_xyxy, expected.pred_boxes.tensor.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.scores, expected.scores.numpy(), rtol=0, atol=1e-6)
    assert ours.classes.tolist() == expected.pred_classes.tolist()
    early, late = (x[0].pred_boxes.tensor for x in (layers[0], layers[-1]))
    assert not torch.allclose(early, late, atol=1e-3)


@pytest.mark.parametrize("variant", ["softmax", "focal", "one class"])
def test_a_detr_with_nms_is_reproduced(variant: str) -> None:
    options: list[Any] = ["MODEL.DETR.NMS_THRESH_TEST", 0.4, "TEST.DETECTIONS_PER_IMAGE", 4]
    if variant != "softmax":
        options += [
            "MODEL.DETR.CRITERION.CLASSIFICATION",
            "focal",
            "MODEL.DETR.ONE_CLASS_PER_QUERY",
            variant != "focal",
        ]
    cfg = tiny_cfg(*options)
    settings = shipped_settings(cfg)
    assert (settings.nms_threshold, settings.nms_switched_off) == (0.4, True)
    shipped, open_model = build_lively(cfg), build_lively(without_nms(cfg))
    batch = inputs(0)
    with torch.no_grad():
        expected = shipped(batch)[0]["instances"]
    found = candidates(open_model, batch)
    assert len(found.scores) == 8
    removed = len(found.scores) - len(nms_order(found, 0.4))
    assert removed > 0
    ours = shipped_detections([found], settings, np.arange(3))
    assert len(expected) == len(ours.scores)
    np.testing.assert_allclose(ours.boxes_xyxy, expected.pred_boxes.tensor.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.scores, expected.scores.numpy(), rtol=0, atol=1e-6)
    assert ours.classes.tolist() == expected.pred_classes.tolist()


def test_what_a_model_says_without_nms_does_not_depend_on_its_nms() -> None:
    for make, node in ((tiny_cfg, "DETR"), (tiny_faster_rcnn_cfg, "ROI_HEADS"), (tiny_retinanet_cfg, "RETINANET")):
        one, other = (make(f"MODEL.{node}.NMS_THRESH_TEST", x) for x in (0.4, 0.7))
        assert config_hash(without_nms(one)) == config_hash(without_nms(other)), node


def test_settings_of_every_family() -> None:
    for cfg in (tiny_faster_rcnn_cfg(), tiny_retinanet_cfg(), tiny_cfg()):
        assert shipped_settings(cfg).nms_switched_off
    assert shipped_settings(tiny_cfg()).nms_threshold is None
    assert shipped_settings(tiny_cfg()).num_queries == 8
    cfg = CfgNode(tiny_cfg())
    cfg.MODEL.META_ARCHITECTURE = "SomethingElse"
    assert family_of(cfg) == "other"
    unknown = shipped_settings(cfg)
    assert not unknown.nms_switched_off
    assert unknown.max_detections > 10_000  # whatever such a model returns is what it ships
    assert np.isnan(unknown.score_threshold)


def by_hand(**changes: Any) -> Candidates:
    """Two boxes of class 0 with IoU 0.6, one of class 1 in the same place, one far away."""
    values = {
        "boxes_xyxy": np.array([[0, 0, 10, 10], [0, 2.5, 10, 12.5], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32),
        "scores": np.array([0.5, 0.9, 0.8, 0.1], np.float32),
        "classes": np.array([0, 0, 1, 0]),
        "network_size": (100, 100),
        "image_size": (50, 200),
    }
    return Candidates(**{**values, **changes})


def test_nms_removes_the_lower_scored_of_two_boxes_of_a_class() -> None:
    assert nms_order(by_hand(), 0.5).tolist() == [1, 2, 3]
    assert nms_order(by_hand(), 0.61).tolist() == [1, 2, 0, 3]
    assert nms_order(by_hand(), None).tolist() == [1, 2, 0, 3]


def test_boxes_are_scaled_clipped_and_dropped_after_the_limit() -> None:
    boxes, nonempty = scale_to_image(by_hand(boxes_xyxy=np.array([[-5, 10, 10, 120], [110, 0, 120, 10]], np.float32)))
    assert boxes.tolist() == [[0, 5, 20, 50], [200, 0, 200, 5]]
    assert nonempty.tolist() == [True, False]
    outside = by_hand(boxes_xyxy=by_hand().boxes_xyxy + np.array([[0], [200], [0], [0]], np.float32))
    detections, kept = OfflineNms([outside], limit=2, class_map=np.arange(2))(None)
    assert kept == 4
    assert detections.scores.tolist() == pytest.approx([0.8])  # the best one lies outside, and took a place
    detections, _ = OfflineNms([outside], limit=2, class_map=np.arange(2))(None, limited=False)
    assert len(detections.scores) == 3


def test_classes_that_the_data_do_not_have_are_left_out() -> None:
    detections, _ = OfflineNms([by_hand()], limit=10, class_map=np.array([-1, 4]))(0.5)
    assert detections.classes.tolist() == [4]
