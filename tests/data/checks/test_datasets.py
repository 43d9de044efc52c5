"""What is said about a dataset before the first step, and what stops the run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image

from detr_d2.data import check_datasets, register_coco
from detr_d2.data.coco import annotation_table

Write = Callable[..., str]
Make = Callable[..., dict[str, Any]]


def _train_on(cfg: Any, spec: str) -> Any:
    cfg.DATASETS.TRAIN = (register_coco(spec),)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    return cfg


def _json_file(spec: str) -> Path:
    return Path(spec.partition("=")[2].rpartition(":")[0])


def test_report_counts(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    annotations = [
        make_annotation(1, 1, 1, [0, 0, 5, 5]),
        make_annotation(2, 1, 24, [18, 8, 10, 10]),  # sticks out, keeps an area
        make_annotation(3, 1, 56, [20, 0, 5, 5]),  # outside of the 20 pixels
        make_annotation(4, 2, 56, [0, 0, 5, 5], iscrowd=1),
        make_annotation(5, 3, 56, [0, 0, 5, 0]),
        make_annotation(6, 77, 56, [0, 0, 5, 5]),  # of no image
    ]
    cfg = _train_on(cfg, write_coco(annotations, num_images=4))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    (report,) = check_datasets(cfg)
    assert (report.split, report.num_images, report.num_used_images, report.num_empty_images) == ("train", 4, 2, 3)
    assert (report.num_boxes, report.boxes_mean, report.boxes_max) == (2, 0.5, 2)
    assert report.boxes_p99 == pytest.approx(1.94)  # 99th percentile of 0, 0, 0, 2, linear
    assert (report.num_classes, report.num_dropped, report.num_crowd) == (3, 2, 1)


def test_boxes_without_area_are_skipped_in_one_line(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = [make_annotation(1, 1, 1, [0, 0, 5, 5]), make_annotation(2288, 1, 1, [18, 3, 0, 0])]
    with caplog.at_level(logging.WARNING):
        check_datasets(_train_on(cfg, write_coco(annotations)))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "annotations.json: 1 of 2 boxes have no area" in line
    assert "annotation 2288 [18, 3, 0, 0]); they are not trained on" in line


def test_boxes_without_area_stop_the_run_on_request(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    annotations = [make_annotation(0, 1, 1, [0, 0, 5, 5])]
    annotations += [make_annotation(n, 1, 1, [n, 0, -2.5, 4]) for n in range(1, 13)]
    cfg = _train_on(cfg, write_coco(annotations))
    cfg.DATASETS.INVALID_ANNOTATIONS = "error"
    with pytest.raises(ValueError, match=r"annotations\.json: 12 of 13 boxes") as caught:
        check_datasets(cfg)
    assert "annotation 10 [10, 0, -2.5, 4], ...)" in str(caught.value)
    assert "annotation 11" not in str(caught.value)
    cfg.DATASETS.INVALID_ANNOTATIONS = "ignore"
    with pytest.raises(ValueError, match='must be "skip" or "error", but is \'ignore\''):
        check_datasets(cfg)


def test_evaluation_sets_are_only_reported_on(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5]), make_annotation(2, 1, 1, [3, 3, 0, 0])])
    before = _json_file(spec).read_bytes()
    cfg.DATASETS.TEST = (register_coco(spec),)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    cfg.DATASETS.INVALID_ANNOTATIONS = "error"
    (report,) = check_datasets(cfg)
    assert (report.split, report.num_dropped, report.num_used_images) == ("test", 1, 2)
    assert "an evaluation set is left as it is" in caplog.text
    assert _json_file(spec).read_bytes() == before
    assert len(DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]["annotations"]) == 2


@pytest.mark.parametrize("mode", ["skip", "error"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"bbox": [1, 1, float("nan"), 2]},
            r"1 boxes are not four finite numbers: annotation 9 has bbox \[1, 1, nan, 2\]",
        ),
        ({"bbox": [1, 1, float("inf"), 2]}, r"annotation 9 has bbox \[1, 1, inf, 2\]"),
        ({"bbox": [1, 1, 2]}, r"annotation 9 has bbox \[1, 1, 2\]"),
        ({"bbox": []}, r"annotation 9 has bbox \[\]"),
        ({"bbox": None}, r"annotation 9 has bbox None"),
        ({"bbox": [1, 1, "two", 2]}, r"annotation 9 has bbox \[1, 1, 'two', 2\]"),
        (
            {"category_id": 2},
            r"unknown class: annotation 9 has category_id 2; the file's category ids are \[1, 24, 56\]",
        ),
        ({"category_id": None}, "annotation 9 has category_id None"),
        ({"ignore": 1}, 'annotation 9 has "ignore" 1'),
        ({"id": 1}, "annotation ids that occur twice"),
    ],
)
def test_always_errors(
    cfg: Any, write_coco: Write, make_annotation: Make, bad: dict[str, Any], message: str, mode: str
) -> None:
    cfg.DATASETS.INVALID_ANNOTATIONS = mode
    good = make_annotation(1, 1, 1, [0, 0, 5, 5])
    wrong = {**make_annotation(9, 2, 1, [0, 0, 5, 5]), **bad}
    with pytest.raises(ValueError, match=r"annotations\.json.*" + message):
        check_datasets(_train_on(cfg, write_coco([good, wrong])))


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_annotations_need_their_keys(cfg: Any, write_coco: Write, make_annotation: Make, key: str) -> None:
    broken = make_annotation(5, 1, 1, [0, 0, 5, 5])
    del broken[key]
    with pytest.raises(ValueError, match=rf'annotations\.json: annotation .*5.* has no "{key}"'):
        check_datasets(_train_on(cfg, write_coco([broken])))


def test_missing_images(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])], num_images=30)
    for index in (3, 29):
        (_json_file(spec).parent / f"{index}.png").unlink()
    with pytest.raises(ValueError, match=r"2 image files are missing \(.*\), among them .*/3\.png, .*/29\.png"):
        check_datasets(_train_on(cfg, spec))


@pytest.mark.parametrize("kind", ["garbage", "truncated", "other size"])
def test_images_that_cannot_be_used(cfg: Any, write_coco: Write, make_annotation: Make, kind: str) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])], sizes=[(200, 100), (200, 100)])
    image = _json_file(spec).parent / "1.png"
    if kind == "other size":
        Image.new("RGB", (100, 200)).save(image)
        message = r"1\.png is 100x200 pixels .* says 200x100"
    else:
        image.write_bytes(b"not an image" if kind == "garbage" else image.read_bytes()[:60])
        message = r"image file .*/1\.png cannot be read"
    with pytest.raises(ValueError, match=message):
        check_datasets(_train_on(cfg, spec))


def test_more_objects_than_queries(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = [make_annotation(n, 1, 1, [n, 0, 1, 1]) for n in range(7)]
    cfg = _train_on(cfg, write_coco(annotations, num_images=4))
    cfg.MODEL.DETR.NUM_QUERIES = 6
    assert check_datasets(cfg)[0].num_over_queries == 1
    assert "1 of 4 images have more boxes than the model has queries (6)" in caplog.text
    assert "the most is 7" in caplog.text
    cfg.MODEL.DETR.NUM_QUERIES = 7
    assert check_datasets(cfg)[0].num_over_queries == 0


def test_classes_of_config_and_evaluation(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    cfg = _train_on(cfg, write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])], name="train"))
    cfg.MODEL.DETR.NUM_CLASSES = 2
    with pytest.raises(ValueError, match=r"dataset train has 3 classes .* MODEL\.DETR\.NUM_CLASSES is 2"):
        check_datasets(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    cfg.DATASETS.TEST = (register_coco(write_coco([], categories=[{"id": 1, "name": "disc"}], name="fewer")),)
    with pytest.raises(ValueError, match=r"dataset train has the classes .* but dataset fewer, .* has disc \(only"):
        check_datasets(cfg)
    others = [{"id": n, "name": f"other {n}"} for n in range(3)]
    cfg.DATASETS.TEST = (register_coco(write_coco([], categories=others, name="renamed")),)
    with pytest.raises(ValueError, match=r"but dataset renamed, .* has other 0, other 1, other 2 \(only the"):
        check_datasets(cfg)


def test_nothing_to_learn_from(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    with pytest.raises(ValueError, match="empty has no boxes to train on: none of its 1 boxes, such as"):
        check_datasets(_train_on(cfg, write_coco([make_annotation(1, 1, 1, [0, 0, 0, 5])], name="empty")))


def test_masks_are_needed_for_masks(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    square = [[0, 0, 5, 0, 5, 5, 0, 5]]
    annotations = [make_annotation(1, 1, 1, [0, 0, 5, 5], segmentation=square), make_annotation(2, 1, 1, [0, 0, 5, 5])]
    cfg = _train_on(cfg, write_coco(annotations))
    check_datasets(cfg)
    cfg.MODEL.MASK_ON = True
    message = r"annotations\.json: 1 of 2 annotations have no mask .*: annotation 2 has no segmentation;"
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)


def test_second_start_reads_neither_file_nor_images(
    cfg: Any, write_coco: Write, make_annotation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])])
    first = check_datasets(_train_on(cfg, spec))

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    annotation_table._read_cached.cache_clear()  # as in a new process
    with monkeypatch.context() as patched:
        patched.setattr("detr_d2.data.coco.annotation_table.keep_coco_file", fail)
        patched.setattr("detr_d2.data.checks.images.read_image", fail)
        patched.setattr("detr_d2.data.checks.images.read_header", fail)
        assert check_datasets(cfg) == first
    (_json_file(spec).parent / "1.png").unlink()
    with pytest.raises(ValueError, match="1 image files are missing"):
        check_datasets(cfg)


@pytest.mark.parametrize("same", ["size", "time"])
def test_an_image_that_changes_in_place_is_read_again(
    cfg: Any, write_coco: Write, make_annotation: Make, same: str
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])])
    cfg = _train_on(cfg, spec)
    check_datasets(cfg)
    image = _json_file(spec).parent / "1.png"
    status, content = image.stat(), image.read_bytes()
    with image.open("r+b") as file:  # neither the folder nor the annotations change
        if same == "size":
            file.write(b"x" * len(content))
        else:
            file.truncate(len(content) // 2)
    changed = status.st_mtime_ns + (1_000_000_000 if same == "size" else 0)
    os.utime(image, ns=(status.st_atime_ns, changed))
    with pytest.raises(ValueError, match=r"image file .*/1\.png cannot be read"):
        check_datasets(cfg)


def test_changed_file_is_checked_again(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])])
    check_datasets(_train_on(cfg, spec))
    status = _json_file(spec).stat()
    content = json.loads(_json_file(spec).read_text())
    content["annotations"][0]["category_id"] = 7
    _json_file(spec).write_text(json.dumps(content))
    os.utime(_json_file(spec), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="category_id 7"):
        check_datasets(cfg)


def test_broken_cache_is_replaced(cfg: Any, write_coco: Write, make_annotation: Make, tmp_path: Path) -> None:
    cfg = _train_on(cfg, write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])]))
    first = check_datasets(cfg)
    (cached,) = [file for file in (tmp_path / "cache" / "detr_d2").glob("*.npz") if "boxes_xywh" in np.load(file)]
    complete = cached.read_bytes()
    cached.write_bytes(complete[: len(complete) // 2])
    annotation_table._read_cached.cache_clear()
    assert check_datasets(cfg) == first
    assert len(cached.read_bytes()) == len(complete)


def _register_dicts(tmp_path: Path, annotations: list[dict[str, Any]]) -> str:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "width": 20, "height": 10, "annotations": annotations}
    bare = {"file_name": str(tmp_path / "a.png")}
    DatasetCatalog.register("dicts", lambda: [bare, record])
    MetadataCatalog.get("dicts").thing_classes = ["a", "b", "c"]
    return "dicts"


def test_datasets_of_dicts_are_checked_too(cfg: Any, tmp_path: Path) -> None:
    annotations = [
        {"bbox": [2, 2, 10, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
        {"bbox": [2, 2, 10, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2},
        {"bbox": [5, 5, 5, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2},
    ]
    cfg.DATASETS.TRAIN = (_register_dicts(tmp_path, annotations),)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    (report,) = check_datasets(cfg)
    assert (report.num_images, report.num_boxes, report.num_dropped, report.num_classes) == (2, 2, 1, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"category_id": 3}, r"a\.png #1 has category_id 3; expected a whole number from 0 to 2"),
        ({"category_id": -1}, r"a\.png #1 has category_id -1"),
        ({"bbox": [0, 0, float("nan"), 1]}, r"a\.png #1 has bbox"),
        ({"category_id": None}, r"a\.png #1 has category_id None"),
    ],
)
def test_errors_in_datasets_of_dicts(cfg: Any, tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    good = {"bbox": [2, 2, 10, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    cfg.DATASETS.TRAIN = (_register_dicts(tmp_path, [good, {**good, **bad}]),)
    with pytest.raises(ValueError, match="dicts: .*" + message):
        check_datasets(cfg)


def test_real_cells(cfg: Any) -> None:
    """Needs the blood cell images (BCCD), COCO format: the environment variable DETR_D2_BCCD names their folder."""
    folder = os.environ.get("DETR_D2_BCCD")
    if not folder:
        pytest.skip("set DETR_D2_BCCD to the folder that holds train.json, val.json and images/ of the blood cells")
    cfg.DATASETS.TRAIN = (register_coco(f"cells_train={folder}/train.json:{folder}/images"),)
    cfg.DATASETS.TEST = (register_coco(f"cells_val={folder}/val.json:{folder}/images"),)
    train, val = check_datasets(cfg)
    assert (train.num_images, train.num_boxes, train.num_dropped, train.boxes_max) == (205, 2804, 1, 28)
    assert (val.num_images, val.num_dropped) == (87, 1)


def _point_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "annotations.json").write_text("{}"), r"annotations\.json"),
        (lambda folder: _point_nowhere(folder / "1.png"), r"1\.png is a link to .*gone\.png, which does not exist"),
    ],
)
def test_all_processes_stop_on_what_the_main_process_finds(
    cfg: Any,
    write_coco: Write,
    make_annotation: Make,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], Any],
    message: str,
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [0, 0, 5, 5])])
    cfg = _train_on(cfg, spec)
    spoil(_json_file(spec).parent)
    sent: list[Any] = []

    def all_gather(value: Any) -> list[Any]:
        sent.append(value)
        return [sent[0], None]

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", all_gather)
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "get_local_rank", lambda: 1)
    monkeypatch.setattr("detr_d2.data.checks.datasets.dataset_table", None)  # the others do not look themselves
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)
    assert sent[1] is None
