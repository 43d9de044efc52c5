"""What `predict` makes of the files that folders really hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from media_files import write_image, write_video
from PIL import Image
from tiny_models import tiny_cfg

from detr_d2.__main__ import main
from detr_d2.checkpoint import Checkpointer
from detr_d2.commands import predict
from detr_d2.prediction.media import VideoReader
from detr_d2.prediction.predictor import Categories

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
