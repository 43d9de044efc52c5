"""The trainer against detectron2's own, its exact resume, and what wins when the config changes."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.env import seed_all_rng
from state_dicts import assert_same

from detr_d2.commands import train as train_tool
from detr_d2.engine import Trainer, build_evaluator
from detr_d2.evaluation.coco import RecordsEvaluator


def train(
    cfg: CfgNode,
    kind: type[DefaultTrainer] = Trainer,
    *,
    resume: bool = False,
    seed: int | None = None,
    save: bool = True,
) -> Any:
    """Trains as `train_net.py` does after `default_setup`; returns the trainer, without writers of TensorBoard."""

    class Quiet(kind):
        def build_writers(self) -> list[Any]:
            return []

    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    seed_all_rng(cfg.SEED if seed is None else seed)
    trainer = Quiet(cfg)
    trainer.checkpointer.save_to_disk = save
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def losses(trainer: Any, name: str = "total_loss") -> list[float]:
    return [value for value, _ in trainer.storage.history(name).values()]


def weights(cfg: CfgNode, name: str = "model_final") -> dict[str, torch.Tensor]:
    return torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)["model"]


class OnOurImages(DefaultTrainer):
    """detectron2's trainer on the same images."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return Trainer.build_train_loader(cfg)


@pytest.mark.parametrize(
    "options",
    [
        ["INPUT.CROP.ENABLED", True],
        [
            "DATALOADER.NUM_WORKERS",
            2,
            "SOLVER.CLIP_GRADIENTS.ENABLED",
            True,
            "SOLVER.LR_SCHEDULER_NAME",
            "WarmupCosineLR",
        ],
        [
            *["DATALOADER.ASPECT_RATIO_GROUPING", False, "MODEL.META_ARCHITECTURE", "RetinaNet"],
            *["MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.RETINANET.NUM_CLASSES", 2],
            *["MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]],
            *["MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]],
        ],
    ],
    ids=["faster-rcnn", "workers", "retinanet"],
)
def test_zoo_config_has_the_losses_of_detectron2s_trainer(faster_rcnn_cfg: Callable[..., CfgNode], options: list[Any]):
    cfg = faster_rcnn_cfg(*options, "MODEL.RESNETS.FAST", False)
    ours, theirs = train(cfg, save=False), train(cfg, OnOurImages, save=False)
    assert len(losses(ours)) == 4
    assert set(ours.storage.histories()) == set(theirs.storage.histories())
    for name in theirs.storage.histories():
        if "loss" in name or name == "lr":
            assert losses(ours, name) == losses(theirs, name), name


RESUME_CASES: dict[str, list[Any]] = {
    "detr": [],
    "detr-accumulated": ["SOLVER.ACCUM_STEPS", 2],
    "detr-stock-mapper": ["INPUT.DETR_AUGMENTATION", "off", "DATALOADER.ASPECT_RATIO_GROUPING", True],
    "detr-bfloat16": ["SOLVER.AMP.ENABLED", True],
    "detr-averaged": ["SOLVER.EMA_DECAY", 0.25, "DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 3],
}


@pytest.mark.parametrize("case", RESUME_CASES)
def test_resumed_run_equals_uninterrupted_one(detr_cfg: Callable[..., CfgNode], tmp_path: Path, case: str):
    cfg = detr_cfg(*RESUME_CASES[case])
    train(cfg)
    whole = weights(cfg)
    interrupt(cfg, tmp_path, "model_0000002.pth")
    resumed = train(cfg, resume=True, seed=99)
    assert resumed.start_iter == 3
    assert_same(weights(cfg), whole)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_weights_whether_averaged_or_not(
    detr_cfg: Callable[..., CfgNode], tmp_path: Path
):
    cfg = detr_cfg()
    train(cfg)
    whole = weights(cfg)
    cfg.merge_from_list(["SOLVER.EMA_DECAY", 0.25, "OUTPUT_DIR", str(tmp_path / "averaged")])
    train(cfg)
    assert not torch.equal(weights(cfg)["head.class_embed.weight"], whole["head.class_embed.weight"])
    interrupt(cfg, tmp_path, "model_0000002.pth")
    cfg.SOLVER.EMA_DECAY = 0.0
    train(cfg, resume=True, seed=99)
    assert_same(weights(cfg), whole)
    # And the other way round, an average that begins in the middle: it is saved, the weights beside it.
    (Path(cfg.OUTPUT_DIR) / "model_0000002.pth").unlink()
    shutil.copy(tmp_path / "out" / "model_0000002.pth", cfg.OUTPUT_DIR)
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000002.pth")
    cfg.SOLVER.EMA_DECAY = 0.25
    hook = train(cfg, resume=True, seed=99)._average
    kept = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)["trainer"]["hooks"]["WeightAverage"]
    assert not kept["keeps_average"]
    assert_same(kept["kept"], {name: whole[name] for name in kept["kept"]})
    assert_same(hook.state_dict()["kept"], {name: weights(cfg)[name] for name in kept["kept"]})


def interrupt(cfg: CfgNode, tmp_path: Path, last: str) -> None:
    """Leaves one checkpoint only, in a new folder that `cfg` then names."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    shutil.copy(Path(cfg.OUTPUT_DIR) / last, folder)
    (folder / "last_checkpoint").write_text(last)
    cfg.OUTPUT_DIR = str(folder)


def test_without_a_seed_resume_is_exact_too(detr_cfg: Callable[..., CfgNode], tmp_path: Path):
    cfg = detr_cfg("SEED", -1)
    train(cfg, seed=11)
    whole = weights(cfg)
    interrupt(cfg, tmp_path, "model_0000002.pth")
    train(cfg, resume=True, seed=12)
    assert_same(weights(cfg), whole)


def test_detectron2_model_resumes_exactly_with_workers_and_grouping(
    faster_rcnn_cfg: Callable[..., CfgNode], tmp_path: Path
):
    cfg = faster_rcnn_cfg("DATALOADER.NUM_WORKERS", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    train(cfg)
    whole = weights(cfg)
    interrupt(cfg, tmp_path, "model_0000001.pth")
    train(cfg, resume=True, seed=99)
    assert_same(weights(cfg), whole)


def test_evaluation_in_between_does_not_disturb_the_resume(detr_cfg: Callable[..., CfgNode], tmp_path: Path):
    cfg = detr_cfg("DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 3)
    train(cfg)
    whole = weights(cfg)
    interrupt(cfg, tmp_path, "model_0000002.pth")
    train(cfg, resume=True, seed=99)
    assert_same(weights(cfg), whole)


def test_config_wins_over_the_checkpoint_and_says_so(
    detr_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cfg = detr_cfg("SOLVER.BACKBONE_MULTIPLIER", 0.1)
    train(cfg)
    interrupt(cfg, tmp_path, "model_0000002.pth")
    cfg.merge_from_list(
        ["SOLVER.BASE_LR", 4e-3, "SOLVER.STEPS", (5,), "SOLVER.MAX_ITER", 8, "SOLVER.WEIGHT_DECAY", 0.03]
    )
    with propagated("detr_d2"), caplog.at_level(logging.INFO, "detr_d2"):
        trainer = train(cfg, resume=True)
    (line,) = {r.getMessage() for r in caplog.records if "config wins" in r.getMessage()}
    assert "SOLVER.BASE_LR is 0.004, 0.001 in the checkpoint" in line
    assert "SOLVER.STEPS is (5,), () in the checkpoint" in line
    assert "SOLVER.MAX_ITER is 8, 6 in the checkpoint" in line
    assert "from iteration 3 on (learning rate 0.004)" in line
    assert losses(trainer, "lr") == pytest.approx([4e-3, 4e-3, 4e-4, 4e-4, 4e-4])
    groups = trainer.optimizer.param_groups
    assert {round(group["lr"], 9) for group in groups} == {4e-4, 4e-5}
    assert {group["weight_decay"] for group in groups} >= {0.03}


def test_unchanged_config_is_silent(detr_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture):
    cfg = detr_cfg("SOLVER.MAX_ITER", 3)
    train(cfg)
    with propagated("detr_d2"), caplog.at_level(logging.INFO, "detr_d2"):
        train(cfg, resume=True)
    text = caplog.text
    assert "config wins" not in text
    assert "not exact" not in text
    assert "Nothing is left to train: iteration 3" in text


class propagated:
    """Lets log records of a logger of detectron2's kind reach caplog."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.before = self.logger.propagate
        self.logger.propagate = True

    def __exit__(self, *_: object) -> None:
        self.logger.propagate = self.before


def test_other_optimizer_or_parameters_are_errors(detr_cfg: Callable[..., CfgNode]):
    cfg = detr_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    cfg.SOLVER.OPTIMIZER = "SGD"
    with pytest.raises(ValueError, match=r"trained with SOLVER\.OPTIMIZER ADAMW, the config says SGD"):
        train(cfg, resume=True)
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.MODEL.DETR.FREEZE = ["encoder"]
    with pytest.raises(ValueError, match=r"other parameters than the model.*MODEL\.DETR\.FREEZE"):
        train(cfg, resume=True)


def test_resumes_from_a_checkpoint_of_detectron2s_trainer(
    faster_rcnn_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
):
    cfg = faster_rcnn_cfg("SOLVER.MAX_ITER", 2)
    train(cfg, DefaultTrainer)
    cfg.SOLVER.MAX_ITER = 3
    with propagated("detr_d2"), caplog.at_level(logging.INFO, "detr_d2"):
        assert len(losses(train(cfg, resume=True))) == 1
    assert "has no random states" in caplog.text
    assert "does not tell its learning rate" in caplog.text


def test_new_run_over_an_old_one_is_warned_about(detr_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture):
    cfg = detr_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    with propagated("detr_d2"):
        assert train(cfg).start_iter == 0
    assert "--resume would continue it" in caplog.text


def test_best_ap_survives_the_resume_of_a_run(detr_cfg: Callable[..., CfgNode], tmp_path: Path):
    cfg = detr_cfg("DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 4)
    train(cfg)
    checkpoint = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000002.pth", weights_only=True)
    best = checkpoint["trainer"]["hooks"]["BestCheckpoint"]
    assert best["best_iteration"] == 2
    assert best["best"] >= 0
    interrupt(cfg, tmp_path, "model_0000002.pth")
    cfg.SOLVER.MAX_ITER = 3
    checkpoint["trainer"]["hooks"]["BestCheckpoint"]["best"] = 99.0
    torch.save(checkpoint, Path(cfg.OUTPUT_DIR) / "model_0000002.pth")
    train(cfg, resume=True)
    assert not (Path(cfg.OUTPUT_DIR) / "model_best.pth").exists()


def test_last_checkpoint_knows_the_last_evaluation(detr_cfg: Callable[..., CfgNode]):
    cfg = detr_cfg("DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 2)
    train(cfg)
    checkpoint = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert checkpoint["trainer"]["hooks"]["BestCheckpoint"]["best_iteration"] == 1
    assert checkpoint["trainer"]["hooks"]["BestCheckpoint"]["best"] >= 0


def test_failing_evaluation_leaves_a_checkpoint(detr_cfg: Callable[..., CfgNode]):
    cfg = detr_cfg("DATASETS.TEST", ("noise",), "TEST.EVAL_PERIOD", 2)

    class Failing(Trainer):
        @classmethod
        def build_evaluator(cls, *_: Any) -> Any:
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        train(cfg, Failing)
    assert train(cfg.clone(), resume=True).start_iter == 2


def test_augmentation_of_detr_on_request(faster_rcnn_cfg: Callable[..., CfgNode]):
    """Only DETR's changes colours."""
    cfg = faster_rcnn_cfg("SOLVER.MAX_ITER", 1, "INPUT.MIN_SIZE_TRAIN", (30,), "INPUT.RANDOM_FLIP", "none")
    plain = next(iter(Trainer.build_train_loader(cfg)))
    cfg.INPUT.DETR_AUGMENTATION, cfg.INPUT.COLOR_JITTER = "on", 0.9
    changed = next(iter(Trainer.build_train_loader(cfg)))
    assert [x["file_name"] for x in plain] == [x["file_name"] for x in changed]
    assert not torch.equal(plain[0]["image"], changed[0]["image"])
    assert len(losses(train(cfg, save=False))) == 1
    cfg.INPUT.DETR_AUGMENTATION = "auto"
    with pytest.raises(ValueError, match=r"COLOR_JITTER 0\.9 needs the mapper of DETR, which this model does not use"):
        Trainer.build_train_loader(cfg)


def test_unknown_augmentation_is_an_error(detr_cfg: Callable[..., CfgNode]):
    with pytest.raises(ValueError, match=r"INPUT\.DETR_AUGMENTATION must be .* but is 'yes'"):
        Trainer.build_train_loader(detr_cfg("INPUT.DETR_AUGMENTATION", "yes"))


def test_unknown_amp_type_is_an_error(detr_cfg: Callable[..., CfgNode]):
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE is 'half'"):
        Trainer(detr_cfg("SOLVER.AMP.DTYPE", "half"))


def test_metrics_are_written_as_detectron2_does(detr_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("detr_d2.modeling.criterion.METRICS_PERIOD", 2)  # a short run
    cfg = detr_cfg("VIS_PERIOD", 2)
    seed_all_rng(3)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    scalars: dict[str, float] = {}
    for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines():
        scalars.update(json.loads(line))
    for name in (
        "total_loss",
        "loss_ce",
        "loss_bbox_0",
        "grad_norm",
        "lr",
        "detr/class_error",
        "detr/cardinality_error",
        "detr/matched_fraction",
    ):
        assert name in scalars, name
    assert list(Path(cfg.OUTPUT_DIR).glob("events.out.tfevents.*"))


def test_evaluator_by_type(detr_cfg: Callable[..., CfgNode]):
    cfg = detr_cfg("MODEL.DETR.NUM_QUERIES", 300, "TEST.DETECTIONS_PER_IMAGE", 300)
    evaluator = build_evaluator(cfg, "noise")
    assert isinstance(evaluator, RecordsEvaluator)
    assert evaluator.max_detections == 300
    assert build_evaluator(detr_cfg(), "noise").max_detections == 100
    MetadataCatalog.get("stuff_of_test").set(evaluator_type="sem_seg", stuff_classes=["sky"], ignore_label=255)
    from detectron2.data import DatasetCatalog

    DatasetCatalog.register("stuff_of_test", list)
    assert isinstance(build_evaluator(cfg, "stuff_of_test"), SemSegEvaluator)
    MetadataCatalog.get("odd_of_test").set(evaluator_type="odd")
    with pytest.raises(ValueError, match="evaluator_type 'odd', expected one of cityscapes_instance"):
        build_evaluator(cfg, "odd_of_test")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("odd", "has evaluator_type 'odd', expected one of"), ("pascal_voc", r"'pascal_voc' says \(.*'dirname' does not")],
)
def test_evaluators_are_known_before_the_first_step(detr_cfg: Callable[..., CfgNode], kind: str, reason: str):
    cfg = detr_cfg("DATASETS.TEST", ("noise", f"{kind}_early"))
    MetadataCatalog.get(f"{kind}_early").set(evaluator_type=kind)
    with pytest.raises(ValueError, match=f"{kind}_early.* {reason}"):
        train_tool.train(cfg, [], resume=False)
    with pytest.raises(ValueError, match=f"{kind}_early.* {reason}"):
        train_tool.evaluate(cfg, resume=False)
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))


def test_resume_with_another_number_of_processes_shares_the_images_out(
    detr_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cfg = detr_cfg("SOLVER.MAX_ITER", 3)
    train(cfg)
    path = Path(cfg.OUTPUT_DIR) / "model_0000002.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["trainer"]["processes"] *= 2  # as if two processes had trained
    torch.save(checkpoint, path)
    interrupt(cfg, tmp_path, path.name)
    cfg.SOLVER.MAX_ITER = 4
    with propagated("detr_d2"):
        trainer = train(cfg, resume=True)
    assert "Resuming is not exact" in caplog.text
    assert trainer.data_loader.state_dict() == {"images": 2 * 3 * 2 + 2}  # 2 processes x 3 steps x 2 images, and 1 step
