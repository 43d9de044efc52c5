"""A dataset of small noise images, wide and high ones, for the tests of engine/."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from tiny_models import tiny_cfg

from detr_d2.config import get_cfg
from detr_d2.data import register_coco

NUM_IMAGES = 17


def write_noise_coco(root: Path) -> Path:
    """Writes 17 images of 40 x 30 or 30 x 40 pixels with one box each; two classes."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(NUM_IMAGES):
        width, height = (40, 30) if i % 3 else (30, 40)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        box = [3 + i % 5, 4, 15, 12]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": box, "area": 180, "iscrowd": 0}
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    path = root / "noise.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def noise_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise_coco(tmp_path_factory.mktemp("noise"))


@pytest.fixture
def noise(noise_file: Path) -> str:
    """Name under which the dataset is registered."""
    return register_coco(f"noise={noise_file}:{noise_file.parent}")


@pytest.fixture
def faster_rcnn_cfg(noise: str, tmp_path: Path) -> Callable[..., CfgNode]:
    """A Faster R-CNN of a model-zoo YAML, shrunk to run in a second on a CPU."""

    def make(*options: Any) -> CfgNode:
        from detectron2 import model_zoo

        cfg = get_cfg()
        cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
        cfg.merge_from_list(
            [
                *["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path / "out"), "SEED", 3],
                *["DATASETS.TRAIN", (noise,), "DATASETS.TEST", (), "DATALOADER.NUM_WORKERS", 0],
                *["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16],
                *["MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.ROI_BOX_HEAD.FC_DIM", 16],
                *["INPUT.MIN_SIZE_TRAIN", (32, 40, 48), "INPUT.MIN_SIZE_TEST", 32],
                *["SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.001, "SOLVER.MAX_ITER", 4],
            ]
        )
        cfg.merge_from_list(list(options))
        return cfg

    return make


@pytest.fixture
def detr_cfg(noise: str, tmp_path: Path) -> Callable[..., CfgNode]:
    """A tiny DETR with dropout, batch norm and random augmentation."""

    def make(*options: Any) -> CfgNode:
        cfg = tiny_cfg(
            *["MODEL.RESNETS.OUT_FEATURES", ["res3"], "MODEL.DETR.IN_FEATURES", ["res3"]],  # small checkpoints
            *["MODEL.DETR.NUM_CLASSES", 2, "MODEL.DETR.TRANSFORMER.DROPOUT", 0.2, "MODEL.RESNETS.NORM", "BN"],
            *["DATASETS.TRAIN", (noise,), "DATASETS.TEST", (), "DATALOADER.NUM_WORKERS", 0, "SEED", 3],
            *["DATALOADER.ASPECT_RATIO_GROUPING", False, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False],
            *["INPUT.MIN_SIZE_TRAIN", (32, 48), "INPUT.MIN_SIZE_TEST", 32, "OUTPUT_DIR", str(tmp_path / "out")],
            *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-3, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6],
            *["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"],
            *["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1, "SOLVER.CLIP_GRADIENTS.FULL_MODEL", True],
            *["SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", (), "SOLVER.CHECKPOINT_PERIOD", 3],
        )
        cfg.merge_from_list(list(options))
        return cfg

    return make
