"""Panoptic data: registration, targets, and what is said of data that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.utils.visualizer import Visualizer
from panoptic_files import PanopticFiles
from PIL import Image

from detr_d2.data import (
    DetrDatasetMapper,
    check_datasets,
    register_coco,
    register_coco_panoptic,
    register_datasets,
    resolve_num_classes,
)
from detr_d2.data.panoptic.file import read_segment_ids
from detr_d2.data.shapes.synthetic import make_shapes
from detr_d2.panoptic_classes import PanopticClasses

CLASSES = PanopticClasses(num_things=2, num_stuff=2, layout="separated")


@pytest.fixture
def panoptic_cfg(cfg: Any, files: PanopticFiles) -> Any:
    cfg.MODEL.MASK_ON = cfg.MODEL.DETR.PANOPTIC.ENABLED = True
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.DATASETS.COCO_PANOPTIC = [files.spec("tiny")]
    return cfg


def test_metadata_is_what_detectron2_asks_for(files: PanopticFiles) -> None:
    assert register_coco_panoptic(files.spec("tiny")) == register_coco_panoptic(files.spec("tiny")) == "tiny"
    metadata = MetadataCatalog.get("tiny")
    assert metadata.thing_classes == ["cup", "dog"]
    assert metadata.stuff_classes == ["things", "sky", "sand"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 20: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 0, 17: 1, 31: 2}
    assert metadata.evaluator_type == "coco_panoptic_seg"
    classes = PanopticClasses.from_metadata(metadata)
    assert classes == PanopticClasses(2, 2, "separated", ("cup", "dog", "sky", "sand"), (3, 20, 17, 31))
    first = DatasetCatalog.get("tiny")[0]
    assert (first["height"], first["width"], first["image_id"]) == (30, 40, 4)
    assert [(s["category_id"], s["isthing"]) for s in first["segments_info"]] == [
        (1, False),
        (0, True),
        (0, True),
        (1, True),
    ]
    assert [a["category_id"] for a in first["annotations"]] == [0, 0, 1]
    ids = torch.from_numpy(read_segment_ids(first["pan_seg_file_name"], first["segments_info"], None))
    Visualizer(np.zeros((30, 40, 3), np.uint8), metadata).draw_panoptic_seg(ids, first["segments_info"])


def test_instances_are_optional(files: PanopticFiles) -> None:
    register_coco_panoptic(files.spec("bare", with_instances=False))
    assert "annotations" not in DatasetCatalog.get("bare")[0]
    assert MetadataCatalog.get("bare").get("json_file") is None


def test_config_takes_classes_and_layout_from_the_data(panoptic_cfg: Any) -> None:
    register_datasets(panoptic_cfg)
    resolve_num_classes(panoptic_cfg)
    keys = panoptic_cfg.MODEL.DETR
    assert (keys.NUM_CLASSES, keys.PANOPTIC.NUM_THINGS, keys.PANOPTIC.LAYOUT) == (4, 2, "separated")
    keys.PANOPTIC.NUM_THINGS = 3
    with pytest.raises(ValueError, match=r"tiny has 2 things in the separated layout.*NUM_THINGS is 3"):
        resolve_num_classes(panoptic_cfg)


def test_models_of_things_see_the_things_only(panoptic_cfg: Any) -> None:
    panoptic_cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    register_datasets(panoptic_cfg)
    assert resolve_num_classes(panoptic_cfg).MODEL.DETR.NUM_CLASSES == 2
    assert check_datasets(panoptic_cfg)[0].num_boxes == 3  # without the crowd


def test_data_without_stuff_are_refused(cfg: Any, files: PanopticFiles) -> None:
    cfg.MODEL.DETR.PANOPTIC.ENABLED = True
    cfg.DATASETS.TRAIN = (register_coco(f"boxes={files.instances}:{files.images}"),)
    with pytest.raises(ValueError, match=r"boxes has no stuff classes.*--coco-panoptic boxes="):
        resolve_num_classes(cfg)


def test_two_layouts_do_not_mix(panoptic_cfg: Any) -> None:
    panoptic_cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    panoptic_cfg.DATASETS.TEST = ("coco_2017_val_panoptic_separated",)
    with pytest.raises(ValueError, match="standard and separated layout"):
        resolve_num_classes(panoptic_cfg)


def test_targets_are_the_segments_without_crowds(panoptic_cfg: Any) -> None:
    register_datasets(panoptic_cfg)
    resolve_num_classes(panoptic_cfg)
    panoptic_cfg.INPUT.CROP.ENABLED = False
    panoptic_cfg.INPUT.RANDOM_FLIP = "none"
    panoptic_cfg.INPUT.MIN_SIZE_TRAIN, panoptic_cfg.INPUT.MAX_SIZE_TRAIN = (60,), 80
    mapper = DetrDatasetMapper(panoptic_cfg, is_train=True)
    found = [mapper(record)["instances"] for record in DatasetCatalog.get("tiny")]
    assert [x.gt_classes.tolist() for x in found] == [[2, 0, 0], [3, 1], []]
    assert [x.image_size for x in found] == [(60, 80), (80, 53), (60, 60)]
    assert found[0].gt_boxes.tensor.tolist() == [[0, 0, 80, 20], [4, 24, 24, 44], [28, 24, 60, 44]]
    assert found[0].gt_masks.tensor.sum((1, 2)).tolist() == [1600, 400, 640]
    assert len(found[2].gt_masks) == 0


def test_things_and_stuff_of_two_files(tmp_path: Path, files: PanopticFiles) -> None:
    """detectron2's separated datasets: annotations of things, a PNG of stuff labels."""
    labels = np.zeros((36, 24), dtype=np.uint8)
    labels[20:] = 2
    labels[:1] = 255  # ignored
    Image.fromarray(labels).save(tmp_path / "stuff.png")
    register_coco_panoptic(files.spec("tiny"))
    record = DatasetCatalog.get("tiny")[1]
    record = {**record, "sem_seg_file_name": str(tmp_path / "stuff.png")}
    mapper = DetrDatasetMapper(
        augmentations=[T.NoOpTransform()], image_format="RGB", use_instance_mask=True, panoptic=CLASSES
    )
    from_png = mapper(record)["instances"]
    del record["pan_seg_file_name"]
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [1, 3]
    order = [1, 0]
    assert torch.equal(instances.gt_masks.tensor, from_png.gt_masks.tensor[order])
    assert torch.equal(instances.gt_boxes.tensor, from_png.gt_boxes.tensor[order])
    del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"007\.png: the image has no panoptic ground truth"):
        mapper(record)


def test_a_crop_cuts_masks_and_boxes_as_the_authors_do(files: PanopticFiles) -> None:
    """The box of an L-shape stays although none of its pixels is left; an object outside goes."""
    mask = np.zeros((30, 40), dtype=bool)
    mask[:, 0], mask[29] = True, True
    box = {"bbox": [0, 0, 40, 30], "bbox_mode": 0, "category_id": 1, "iscrowd": 0, "segmentation": mask}
    gone = {**box, "bbox": [0, 0, 5, 5], "category_id": 0}
    record = {"file_name": str(files.images / "004.png"), "annotations": [gone, box]}
    mapper = DetrDatasetMapper(
        augmentations=[T.CropTransform(20, 0, 10, 10)], image_format="RGB", use_instance_mask=True
    )
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [1]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 10, 10]]
    assert not instances.gt_masks.tensor.any()


def test_sound_data_pass_and_are_counted(panoptic_cfg: Any) -> None:
    register_datasets(panoptic_cfg)
    train = check_datasets(panoptic_cfg)[0]
    assert (train.num_images, train.num_boxes, train.num_crowd, train.num_classes) == (3, 5, 1, 4)


def test_missing_png(panoptic_cfg: Any, files: PanopticFiles) -> None:
    register_datasets(panoptic_cfg)
    (files.pngs / "007.png").unlink()
    message = r"tiny: 1 of 3 panoptic PNGs are missing \(.*holds 004\.png, 009\.png.*\), among them .*pngs/007\.png"
    with pytest.raises(ValueError, match=message):
        check_datasets(panoptic_cfg)
    with pytest.raises(ValueError, match=r"panoptic PNG .*007\.png does not exist"):
        DetrDatasetMapper(panoptic_cfg)(DatasetCatalog.get("tiny")[1])


def test_png_with_ids_that_are_not_listed(panoptic_cfg: Any, files: PanopticFiles) -> None:
    def forget(content: Any) -> None:
        del content["annotations"][0]["segments_info"][0]

    files.change(forget)
    register_datasets(panoptic_cfg)
    with pytest.raises(ValueError, match=r"004\.png has 1 ids that its segments_info does not list, such as \[70000\]"):
        check_datasets(panoptic_cfg)


def test_segments_without_pixels(panoptic_cfg: Any, files: PanopticFiles, caplog: pytest.LogCaptureFixture) -> None:
    files.change(lambda c: c["annotations"][0]["segments_info"].append({"id": 8, "category_id": 3}))
    register_datasets(panoptic_cfg)
    check_datasets(panoptic_cfg)
    assert "tiny: 1 segments of the 3 panoptic PNGs that were read have no pixel, such as segment 8 of" in caplog.text


def test_pngs_of_16_bits(panoptic_cfg: Any, files: PanopticFiles) -> None:
    Image.fromarray(np.full((20, 20), 5, dtype=np.uint16)).save(files.pngs / "009.png")
    register_datasets(panoptic_cfg)
    with pytest.raises(ValueError, match=r"panoptic PNG .*009\.png has 16 bits per channel, but expected are colours"):
        check_datasets(panoptic_cfg)


@pytest.mark.parametrize("annotations", [{}, {"annotations": []}])  # a test set, and one that nobody has annotated
def test_instances_hold_objects(files: PanopticFiles, annotations: Any) -> None:
    content = json.loads(files.instances.read_text())
    del content["annotations"]
    files.instances.write_text(json.dumps({**content, **annotations}))
    with pytest.raises(ValueError, match=r"instances\.json has no annotations: expected those of the things"):
        register_coco_panoptic(files.spec("empty"))


def test_ids_of_instances_may_be_texts(files: PanopticFiles) -> None:
    content = json.loads(files.instances.read_text())
    for entry, key in ((content["images"], "id"), (content["annotations"], "image_id")):
        for x in entry:
            x[key] = str(x[key])
    files.instances.write_text(json.dumps(content))
    register_coco_panoptic(files.spec("texts"))
    assert [len(record["annotations"]) for record in DatasetCatalog.get("texts")] == [3, 1, 0]
    for x in content["categories"]:
        x["id"] = str(x["id"])
    content["annotations"] = []
    files.instances.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has the classes '3' cup, '20' dog, but the things of .* are 3 cup, 20 dog"):
        register_coco_panoptic(files.spec("other texts"))


def test_png_of_another_size(panoptic_cfg: Any, files: PanopticFiles) -> None:
    Image.new("RGB", (20, 21)).save(files.pngs / "009.png")
    register_datasets(panoptic_cfg)
    with pytest.raises(ValueError, match=r"009\.png is 20x21 pixels, but its image is 20x20"):
        check_datasets(panoptic_cfg)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"][1]["segments_info"][0].update(category_id=99), "an unknown class: segment 5 has"),
        (lambda c: c["annotations"][1]["segments_info"][0].update(id=0), "has id 0, which means void"),
        (lambda c: c["annotations"][1]["segments_info"][0].update(id=6), "has the same id twice"),
        (lambda c: c["annotations"][1].update(image_id=5), 'image 5 of 007.png is not among "images"'),
        (lambda c: c["annotations"][1].update(image_id=4), "image 4 of 007.png has two annotations"),
        (lambda c: c["categories"][0].pop("isthing"), 'category 3 has no "isthing"'),
        (lambda c: [x.update(isthing=0) for x in c["categories"]], 'no category with "isthing": 1'),
        (lambda c: c["annotations"][0].pop("segments_info"), 'has no "segments_info"'),
        (lambda c: c.update(annotations=[]), 'empty list "annotations"'),
    ],
)  # fmt: skip
def test_panoptic_files_that_cannot_be_used(files: PanopticFiles, edit: Any, message: str) -> None:
    files.change(edit)
    with pytest.raises(ValueError, match=r"panoptic\.json.*" + message):
        register_coco_panoptic(files.spec("tiny"))


def test_files_that_disagree(files: PanopticFiles) -> None:
    content = json.loads(files.instances.read_text())
    content["categories"][0]["name"] = "mug"
    files.instances.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances\.json has the classes 3 mug, 20 dog, but the things of .* 3 cup"):
        register_coco_panoptic(files.spec("tiny"))
    content["categories"][0]["name"] = "cup"
    content["images"][2]["id"] = 11
    files.instances.write_text(json.dumps(content))
    register_coco_panoptic(files.spec("tiny"))
    with pytest.raises(ValueError, match=r"instances\.json has no image 9 with the file 009\.png"):
        DatasetCatalog.get("tiny")


def test_specs_and_names(files: PanopticFiles) -> None:
    for wrong in (
        "x",
        "x=a.json",
        "x=a.json:b",
        "=a.json:b:c",
        "x=a.txt:b:c",
        "x=a.json:b:c:d",
        "x=a.json:b:c:d:e.json",
    ):
        with pytest.raises(
            ValueError, match=r"--coco-panoptic .*expected NAME=panoptic\.json:png_root:image_root\[:inst"
        ):
            register_coco_panoptic(wrong)
    with pytest.raises(ValueError, match=r"panoptic file .*gone\.json cannot be read"):
        register_coco_panoptic(f"x={files.panoptic.parent / 'gone.json'}:{files.pngs}:{files.images}")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; expected the folder that holds the PNGs"):
        register_coco_panoptic(f"x={files.panoptic}:{files.pngs}/nowhere:{files.images}")
    with pytest.raises(ValueError, match="the name coco_2017_val is taken"):
        register_coco_panoptic(files.spec("coco_2017_val"))


def test_shapes_are_panoptic_data(cfg: Any, tmp_path: Path) -> None:
    paths = make_shapes(tmp_path / "shapes", 3, seed=1, panoptic=True)
    cfg.MODEL.MASK_ON = cfg.MODEL.DETR.PANOPTIC.ENABLED = True
    cfg.DATASETS.TRAIN = ("shapes",)
    cfg.DATASETS.COCO_PANOPTIC = [f"shapes={paths.panoptic}:{paths.panoptic_root}:{paths.images}:{paths.annotations}"]
    register_datasets(cfg)
    report = check_datasets(resolve_num_classes(cfg))[0]
    assert report.num_images == 3
    assert cfg.MODEL.DETR.NUM_CLASSES == report.num_classes == cfg.MODEL.DETR.PANOPTIC.NUM_THINGS + 3
    instances = DetrDatasetMapper(cfg)(DatasetCatalog.get("shapes")[0])["instances"]
    assert instances.gt_classes.max() >= cfg.MODEL.DETR.PANOPTIC.NUM_THINGS  # stuff is among the targets
