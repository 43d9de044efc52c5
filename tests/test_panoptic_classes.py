"""Rows of a panoptic class head against detectron2's two layouts of ids."""

from __future__ import annotations

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from detr_d2.config import get_cfg
from detr_d2.panoptic_classes import PanopticClasses


def of_dataset(name: str) -> PanopticClasses:
    classes = PanopticClasses.from_metadata(MetadataCatalog.get(name))
    assert classes is not None
    return classes


def test_separated_coco_counts_stuff_from_one() -> None:
    classes = of_dataset("coco_2017_val_panoptic_separated")
    assert (classes.num_things, classes.num_stuff, len(classes), classes.num_channels) == (80, 53, 133, 54)
    assert [classes.category_id(row) for row in (0, 79, 80, 132)] == [0, 79, 1, 53]
    assert [classes.is_thing(row) for row in (79, 80)] == [True, False]
    assert classes.row(0, is_thing=True) == 0
    assert classes.row(1, is_thing=False) == 80
    assert classes.row(53, is_thing=False) == 132
    assert [classes.channel(row) for row in (0, 79, 80, 132)] == [0, 0, 1, 53]
    assert (classes.dataset_ids[79], classes.dataset_ids[80], classes.dataset_ids[132]) == (90, 92, 200)
    assert (classes.names[0], classes.names[80]) == ("person", "banner")


def test_standard_coco_has_one_id_per_row() -> None:
    classes = of_dataset("coco_2017_val_panoptic")
    assert (classes.num_things, classes.num_stuff, classes.num_channels) == (80, 53, 133)
    assert [classes.category_id(row) for row in range(133)] == list(range(133))
    assert classes.row(80, is_thing=False) == classes.channel(80) == 80
    assert classes.dataset_ids == of_dataset("coco_2017_val_panoptic_separated").dataset_ids


@pytest.mark.parametrize(("category_id", "is_thing"), [(0, False), (54, False), (80, True), (-1, True)])
def test_ids_that_name_no_class(category_id: int, is_thing: bool) -> None:
    with pytest.raises(
        ValueError, match=f"has category_id {category_id}, expected {'0 to 79' if is_thing else '1 to'}"
    ):
        of_dataset("coco_2017_val_panoptic_separated").row(category_id, is_thing=is_thing)


def test_a_dataset_without_stuff_has_no_panoptic_classes() -> None:
    assert PanopticClasses.from_metadata(MetadataCatalog.get("coco_2017_val")) is None


def test_ids_in_no_layout_are_refused() -> None:
    metadata = Metadata(thing_dataset_id_to_contiguous_id={1: 0, 2: 2}, stuff_dataset_id_to_contiguous_id={3: 1})
    with pytest.raises(ValueError, match="mixed has the contiguous ids"):
        PanopticClasses.from_metadata(metadata, name="mixed")


def test_the_keys_of_a_config_come_before_its_data() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DETR.NUM_CLASSES", 5, "MODEL.DETR.PANOPTIC.NUM_THINGS", 2])
    assert PanopticClasses.from_config(cfg) == PanopticClasses(num_things=2, num_stuff=3, layout="separated")
    cfg.MODEL.DETR.PANOPTIC.NUM_THINGS = 6
    with pytest.raises(ValueError, match=r"NUM_THINGS is 6, more than MODEL\.DETR\.NUM_CLASSES, 5"):
        PanopticClasses.from_config(cfg)
    cfg.MODEL.DETR.PANOPTIC.NUM_THINGS = 0
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    assert PanopticClasses.from_config(cfg).layout == "standard"
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(ValueError, match=r"needs the classes: register panoptic data"):
        PanopticClasses.from_config(cfg)
