"""Trained models from files that tell little about themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_models import tiny_cfg

from detr_d2.prediction.detector_keys import num_classes_of_head, set_num_classes
from detr_d2.prediction.trained_model import load_trained_model


def test_weights_without_class_names_tell_how_many_classes_there_are(tmp_path: Path) -> None:
    cfg = tiny_cfg("MODEL.DETR.NUM_CLASSES", 5)
    torch.save(build_model(cfg).state_dict(), tmp_path / "plain.pth")
    set_num_classes(cfg, 0)
    model, categories = load_trained_model(cfg, str(tmp_path / "plain.pth"))
    assert model.get_parameter("head.class_embed.bias").shape == (6,)
    assert categories.names == ("class 0", "class 1", "class 2", "class 3", "class 4")


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ([], {"head.class_embed.weight": 6, "head.class_embed.bias": 6}),
        (["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"], {"head.class_embed.bias": 5}),
        (
            ["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"],
            {"head.class_embed.0.bias": 5, "head.class_embed.1.bias": 5},
        ),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], {"head.cls_score.bias": 45, "head.bbox_pred.bias": 36}),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], {"roi_heads.box_predictor.cls_score.bias": 6}),
    ],
    ids=["softmax", "focal", "focal, one for each layer", "RetinaNet", "Faster R-CNN"],
)
def test_classes_are_counted_in_the_head_of_every_detector(options: list[str], rows: dict[str, int]) -> None:
    state = {name: torch.zeros(count) for name, count in rows.items()}
    assert num_classes_of_head(tiny_cfg(*options), state) == 5
    assert num_classes_of_head(tiny_cfg(*options), {}) == 0
