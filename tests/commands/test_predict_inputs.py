"""What `predict` makes of the files that folders really hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from media_files import write_image, write_video
from PIL import Image
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import Checkpointer
from detr_d2.commands import predict
from detr_d2.prediction import Categories
from detr_d2.prediction.videos import VideoReader

NAMES = {"scan.jpg/p.png": 100, "l2.png": "two", "l1.png": 7}  # and their ids


def write_inputs(folder: Path) -> None:
    """Links to one file, a link to nowhere, pages, text files, a folder called like an image, a damaged video."""
    write_image(folder.parent / "store" / "7f3a.png", (61, 97), seed=0)
    write_image(folder / "scan.jpg" / "p.png", (32, 32), seed=1)
    for name in ("l1.png", "l2.png"):
        (folder / name).symlink_to(folder.parent / "store" / "7f3a.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "notes.txt").touch()
    Image.new("L", (32, 32)).save(folder / "a.gif", save_all=True, append_images=[Image.new("L", (32, 32), 99)])
    write_video(folder / "cut.avi", frames=8)
    content = (folder / "cut.avi").read_bytes()
    (folder / "cut.avi").write_bytes(content[: int(0.8 * len(content))])


def test_all_of_a_folder_is_worked_on_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    write_inputs(inputs)
    images = [{"id": image_id, "file_name": name, "width": 9, "height": 9} for name, image_id in NAMES.items()]
    content = {"images": images, "annotations": [], "categories": [{"id": k, "name": f"c{k}"} for k in (1, 2, 3)]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    cfg = tiny_cfg("INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 96)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(tmp_path)).save("model", class_names=["c1", "c2", "c3"])
    arguments = ["--config-file", tmp_path / "config.yaml", "--weights", tmp_path / "model.pth", "--output", output]
    arguments += ["--coco", f"links={tmp_path / 'x.json'}:{inputs}", inputs]
    logger = logging.getLogger("detr_d2")  # to which the command gives handlers of its own
    logger.addHandler(caplog.handler)
    assert main(["predict", *map(str, arguments)]) == 1
    logger.removeHandler(caplog.handler)

    assert "1 files are left out" in caplog.text
    assert "a.gif holds 2 frames or pages" in caplog.text
    of_video, of_link = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    written = json.loads((output / "images.json").read_text())["images"]
    frames = [x for x in written if "cut.avi" in x["file_name"]]
    assert [x["frame"] for x in frames] == list(range(len(frames)))
    assert 0 < len(frames) < 8
    assert f"cut.avi is damaged or cut off: {len(frames)} of 8 frames could be read" in of_video
    assert len(list(VideoReader(output / frames[0]["picture"]))) == len(frames)
    assert "nowhere.png is a link to" in of_link
    ids = {Path(x["file_name"]).relative_to(inputs).as_posix(): x["id"] for x in written}
    assert {name: ids[name] for name in NAMES} == NAMES
    assert set(ids) == {*NAMES, "a.gif", "cut.avi"}


class _Failing(torch.nn.Module):
    def forward(self, _: object) -> None:
        raise RuntimeError("no feature map is left")


def test_an_image_that_the_model_fails_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "thin.png", (1, 40), seed=0)
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    monkeypatch.setattr(predict, "load_trained_model", lambda *_: (_Failing(), Categories.numbered(["a"])))
    arguments = ["--config-file", tmp_path / "config.yaml", "--output", tmp_path / "out", tmp_path / "thin.png"]
    with pytest.raises(RuntimeError, match=r"thin\.png: RuntimeError: no feature map is left"):
        main(["predict", *map(str, arguments)])


class _Dark(torch.nn.Module):
    """One detection, whose score tells how dark the image is; keeps the sizes of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.batches.append(len(inputs))
        assert len({x["image"].shape for x in inputs}) == 1
        found = []
        for x in inputs:
            instances = Instances((x["height"], x["width"]))
            instances.scores = 1 - x["image"].mean()[None] / 255
            instances.pred_boxes, instances.pred_classes = Boxes(torch.ones(1, 4)), torch.zeros(1, dtype=torch.int64)
            found.append({"instances": instances})
        return found


def test_batches_change_nothing_but_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of equal size and frames of a video go through the model together; ids, names and errors stay in order."""
    for i in range(9):
        size = (32, 48) if i % 3 else (48, 32)
        Image.fromarray(np.full((*size, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    write_video(tmp_path / "5b.avi", frames=5)
    (tmp_path / "config.yaml").write_text(tiny_cfg("INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64).dump())
    inputs = [tmp_path / "5b.avi", *sorted(tmp_path.glob("*.png"))]
    written, batches = [], []
    for batch_size in (1, 4):
        model = _Dark()
        monkeypatch.setattr(predict, "load_trained_model", lambda *_, m=model: (m, Categories.numbered(["a"])))
        options = ["--batch-size", batch_size, "--score-threshold", 0, "--output", tmp_path / f"out{batch_size}"]
        arguments = ["--config-file", tmp_path / "config.yaml", *sorted(inputs), *options]
        assert main(["predict", *map(str, arguments)]) == 1
        files = sorted(x.name for x in (tmp_path / f"out{batch_size}").iterdir())
        read = [
            json.loads((tmp_path / f"out{batch_size}" / f"{name}.json").read_text())
            for name in ("images", "predictions")
        ]
        written.append([files, *read])
        batches.append(model.batches)
    assert written[0] == written[1]
    assert [Path(x["file_name"]).stem for x in written[0][1]["images"]] == list("01235") + ["5b"] * 5 + list("678")
    scores = [x["score"] for x in written[0][2] if x["image_id"] not in range(6, 11)]  # but of the video
    assert scores == pytest.approx([1 - 20 * i / 255 for i in (0, 1, 2, 3, 5, 6, 7, 8)])
    assert batches[0] == [1] * 13
    assert sorted(batches[1]) == [2, 3, 4, 4]  # 3 upright ones; 5 others and 5 frames, which have their size
