"""The loader of numbered draws (`detr_d2.data.build_detr_train_loader`) with a position that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ...data import build_detr_train_loader


class NumberedLoader:
    """An endless iterable of micro-batches whose images depend on the seed and on how many went before, only.

    Args:
        cfg: of the run.
        seed: the same in all processes.
    """

    def __init__(self, cfg: CfgNode, seed: int) -> None:
        self.cfg, self.seed = cfg, seed
        self.images_per_batch = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        self._images = 0
        self._loader = build_detr_train_loader(cfg, seed=seed)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Starts the workers at once."""
        return self._count(iter(self._loader))

    def _count(self, batches: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        for batch in batches:
            self._images += len(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many images this process has consumed."""
        return {"images": self._images}

    def seek(self, state: dict[str, Any]) -> bool:
        """Continues behind the consumed images when iterated next; returns whether that falls between two steps."""
        images_per_step = self.images_per_batch * self.cfg.SOLVER.ACCUM_STEPS
        steps, rest = divmod(state["images"], images_per_step)
        self._images = steps * images_per_step
        self._loader = build_detr_train_loader(self.cfg, start_iteration=steps, seed=self.seed)
        return rest == 0
