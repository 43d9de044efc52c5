"""A comparison measures no image of another size than its annotations are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CocoFiles
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detr_d2.compare.compare_all import compare_all
from detr_d2.compare.data import load_ground_truth
from detr_d2.compare.found.nms import Candidates
from detr_d2.compare.run import Plan, Settings, require_sizes
from detr_d2.data import register_coco


def halve(data: CocoFiles) -> None:
    """Annotated before the images were made twice as large."""
    for image in data.content["images"]:
        image["width"], image["height"] = image["width"] // 2, image["height"] // 2
    for annotation in data.content["annotations"]:
        annotation["bbox"] = [x / 2 for x in annotation["bbox"]]
    data.annotations.write_text(json.dumps(data.content))


def turn(data: CocoFiles) -> None:
    """Annotated without looking at the orientation."""
    path = data.image_root / "002.png"
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(path).save(path, exif=exif)


@pytest.mark.parametrize(("change", "message"), [(halve, r"3 of 3 .*001\.png is 64x48.* says 32x24"), (turn, "1 of 3")])
@pytest.mark.parametrize("registered", ["a file", "a function"])
def test_sizes_are_compared_before_a_model_runs(
    tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str, registered: str
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    change(tiny_coco)
    name = register_coco(tiny_coco.spec("sizes"))
    if registered == "a function":
        records, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).thing_classes
        name = "sizes_of_dicts"
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).thing_classes = classes
    plan = Plan(dataset=name, output=tmp_path / "out", settings=Settings(), device="cpu", command="compare")
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        compare_all([], plan)
    assert not (tmp_path / "out").exists()


def found(sizes: list[tuple[int, int]]) -> list[Candidates]:
    empty = np.zeros(0, np.float32)
    return [Candidates(np.zeros((0, 4), np.float32), empty, np.zeros(0, np.int64), (1, 1), size) for size in sizes]


def test_images_behind_uris_are_refused_when_they_have_been_read(
    tiny_coco: CocoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    truth = load_ground_truth(register_coco(tiny_coco.spec("sizes")))
    sizes = [(48, 64), (64, 48), (40, 40)]
    require_sizes(found(sizes), truth)
    require_sizes(found([(48, 64), (1, 1), (40, 40)]), truth)  # an image that the model failed on
    require_sizes(found(sizes), replace(truth, sizes=np.zeros_like(truth.sizes)))  # sizes unknown
    with pytest.raises(ValueError, match=r"002\.png is 64x48 pixels .* says 48x64"):
        require_sizes(found([(48, 64), (48, 64), (40, 40)]), truth)
