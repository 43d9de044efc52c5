"""Trained models from files that tell little about themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_baselines import tiny_faster_rcnn_cfg, tiny_retinanet_cfg
from tiny_deformable import tiny_deformable_cfg
from tiny_models import tiny_cfg

from detr_d2.evaluation.detector_keys import get_num_classes, set_num_classes
from detr_d2.evaluation.trained_model import load_trained_model


@pytest.mark.parametrize(
    ("make_cfg", "options"),
    [
        (tiny_cfg, []),
        (tiny_cfg, ["MODEL.DETR.CRITERION.CLASSIFICATION", "focal"]),
        (tiny_deformable_cfg, ["two_stage"]),
        (tiny_faster_rcnn_cfg, []),
        (tiny_retinanet_cfg, []),
    ],
    ids=["softmax", "focal", "deformable", "Faster R-CNN", "RetinaNet"],
)
def test_weights_without_class_names_tell_how_many_classes_there_are(
    make_cfg: Callable[..., CfgNode], options: list[str], tmp_path: Path
) -> None:
    cfg = make_cfg(*options)
    set_num_classes(cfg, 5)
    torch.save(build_model(cfg).state_dict(), tmp_path / "plain.pth")
    set_num_classes(cfg, 0)
    _, categories = load_trained_model(cfg, str(tmp_path / "plain.pth"))
    assert get_num_classes(cfg) == 5
    assert categories.names == ("class 0", "class 1", "class 2", "class 3", "class 4")
