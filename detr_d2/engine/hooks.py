"""Hooks that save checkpoints and metrics in an order that loses neither, one that hands unused memory back, and one on
a model that says which images it fails on.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .memory import trim_memory

logger = logging.getLogger(__name__)


class PeriodicWriter(hooks.PeriodicWriter):
    """detectron2's hook, which writes after each evaluation too: what a checkpoint follows must not be lost with it.

    Belongs behind the hook that evaluates and before those that save.

    Args:
        writers, period: see detectron2's.
        evaluation_period: iterations between evaluations; 0 for none but the last.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int, evaluation_period: int) -> None:
        super().__init__(writers, period)
        self.writers = writers
        self.period, self.evaluation_period = period, evaluation_period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        evaluated = self.evaluation_period > 0 and done % self.evaluation_period == 0 and done < self.trainer.max_iter
        if evaluated and done % self.period != 0:
            for writer in self.writers:
                writer.write()
        super().after_step()


class PeriodicCheckpoint(hooks.PeriodicCheckpointer):
    """detectron2's hook, in every process: the random state of all of them goes into the checkpoint.

    Belongs behind the hooks that evaluate, so that a resumed run continues after the evaluation, best AP included;
    for the same reason the last checkpoint is saved after training, not after the last step.
    """

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 and done < self.trainer.max_iter:
            self._save(self.trainer.iter)

    def after_train(self) -> None:
        finished = self.trainer.iter >= self.trainer.max_iter  # not after a failure
        trained = self.trainer.start_iter < self.trainer.max_iter
        if finished and (trained or not self._has_final()):  # the run before may have been killed just before it
            self._save(self.trainer.max_iter - 1)

    def _has_final(self) -> bool:
        return comm.all_gather(os.path.isfile(os.path.join(self.checkpointer.save_dir, "model_final.pth")))[0]

    def _save(self, iteration: int) -> None:
        self.trainer.check_gradients()
        self.trainer.collect_resume_state()
        with self.trainer.evaluated_weights():
            self.step(iteration)


class BestCheckpoint(HookBase):
    """Saves `model_best.pth` whenever an evaluation beats all before it; unlike detectron2's, it survives a resume.

    Belongs behind the hook that evaluates. Resuming still goes from the latest periodic checkpoint, if there is one.

    Args:
        period: iterations between evaluations; 0 for one at the end.
        checkpointer: of the trainer.
        metric: name of the scalar in the event storage; higher is better.
        file_name: without ".pth".
    """

    def __init__(self, period: int, checkpointer: Checkpointer, metric: str, file_name: str = "model_best") -> None:
        self.period = period
        self.checkpointer = checkpointer
        self.metric = metric
        self.file_name = file_name
        self.best: float | None = None
        self.best_iteration: int | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self._check(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after a failure
            self._check(self.trainer.max_iter - 1)

    def _check(self, iteration: int) -> None:
        """Saves if the main process, which alone has results, saw a better one."""
        value, _ = self.trainer.storage.latest().get(self.metric, (math.nan, 0))
        better = math.isfinite(value) and (self.best is None or value > self.best)
        if not comm.all_gather((better, value))[0][0]:
            if comm.is_main_process() and self.best is not None:
                logger.info(f"{self.metric} is {value:.3f}; the best stays {self.best:.3f}.")
            return
        self.best, self.best_iteration = comm.all_gather(value)[0], iteration
        self.trainer.collect_resume_state()
        if comm.is_main_process():
            logger.info(f"{self.metric} of {self.best:.3f} is the best so far.")
            self._save(iteration)

    def _save(self, iteration: int) -> None:
        latest = self.checkpointer.get_checkpoint_file() if self.checkpointer.has_checkpoint() else ""
        with self.trainer.evaluated_weights():
            self.checkpointer.save(self.file_name, iteration=iteration)
        if os.path.isfile(latest):
            self.checkpointer.tag_last_checkpoint(os.path.basename(latest))

    def state_dict(self) -> dict[str, Any]:
        """Best value so far and its iteration."""
        return {"best": self.best, "best_iteration": self.best_iteration, "metric": self.metric}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best value if it was measured by the same metric."""
        if state_dict["metric"] == self.metric:
            self.best, self.best_iteration = state_dict["best"], state_dict["best_iteration"]


class TrimMemory(HookBase):
    """Hands memory that was freed back to the system; see `detr_d2.engine.memory.trim_memory`.

    On a CPU, batches of ever new sizes make a process grow whose tensors take the same memory in every step. On a GPU,
    tensors are not on this heap.

    Args:
        period: iterations between two calls.
    """

    def __init__(self, period: int = 20) -> None:
        self.period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            trim_memory()


@contextmanager
def naming_images(model: nn.Module) -> Iterator[None]:
    """Inside, an error of the model's forward is preceded by a line with the images of its batch."""
    batch: list[str] = []

    def remember(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        batch[:] = [str(x["file_name"]) for x in inputs if isinstance(x, dict) and "file_name" in x]

    before = model.register_forward_pre_hook(remember)
    after = model.register_forward_hook(lambda *_: batch.clear())
    try:
        yield
    except Exception:
        if batch:
            logger.error("The model failed on %s:", ", ".join(batch))
        raise
    finally:
        before.remove()
        after.remove()
