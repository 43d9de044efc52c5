"""Training in two processes, for real: after steps on different images they have the same weights, bit for bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from other_processes import WORLD, together
from tiny_deformable import tiny_deformable_cfg
from tiny_models import random_input, tiny_cfg

from detr_d2.engine import Trainer

STEPS = 3
T = "MODEL.DETR.TRANSFORMER."

# Options, and how many objects are in the image of each process, step by step.
FEW = [(2, 3), (1, 4), (3, 1), (2, 2), (5, 1), (1, 1)]
SOME_EMPTY = [(2, 0), (0, 3), (0, 0)]
CASES: dict[str, tuple[list[Any], list[tuple[int, int]]]] = {
    "plain": ([], FEW),
    "a process without objects": ([], SOME_EMPTY),
    "accumulation": (["SOLVER.ACCUM_STEPS", 2, "MODEL.DETR.CRITERION.CE_NORM", "global"], FEW),
    "accumulation of local means": (["SOLVER.ACCUM_STEPS", 2], SOME_EMPTY * 2),
    "frozen parts": (["MODEL.DETR.FREEZE", ["backbone", "encoder"]], FEW),
    "batch norms": (["MODEL.RESNETS.NORM", "BN", "SOLVER.EMA_DECAY", 0.5], FEW),
    "no auxiliary losses": (["MODEL.DETR.AUX_LOSS", False], FEW),
    "recomputation": ([T + "RECOMPUTE", True, "MODEL.DETR.RECOMPUTE_BACKBONE", True, T + "DROPOUT", 0.2], FEW),
    "average of the weights": (["SOLVER.EMA_DECAY", 0.9], FEW),
    "two stages": ([], FEW),
    "two stages, a process without objects": (["SOLVER.EMA_DECAY", 0.9], SOME_EMPTY),
    "two stages, accumulation, recomputation": (["SOLVER.ACCUM_STEPS", 2, T + "RECOMPUTE", True], SOME_EMPTY * 2),
    "mixed selection": ([], SOME_EMPTY),
}


def config(case: str, folder: str) -> CfgNode:
    options = [
        *["OUTPUT_DIR", folder, "DATASETS.TRAIN", (), "DATASETS.TEST", (), "SOLVER.MAX_ITER", STEPS],
        *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-3, "SOLVER.IMS_PER_BATCH", WORLD, "SOLVER.STEPS", ()],
        *["SOLVER.WARMUP_ITERS", 0, "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.FULL_MODEL", True],
        *["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1],
        *CASES[case][0],
    ]
    if case.startswith(("two stages", "mixed")):
        levels: list[Any] = [
            x for part in ("RESNETS.OUT", "DETR.IN") for x in (f"MODEL.{part}_FEATURES", ["res3", "res4"])
        ]
        levels += ["MODEL.DETR.NUM_FEATURE_LEVELS", 3]
        return tiny_deformable_cfg("mixed" if case.startswith("mixed") else "two_stage", *levels, *options)
    return tiny_cfg(*options)


class GivenImages(Trainer):
    """Trains on the images of a case, which differ from process to process."""

    case: str

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:  # noqa: ARG003
        rank = comm.get_rank()
        torch.manual_seed(rank)
        return [[random_input(32, 32 + 16 * (i % 3), objects[rank])] for i, objects in enumerate(CASES[cls.case][1])]


def train(case: str, folder: str) -> dict[str, Any]:
    """What this process has before, after, and as the average of the weights if there is one."""
    GivenImages.case = case
    torch.manual_seed(10 + comm.get_rank())  # other first weights, too, until the processes share them
    trainer = GivenImages(config(case, folder))
    trainer.checkpointer.save_to_disk = False
    trainer.build_writers = list  # type: ignore[method-assign]
    trained = {name: p.detach() for name, p in trainer.unwrapped_model.named_parameters() if p.requires_grad}
    before = {name: p.clone() for name, p in trained.items()}
    digests = {"before": digests_of(trained)}
    trainer.train()
    after = {name: p.clone() for name, p in trained.items()}
    digests["after"] = digests_of(trained)
    with trainer.evaluated_weights():
        digests["average"] = digests_of(trained)
        averaged = any(not torch.equal(p, after[name]) for name, p in trained.items())
        finite = all(bool(p.isfinite().all()) for p in (*trained.values(), *after.values()))
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    return {"digests": digests, "moved": moved, "averaged": averaged, "finite": finite}


def digests_of(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """What tells weights apart, bit by bit, and is little to hand over."""
    return {name: hashlib.sha1(x.numpy().tobytes()).hexdigest() for name, x in weights.items()}


def train_all(_: int, folder: Path) -> dict[str, dict[str, Any]]:
    return {case: train(case, f"{folder}/{i}") for i, case in enumerate(CASES)}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has at the end of every case."""
    return together(train_all, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_processes_have_the_same_weights(case: str, processes: list[dict[str, Any]]) -> None:
    first, second = (process[case] for process in processes)
    for what, digests in first["digests"].items():
        assert digests == second["digests"][what], what
    assert first["finite"]
    assert first["moved"] == first["digests"]["after"].keys()
    assert first["averaged"] == ("SOLVER.EMA_DECAY" in CASES[case][0])
    if case == "frozen parts":
        assert {name.split(".")[0] for name in first["moved"]} == {"neck", "transformer", "head"}
        assert not any(name.startswith("transformer.encoder") for name in first["moved"])
