"""Every shipped YAML builds; the small ones train and evaluate, with our trainer and with detectron2's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import CocoFiles
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

from detr_d2 import get_cfg, model_zoo
from detr_d2.data import register_datasets, resolve_num_classes
from detr_d2.data.shapes.synthetic import make_shapes
from detr_d2.engine import Trainer
from detr_d2.modeling import DETR

CONFIGS = sorted(name for name in model_zoo.list_configs() if not Path(name).name.startswith("Base-"))
SMALL = [name for name in CONFIGS if name.startswith("quickstart/")]
PANOPTIC = "quickstart/detr_shapes_panoptic.yaml"
ON_BOXES = [name for name in SMALL if "panoptic" not in name]

# Of the authors' models with 91 classes: parameters, and entries of the state dict. Deformable DETR's heads stand there
# under more names than here: one head (2 + 6 entries) under the names of 6 layers; with refinement the box heads once
# more in the decoder; with two stages the 7 heads of both kinds.
PARAMETERS: dict[str, tuple[int, int | None]] = {
    "detr_r50": (41_524_768, 458),
    "detr_r50_segm": (42_858_425, 490),
    "detr_r101": (60_464_672, None),
    "deformable_detr_r50_single_scale": (34_066_593, 549 - 5 * 8),
    "deformable_detr_r50": (40_069_665, 561 - 5 * 8),
    "deformable_detr_r50_refine": (40_849_660, 597 - 6 * 6),
    "deformable_detr_r50_two_stage": (41_181_529, 630 - 7 * 8),
}


def load(name: str, *options: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    return cfg


def load_small(name: str, coco: CocoFiles, output: Path, *options: Any) -> CfgNode:
    """A config of `quickstart/` on the tiny dataset, for two steps."""
    cfg = load(name, "DATASETS.COCO", [coco.spec("tiny")], "OUTPUT_DIR", str(output), *options)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.STEPS = 2, 2, ()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0  # it begins with scores of 0.01, and without detections AP is NaN
    output.mkdir()
    register_datasets(cfg)
    resolve_num_classes(cfg)
    return cfg


def test_the_configs_are_those_of_the_readme():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name in CONFIGS:
        assert name in readme or name in SMALL


@pytest.mark.parametrize("name", CONFIGS)
def test_builds(name: str):
    cfg = load(name)
    cfg.MODEL.DETR.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 91
    cfg.MODEL.DETR.PANOPTIC.NUM_THINGS = 80
    model = build_model(cfg)
    key = name.removesuffix(".yaml").removesuffix("_dc5")
    if key in PARAMETERS:
        parameters, entries = PARAMETERS[key]
        assert sum(p.numel() for p in model.parameters()) == parameters
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable == parameters - 222_400  # stem and res2 are frozen
        assert entries in (None, len(model.state_dict()))
    assert isinstance(model, DETR) == ("detr" in Path(name).name)


@pytest.mark.parametrize("name", ON_BOXES)
def test_small_ones_train_and_evaluate(name: str, tiny_coco: CocoFiles, tmp_path: Path):
    cfg = load_small(name, tiny_coco, tmp_path / "out")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert 0 <= trainer.storage.latest()["bbox/AP"][0] <= 100
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    assert ("segm/AP" in trainer.storage.latest()) == cfg.MODEL.MASK_ON


def test_a_mask_head_learns_while_the_box_model_stays(tiny_coco: CocoFiles, tmp_path: Path):
    freeze = model_zoo.get_config("detr_r50_segm_frozen.yaml").MODEL.DETR.FREEZE
    name = "quickstart/detr_shapes_segm.yaml"
    cfg = load_small(name, tiny_coco, tmp_path / "out", "MODEL.DETR.FREEZE", freeze, "SOLVER.WARMUP_FACTOR", 1.0)
    trainer = Trainer(cfg)
    before = {name: x.clone() for name, x in trainer.unwrapped_model.state_dict().items()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    changed = {name for name, x in trainer.unwrapped_model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {name for name in before if name.startswith("mask_head.")}


def test_the_panoptic_one_trains_and_evaluates(tmp_path: Path):
    shapes = make_shapes(tmp_path / "shapes", 4, seed=0, panoptic=True)
    spec = f"tiny={shapes.panoptic}:{shapes.panoptic_root}:{shapes.images}:{shapes.annotations}"
    cfg = load(PANOPTIC, "DATASETS.COCO_PANOPTIC", [spec], "OUTPUT_DIR", str(tmp_path / "out"))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 2, 2
    register_datasets(cfg)
    resolve_num_classes(cfg)
    assert cfg.MODEL.DETR.NUM_CLASSES == 6
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    metrics = trainer.storage.latest()
    assert {"bbox/AP", "segm/AP", "panoptic_seg/PQ"} <= metrics.keys()
    assert all(math.isfinite(metrics[name][0]) for name in ("loss_mask", "loss_dice"))


@pytest.mark.parametrize("name", ON_BOXES)
def test_detectron2s_own_trainer_runs_them(name: str, tiny_coco: CocoFiles, tmp_path: Path):
    cfg = load_small(name, tiny_coco, tmp_path / "out")
    cfg.freeze()
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert isinstance(trainer.optimizer, torch.optim.SGD)


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_are_reproducible_and_download_nothing(name: str):
    cfg = model_zoo.get_config(name)
    assert cfg.SEED >= 0
    assert "://" not in cfg.MODEL.WEIGHTS


@pytest.mark.parametrize("ids", [[1, 23, 24, 56], [0, 1, 2, 3]], ids=str)
def test_category_ids_come_back_in_the_results(ids: list[int], tiny_coco: CocoFiles, tmp_path: Path):
    content = tiny_coco.content
    renamed = dict(zip([1, 23, 56], ids[1:], strict=True))  # the first category has no object
    content["categories"] = [{"id": i, "name": f"class {i}"} for i in ids]
    for annotation in content["annotations"]:
        annotation["category_id"] = renamed[annotation["category_id"]]
    tiny_coco.annotations.write_text(json.dumps(content))
    cfg = load_small("quickstart/detr_shapes.yaml", tiny_coco, tmp_path / "out")
    assert cfg.MODEL.DETR.NUM_CLASSES == 4
    trainer = Trainer(cfg)
    head = trainer.unwrapped_model.get_parameter("head.class_embed.bias")
    seen = set()
    for k, category in enumerate(ids):
        with torch.no_grad():
            head.copy_(torch.full((5,), -20.0).index_fill(0, torch.tensor(k), 20.0))  # class k, whatever the image
        Trainer.test(cfg, trainer.model)
        results = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
        assert {x["category_id"] for x in results} == {category}
        seen.add(category)
    assert seen == set(ids)
