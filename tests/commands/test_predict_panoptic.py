"""`predict` with a small panoptic model of random weights: pictures, RLE, and PNGs in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from panoptic_files import PanopticFiles, make_tiny_panoptic
from PIL import Image
from segmentation_cases import MASKS
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import Checkpointer
from detr_d2.data import register_datasets, resolve_num_classes
from detr_d2.data.panoptic.file import read_panoptic_file, read_segment_ids
from detr_d2.engine.build import class_metadata


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PanopticFiles:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return make_tiny_panoptic(tmp_path / "tiny")


def test_panoptic_maps_are_drawn_and_written(files: PanopticFiles, tmp_path: Path) -> None:
    options = [*MASKS, "MODEL.DETR.PANOPTIC.ENABLED", True, "MODEL.DETR.PANOPTIC.SCORE_THRESH", 0.0]
    options += ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96, "MODEL.DETR.NUM_CLASSES", 0]
    cfg = tiny_cfg(*options)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cfg.DATASETS.COCO_PANOPTIC, cfg.DATASETS.TRAIN = [files.spec("mine")], ("mine",)
    register_datasets(cfg)
    torch.manual_seed(1)
    model = build_model(resolve_num_classes(cfg))
    with torch.no_grad():
        torch.nn.init.normal_(model.head.class_embed.weight, std=2.0)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.metadata.update(class_metadata(("mine",), panoptic=True))
    checkpointer.save("model")

    more = tmp_path / "more"  # names that are the same up to the suffix, and that hold dots
    more.mkdir()
    sizes = {"a.jpg": (20, 10), "a.png": (30, 10), "cam1.2024-000001.png": (40, 10)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(more / name)
    writer = cv2.VideoWriter(str(more / "cam1.2024.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 32))
    for level in range(3):
        writer.write(np.full((32, 64, 3), 90 * level, np.uint8))
    writer.release()

    out = tmp_path / "out"
    arguments = [
        "predict",
        str(files.images),
        str(more),
        "--config-file",
        str(tmp_path / "config.yaml"),
        "--output",
        str(out),
    ]
    arguments += ["--weights", str(tmp_path / "model.pth"), "--score-threshold", "0"]
    assert main([*arguments, "--coco-panoptic", files.spec("other")]) == 0

    content = json.loads((out / "panoptic.json").read_text())
    shapes = {x["id"]: (x["height"], x["width"]) for x in content["images"]}
    maps = [(x["file_name"], shapes[x["image_id"]]) for x in content["annotations"]]
    assert len({name for name, _ in maps}) == len(maps) == 3 + 3 + 3
    for name, shape in maps:
        drawn = cv2.imread(str(out / "panoptic" / name))
        assert drawn is not None
        assert drawn.shape[:2] == shape

    written = read_panoptic_file(str(_as_ground_truth(out)))
    assert {4, 7, 9} < set(written.annotations)
    assert written.things == {3: "cup", 20: "dog"}
    assert written.stuff == {17: "sky", 31: "sand"}
    some = 0
    for image_id in (4, 7, 9):
        annotation = written.annotations[image_id]
        width, height = written.images[image_id][1]
        size = height, width
        ids = read_segment_ids(str(out / "panoptic" / annotation["file_name"]), annotation["segments_info"], size)
        for segment in annotation["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"] > 4
            assert bool(segment["isthing"]) == written.is_thing[segment["category_id"]]
            some += 1
        picture = np.asarray(Image.open(out / f"{image_id:03d}.png"))
        assert picture.shape == (*size, 3)
        assert (picture != np.asarray(Image.open(files.images / f"{image_id:03d}.png"))).any()
    assert some > 0
    results = json.loads((out / "predictions.json").read_text())
    assert {x["category_id"] for x in results} <= {3, 20}
    assert all(x["segmentation"]["size"] in [list(x) for x in shapes.values()] for x in results)


def _as_ground_truth(out: Path) -> Path:
    """The written file, its images named as in ground truth."""
    content = json.loads((out / "panoptic.json").read_text())
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    path = out / "as_ground_truth.json"
    path.write_text(json.dumps(content))
    return path


def test_a_panoptic_file_is_for_panoptic_models(
    files: PanopticFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    arguments = ["predict", str(files.images), "--config-file", str(tmp_path / "config.yaml")]
    arguments += ["--output", str(tmp_path / "out"), "--coco-panoptic", files.spec("mine")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "--coco-panoptic mine=" in message
    assert "is for panoptic models" in message
