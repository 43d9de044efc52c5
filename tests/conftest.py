"""Fixtures for all tests: one thread, a seed, no network, clean dataset catalogs, a tiny COCO dataset made by hand.

Each run has a seed of its own, which stands in its header; DETR_D2_TEST_SEED sets it.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Before torch is imported. Tiny models are fastest with one thread, and threads that wait for each other crawl on a
# machine that does other work as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SEED = int(os.environ.get("DETR_D2_TEST_SEED") or random.SystemRandom().randrange(2**31))

# For pip and the like in processes that a test starts: whatever is wrong with the code under test, nothing is fetched.
_OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_ARGS": "",
    "DETECTRON2_SOURCE": "",
    "HF_HUB_OFFLINE": "1",
}


def pytest_report_header() -> str:
    return f"DETR_D2_TEST_SEED={SEED}"


@dataclass(frozen=True)
class CocoFiles:
    """A small dataset in COCO format.

    Image 1 (64 x 48) holds a red and a green rectangle, image 2 (48 x 64) a blue one and a crowd region, image 3
    (40 x 40) nothing. Boxes are xywh pixels, as in the file; category ids have gaps.
    """

    annotations: Path
    image_root: Path
    content: dict[str, Any]

    def spec(self, name: str) -> str:
        """The argument of `--coco` that registers it under this name."""
        return f"{name}={self.annotations}:{self.image_root}"


_CATEGORIES = {1: ("red", (220, 30, 30)), 23: ("green", (30, 200, 30)), 56: ("blue", (40, 40, 230))}
_SIZES = {1: (64, 48), 2: (48, 64), 3: (40, 40)}
# image id, category id, box xywh, iscrowd
_OBJECTS = [
    (1, 1, (4, 6, 20, 16), 0),
    (1, 23, (30, 20, 24, 22), 0),
    (2, 56, (10, 12, 18, 30), 0),
    (2, 1, (30, 40, 16, 20), 1),
]


def make_tiny_coco(root: Path) -> CocoFiles:
    """Writes the dataset of `CocoFiles` into a folder: `annotations.json` and `images/*.png`."""
    image_root = root / "images"
    image_root.mkdir(parents=True)
    for image_id, size in _SIZES.items():
        image = Image.new("RGB", size, (24, 24, 24))
        draw = ImageDraw.Draw(image)
        for owner, category, (x, y, w, h), _ in _OBJECTS:
            if owner == image_id:
                draw.rectangle((x, y, x + w - 1, y + h - 1), fill=_CATEGORIES[category][1])
        image.save(image_root / f"{image_id:03d}.png")
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id:03d}.png", "width": width, "height": height}
            for image_id, (width, height) in _SIZES.items()
        ],
        "annotations": [
            _annotation(number, image_id, category, box, crowd)
            for number, (image_id, category, box, crowd) in enumerate(_OBJECTS, start=101)
        ],
        "categories": [{"id": key, "name": name} for key, (name, _) in _CATEGORIES.items()],
    }
    annotations = root / "annotations.json"
    annotations.write_text(json.dumps(content))
    return CocoFiles(annotations, image_root, content)


def _annotation(number: int, image_id: int, category: int, box: tuple[int, ...], crowd: int) -> dict[str, Any]:
    x, y, w, h = box
    polygon: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if crowd:
        width, height = _SIZES[image_id]
        polygon = {"size": [height, width], "counts": _rectangle_rle(x, y, w, h, width, height)}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": crowd,
        "segmentation": polygon,
    }


def _rectangle_rle(x: int, y: int, w: int, h: int, width: int, height: int) -> list[int]:
    """Uncompressed RLE of a rectangle: runs of zeros and ones in turn, column by column."""
    runs = [x * height + y]
    for _ in range(w - 1):
        runs += [h, height - h]
    return [*runs, h, width * height - sum(runs) - h]


@pytest.fixture
def tiny_coco(tmp_path: Path) -> CocoFiles:
    """A fresh copy of the tiny dataset, not registered."""
    return make_tiny_coco(tmp_path / "tiny_coco")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test begins with the same random state, alone as in the whole run."""
    import torch

    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """A connection to another machine fails the test; child processes find no package index."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
        for variable, value in _OFFLINE.items():
            patch.setenv(variable, value)
        yield


def _local_only(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(str(address[0])):
            pytest.fail(f"a test connects to {address[0]}:{address[1]}, but tests work without network")
        return connect(self, address)

    return guarded


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or host.startswith("127.")


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    """Forgets the datasets that a test registered: detectron2's catalogs are global and refuse a name twice."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = [(catalog, set(catalog.list())) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in before:
        for name in set(catalog.list()) - names:
            catalog.remove(name)
