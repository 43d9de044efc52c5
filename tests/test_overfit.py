"""DETR can learn a handful of images by heart: the whole chain from file to AP, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from detr_d2.data import register_coco, resolve_num_classes
from detr_d2.data.shapes.synthetic import make_shapes
from detr_d2.engine import Trainer
from detr_d2.model_zoo import get_config


@pytest.mark.slow
def test_eight_images_are_learned_by_heart(tmp_path: Path):
    shapes = make_shapes(tmp_path / "shapes", 8, seed=1)
    register_coco(f"eight={shapes.annotations}:{shapes.images}")
    cfg = get_config("quickstart/detr_shapes.yaml")
    cfg.defrost()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "DATASETS.COCO", [], "INPUT.RANDOM_FLIP", "none", "SOLVER.IMS_PER_BATCH", 8]
    )
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("eight",)
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 600, str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    resolve_num_classes(cfg)
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer.storage.latest()["bbox/AP50"][0] > 90
