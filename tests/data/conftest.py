"""Small datasets for the tests of data/."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_files import PanopticFiles, make_tiny_panoptic
from PIL import Image

from detr_d2.config import get_cfg
from detr_d2.data.coco import annotation_table
from detr_d2.data.coco.file import forget_coco_file

_numbers = itertools.count()

CATEGORIES = [{"id": 56, "name": "square"}, {"id": 1, "name": "disc"}, {"id": 24, "name": "bar"}]


@pytest.fixture(autouse=True)
def _clean_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache folder of its own."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    annotation_table._read_cached.cache_clear()
    forget_coco_file()


@pytest.fixture
def cfg() -> Any:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "DETR"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATASETS.TRAIN = ()
    cfg.DATASETS.TEST = ()
    return cfg


@pytest.fixture
def files(tmp_path: Path) -> PanopticFiles:
    return make_tiny_panoptic(tmp_path / "tiny")


def annotation(id: int, image_id: int, category_id: int, bbox: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0, **more}


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., str]:
    """Writes a COCO file with images of 20x10 pixels and returns its spec, NAME=FILE:ROOT."""

    def write(
        annotations: list[dict[str, Any]],
        /,
        *,
        num_images: int = 2,
        name: str | None = None,
        sizes: list[tuple[int, int]] | None = None,
        **replaced: Any,
    ) -> str:
        number = next(_numbers)
        root = tmp_path / f"data{number}"
        root.mkdir()
        images = []
        for index in range(num_images):
            width, height = sizes[index] if sizes else (20, 10)
            pixels = np.full((height, width, 3), index, dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{index}.png")
            images.append({"id": index + 1, "file_name": f"{index}.png", "width": width, "height": height})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **replaced}
        (root / "annotations.json").write_text(json.dumps(content))
        return f"{name or f'tiny_{number}'}={root / 'annotations.json'}:{root}"

    return write


@pytest.fixture
def make_annotation() -> Callable[..., dict[str, Any]]:
    return annotation
