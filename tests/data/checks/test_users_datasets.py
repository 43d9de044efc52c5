"""Datasets that users register themselves: COCO files by detectron2's function, and functions that return dicts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from detr_d2.compare.data import load_ground_truth
from detr_d2.data import (
    DetrDatasetMapper,
    build_detr_train_loader,
    check_datasets,
    register_coco,
    register_datasets,
    resolve_num_classes,
)
from detr_d2.data.coco.dataset import CocoDataset
from detr_d2.data.loader import training_records
from detr_d2.data.registration import classes_of, dataset_table
from detr_d2.engine.startup.setup import resolve_classes

Write = Callable[..., str]
Make = Callable[..., dict[str, Any]]
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
GOOD = {"bbox": [2, 2, 10, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": SQUARE}


def _paths(spec: str) -> tuple[str, str]:
    json_file, image_root = spec.partition("=")[2].split(":")
    return json_file, image_root


@pytest.fixture
def spec(write_coco: Write, make_annotation: Make) -> str:
    return write_coco([make_annotation(1, 1, 24, [1, 2, 3, 4]), make_annotation(2, 2, 1, [1, 2, 3, 4], iscrowd="0")])


def test_files_registered_by_detectron2_are_read_by_us(cfg: Any, spec: str) -> None:
    register_coco_instances("mine", {}, *_paths(spec))
    cfg.DATASETS.TRAIN = ("mine",)
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 3
    assert MetadataCatalog.get("mine").thing_classes == ["disc", "bar", "square"]
    assert isinstance(DatasetCatalog["mine"], CocoDataset)
    (report,) = check_datasets(cfg)
    assert (report.num_boxes, report.num_crowd) == (2, 0)
    assert [len(record["annotations"]) for record in training_records(cfg)] == [1, 1]


def test_every_process_reads_them_so(cfg: Any, spec: str) -> None:
    register_coco_instances("mine", {}, *_paths(spec))
    cfg.DATASETS.TEST = ("mine",)
    register_datasets(cfg)
    assert DatasetCatalog.get("mine")[1]["annotations"][0]["iscrowd"] == 0


def test_what_functions_return_is_never_read_again(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    json_file, image_root = _paths(write_coco([make_annotation(1, 1, 24, [1, 2, 3, 4])]))

    def load() -> list[dict[str, Any]]:
        records = load_coco_json(json_file, image_root, "own")
        for record in records:
            for x in record["annotations"]:
                x.update(bbox=BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS), bbox_mode=BoxMode.XYXY_ABS)
        return records

    DatasetCatalog.register("own", load)
    cfg.DATASETS.TRAIN = ("own",)
    resolve_num_classes(cfg)
    assert cfg.MODEL.DETR.NUM_CLASSES == 3
    table = dataset_table("own")
    assert table is not None
    assert table.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert DatasetCatalog["own"] is load
    DatasetCatalog.register("partial", partial(load_coco_json, json_file, image_root, "partial"))
    assert classes_of("partial") == ["disc", "bar", "square"]


def _register(tmp_path: Path, annotation: dict[str, Any] | None, **record: Any) -> str:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    annotations = [GOOD] * 120 + ([] if annotation is None else [{**GOOD, **annotation}])
    records = [{"file_name": str(tmp_path / "a.png"), "image_id": "a", "annotations": annotations, **record}]
    DatasetCatalog.register("dicts", lambda: records)
    MetadataCatalog.get("dicts").thing_classes = ["a"]
    return "dicts"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"iscrowd": "0"}, r"#120 has iscrowd '0'; expected 0 or 1, true or false, but no text"),
        ({"iscrowd": None}, "#120 has iscrowd None"),
        ({"iscrowd": float("nan")}, "#120 has iscrowd nan"),
        ({"bbox": [1, 2, 3]}, r"1 boxes are not 4 finite numbers: .*#120 has bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, "3", 4]}, "#120 has bbox"),
        ({"bbox": [1, 2, 1e30, 4]}, "#120 has bbox"),
        ({"bbox_mode": BoxMode.XYXY_REL}, "#120 has bbox_mode <BoxMode.XYXY_REL: 2>; expected BoxMode.XYXY_ABS or"),
        ({"bbox_mode": 7}, "#120 has bbox_mode 7"),
        ({"category_id": True}, "#120 has category_id True; expected a whole number from 0 to 0"),
        ({"category_id": 0.0}, "#120 has category_id 0.0"),
    ],
)
def test_annotations_that_detectron2_would_misread(
    cfg: Any, tmp_path: Path, annotation: dict[str, Any], message: str
) -> None:
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (_register(tmp_path, annotation),), 1
    with pytest.raises(ValueError, match=r"^dicts: .*a\.png " + message if "#" in message[:1] else message):
        check_datasets(cfg)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"width": "20"}, r"image .*a\.png has width '20'; expected a whole number of pixels .*, but no text"),
        ({"height": None}, r"image .*a\.png has height None"),
        ({"annotations": None}, r"image .*a\.png has annotations None, expected a list"),
        ({"annotations": [5]}, r"annotation .*a\.png #0 is 5, expected a dict"),
    ],
)
def test_images_that_detectron2_would_misread(cfg: Any, tmp_path: Path, record: dict[str, Any], message: str) -> None:
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (_register(tmp_path, None, **record),), 1
    with pytest.raises(ValueError, match="dicts: .*" + message):
        check_datasets(cfg)


def test_forms_that_detectron2_reads(cfg: Any, tmp_path: Path) -> None:
    box = np.array([2, 3, 8, 6], dtype=np.float32)
    other = {"bbox": box, "bbox_mode": 1, "category_id": np.int64(0), "iscrowd": np.bool_(True)}
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (_register(tmp_path, other, width=20, height=np.int32(10)),), 1
    (report,) = check_datasets(cfg)
    assert (report.num_boxes, report.num_crowd) == (120, 1)
    table = dataset_table("dicts")
    assert table is not None
    assert table.boxes_xywh[[0, -1]].tolist() == [[2, 2, 8, 6], [2, 3, 8, 6]]


def test_a_function_is_called_once_for_all_checks(cfg: Any, tmp_path: Path) -> None:
    records = DatasetCatalog.get(_register(tmp_path, None, width=20, height=10))
    calls = [Mock(return_value=records), Mock(return_value=records)]
    for name, call in zip(("drawn", "measured"), calls, strict=True):
        DatasetCatalog.register(name, call)
        MetadataCatalog.get(name).thing_classes = ["a"]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.MODEL.DETR.NUM_CLASSES = ("drawn",), ("measured",), 1
    check_datasets(cfg)
    assert [call.call_count for call in calls] == [1, 1]
    calls[1].return_value = [{**records[0], "image_id": None}]  # what it returns now is read the next time
    with pytest.raises(ValueError, match="has image_id None"):
        check_datasets(cfg)


def test_numpy_flags_are_drawn(tmp_path: Path) -> None:
    name = _register(tmp_path, {"iscrowd": np.bool_(True)})
    mapped = DetrDatasetMapper(augmentations=[], image_format="RGB")(DatasetCatalog.get(name)[0])
    assert len(mapped["instances"]) == 120


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_id": torch.tensor(3)}, r"a\.png has image_id tensor\(3\), expected a number or a text of its own"),
        ({"file_name": None}, "image 0 has file_name None, expected the path of a file as text"),
        (
            {"annotations": [{**GOOD, "keypoints": "x"}]},
            r"a\.png #0 has keypoints 'x'; expected numbers x, y, vis",
        ),
        ({"annotations": {0: {}}}, r"a\.png has annotations \{0: \{\}\}, expected a list"),
        ({"annotations": [(1, 2)]}, r"a\.png #0 is \(1, 2\), expected a dict"),
    ],
)
def test_records_that_no_evaluator_reads(cfg: Any, tmp_path: Path, record: dict[str, Any], message: str) -> None:
    cfg.DATASETS.TEST, cfg.MODEL.DETR.NUM_CLASSES = (_register(tmp_path, None, width=20, height=10, **record),), 1
    with pytest.raises(ValueError, match="^dicts: .*" + message):
        check_datasets(cfg)
    with pytest.raises(ValueError, match="^dicts: .*" + message):
        load_ground_truth("dicts")


@pytest.mark.parametrize("kind", [iter, dict, lambda _: None])
def test_functions_return_lists(cfg: Any, kind: Callable[..., Any]) -> None:
    DatasetCatalog.register("stream", lambda: kind([]))
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = ("stream",), 1
    with pytest.raises(ValueError, match=r"dataset stream: its function returned .* of type .*, expected a list"):
        check_datasets(cfg)


@pytest.mark.parametrize("names", [{0: "a"}, {"a"}, [1], np.array(["a"]), "a", []])
def test_class_names_are_a_list_of_texts(cfg: Any, tmp_path: Path, names: Any) -> None:
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (_register(tmp_path, None),), 1
    MetadataCatalog.pop("dicts")
    MetadataCatalog.get("dicts").thing_classes = names
    with pytest.raises(ValueError, match=r"thing_classes in the metadata of dataset dicts is .*, expected a list"):
        check_datasets(cfg)


def test_tuples_and_arrays_are_looked_through(cfg: Any, tmp_path: Path) -> None:
    records = DatasetCatalog.get(_register(tmp_path, None))
    for kind in (tuple, partial(np.array, dtype=object)):
        DatasetCatalog.register(name := f"own {kind}", partial(kind, records))
        cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (name,), 1
        assert [report.num_boxes for report in check_datasets(cfg)] == [120]


def test_what_a_function_lacks_is_named(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    cfg.MODEL.DETR.NUM_CLASSES = 1
    for name, error, cure in (
        ("far", FileNotFoundError(2, "No such file", "gone.txt"), r"'gone\.txt'\): .* looked for in /data"),
        ("lvis", ModuleNotFoundError("No module named 'lvis'", name="lvis"), "pip install lvis"),
    ):
        DatasetCatalog.register(name, Mock(side_effect=error))
        cfg.DATASETS.TRAIN = (name,)
        with pytest.raises(ValueError, match=f"dataset {name} cannot be loaded .*{cure}"):
            check_datasets(cfg)


def test_training_images_without_a_file_are_named(cfg: Any, tmp_path: Path) -> None:
    records = DatasetCatalog.get(_register(tmp_path, None, width=20, height=10))
    nameless = {key: value for key, value in records[0].items() if key != "file_name"}
    DatasetCatalog.register("nameless", lambda: [records[0], nameless])
    cfg.DATASETS.TRAIN = ("nameless",)
    with pytest.raises(ValueError, match=r"image 1 of the training data \(image_id 'a'\) has no file_name"):
        build_detr_train_loader(cfg, seed=0)


def test_no_images_at_all(cfg: Any) -> None:
    DatasetCatalog.register("nothing", list)
    cfg.DATASETS.TEST = ("nothing",)
    with pytest.raises(ValueError, match="dataset nothing has no images"):
        check_datasets(cfg)


@pytest.mark.parametrize("segmentation", [[[0, 0, float("nan"), 1, 2, 2]], [[2, 2, 5, 5]], {"size": [10, 20]}, None])
def test_a_bad_mask_of_a_function_is_left_out(cfg: Any, tmp_path: Path, segmentation: Any) -> None:
    cfg.DATASETS.TRAIN = (_register(tmp_path, {"segmentation": segmentation}, width=20, height=10),)
    cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.MASK_ON = 1, True
    (report,) = check_datasets(cfg)
    assert (report.num_boxes, report.num_without_mask) == (120, 1)
    (record,) = training_records(cfg)
    assert len(record["annotations"]) == 120
    assert len(DatasetCatalog.get("dicts")[0]["annotations"]) == 121  # the user's own dict is as it was
    cfg.MODEL.MASK_ON = False
    assert check_datasets(cfg)[0].num_boxes == len(training_records(cfg)[0]["annotations"]) == 121


class _Bucket(PathHandler):
    """bucket://KEY, which lies in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["bucket://"]

    def _get_local_path(self, path: str, **_: Any) -> str:
        return os.path.join(self.folder, path.removeprefix("bucket://"))

    def _open(self, path: str, mode: str = "r", *_: Any, **__: Any) -> Any:
        return open(self._get_local_path(path), mode)


def test_annotation_files_may_be_uris(cfg: Any, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, image_root = _paths(spec)
    monkeypatch.setattr(PathManager, "_path_handlers", dict(PathManager._path_handlers))
    PathManager.register_handler(_Bucket(os.path.dirname(json_file)))
    cfg.DATASETS.TRAIN = (register_coco(f"far=bucket://annotations.json:{image_root}"),)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    assert check_datasets(cfg)[0].num_boxes == 2
    assert len(DatasetCatalog.get("far")) == 2
    with pytest.raises(ValueError, match=r"annotation file bucket://gone\.json cannot be read \(No such file"):
        register_coco(f"gone=bucket://gone.json:{image_root}")


def test_images_may_be_uris(cfg: Any, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, image_root = _paths(spec)
    content = json.loads(Path(json_file).read_text())
    for image in content["images"]:
        image["file_name"] = "bucket://" + image["file_name"]
    Path(json_file).write_text(json.dumps(content))
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (register_coco(spec),), 3
    with pytest.raises(ValueError, match=r"image file bucket://.* no handler of bucket:// is registered"):
        check_datasets(cfg)
    monkeypatch.setattr(PathManager, "_path_handlers", dict(PathManager._path_handlers))
    PathManager.register_handler(_Bucket(image_root))
    assert check_datasets(cfg)[0].num_boxes == 2
    assert [x["file_name"][:9] for x in training_records(cfg)] == ["bucket://"] * 2


def test_home_folders_and_links(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, image_root = _paths(spec)
    (tmp_path / "link.json").symlink_to(json_file)
    monkeypatch.setenv("HOME", str(tmp_path))
    register_coco_instances("home", {}, "~/link.json", image_root)
    assert classes_of("home") == ["disc", "bar", "square"]


def test_missing_coco_names_the_folder_that_was_looked_in(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = ("coco_2017_val_100",), 80
    wanted = (
        r"annotation file datasets/coco/annotations/instances_val2017_100\.json cannot be read .*DETECTRON2_DATASETS"
    )
    with pytest.raises(ValueError, match=wanted) as caught:
        check_datasets(cfg)
    assert os.path.abspath("datasets") in str(caught.value)
    assert "was given" not in str(caught.value)


def _start_training(cfg: Any) -> None:
    register_datasets(cfg)
    resolve_classes(cfg, evaluation_only=False)


@pytest.mark.parametrize("registered", [True, False])
def test_evaluation_needs_no_training_data(
    cfg: Any, spec: str, caplog: pytest.LogCaptureFixture, registered: bool
) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("gone",), (spec.partition("=")[0],)
    cfg.DATASETS.COCO = [spec]
    if registered:
        register_coco_instances("gone", {}, "gone.json", "gone")
    else:
        cfg.DATASETS.COCO = [spec, "gone=gone.json:gone"]
    with caplog.at_level(logging.INFO):
        register_datasets(cfg, evaluation_only=True)
        resolve_classes(cfg, evaluation_only=True)
    assert cfg.MODEL.DETR.NUM_CLASSES == 3
    assert "The evaluation does without the training data" in caplog.text
    with pytest.raises(ValueError, match="gone"):
        _start_training(cfg)


def test_test_sets_are_for_evaluation_only(cfg: Any, spec: str, caplog: pytest.LogCaptureFixture) -> None:
    json_file, image_root = _paths(spec)
    content = json.loads(Path(json_file).read_text())
    del content["annotations"]
    Path(json_file).write_text(json.dumps(content))
    cfg.DATASETS.TEST, cfg.MODEL.DETR.NUM_CLASSES = (register_coco(f"set={json_file}:{image_root}"),), 3
    (report,) = check_datasets(cfg)
    assert (report.num_images, report.num_boxes) == (2, 0)
    assert "set has no annotations: its predictions are written, and there is nothing to measure" in caplog.text
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("set",), ()
    with pytest.raises(ValueError, match="training dataset set has no annotations, as a test set"):
        check_datasets(cfg)
