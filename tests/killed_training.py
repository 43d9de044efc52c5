"""A tiny training with many checkpoints and evaluations, killed and continued: forked, so that imports cost nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import TensorboardXWriter
from torch import nn
from torch.nn import functional as F

from detr_d2.config import get_cfg
from detr_d2.engine import Trainer


@META_ARCH_REGISTRY.register()
class OneBox(nn.Module):
    """Says one box an image; a step of it takes a millisecond and draws random numbers."""

    def __init__(self, _: CfgNode) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        """Losses in training, instances otherwise."""
        boxes = [self._box(x["image"]) for x in batch]
        if self.training:
            truth = [x["instances"].gt_boxes.tensor.mean(0) / 40 for x in batch]
            return {"loss_box": sum(F.l1_loss(a, b) for a, b in zip(boxes, truth, strict=True)) / len(batch)}
        return [{"instances": _instances(box, x)} for box, x in zip(boxes, batch, strict=True)]

    def _box(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(image[None].float() / 255)).relu().mean((2, 3))
        return self.head(F.dropout(x, 0.3, self.training))[0]


def _instances(box: torch.Tensor, record: dict[str, Any]) -> Instances:
    size = record["height"], record["width"]
    box = torch.cat([box[:2], box[2:].abs() + box[:2] + 0.1]) * 40
    return Instances(
        size, pred_boxes=Boxes(box[None]), scores=torch.tensor([0.9]), pred_classes=torch.zeros(1, dtype=torch.long)
    )


def small_run(dataset: str, output_dir: str, iterations: int) -> CfgNode:
    """The config of a training of about 5 ms an iteration, a checkpoint after each, an evaluation after every fifth."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *["MODEL.META_ARCHITECTURE", "OneBox", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SEED", 3],
            *["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,), "DATALOADER.NUM_WORKERS", 0],
            *["INPUT.MIN_SIZE_TRAIN", (32, 40), "INPUT.MIN_SIZE_TEST", 32, "OUTPUT_DIR", output_dir],
            *["SOLVER.MAX_ITER", iterations, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.01, "SOLVER.STEPS", ()],
            *["SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.EMA_DECAY", 0.9, "TEST.EVAL_PERIOD", 5],
            *["TEST.BEST_CHECKPOINT", True],
        ]
    )
    return cfg


def run_training(cfg: CfgNode) -> None:
    """As `train_net.py --resume` does it, without its checks; without TensorBoard, which takes a second to import."""

    class Plain(Trainer):
        def build_writers(self) -> list[Any]:
            return [x for x in super().build_writers() if not isinstance(x, TensorboardXWriter)]

    seed_all_rng(cfg.SEED)
    trainer = Plain(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()


def fork(work: Callable[[], object]) -> int:
    """A child that works silently; its exit code is 0 when that ends well."""
    child = os.fork()
    if child:
        return child
    code, errors = 1, os.dup(2)
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        work()
        code = 0
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Its exit code, or minus the signal that has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Whether a child was killed at that time, rather than finished before."""
    child = fork(work)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    code = wait(child)
    assert code in (0, -signal.SIGKILL), code
    return code != 0
