"""One reading of COCO files: what stands for the same is read as the same, everything else is refused by name."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from detr_d2.data.coco.annotation_table import _of_coco
from detr_d2.data.coco.dataset import CocoDataset, coco_records
from detr_d2.data.coco.file import forget_coco_file, keep_coco_file, read_coco_file, take_coco_file

Coco = dict[str, Any]
Edit = Callable[[Coco], object]

RLE = pycocotools.mask.encode(np.asfortranarray(np.tri(10, 20, dtype=np.uint8)))
BITS = {"size": [10, 20], "counts": RLE["counts"].decode()}


def coco() -> Coco:
    square = [[1, 1, 9, 1, 9, 7, 1, 7]]
    images = [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in (1, 2, 3)]
    entries = [(1, 1, 7, 0, square), (2, 1, 3, 1, BITS), (3, 3, 7, 0, [[1, 1, 5, 1, 5, 5]])]
    annotations = [
        {"id": i, "image_id": image, "category_id": k, "iscrowd": crowd, "segmentation": mask}
        | {"bbox": [1, 1, 8, 6.5], "area": 48}
        for i, image, k, crowd, mask in entries
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog", "supercategory": "animal"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path: Path, content: Any, encoding: str = "utf-8") -> str:
    path.write_bytes(json.dumps(content).encode(encoding))
    return str(path)


def every(part: str, key: str, value: Any) -> Edit:
    """Sets a key of all entries to a value, or to a function of what it was; `...` removes it."""

    def edit(content: Coco) -> None:
        for entry in content[part]:
            if value is ...:
                del entry[key]
            else:
                entry[key] = value(entry[key]) if callable(value) else value

    return edit


def one(part: str, index: int, key: str, value: Any) -> Edit:
    return lambda content: content[part][index].__setitem__(key, value)


def both(*edits: Edit) -> Edit:
    def edit(content: Coco) -> None:
        for x in edits:
            x(content)

    return edit


def edited(edit: Edit) -> Coco:
    content = copy.deepcopy(coco())
    edit(content)
    return content


def records_of(path: str) -> list[dict[str, Any]]:
    return coco_records(read_coco_file(path), "images")


def test_records_are_those_of_detectron2_with_areas_and_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", coco())
    ours = records_of(path)
    theirs = load_coco_json(path, "images", "theirs")
    MetadataCatalog.remove("theirs")
    areas, ids = ([x.pop(key) for record in ours for x in record["annotations"]] for key in ("area", "id"))
    assert ours == theirs
    assert (areas, ids) == ([48.0, 48.0, 48.0], [1, 2, 3])
    first = ours[0]["annotations"][0]
    assert (first["bbox"], first["bbox_mode"]) == ([1.0, 1.0, 8.0, 6.5], BoxMode.XYWH_ABS)
    assert all(type(value) is float for value in first["bbox"])


def test_keypoints_are_those_of_detectron2(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", edited(one("annotations", 0, "keypoints", [1, 2, 2, 3, 4, 1])))
    ours, theirs = (found[0]["annotations"] for found in (records_of(path), load_coco_json(path, "images", "theirs")))
    MetadataCatalog.remove("theirs")
    assert [x.get("keypoints") for x in ours] == [x.get("keypoints") for x in theirs]


SAME_FORMS: dict[str, Edit] = {
    "image ids are texts": both(every("images", "id", str), every("annotations", "image_id", str)),
    "image ids are texts in the annotations only": every("annotations", "image_id", str),
    "image ids are fractions": both(every("images", "id", float), every("annotations", "image_id", float)),
    "image ids of 64 bits and more": both(
        every("images", "id", lambda x: 2**53 * 1000 + x), every("annotations", "image_id", lambda x: 2**53 * 1000 + x)
    ),
    "category ids are texts": both(every("categories", "id", str), every("annotations", "category_id", str)),
    "category ids are texts in the annotations only": every("annotations", "category_id", str),
    "category ids are negative": both(
        every("categories", "id", lambda x: x - 9), every("annotations", "category_id", lambda x: x - 9)
    ),
    "annotation ids from 0": every("annotations", "id", lambda x: x - 1),
    "annotation ids are texts": every("annotations", "id", "uuid-{}".format),
    "no annotation ids": every("annotations", "id", ...),
    "crowds as texts": every("annotations", "iscrowd", str),
    "crowds as words": every("annotations", "iscrowd", lambda x: "TRUE" if x else " false "),
    "crowds as bool": every("annotations", "iscrowd", bool),
    "crowds as float": every("annotations", "iscrowd", float),
    "crowds null or missing": lambda c: (c["annotations"][0].update(iscrowd=None), c["annotations"][2].pop("iscrowd")),
    "sizes as texts": both(every("images", "width", str), every("images", "height", "{}.0".format)),
    "sizes as float": every("images", "width", float),
    "boxes as texts": every("annotations", "bbox", lambda box: [str(x) for x in box]),
    "areas as texts": every("annotations", "area", str),
    "ignore null": one("annotations", 0, "ignore", None),
    "polygons as texts": one("annotations", 0, "segmentation", [["1", "1", "9", "1", "9", "7", "1", "7"]]),
    "rings without area": one("annotations", 0, "segmentation", [[2, 2, 3, 3], [1, 1, 9, 1, 9, 7, 1, 7], [4, 4]]),
    "run lengths as a list": one(
        "annotations", 1, "segmentation",
        {"size": [10, 20], "counts": [0, 10, 1, 9, 2, 8, 3, 7, 4, 6, 5, 5, 6, 4, 7, 3, 8, 2, 9, 1, 100]},
    ),
    "entries in another order": lambda c: (c["images"].reverse(), c["categories"].reverse()),
    "NaN where nothing is read": one("annotations", 0, "score", math.nan),
    "half a surrogate where nothing is read": one("images", 0, "flickr_url", "\ud800"),
}  # fmt: skip


def _content(path: str) -> tuple[Any, ...]:
    """Everything but the ids, which are only names."""
    file = read_coco_file(path)
    table = _of_coco(file)
    records = coco_records(file, "images")
    names = {record.pop("image_id"): n for n, record in enumerate(records)}
    assert len(names) == len(records)
    for record in records:
        for annotation in record["annotations"]:
            annotation.pop("id", None)
            mask = annotation["segmentation"]
            if isinstance(mask, dict):
                annotation["segmentation"] = pycocotools.mask.decode(mask).tolist()
    arrays = (table.boxes_xywh, table.classes, table.crowd, table.image_of, table.mask_fault_of, table.image_sizes)
    return records, file.classes.names, file.classes.parents, [array.tolist() for array in arrays]


@pytest.mark.parametrize("form", SAME_FORMS)
def test_other_forms_of_the_same(tmp_path: Path, form: str) -> None:
    plain, other = write(tmp_path / "plain.json", coco()), write(tmp_path / "other.json", edited(SAME_FORMS[form]))
    assert _content(other) == _content(plain)


def test_numbers_as_texts_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    content = coco()
    content["images"] = [{**content["images"][0], "id": x} for x in ("10", "b", "9", "1", "a")]
    content["categories"] = [{"id": x, "name": f"class {x}"} for x in ("10", "3", "7")]
    file = read_coco_file(write(tmp_path / "a.json", content))
    assert file.images.ids == ["1", "9", "10", "a", "b"]
    assert file.classes.ids == ["3", "7", "10"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = edited(one("categories", 0, "name", "Kätzchen 猫"))
    other = tmp_path / "other.json"
    other.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert _content(str(other)) == _content(write(tmp_path / "plain.json", content))


def test_keys_that_occur_twice_count_the_last_time(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.json", coco()))
    path.write_text(path.read_text().replace('"bbox":', '"iscrowd": 5, "bbox": null, "iscrowd": 1, "bbox":'))
    assert _of_coco(read_coco_file(str(path))).crowd.all()


def test_missing_areas_are_those_of_the_mask_or_of_the_box(tmp_path: Path) -> None:
    content = edited(both(every("annotations", "area", None), one("annotations", 2, "segmentation", [[1, 1, 2, 2]])))
    del content["annotations"][0]["area"]
    objects = read_coco_file(write(tmp_path / "a.json", content)).objects
    assert objects is not None
    assert objects.areas.tolist() == [8 * 6, np.tri(10, 20).sum(), 8 * 6.5]
    assert "segmentation" not in records_of(str(tmp_path / "a.json"))[2]["annotations"][0]  # but the box is there


def test_no_annotations_or_none_of_an_image(tmp_path: Path) -> None:
    content = coco()
    del content["annotations"][2]
    assert [len(r["annotations"]) for r in records_of(write(tmp_path / "a.json", content))] == [2, 0, 0]
    del content["annotations"]
    path = write(tmp_path / "test.json", content)
    assert not any("annotations" in record for record in records_of(path))
    assert not _of_coco(read_coco_file(path)).annotated[0]


REFUSED: dict[str, tuple[Edit, str]] = {
    "text and number": (
        every("annotations", "image_id", "im{}".format),
        r"none of the 3 annotations belongs to an image .*'im1'.* \(texts\), but the images have id 1.* \(numbers\)",
    ),
    "null id": (one("images", 1, "id", None), r'1 value of "id" .*image #1 has id None; expected a number'),
    "list as id": (one("annotations", 1, "image_id", [1]), "annotation 2 has image_id \\[1\\]"),
    "bool as id": (one("annotations", 1, "category_id", True), "annotation 2 has category_id True"),
    "NaN as id": (one("annotations", 1, "id", math.nan), "annotation nan has id nan"),
    "annotation ids": (every("annotations", "id", 5), "1 annotation ids that occur twice: 5"),
    "ids of both kinds": (one("categories", 0, "id", "x"), r"some category ids are numbers and some are texts"),
    "NaN": (one("annotations", 1, "bbox", [0, math.nan, 1, 1]), r"annotation 2 has bbox \[0, nan, 1, 1\]"),
    "infinite": (one("annotations", 1, "area", math.inf), "annotation 2 has area inf"),
    "too large": (one("annotations", 1, "bbox", [0, 1, 1e30, 1]), r"annotation 2 has bbox \[0, 1, 1e\+30, 1\]"),
    "a very large integer": (one("annotations", 1, "area", 10**400), "annotation 2 has area 1000"),
    "negative area": (one("annotations", 1, "area", -1), "annotation 2 has area -1; expected a number of square"),
    "area in a list": (one("annotations", 1, "area", [480]), r"annotation 2 has area \[480\]"),
    "crowd": (one("annotations", 1, "iscrowd", 2), "annotation 2 has iscrowd 2; expected 0 or 1, true or false"),
    "crowd in words": (one("annotations", 1, "iscrowd", "no"), "annotation 2 has iscrowd 'no'"),
    "width null": (one("images", 1, "width", None), "image 2 has width None; expected a whole number of pixels"),
    "width 0": (one("images", 1, "width", 0), "image 2 has width 0"),
    "width 1.5": (one("images", 1, "width", 1.5), "image 2 has width 1.5"),
    "size of no image": (
        both(one("images", 1, "width", 2**20), one("images", 1, "height", 2**20)),
        "image 2 has width 1048576 and height 1048576, more pixels than can be read",
    ),
    "name": (one("images", 1, "file_name", 7), "image 2 has file_name 7; expected a text that is not empty"),
    "name with a zero byte": (one("images", 1, "file_name", "a\0.png"), r"image 2 has file_name 'a\\x00.png'"),
    "half a surrogate": (one("images", 1, "file_name", "\ud800"), r"image 2 has file_name '\\ud800'"),
    "ignore": (one("annotations", 1, "ignore", "1"), 'annotation 2 has "ignore" 1'),
    "keypoints": (one("annotations", 1, "keypoints", [1, 2]), "annotation 2 has keypoints"),
    "an entry that is none": (lambda c: c["annotations"].append(5), "annotation 5 is not an object with the keys"),
    "all are wrong": (every("annotations", "bbox", None), "3 boxes .*annotation 1 .*annotation 3 has bbox None;"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_file_entry_and_value(tmp_path: Path, kind: str) -> None:
    edit, message = REFUSED[kind]
    path = write(tmp_path / "a.json", edited(edit))
    with pytest.raises(ValueError, match=r"a\.json.*" + message) as caught:
        read_coco_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "is empty: write or download it again"),
        (b'{"images": [{"id": 1,]}', r"is not valid JSON \(.*line 1 column 22 .* where it holds '\]\}'\): correct it"),
        (b'{"images": [], // none', r"is not valid JSON .* holds '// none'"),
        (b"{'images': []}", "is not valid JSON .* holds \"'images'"),
        (b"\x1f\x8b\x08\x00\x01", "is compressed by gzip: unpack it"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (b"<!DOCTYPE html>", "is a web page, or other HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b'{"images": {"1": {}}}', 'has no list "images"; its "images" is {\'1\': {}}'),
        (b'{"coco": {}}', r"has no list \"images\"; its keys are \['coco'\]"),
        (b'{"images": [], "categories": [], "annotations": [{"id": 1', "it may have been cut off"),
        (b'{"image": "a.png"}\n{"image": "b.png"}\n', "holds JSON lines"),
        (b'[{"image_id": 1, "category_id": 2, "score": 0.5}]', "looks like a file of results"),
        (b'{"version": "5", "shapes": [], "imagePath": "a.png"}', "looks like a LabelMe file"),
        (b'{"a.png100": {"filename": "a.png", "regions": []}}', "looks like a VIA project"),
        (b'"text"', "has no list \"images\"; it is 'text'"),
        (b'{"images": [{"file_name": "\xff"}]}', r"is not text in UTF-8 \(.*write it in UTF-8"),
        (b"\xff\xfea", r"is not text in UTF-16 \(.*write it in UTF-8"),
        (b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply for a COCO file"),
        (b'{"images": [{"id": ' + b"9" * 5000 + b"}]}", r"is not valid JSON \(Exceeds"),
    ],
)
def test_files_of_another_kind_are_called_so(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json .*" + message):
        read_coco_file(str(tmp_path / "a.json"))


def test_what_the_checks_have_read_is_given_away_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", coco())
    small = write(tmp_path / "b.json", edited(lambda c: c["images"].pop(1)))
    kept = keep_coco_file(path)
    keep_coco_file(small)
    assert take_coco_file(path) is kept
    again = take_coco_file(path)
    assert again is not kept
    keep_coco_file(path)
    write(Path(path), edited(one("categories", 0, "name", "another")))
    assert take_coco_file(path).classes.names == ["dog", "another"]
    kept = keep_coco_file(path)
    forget_coco_file()
    assert take_coco_file(path) is not kept


def test_metadata_with_other_classes_is_refused(tmp_path: Path) -> None:
    dataset = CocoDataset("mine", write(tmp_path / "a.json", coco()), "images", "")
    DatasetCatalog.register("mine", dataset)
    MetadataCatalog.get("mine").thing_classes = ["cat", "dog"]  # the file's ids are the other way round
    with pytest.raises(ValueError, match=r"a\.json has the thing_classes \['dog', 'cat'\], but .* \['cat', 'dog'\]"):
        DatasetCatalog.get("mine")
