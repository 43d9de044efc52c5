"""The loader of numbered draws (`detr_d2.data.build_detr_train_loader`) with a position that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ...data import build_detr_train_loader, build_stock_mapper, uses_detr_augmentation


class NumberedLoader:
    """An endless iterable of micro-batches whose images depend on the seed and on how many went before, only.

    They have DETR's augmentation where `INPUT.DETR_AUGMENTATION` asks for it, else detectron2's. Nothing is read before
    the loader is iterated.

    Args:
        cfg: of the run.
        seed: the same in all processes.

    Raises:
        ValueError: for an unknown `INPUT.DETR_AUGMENTATION`.
    """

    def __init__(self, cfg: CfgNode, seed: int) -> None:
        self.cfg, self.seed = cfg, seed
        self.mapper = None if uses_detr_augmentation(cfg) else build_stock_mapper(cfg, True)
        self.images_per_step = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size() * cfg.SOLVER.ACCUM_STEPS
        self._images = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Starts the workers at once, behind the images that were consumed."""
        steps = self._images // self.images_per_step
        loader = build_detr_train_loader(self.cfg, mapper=self.mapper, start_iteration=steps, seed=self.seed)
        return self._count(iter(loader))

    def _count(self, batches: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        for batch in batches:
            self._images += len(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many images this process has consumed."""
        return {"images": self._images}

    def seek(self, state: dict[str, Any]) -> bool:
        """Continues behind the consumed images when iterated next; returns whether that is exact.

        It is between two steps, unless the checkpoint is older: then random numbers of workers augmented the images.
        """
        rest = state["images"] % self.images_per_step
        self._images = state["images"] - rest
        return rest == 0 and "worker_states" not in state
