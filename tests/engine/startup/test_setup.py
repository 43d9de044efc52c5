"""From a command line to a config: what is found, what is filled in, and what is refused."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from detr_d2.commands.train import build_parser
from detr_d2.config import get_cfg
from detr_d2.engine import setup
from detr_d2.engine.startup import setup as startup
from detr_d2.engine.startup.device import choose_device
from detr_d2.engine.startup.summary import suspicious_settings


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


@pytest.fixture
def prepare(noise_file: Path, tmp_path: Path) -> Any:
    """Runs `setup` on a DETR that trains on the noise images, with more arguments."""

    def run(*arguments: str, config: str = "quickstart/detr_shapes.yaml", out: str | None = None) -> CfgNode:
        options = [x for x in arguments if not x.startswith("--")]
        flags = [x for x in arguments if x.startswith("--")]
        data = ["--coco", f"noise={noise_file}:{noise_file.parent}"]
        common = ["DATASETS.COCO", "[]", "DATASETS.TRAIN", "('noise',)", "DATASETS.TEST", "('noise',)"]
        common += ["OUTPUT_DIR", out or str(tmp_path / "out")]
        return setup(build_parser().parse_args(["--config-file", config, *data, *flags, *common, *options]))

    return run


def test_makes_a_frozen_config_with_classes_and_data(prepare: Any, tmp_path: Path):
    cfg = prepare()
    assert cfg.is_frozen()
    assert cfg.MODEL.DETR.NUM_CLASSES == 2
    assert cfg.MODEL.DETR.NUM_QUERIES == 20
    assert (tmp_path / "out").is_dir()


def test_finds_configs_of_detectron2s_zoo(prepare: Any):
    cfg = prepare("MODEL.ROI_HEADS.NUM_CLASSES", "0", config="COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.SOLVER.OPTIMIZER == "SGD"
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


def test_falls_back_to_the_cpu_and_says_so(
    prepare: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("detr_d2.engine.startup.device"), "propagate", True)
    logging.getLogger("detr_d2.engine.startup.device").addHandler(caplog.handler)
    try:
        assert prepare().MODEL.DEVICE == "cpu"
    finally:
        logging.getLogger("detr_d2.engine.startup.device").removeHandler(caplog.handler)
    assert "MODEL.DEVICE is cpu instead of cuda" in caplog.text


@pytest.mark.parametrize(
    ("workers", "cpus", "processes", "expected"),
    [(4, 2, 1, 2), (4, 8, 4, 2), (4, 1, 2, 1), (4, 16, 2, 4), (7, 2, 1, 7)],
)
def test_lowers_only_the_default_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, workers: int, cpus: int, processes: int, expected: int
):
    monkeypatch.setattr(startup, "available_cpus", lambda: cpus)
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = workers
    startup.lower_num_workers(cfg, processes)
    assert expected == cfg.DATALOADER.NUM_WORKERS


def test_coco_of_the_command_line_replaces_the_config():
    cfg = get_cfg()
    cfg.DATASETS.COCO = ["a=old.json:old", "b=b.json:b"]
    startup.add_coco_datasets(cfg, ["a=new.json:new", "c=c.json:c"])
    assert cfg.DATASETS.COCO == ["b=b.json:b", "a=new.json:new", "c=c.json:c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.BASE_LR"], "are not pairs of KEY VALUE"),
        (["SOLVER.BASE_LRR", "1"], r"key: SOLVER\.BASE_LRR; similar keys: SOLVER\.BASE_LR(,|$)"),
        (
            ["SOLVER.MAX_ITER", "many"],
            r"do not fit the config: SOLVER\.MAX_ITER is 'many', expected a value of type int, such as \d",
        ),
        (
            ["DATASETS.TRAIN", "('a')"],
            r"DATASETS\.TRAIN is 'a', expected a value of type tuple, such as \(NAME,\), with the comma",
        ),
        (
            ["SOLVER.IMS_PER_BATCH", "3", "--num-gpus=2"],
            "SOLVER.IMS_PER_BATCH is 3, expected a multiple of the 2 processes",
        ),
        (["--num-gpus=0"], "--num-gpus is 0, expected 1 or more"),
        (["SOLVER.ACCUM_STEPS", "0"], "SOLVER.ACCUM_STEPS is 0, expected 1 or more"),
        (["DATASETS.TRAIN", "('nose',)"], "nose"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["DATASETS.TEST", "()", "--eval-only"], "DATASETS.TEST is empty"),
        (["MODEL.DETR.NUM_CLASSES", "5"], "has 2 classes .* but MODEL.DETR.NUM_CLASSES is 5"),
        (["--import=user_missing"], "--import user_missing: there is no such module"),
    ],
)
def test_mistakes_are_named(prepare: Any, arguments: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        prepare(*arguments)


def test_config_that_is_nowhere(prepare: Any, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no file detr_r5\.yaml, .*detr_r50\.yaml"):
        prepare(config="detr_r5.yaml")
    with pytest.raises(ValueError, match="is a folder"):
        prepare(config=str(tmp_path))
    broken = tmp_path / "broken.yaml"
    broken.write_text("MODEL: [1, 2")
    with pytest.raises(ValueError, match=r"broken\.yaml is not a config"):
        prepare(config=str(broken))


def test_output_folder_that_cannot_be_written(prepare: Any, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"OUTPUT_DIR .*file/out cannot be written to"):
        prepare(out=str(tmp_path / "file" / "out"))


def test_evaluation_alone_needs_no_training_data(prepare: Any):
    cfg = prepare("DATASETS.TRAIN", "('not_here',)", "--eval-only", "MODEL.DETR.NUM_CLASSES", "2")
    assert cfg.DATASETS.TEST == ("noise",)


def test_user_files_add_keys_and_are_imported_once(prepare: Any, tmp_path: Path):
    path = tmp_path / "user_keys.py"
    path.write_text("loads = []\nloads.append(1)\ndef add_config(cfg):\n    cfg.MODEL.DETR.MY_KEY = 1\n")
    cfg = prepare(f"--import={path}", "MODEL.DETR.MY_KEY", "7")
    assert cfg.MODEL.DETR.MY_KEY == 7
    first = sys.modules["user_keys"]
    (again,) = startup.import_user_modules([str(path)])
    assert again is first
    with pytest.raises(FileNotFoundError, match=r"user_nowhere\.py: there is no such file"):
        startup.import_user_modules([str(tmp_path / "user_nowhere.py")])
    other = tmp_path / "other"
    other.mkdir()
    (other / "user_keys.py").write_text("")
    with pytest.raises(ValueError, match="named 'user_keys' is loaded already"):
        startup.import_user_modules([str(other / "user_keys.py")])


def test_import_error_inside_a_users_file_is_not_hidden(tmp_path: Path):
    path = tmp_path / "user_broken.py"
    path.write_text("import user_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="user_package_that_is_not_there"):
        startup.import_user_modules([str(path)])


@pytest.mark.parametrize(
    ("name", "word"), [("detr_r50.yaml", "there is none for DETR"), ("faster_rcnn_r50_fpn.yaml", "for GeneralizedRCNN")]
)
def test_test_time_augmentation_is_said_to_be_left_out(
    prepare: Any, name: str, word: str, caplog: pytest.LogCaptureFixture
):
    startup.logger.addHandler(caplog.handler)
    try:
        prepare(config=name)
        assert "TEST.AUG" not in caplog.text
        prepare("TEST.AUG.ENABLED", "True", config=name)
    finally:
        startup.logger.removeHandler(caplog.handler)
    assert "TEST.AUG.ENABLED is True" in caplog.text
    assert word in caplog.text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["SOLVER.OPTIMIZER", "SGD"], "SOLVER.OPTIMIZER"),
        (["SOLVER.BASE_LR", 1e-3, "MODEL.WEIGHTS", "x.pth"], "SOLVER.BASE_LR 0.001 is large"),
        (["SOLVER.CLIP_GRADIENTS.FULL_MODEL", False], "SOLVER.CLIP_GRADIENTS"),
        (["MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE", True], "MODEL.DETR.TRANSFORMER.DEFORMABLE"),
        (["INPUT.FORMAT", "BGR"], "channel order"),
    ],
)
def test_suspicious_settings(options: list[Any], word: str):
    from detr_d2.model_zoo import get_config

    cfg = get_config("detr_r50.yaml")
    assert suspicious_settings(cfg) == {}
    cfg.merge_from_list(options)
    (sentence,) = suspicious_settings(cfg).values()
    assert word in sentence


def test_shipped_configs_are_not_suspicious():
    from detr_d2.model_zoo import get_config, list_configs

    assert {name: found for name in list_configs() if (found := suspicious_settings(get_config(name)))} == {}


def test_options_behind_the_overrides_are_called_so():
    with pytest.raises(ValueError, match=r"--eval-only stands behind the overrides .*: options come first"):
        startup.load_config("detr_r50.yaml", ["MODEL.WEIGHTS", "x", "--eval-only"])


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cuda:7"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is cuda:7, .* no GPU of that number\): set it to cpu"):
        choose_device(cfg)
    cfg.MODEL.DEVICE = "maia"
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is maia, which cannot be used here \(.+\): set it to cpu"):
        choose_device(cfg)
    for cfg.MODEL.DEVICE in ("cpu", "cuda", "cuda:1"):
        choose_device(cfg)
