"""Wherever a model meets data, their classes are compared by name: matched, or refused with both lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tiny_baselines import tiny_faster_rcnn_cfg
from tiny_models import tiny_cfg
from torch import nn

from detr_d2.checkpoint import Checkpointer
from detr_d2.class_names import match_classes, require_same_classes
from detr_d2.commands._run import in_order_of_model
from detr_d2.compare.models import map_classes
from detr_d2.compare.segmentation import require_panoptic_classes
from detr_d2.data import check_order_of_classes
from detr_d2.data.checks.datasets import check_evaluation_sets
from detr_d2.engine import Trainer
from detr_d2.panoptic_classes import PanopticClasses
from detr_d2.prediction import Categories
from detr_d2.prediction.categories import class_names_option
from detr_d2.prediction.trained_model import load_trained_model

MODEL = ["cat", "dog", "traffic light"]
SAME = {"equal": MODEL, "spelling": ["Cat", "dog", "traffic_light"]}
ORDER = ["traffic light", "cat", "dog"]
OTHERS = {
    "subset": (["cat", "dog"], r"cat, dog \(only the former: traffic light\)"),
    "superset": ([*MODEL, "cow"], r"cow \(only the latter: cow\)"),
    "renamed": (["cat", "cow", "dog"], r"cat, cow, dog \(only the former: traffic light; only the latter: cow\)"),
    "repeated": (["dog", "cat", "cat", "traffic light"], r"traffic light \(a name of several classes: cat\)"),
}
REFUSED = {**OTHERS, "order": (ORDER, r"traffic light, cat, dog \(the same names in another order\)")}


def test_match() -> None:
    assert match_classes(MODEL, ORDER).to_data == (1, 2, 0)
    assert match_classes(MODEL, ["dog", "cow"]).to_data == (-1, 0, -1)
    assert match_classes(["cat", "Cat"], ["Cat", "cat"]).to_data == (1, 0)  # two classes, told apart by capitals alone
    assert match_classes(["cat", "cat"], ["cat", "cat"]).same_order
    assert match_classes(["tree-merged"], ["tree"]).same_order  # COCO's stuff
    with pytest.raises(ValueError, match=r"a, b, c, d, e, f, g, h, i, j, \.\.\. \(11 in all\)"):
        require_same_classes([*"abcdefghijk"], MODEL, model_is="it has", data_are="they have", cure="do something")


@pytest.fixture(scope="module", params=["DETR", "Faster R-CNN"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CfgNode, nn.Module, str]:
    """A config, its model, and the model's checkpoint, which names its classes."""
    cfg = tiny_cfg() if request.param == "DETR" else tiny_faster_rcnn_cfg()
    built, folder = build_model(cfg), tmp_path_factory.mktemp("model")
    Checkpointer(built, str(folder)).save("model", class_names=MODEL, category_ids=[7, 8, 9])
    return cfg, built, str(folder / "model.pth")


def evaluate(model: tuple[CfgNode, nn.Module, str], names: list[str]) -> Any:
    """As `--eval-only`, which looks at the data's classes before it loads the weights."""
    checkpointer = Checkpointer(model[1])
    checkpointer.metadata["class_names"] = names
    return checkpointer.load_trained(model[2])


def resume(model: tuple[CfgNode, nn.Module, str], names: list[str]) -> Any:
    checkpointer = Checkpointer(model[1], optimizer=torch.optim.SGD(model[1].parameters(), lr=1.0))
    checkpointer.metadata["class_names"] = names
    return checkpointer.load(model[2])


def predict(model: tuple[CfgNode, nn.Module, str], names: list[str]) -> Categories:
    """As `predict --coco`, `queries`, `matching`."""
    given = Categories(tuple(names), tuple(f"id of {name}, {i}" for i, name in enumerate(names)))
    return load_trained_model(model[0].clone(), model[2], given)[1]


@pytest.mark.parametrize(
    ("use", "kind"), [(evaluate, "renamed"), (resume, "subset"), *((predict, kind) for kind in OTHERS)]
)
def test_a_model_and_other_data(model: Any, use: Callable[..., Any], kind: str) -> None:
    names, said = OTHERS[kind]
    with pytest.raises(
        ValueError, match=rf"model\.pth was trained on the classes cat, dog, traffic light, but .*{said}"
    ):
        use(model, names)


def test_a_model_and_its_data(model: Any) -> None:
    evaluate(model, SAME["spelling"])
    assert predict(model, SAME["spelling"]).names == tuple(SAME["spelling"])


def test_data_in_another_order(model: Any) -> None:
    with pytest.raises(ValueError, match="the same names in another order"):
        evaluate(model, ORDER)
    categories = predict(model, ORDER)
    assert categories.names == tuple(MODEL)
    assert categories.ids == ("id of cat, 1", "id of dog, 2", "id of traffic light, 0")
    given = Categories(tuple(ORDER), ("id of traffic light, 0", "id of cat, 1", "id of dog, 2"))
    records: list[dict[str, Any]] = [
        {"file_name": "a", "annotations": [{"category_id": k} for k in (0, 1, 2)]},
        {"file_name": "b"},
    ]
    ordered = in_order_of_model(records, given, categories)
    assert [[x["category_id"] for x in record["annotations"]] for record in ordered] == [[2, 0, 1], []]


def test_names_that_the_user_gives(model: Any) -> None:
    cfg, _, path = model
    given = class_names_option("Katze,Hund,Ampel")
    assert load_trained_model(cfg.clone(), path, given)[1].names == ("Katze", "Hund", "Ampel")
    with pytest.raises(ValueError, match="has 'dog' in another place: give the names in the order of the model"):
        load_trained_model(cfg.clone(), path, class_names_option("dog,cat,Ampel"))
    with pytest.raises(ValueError, match="and has 'cat' in another place"):
        load_trained_model(cfg.clone(), path, class_names_option("cat,cat,Ampel"))


def test_ids_of_the_configs_data_are_found_by_name(model: Any, tmp_path: Path) -> None:
    cfg, _, path = model
    content = torch.load(path)
    del content["category_ids"]
    torch.save(content, tmp_path / "named.pth")
    DatasetCatalog.register("ordered", list)
    ids = {40: 0, 41: 1, 42: 2}
    MetadataCatalog.get("ordered").set(thing_classes=ORDER, thing_dataset_id_to_contiguous_id=ids)
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("ordered",)
    categories = load_trained_model(cfg, str(tmp_path / "named.pth"))[1]
    assert (categories.names, categories.ids) == (tuple(MODEL), (41, 42, 40))


@pytest.fixture
def datasets() -> Callable[..., CfgNode]:
    def _datasets(*classes: list[str], train: bool) -> CfgNode:
        names = [f"data {i}" for i in range(len(classes))]
        for name, these in zip(names, classes, strict=True):
            DatasetCatalog.register(name, list)
            MetadataCatalog.get(name).set(thing_classes=these)
        cfg = tiny_cfg()
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(names[:train]), tuple(names[train:])
        return cfg

    return _datasets


@pytest.mark.parametrize("train", [True, False], ids=["training and evaluation", "two evaluation sets"])
@pytest.mark.parametrize("kind", REFUSED)
def test_two_datasets_of_one_model(datasets: Callable[..., CfgNode], kind: str, train: bool) -> None:
    names, said = REFUSED[kind]
    cfg = datasets(MODEL, names, train=train)
    with pytest.raises(ValueError, match=rf"dataset data 0 has the classes .*, but dataset data 1, .*{said}"):
        check_evaluation_sets(cfg, trained_on=cfg.DATASETS.TRAIN)
    MetadataCatalog.remove("data 1")
    MetadataCatalog.get("data 1").set(thing_classes=SAME["spelling"])
    check_evaluation_sets(cfg, trained_on=cfg.DATASETS.TRAIN)


def test_weights_that_do_not_name_their_classes(model: Any, datasets: Callable[..., CfgNode], tmp_path: Path) -> None:
    """The training data of the config then are the best guess at their order."""
    cfg, _, path = model
    content = torch.load(path)
    del content["class_names"], content["category_ids"]
    torch.save(content, tmp_path / "unnamed.pth")
    cfg, config = cfg.clone(), datasets(MODEL, ORDER, train=True)
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN has the classes .*\(the same names in another order\)"):
        check_order_of_classes(config)
    with pytest.raises(ValueError, match="the same names in another order"):
        Trainer(config)
    MetadataCatalog.remove("data 1")
    MetadataCatalog.get("data 1").set(thing_classes=OTHERS["renamed"][0])
    check_order_of_classes(config)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("data 0",), ()
    given = Categories(tuple(ORDER), (40, 41, 42))
    assert load_trained_model(cfg, str(tmp_path / "unnamed.pth"), given)[1].ids == (41, 42, 40)


def test_records_of_evaluation_sets_are_looked_at(datasets: Callable[..., CfgNode]) -> None:
    cfg = datasets(MODEL, train=False)
    DatasetCatalog.remove("data 0")
    DatasetCatalog.register("data 0", lambda: [{"file_name": x, "image_id": 5} for x in ("a.png", "b.png")])
    with pytest.raises(ValueError, match=r"data 0: a\.png and b\.png have the same image_id 5"):
        check_evaluation_sets(cfg)


def test_comparison_matches_what_it_can() -> None:
    numbered = Categories.numbered
    assert map_classes(numbered(MODEL), ORDER, "M")[0].tolist() == [1, 2, 0]
    assert map_classes(numbered(MODEL), SAME["spelling"], "M")[0].tolist() == [0, 1, 2]
    found, notes = map_classes(numbered(MODEL), ["cow", "dog"], "M")
    assert np.array_equal(found, [-1, 1, -1])
    assert "does not know 1 of the classes: cow" in notes[0]
    twice = ["dog", "cat", "cat"]
    for names, said in (
        (["cow"], "knows none of the classes"),
        (twice, "and the data have a name of several classes, cat"),
    ):
        with pytest.raises(ValueError, match=rf"M {said}.*cat, dog, traffic light"):
            map_classes(numbered(MODEL), names, "M")


@pytest.mark.parametrize("kind", REFUSED)
def test_panoptic_maps_of_other_classes(kind: str) -> None:
    metadata = MetadataCatalog.get("panoptic")
    metadata.set(thing_classes=MODEL[:2], thing_dataset_id_to_contiguous_id={1: 0, 2: 1})
    metadata.set(stuff_classes=MODEL, stuff_dataset_id_to_contiguous_id={3: 2})
    classes = PanopticClasses.from_metadata(metadata)
    assert classes is not None
    require_panoptic_classes(classes, MODEL)
    require_panoptic_classes(classes, MODEL[:2])  # of a model that does not name its stuff
    if kind != "subset":
        with pytest.raises(ValueError, match=r"it has the classes .*, but the data have cat, dog, traffic light"):
            require_panoptic_classes(classes, REFUSED[kind][0])
