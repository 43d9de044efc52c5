"""No figure depends on what images, annotations and categories are called; what is saved has the names of the data."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Instances

from detr_d2.benchmark.coco import random_detections, write_coco_file
from detr_d2.compare.data import load_ground_truth
from detr_d2.compare.gallery_data import Pick, gallery_image
from detr_d2.compare.measure.coco import coco_metrics
from detr_d2.compare.records.files import to_json
from detr_d2.data import register_coco
from detr_d2.data.checks.records import image_ids, json_id, read_objects
from detr_d2.evaluation.arrays import Detections
from detr_d2.evaluation.coco import RecordsEvaluator

KINDS: dict[str, Callable[[int], Any]] = {
    "from 0": lambda k: k,
    "texts": lambda k: f"IMG_{997 * k % 1000:03d}",
    "digits as text": lambda k: f"{k + 1:06d}",
    "UUIDs": lambda k: str(uuid.UUID(int=2**120 // (k + 1))),
    "fractions": lambda k: k + 0.5,
    "negative": lambda k: -k - 1,
    "beyond 53 bits": lambda k: 20230101123045123456 + k,
    "beyond 64 bits": lambda k: 2**70 - k,
    "numbers and texts": lambda k: str(k) if k % 2 else k + 1,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Instances]]:
    """A file with ids from 1 and ties among the scores of its detections, with masks."""
    path = tmp_path_factory.mktemp("ids") / "plain.json"
    write_coco_file(path, images=6, annotations=40, num_classes=3, polygon_points=0, seed=1)
    content = json.loads(path.read_text())
    for x in content["annotations"]:
        left, top, w, h = x["bbox"]
        x["segmentation"] = [[left, top, left + w, top, left + w, top + h, left, top + h]]
    path.write_text(json.dumps(content))
    found = []
    for _, instances in random_detections(path, per_image=6, seed=2):
        instances.scores = (8 * instances.scores).round() / 8
        instances.pred_masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(
            instances.pred_masks, instances.pred_boxes.tensor.long().tolist(), strict=True
        ):
            mask[max(0, y0) : y1, max(0, x0) : x1] = True
        found.append(instances)
    return path, found


def renamed(path: Path, name: Callable[[int], Any]) -> dict[str, Any]:
    """The same content under other names; names of classes stay in order, which is that of the class indices."""
    content = json.loads(path.read_text())
    images = {x["id"]: name(k) for k, x in enumerate(content["images"])}
    for x in content["images"]:
        x["id"] = images[x["id"]]
    for k, x in enumerate(content["annotations"]):
        x.update(id=name(k), image_id=images[x["image_id"]])
    return content


def records_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """As a user's own function returns them, whatever a reader of files thinks of such ids."""
    records = []
    for image in content["images"]:
        objects = [x for x in content["annotations"] if x["image_id"] == image["id"]]
        objects = [{**{k: v for k, v in x.items() if k != "image_id"}, "bbox_mode": 1} for x in objects]
        record = {"image_id": image["id"], "annotations": objects}
        records.append({**record, **{key: image[key] for key in ("file_name", "height", "width")}})
    return records


def register(content: dict[str, Any]) -> str:
    DatasetCatalog.register("named", lambda: records_of(content))
    ids = {f"k{x['id']}": x["id"] for x in content["categories"]}
    MetadataCatalog.get("named").set(
        thing_classes=[x["name"] for x in content["categories"]], thing_dataset_id_to_contiguous_id=ids
    )
    return "named"


def unregister(name: str) -> None:
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluated(name: str, found: list[Instances], folder: Path) -> dict[str, dict[str, float]]:
    records = {Path(x["file_name"]).name: x for x in DatasetCatalog.get(name)}
    evaluator = RecordsEvaluator(name, distributed=False, output_dir=str(folder))
    for _, record, instances in zip(range(6), (records[key] for key in sorted(records)), found, strict=True):
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def compared(name: str, found: list[Instances]) -> dict[str, Any]:
    truth = load_ground_truth(name)
    columns = [
        (x.pred_boxes.tensor.numpy().astype(np.float32), x.scores.numpy(), x.pred_classes.numpy()) for x in found
    ]
    ranked = [tuple(c[np.argsort(-scores, kind="stable")] for c in (b, scores, k)) for b, scores, k in columns]
    assert to_json(gallery_image(truth, Pick(0, 0.5, []), {}, half=0))["image_id"] in truth.image_ids
    return asdict(coco_metrics(truth, Detections.join(ranked))[0])


def test_ap_does_not_depend_on_names(plain: tuple[Path, list[Instances]], tmp_path: Path) -> None:
    path, found = plain
    name = register(renamed(path, lambda k: k + 1))
    expected, of_comparison = evaluated(name, found, tmp_path), compared(name, found)
    assert 5 < expected["bbox"]["AP"] < 95
    assert expected["segm"]["AP"] > 5
    unregister(name)
    for kind, call in KINDS.items():
        content = renamed(path, call)
        name = register(content)
        assert str(evaluated(name, found, tmp_path)) == str(expected), kind  # as texts, for NaN is not NaN
        assert str(compared(name, found)) == str(of_comparison), kind
        rows = json.loads((tmp_path / "coco_instances_results.json").read_text())
        assert {str(x["image_id"]) for x in rows} == {str(x["id"]) for x in content["images"]}, kind
        assert {x["category_id"] for x in rows} == {"k0", "k1", "k2"}
        unregister(name)


@pytest.mark.parametrize("kind", ["from 0", "texts", "UUIDs", "negative", "beyond 53 bits"])
def test_ids_of_a_coco_file(plain: tuple[Path, list[Instances]], kind: str, tmp_path: Path) -> None:
    path, found = plain
    ap = []
    for name, call in (("plain", lambda k: k + 1), ("named", KINDS[kind])):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(renamed(path, call)))
        ap.append(evaluated(register_coco(f"{name}={file}:{tmp_path}"), found, tmp_path))
    assert str(ap[0]) == str(ap[1])


def test_a_file_equals_the_same_objects_of_a_function(plain: tuple[Path, list[Instances]], tmp_path: Path) -> None:
    path, found = plain
    DatasetCatalog.register("loaded", lambda: load_coco_json(str(path), "", "loaded", ["area"]))
    ours = evaluated(register(json.loads(path.read_text())), found, tmp_path)
    assert str(ours) == str(evaluated("loaded", found, tmp_path))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 1.0], r"a\.png and b\.png have the same image_id 1.0: give each its own"),
        (["7", "7"], r"a\.png and b\.png have the same image_id '7'"),
        ([1, None], r"b\.png has image_id None, expected a number or a text"),
        ([1, [2]], r"b\.png has image_id \[2\]"),
        ([1, float("nan")], r"b\.png has image_id nan"),
    ],
)
def test_ids_that_name_no_image(given: list[Any], said: str) -> None:
    records = [{"file_name": f"{letter}.png", "image_id": x} for letter, x in zip("ab", given, strict=True)]
    with pytest.raises(ValueError, match=f"mine: {said}"):
        image_ids("mine", records)
    assert image_ids("mine", [{"image_id": x} for x in (1, "1", 1.5, -1)]) == [1, "1", 1.5, -1]


def test_ids_in_json() -> None:
    given = [np.int64(5), "a", 2**70, 1.5, uuid.UUID(int=1), (1, 2)]
    assert json.loads(json.dumps([json_id(x) for x in given])) == [5, "a", 2**70, 1.5, str(uuid.UUID(int=1)), "(1, 2)"]


def one(**more: Any) -> dict[str, Any]:
    annotation = {"bbox": [2.0, 3.0, 10.0, 7.0], "bbox_mode": 0, "category_id": 1, **more}
    return {"file_name": "a.png", "height": 20, "width": 30, "annotations": [annotation]}


@pytest.mark.parametrize("value", [0, False, None, "0", "False", 0.0, np.int64(0), np.bool_(False)])
def test_no_crowds(value: Any) -> None:
    assert read_objects("mine", one(iscrowd=value), 2)[0].crowd is False


@pytest.mark.parametrize("value", [1, True, "1", "true", 1.0, np.int64(1)])
def test_crowds(value: Any) -> None:
    assert read_objects("mine", one(iscrowd=value), 2)[0].crowd is True


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 32),  # of the box, which is given by its corners
        ({"area": 5.5}, 5.5),
        ({"area": None, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 8, 6, 8, 8]]}, 18),
        ({"segmentation": [[0, 0, 4, 4]]}, 32),  # which is no mask
        ({"segmentation": {"size": [20, 30], "counts": [5, 10, 585]}}, 10),
        ({"segmentation": np.eye(20, 30, dtype=bool)}, 20),
        ({"area": 0}, 0),
        ({"area": "480"}, 480),
    ],
)
def test_area(more: dict[str, Any], expected: float) -> None:
    (found,) = read_objects("mine", one(**more), 2)
    assert found.box_xywh == (2, 3, 8, 4)
    assert found.area == pytest.approx(expected)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"iscrowd": 2}, "iscrowd 2; expected 0 or 1"),
        ({"iscrowd": "yes"}, "iscrowd 'yes'; expected 0 or 1"),
        ({"iscrowd": [0]}, r"iscrowd \[0\]"),
        ({"area": "large"}, "area 'large'; expected a number of square pixels"),
        ({"area": float("nan")}, "area nan"),
        ({"area": -1}, "area -1"),
        ({"area": [480]}, r"area \[480\]"),
        ({"category_id": 2}, "category_id 2; expected a whole number from 0 to 1"),
        ({"category_id": "0"}, "category_id '0'"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]; expected 4 finite numbers"),
        ({"bbox": ["1", "2", "3", "4"]}, r"bbox \['1'.*expected a finite number"),
        ({"bbox": [1, 2, 3, float("inf")]}, r"bbox \[1.*expected a finite number"),
        ({"bbox": None}, "bbox None"),
        ({"bbox_mode": 17}, "bbox_mode 17; expected BoxMode"),
        ({"bbox_mode": None}, "bbox_mode None"),
    ],
)
def test_objects_that_cannot_be_read(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"mine: .*annotation a\.png #0 has {said}"):
        read_objects("mine", one(**more), 2)
