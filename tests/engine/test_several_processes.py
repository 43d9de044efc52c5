"""Training in two processes, for real: after steps on different images they have the same weights, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.utils import comm
from tiny_deformable import tiny_deformable_cfg
from tiny_models import random_input, tiny_cfg

from detr_d2.engine import Trainer

WORLD = 2
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
        return tiny_deformable_cfg("mixed" if case.startswith("mixed") else "two_stage", *options)
    return tiny_cfg(*options)


class GivenImages(Trainer):
    """Trains on the images of a case, which differ from process to process."""

    case: str

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:  # noqa: ARG003
        rank = comm.get_rank()
        torch.manual_seed(rank)
        return [[random_input(64, 48 + 16 * i, objects[rank])] for i, objects in enumerate(CASES[cls.case][1])]


def train(case: str, folder: str) -> dict[str, Any]:
    """Names and values of this process: before, after, and their average if there is one."""
    GivenImages.case = case
    torch.manual_seed(10 + comm.get_rank())  # other first weights, too, until the processes share them
    trainer = GivenImages(config(case, folder))
    trainer.checkpointer.save_to_disk = False
    trainer.build_writers = list  # type: ignore[method-assign]
    trained = {name: p for name, p in trainer.unwrapped_model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    trainer.train()
    after = {name: p.detach().clone() for name, p in trained.items()}
    with trainer.evaluated_weights():
        average = {name: p.detach().clone() for name, p in trained.items()}
    return {"before": before, "after": after, "average": average, "losses": trainer.storage.latest()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    comm.create_local_process_group(WORLD)
    torch.save({case: train(case, f"{folder}/{i}") for i, case in enumerate(CASES)}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has at the end of every case."""
    folder = tmp_path_factory.mktemp("two")
    mp.start_processes(worker, (str(folder),), nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_processes_have_the_same_weights(case: str, processes: list[dict[str, Any]]) -> None:
    first, second = (process[case] for process in processes)
    for what in ("before", "after", "average"):
        assert first[what].keys() == second[what].keys()
        for name, value in first[what].items():
            assert torch.equal(value, second[what][name]), (what, name)
            assert value.isfinite().all()
    moved = {name for name, value in first["after"].items() if not torch.equal(value, first["before"][name])}
    assert moved == first["after"].keys()
    averaged = any(not torch.equal(value, first["average"][name]) for name, value in first["after"].items())
    assert averaged == ("SOLVER.EMA_DECAY" in CASES[case][0])
    if case == "frozen parts":
        assert {name.split(".")[0] for name in moved} == {"neck", "transformer", "head"}
        assert not any(name.startswith("transformer.encoder") for name in moved)
