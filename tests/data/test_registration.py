"""--coco specs, and the number of classes that follows from the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from detr_d2.data import category_ids, register_coco, register_datasets, resolve_num_classes


@pytest.fixture
def spec(write_coco: Callable[..., str], make_annotation: Callable[..., dict[str, Any]]) -> str:
    return write_coco([make_annotation(1, 1, 24, [1, 2, 3, 4])], name="mine")


def _register(name: str, classes: list[str]) -> str:
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png", "annotations": []}])
    MetadataCatalog.get(name).thing_classes = classes
    return name


def test_classes_are_known_in_the_order_of_their_ids(spec: str) -> None:
    assert register_coco(spec) == "mine"
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["disc", "bar", "square"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 24: 1, 56: 2}
    assert metadata.evaluator_type == "coco"
    assert category_ids(metadata) == [1, 24, 56]
    records = DatasetCatalog.get("mine")
    assert [len(record["annotations"]) for record in records] == [1, 0]
    assert records[0]["annotations"][0]["category_id"] == 1


def test_category_ids_are_in_the_order_of_the_class_indices() -> None:
    assert category_ids(Metadata(thing_classes=["a", "b"])) == [0, 1]
    metadata = Metadata(thing_classes=["a", "b", "c"], thing_dataset_id_to_contiguous_id={1: 2, 24: 0, 56: 1})
    assert category_ids(metadata) == [24, 56, 1]
    assert category_ids(Metadata()) == []
    metadata = Metadata(name="mine", thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id={7: 0})
    with pytest.raises(ValueError, match="of dataset mine has no id of class b: map an id to each class"):
        category_ids(metadata)


def test_registering_twice_is_fine_but_other_data_is_not(cfg: Any, spec: str, write_coco: Callable[..., str]) -> None:
    cfg.DATASETS.COCO, cfg.DATASETS.TRAIN = [spec], ("mine",)
    register_datasets(cfg)
    register_datasets(cfg)
    with pytest.raises(ValueError, match=r"the name mine is taken by .*annotations\.json"):
        register_coco(write_coco([], name="mine"))
    with pytest.raises(ValueError, match="the name coco_2017_val is taken"):
        register_coco(write_coco([], name="coco_2017_val"))


def test_data_that_is_not_used_need_not_be_there(cfg: Any, spec: str) -> None:
    cfg.DATASETS.COCO, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [spec, "other=gone.json:gone"], ("mine",), ()
    register_datasets(cfg)
    assert "mine" in DatasetCatalog
    assert "other" not in DatasetCatalog
    cfg.DATASETS.TEST = ("other",)
    with pytest.raises(ValueError, match=r"gone.*\(DATASETS\.COCO of the config names these data"):
        register_datasets(cfg)


def test_image_folder_may_hold_colons(tmp_path: Path, spec: str) -> None:
    json_file = spec.partition("=")[2].rpartition(":")[0]
    root = tmp_path / "a:b.d"
    root.mkdir()
    register_coco(f"colons={json_file}:{root}")
    assert MetadataCatalog.get("colons").image_root == str(root)


@pytest.mark.parametrize("wrong", ["mine", "mine=", "=a.json:b", "mine=a.json", "mine=a.json:", "mine=a.txt:b"])
def test_malformed_specs(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"--coco {wrong}: expected NAME=annotations.json:image_root"):
        register_coco(wrong)


def test_missing_file_and_folder(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ValueError, match=r"nothing\.json cannot be read \(No such file"):
        register_coco(f"x={tmp_path / 'nothing.json'}:{tmp_path}")
    with pytest.raises(ValueError, match=r"there is no folder .*/nowhere"):
        register_coco(spec.rpartition(":")[0] + f":{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"categories": []}, 'empty list "categories"'),
        ({"categories": None}, 'no list "categories"'),
        ({"annotations": None}, 'no list "annotations"'),
        ({"images": {}}, 'no list "images"'),
        ({"images": []}, "has no images"),
        ({"images": [{"id": 1, "file_name": "0.png", "width": 2}]}, 'image 1 has no "height"'),
        ({"images": [{"id": 1, "file_name": "0.png", "width": 2, "height": 2}] * 2}, "1 image ids that occur twice"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "1 category ids that occur twice: 1"),
        ({"categories": [{"id": "x", "name": "a"}, {"id": 2, "name": "b"}]}, "some category ids are numbers and some"),
        ({"categories": [{"id": [1], "name": "a"}]}, r"category #0 has id \[1\]; expected a number or a text"),
        ({"categories": [{"id": 1, "name": 1}]}, "category 1 has name 1; expected a text"),
        ({"categories": [{"id": 1}]}, 'category 1 has no "name"'),
        ({"categories": ["a"]}, "category a is not an object"),
    ],
)
def test_files_that_are_not_coco(write_coco: Callable[..., str], replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"annotations\.json.*" + message):
        register_coco(write_coco([], **replaced))


def test_truncated_file(spec: str) -> None:
    json_file = Path(spec.partition("=")[2].rpartition(":")[0])
    json_file.write_text(json_file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"annotations\.json is not complete JSON .* cut off"):
        register_coco(spec)
    json_file.write_text("[]")
    with pytest.raises(ValueError, match='no list "images"'):
        register_coco(spec)


def test_zero_is_resolved_everywhere_and_the_config_stays_frozen(cfg: Any, spec: str) -> None:
    cfg.DATASETS.TRAIN = (register_coco(spec),)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.freeze()
    assert resolve_num_classes(cfg) is cfg
    assert cfg.is_frozen()
    assert (cfg.MODEL.DETR.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (3, 3)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 80  # not asked for, and not this model's


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("DETR", "MODEL.DETR.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
    ],
)
def test_other_number_than_the_data(cfg: Any, spec: str, architecture: str, key: str) -> None:
    cfg.DATASETS.TRAIN = (register_coco(spec),)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.merge_from_list([key, 4])
    with pytest.raises(ValueError, match=rf"dataset mine has 3 classes \(disc, bar, square\), but {key} is 4: set"):
        resolve_num_classes(cfg)


def test_evaluation_data_serve_when_nothing_is_trained(cfg: Any, spec: str) -> None:
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 0
    cfg.DATASETS.TEST = (register_coco(spec),)
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 3


def test_training_sets_must_agree(cfg: Any) -> None:
    cfg.DATASETS.TRAIN = (_register("one", ["a", "b"]), _register("two", ["b", "a"]))
    with pytest.raises(ValueError, match="one and two have different classes, a, b and b, a"):
        resolve_num_classes(cfg)


def test_classes_that_are_known_only_after_loading(cfg: Any) -> None:
    calls = []

    def load() -> list[dict[str, Any]]:
        calls.append(1)
        MetadataCatalog.get("lazy").thing_classes = ["a", "b"]
        return [{"file_name": "a.png", "annotations": []}]

    DatasetCatalog.register("lazy", load)
    cfg.DATASETS.TRAIN = ("lazy",)
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 2
    resolve_num_classes(cfg)
    assert len(calls) == 1


def test_classes_that_are_never_known(cfg: Any) -> None:
    DatasetCatalog.register("silent", lambda: [{"file_name": "a.png", "annotations": []}])
    cfg.DATASETS.TRAIN = ("silent",)
    with pytest.raises(ValueError, match=r"silent does not say its classes: set MODEL\.DETR\.NUM_CLASSES"):
        resolve_num_classes(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 7
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 7


def test_unknown_name_lists_similar_ones(cfg: Any, spec: str) -> None:
    register_coco(spec)
    cfg.DATASETS.TRAIN = ("coco_2017_trian",)
    with pytest.raises(ValueError, match=r"similar names: coco_2017_train.*--coco coco_2017_trian=annotations\.json:"):
        resolve_num_classes(cfg)


def test_builtin_coco_needs_no_file(cfg: Any) -> None:
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    assert resolve_num_classes(cfg).MODEL.DETR.NUM_CLASSES == 80


def test_file_that_changed_is_read_again(spec: str) -> None:
    register_coco(spec)
    json_file = Path(spec.partition("=")[2].rpartition(":")[0])
    content = json.loads(json_file.read_text())
    content["categories"].append({"id": 99, "name": "ring"})
    json_file.write_text(json.dumps(content))
    DatasetCatalog.remove("mine")
    MetadataCatalog.remove("mine")
    register_coco(spec)
    assert MetadataCatalog.get("mine").thing_classes == ["disc", "bar", "square", "ring"]
