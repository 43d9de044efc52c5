"""What is counted is what training sees; and warnings about annotations that are possible and yet look wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.data import DatasetCatalog

from detr_d2.data import build_detr_train_loader, check_datasets, register_coco
from detr_d2.data.coco import annotation_table
from detr_d2.data.loader import training_records
from detr_d2.engine.startup.summary import _left_out

Write = Callable[..., str]
Make = Callable[..., dict[str, Any]]
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
BAD = [[1, 1, 5, float("nan"), 5, 5, 1, 5]]


def _check(cfg: Any, spec: str) -> Any:
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = (register_coco(spec),), 3
    return check_datasets(cfg)[0]


def _squares(make: Make, count: int, **of_last: Any) -> list[dict[str, Any]]:
    """Boxes of class 1, all in the first image; the last in the second."""
    entries = [make(n, 1, 1, [1, 1, 4, 4], segmentation=SQUARE) for n in range(count)]
    entries[-1].update(image_id=2, **of_last)
    return entries


@pytest.mark.parametrize("segmentation", [BAD, [[]], [[1, 1, 5, 5]], [1, 1, 5, 1, 5, 5], {"counts": [1]}, "x", 7, None])
def test_boxes_are_boxes_whatever_their_masks_are(
    cfg: Any, write_coco: Write, make_annotation: Make, segmentation: Any
) -> None:
    report = _check(cfg, write_coco(_squares(make_annotation, 2, segmentation=segmentation)))
    assert (report.num_boxes, report.num_without_mask) == (2, 0)
    assert [len(record["annotations"]) for record in training_records(cfg)] == [1, 1]
    batch = next(iter(build_detr_train_loader(cfg, seed=0)))
    assert [len(sample["instances"]) for sample in batch] == [1, 1]


@pytest.mark.parametrize("filter_empty", [False, True])
def test_objects_without_a_usable_mask_are_counted_and_left_out(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture, filter_empty: bool
) -> None:
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    report = _check(cfg, write_coco(_squares(make_annotation, 101, segmentation=BAD)))
    assert (report.num_boxes, report.num_without_mask, report.num_used_images) == (100, 1, 1 if filter_empty else 2)
    assert "1 of 101 annotations have no mask that can be used" in caplog.text
    assert "annotation 100 has a polygon with a coordinate that is not finite; they are left out" in caplog.text
    assert _left_out(report) == "objects without a usable mask 1"
    records = training_records(cfg)
    assert [len(record["annotations"]) for record in records] == ([100] if filter_empty else [100, 0])
    assert len(records) == report.num_used_images
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[1]["annotations"]) == 1  # as a box it is there


def test_too_many_bad_masks_or_all_of_a_class_are_refused(cfg: Any, write_coco: Write, make_annotation: Make) -> None:
    cfg.MODEL.MASK_ON = True
    entries = _squares(make_annotation, 99, segmentation=BAD)  # more than 1 %
    with pytest.raises(ValueError, match=r"1 of 99 annotations have no mask .*annotation 98 has a polygon .* finite"):
        _check(cfg, write_coco(entries, name="many"))
    entries = _squares(make_annotation, 300, segmentation=BAD, category_id=24)
    with pytest.raises(ValueError, match=r"1 of 300 .*\(classes bar lose all\); correct them, or set MODEL\.MASK_ON"):
        _check(cfg, write_coco(entries, name="class"))


def test_crowds_are_said(cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture) -> None:
    entries = _squares(make_annotation, 4, category_id=24, iscrowd="1")
    report = _check(cfg, write_coco([*entries, make_annotation(9, 1, 1, [1, 1, 0, 4])], name="one"))
    assert _left_out(report) == "crowds 1, boxes without area 1"
    assert 'one: all annotations of bar (1) are crowds ("iscrowd": 1), which are not trained on.' in caplog.text
    for entry in entries:
        entry["iscrowd"] = True
    with pytest.raises(ValueError, match="all has no boxes to train on: all 4 annotations are crowds"):
        _check(cfg, write_coco(entries, name="all"))


def _warnings(cfg: Any, spec: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING):
        _check(cfg, spec)
    return [record.getMessage() for record in caplog.records]


BOXES = [[2, 1, 6, 4], [12, 5, 8, 5], [1, 2, 3, 4], [9, 3, 8, 6], [4, 4, 5, 5]]  # in 20x10 pixels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y, w, h: [x, y, w, h], None),
        (lambda x, y, w, h: [x, y, w + 0.9, h + 0.9], None),  # a little beyond the image
        (lambda x, y, w, h: [x, y, x + w, y + h], ["3 of 5 boxes reach beyond", "5 lie inside", "corners x1, y1, x2"]),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], ["boxes reach beyond", "centre x, centre y, width, height"]),
        (lambda x, y, w, h: [x / 20, y / 10, w / 20, h / 10], ["5 of 5 boxes lie within the first pixel", "fractions"]),
        (lambda x, y, w, h: [x, y, w + 9, h], ["2 of 5 boxes reach far beyond their image", "up to 9 pixels"]),
    ],
)  # fmt: skip
def test_boxes_of_another_form(
    cfg: Any,
    write_coco: Write,
    make_annotation: Make,
    caplog: pytest.LogCaptureFixture,
    change: Callable[..., list[float]],
    words: list[str] | None,
) -> None:
    entries = [make_annotation(n, 1, 1, change(*box)) for n, box in enumerate(BOXES)]
    messages = _warnings(cfg, write_coco(entries, name="boxes"), caplog)
    assert [all(word in message for word in words or ()) for message in messages] == ([] if words is None else [True])


def test_an_image_listed_twice(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    images = [{"id": n, "file_name": name, "width": 20, "height": 10} for n, name in enumerate(["0.png", "./0.png"])]
    spec = write_coco([make_annotation(1, 0, 1, [1, 1, 4, 4])], images=images, name="split")
    (message,) = _warnings(cfg, spec, caplog)
    assert "split: 1 image files are listed more than once under several ids, such as 0.png" in message


def test_a_placeholder_beside_its_class(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cells"},
        {"id": 2, "name": "cell", "supercategory": "cells"},
    ]
    spec = write_coco([make_annotation(1, 1, 1, [1, 1, 4, 4])], categories=categories, name="export")
    first, second, third = _warnings(cfg, spec, caplog)
    assert "class cells (id 0) has no boxes, while cell (id 1) has 1 and names it as its supercategory" in first
    assert "class cell (id 2) has no boxes, while cell (id 1) has 1 and the same name" in second
    assert "several classes are called cell" in third


def test_images_of_both_sets(
    cfg: Any, write_coco: Write, make_annotation: Make, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write_coco([make_annotation(1, 1, 1, [1, 1, 4, 4])], name="first")
    cfg.DATASETS.TEST = (register_coco("second=" + spec.partition("=")[2]),)
    assert (
        "2 of the 2 images of evaluation set second are in training set first as well"
        in _warnings(cfg, spec, caplog)[0]
    )


def test_one_process_of_a_machine_reads_a_new_file(
    write_coco: Write, make_annotation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another has read it while this one waited for the lock."""
    path = write_coco([make_annotation(1, 1, 1, [1, 1, 4, 4])]).partition("=")[2].split(":")[0]
    expected = annotation_table.read_coco_table(path)
    annotation_table._read_cached.cache_clear()
    lookups: list[int] = []
    load = annotation_table.load_arrays

    def late(cached: Any) -> Any:
        lookups.append(1)
        return None if len(lookups) == 1 else load(cached)

    monkeypatch.setattr(annotation_table, "load_arrays", late)
    monkeypatch.setattr(annotation_table, "keep_coco_file", None)
    table = annotation_table.read_coco_table(path)
    assert table.label(0) == expected.label(0) == "annotation 1"
    assert table.class_ids.tolist() == [1, 24, 56]
    assert table.class_names.tolist() == expected.class_names.tolist()


@pytest.mark.parametrize("ids", [["a", "b"], [2**70, -5], [0.5, 7]])
def test_ids_of_any_kind_come_back_from_the_cache(
    write_coco: Write, make_annotation: Make, monkeypatch: pytest.MonkeyPatch, ids: list[Any]
) -> None:
    entries = [make_annotation(n, 1, 1, [1, 1, 4, 4]) for n in ids]
    path = write_coco(entries).partition("=")[2].split(":")[0]
    annotation_table.read_coco_table(path)
    annotation_table._read_cached.cache_clear()
    monkeypatch.setattr(annotation_table, "keep_coco_file", None)
    assert annotation_table.read_coco_table(path).annotation_ids.tolist() == ids
