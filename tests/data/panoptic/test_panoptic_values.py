"""Panoptic files: forms that mean the same, and values that are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.data import DatasetCatalog
from panoptic_files import PanopticFiles

from detr_d2.data import register_coco_panoptic
from detr_d2.data.panoptic.file import read_panoptic_file

Edit = Callable[[dict[str, Any]], Any]
Entries = Callable[[dict[str, Any]], list[dict[str, Any]]]


def _segments(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [segment for annotation in content["annotations"] for segment in annotation["segments_info"]]


def _each(entries: Entries | str, key: str, change: Callable[[Any], Any]) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for entry in content[entries] if isinstance(entries, str) else entries(content):
            entry[key] = change(entry.get(key))

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        _each("categories", "isthing", str),
        _each("categories", "isthing", bool),
        _each("categories", "isthing", float),
        _each(_segments, "iscrowd", str),
        _each(_segments, "iscrowd", bool),
        _each(_segments, "category_id", str),
        _each(_segments, "id", float),
        _each("annotations", "image_id", str),
        _each("images", "width", str),
    ],
)
def test_other_forms_of_the_same(files: PanopticFiles, edit: Edit) -> None:
    plain = read_panoptic_file(str(files.panoptic))
    files.change(edit)
    assert read_panoptic_file(str(files.panoptic)) == plain


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_both_files(files: PanopticFiles, encoding: str) -> None:
    plain = read_panoptic_file(str(files.panoptic))
    for path in (files.panoptic, files.instances):
        path.write_bytes(path.read_text().encode(encoding))
    assert read_panoptic_file(str(files.panoptic)) == plain
    register_coco_panoptic(files.spec("encoded"))
    assert [len(record["annotations"]) for record in DatasetCatalog.get("encoded")] == [3, 1, 0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_each("categories", "isthing", lambda _: None), "category 3 has isthing None.*expected 0 or 1, true or false"),
        (_each("categories", "isthing", lambda _: "yes"), "category 3 has isthing 'yes'"),
        (_each("images", "width", lambda _: None), "image 4 has width None"),
        (_each("images", "file_name", lambda _: 7), "image 4 has file_name 7"),
        (_each("annotations", "file_name", lambda _: None), "annotation of image 4 has file_name None"),
        (_each("annotations", "segments_info", lambda _: None), r"004\.png: segments_info is None, expected a list"),
        (_each("annotations", "segments_info", lambda _: [1]), r"004\.png: segments_info is \[1\], expected a list"),
        (_each(_segments, "id", lambda _: "x"), r"004\.png: .*segment 'x' has id 'x'.*; expected a whole number"),
        (_each(_segments, "id", lambda _: 2**24), r"004\.png: .*segment 16777216 has id 16777216"),
        (_each(_segments, "iscrowd", lambda _: 3), r"004\.png: .*has iscrowd 3, .*; expected 0 or 1"),
        (_each(_segments, "category_id", lambda _: [1]), r"004\.png: .*has category_id \[1\], .*; expected a number"),
        (_each(_segments, "bbox", lambda _: [1, 2]), r"004\.png: .*has bbox \[1, 2\], .*; expected four finite numb"),
    ],
)
def test_refused_with_file_entry_and_value(files: PanopticFiles, edit: Edit, message: str) -> None:
    files.change(edit)
    with pytest.raises(ValueError, match=r"panoptic\.json: .*" + message):
        read_panoptic_file(str(files.panoptic))


def test_a_key_that_is_missing(files: PanopticFiles) -> None:
    content = json.loads(files.panoptic.read_text())
    del content["annotations"]
    files.panoptic.write_text(json.dumps(content))
    with pytest.raises(
        ValueError,
        match=r'panoptic\.json has no list "annotations"; its keys are .*: a COCO panoptic file is an object',
    ):
        read_panoptic_file(str(files.panoptic))
